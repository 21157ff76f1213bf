"""Renders that are submitted again and again: what is due, and firing it once."""
