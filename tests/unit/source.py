"""The farm's own source, for checks that read it."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = ["diffusion_farm", "storage", "scheduler", "worker"]
