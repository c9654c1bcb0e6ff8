"""Controlled speed experiments: protocol, roofline, anatomy of a speed-up. Drives models and engines, never torch."""
