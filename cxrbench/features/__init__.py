"""Annotations that several metrics share. torch is imported inside functions only."""
