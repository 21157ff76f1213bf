"""The workers: their rows, faults, quarantines and learned memory limits."""
