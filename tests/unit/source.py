"""The farm's own source, for checks that read it."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = ["storage", "scheduler", "worker"]
