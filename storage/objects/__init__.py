"""The object store: its interface, S3 and a folder behind it, keys, and inputs that callers bring."""
