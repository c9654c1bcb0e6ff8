"""Where the files that travel with cxrbench lie: tasks/, baselines/, leaderboards/. Standard library only.

In a wheel they are inside the package; in a checkout (and an editable install) they are beside it.
"""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent


def shipped(folder: str) -> Path:
    """The folder `tasks`, `baselines` or `leaderboards`, wherever cxrbench is installed."""
    inside = _PACKAGE / "_shipped" / folder
    return inside if inside.is_dir() else _PACKAGE.parent / folder
