"""Access to the API: keys, quotas, and the farm's signing secrets."""
