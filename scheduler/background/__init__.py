"""What the scheduler process does beside schedules: sweep, orphans, webhook delivery."""
