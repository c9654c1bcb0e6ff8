"""Other people's systems: each bridge is imported when it is asked for, and nothing below knows it."""
