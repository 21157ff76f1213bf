"""What users would run instead of the farm, each a program of its own, in its own process."""
