"""Each module is one subject; it exports SCENARIO or SCENARIOS (benchmarks/scenario.py)."""
