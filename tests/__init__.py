"""The farm's tests: unit (values and rules), contract (one suite for every twin of a replaceable part)."""
