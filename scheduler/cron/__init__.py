"""Recurring renders: which runs are due, and firing each of them once."""
