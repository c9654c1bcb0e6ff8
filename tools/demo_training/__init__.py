"""How the three demo models are trained; `tools/train_demo.py` runs it."""
