"""How the embedded annotators are trained; `python -m tools.train_annotators` is the command."""
