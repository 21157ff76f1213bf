"""Seeded chaos: the real farm, faults at random, and what must be true afterwards (`python -m tests.chaos --help`)."""
