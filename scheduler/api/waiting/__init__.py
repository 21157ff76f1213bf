"""Callers that wait: for renders, and for what happens to them. None of them holds a thread."""
