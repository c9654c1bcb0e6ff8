"""Where the files that travel with cxrbench lie: tasks/, baselines/, leaderboards/, embedded models. Stdlib only.

In a wheel the folders are inside the package; in a checkout (and an editable install) they are beside it. The embedded
models are inside the package in both.
"""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent


def shipped(folder: str) -> Path:
    """The folder `tasks`, `baselines` or `leaderboards`, wherever cxrbench is installed."""
    inside = _PACKAGE / "_shipped" / folder
    return inside if inside.is_dir() else _PACKAGE.parent / folder


def embedded(name: str) -> Path:
    """The folder of a tiny trained model that travels inside the package, such as `demo`."""
    return _PACKAGE / "embedded" / name
