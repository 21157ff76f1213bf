"""Accepts, decides, watches. Never needs torch; never imports the worker."""
