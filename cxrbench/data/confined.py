"""Files of a data set lie where the user said the data set lies: no link, `..` or absolute path leads elsewhere.

A data set from somebody else may hold a link to, or name, any file of this machine; its pixels or words would then
stand in prompts and pages. Whoever keeps parts of a data set on another disk names that place as a further root. Roots
may be links themselves: the user named them. Standard library only; what reads images is handed in.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from cxrbench.data.base import Roots

Read = Callable[[str], "NDArray[np.uint8]"]

real_folder = lru_cache(maxsize=4096)(os.path.realpath)
"""Where a folder really is; many files share one."""


def real_places(roots: Iterable[Path | str]) -> tuple[str, ...]:
    """Where the roots really are; for a root that is a file, the folder it is named in."""
    folders = (root if os.path.isdir(root) else os.path.dirname(root) for root in map(os.path.abspath, roots))  # noqa: PTH112, PTH120
    return tuple(dict.fromkeys(map(os.path.realpath, folders)))


def leads_out(path: str, places: Iterable[str]) -> bool:
    """Whether a path, its links followed, ends outside every one of the (real) places.

    >>> leads_out("/tmp/../etc/hosts", [os.path.realpath("/tmp")])
    True
    """
    folder, name = os.path.split(path)
    real = os.path.join(real_folder(folder), name)  # noqa: PTH118 - strings: this is asked for every image of a run
    if name in ("", ".", "..") or os.path.islink(real):  # noqa: PTH114
        real = os.path.realpath(real)
    return not any(real == place or real.startswith(place.rstrip("/") + "/") for place in places)


class Confined:
    """Reads images as `read` does, but none that lies outside the roots of the data set."""

    def __init__(self, read: Read, roots: Roots) -> None:
        self.read = read
        self.places = real_places(root for some in roots.values() for root in some)

    def __call__(self, path: str) -> NDArray[np.uint8]:
        """Read grey pixels, uint8 (H, W).

        Raises:
            ImageFailure: as `read`; broken_image for a path that leads out.
        """
        from cxrbench.data.images import PHANTOM, ImageFailure

        if not path.startswith(PHANTOM) and leads_out(path, self.places):
            detail = (
                f"{Path(path).name} leads out of the data set's folders (a link, `..`, or an absolute path); "
                "if it belongs to the data, name its folder as well: cxrbench data add NAME --images FOLDER"
            )
            raise ImageFailure("broken_image", detail)
        return self.read(path)
