"""Equality with the reference packages: the texts both sides read, and what the packages said of them."""
