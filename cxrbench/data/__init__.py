"""Data sets: one file each, every one yields `Study` lazily. This room never touches torch."""
