"""`python -m cxrbench`."""

from cxrbench.cli.main import run

run()
