"""What the scheduler process does beside schedules: sweep, orphans, unfinished files, webhook delivery."""
