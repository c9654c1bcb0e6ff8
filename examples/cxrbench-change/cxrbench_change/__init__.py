"""An example package: what it declares in pyproject.toml, `cxrbench list` shows."""
