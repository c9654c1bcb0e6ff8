"""Measurements, each beside what it is compared with; `python -m benchmarks` runs those that need no outside data."""
