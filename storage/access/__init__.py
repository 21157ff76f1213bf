"""Who may use the API, and how much: keys, quotas, and what the farm signs with."""
