"""Whole renders: reading them, measuring them, schedules, exports, purging."""
