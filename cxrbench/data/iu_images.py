"""Image files of IU X-ray under whichever names people have them, from one listing of the image roots.

Knows file names only, opens no image. The same image is called

    Open-i     CXR1000_IM-0003-1001.png        the image id of the XML
    Kaggle     1000_IM-0003-1001.dcm.png       (study 1: 1_IM-0001-3001, in the XML CXR1_1_IM-0001-3001)
    R2Gen      CXR1000_IM-0003/0.png           the k-th image of the XML, in a folder named after the first

and `.png`, `.jpg`, `.jpeg` or `.dcm`, in any subfolder.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cxrbench.errors import CxrbenchError, Exit

EXTENSIONS = (".png", ".jpg", ".jpeg", ".dcm")
NO_ROOT = "no-images-root"
"""Scheme of an image path where the user gave no image root: it opens as a missing image that says why."""

NOT_FOUND = "not-found"
"""Scheme of an image path where no root has the image: a file may have any of three names, in any folder."""

_NAME = re.compile(
    r"(?:CXR)?(?:1_(?=1_))?(?P<key>[0-9]+_IM-[0-9]+(?:-[0-9]+)*)(?P<ext>(?:\.(?:dcm|png|jpe?g))*)", re.IGNORECASE
)
_FOLDER = re.compile(r"CXR[0-9]+(?:_1)?_IM-[0-9]+(?:-[0-9]+)*")
_NUMBER = re.compile(r"([0-9]{1,9})\.(?:png|jpe?g|dcm)", re.IGNORECASE)


def image_id_of(name: str) -> str | None:
    """Open-i's image id for a file name in Open-i's or Kaggle's form, or None.

    >>> image_id_of("1000_IM-0003-1001.dcm.png"), image_id_of("1_IM-0001-3001.dcm.jpg"), image_id_of("0.png")
    ('CXR1000_IM-0003-1001', 'CXR1_1_IM-0001-3001', None)
    """
    match = _NAME.fullmatch(name)
    if match is None:
        return None
    key = match["key"]
    return f"CXR1_{key}" if key.startswith("1_") else f"CXR{key}"


def kaggle_name(image_id: str) -> str:
    """Kaggle's file name for one of Open-i's image ids.

    >>> kaggle_name("CXR1000_IM-0003-1001"), kaggle_name("CXR1_1_IM-0001-3001")
    ('1000_IM-0003-1001.dcm.png', '1_IM-0001-3001.dcm.png')
    """
    return re.sub(r"^CXR(?:1_(?=1_))?", "", image_id) + ".dcm.png"


def r2gen_folder(image_id: str) -> str:
    """The folder R2Gen puts a study in, from the id of the study's first image: the id without its last part."""
    return image_id.rsplit("-", 1)[0]


@dataclass(frozen=True, slots=True)
class ImageIndex:
    """The image files under the roots: file by Open-i id or by R2Gen's `folder/k`, folders with their times."""

    files: Mapping[str, str]
    twice: tuple[tuple[str, str], ...] = ()
    folders: Mapping[str, int] | None = None
    root: str = ""

    def find(self, image_id: str | None, numbered: str | None, prefer_numbered: bool = False) -> str | None:
        """The file of an image by its Open-i id or its R2Gen name (`folder/k`)."""
        names = (numbered, image_id) if prefer_numbered else (image_id, numbered)
        return next((self.files[name] for name in names if name is not None and name in self.files), None)

    def absent(self, name: str) -> str:
        """The path of an image that is not there; `name` is what the source that lists the image calls it."""
        return f"{NOT_FOUND}:{name}" if self.root else f"{NO_ROOT}:{name.removesuffix('.png').replace('/', '_')}"

    def refuse_twice(self) -> None:
        """Raise where two files claim to be one image: their pixels may differ."""
        if self.twice:
            first, second = self.twice[0]
            raise CxrbenchError(
                f"{len(self.twice)} image(s) are there twice, and cxrbench does not choose between files",
                where=f"{first} and {second}",
                fix="name the one folder to use: cxrbench data add iu-xray --images FOLDER",
            )

    @property
    def naming(self) -> tuple[int, int]:
        """How many files have Open-i's or Kaggle's names, and how many R2Gen's."""
        numbered = sum("/" in name for name in self.files)
        return len(self.files) - numbered, numbered

    def to_json(self) -> dict[str, Any]:
        return {"files": self.files, "twice": self.twice, "folders": self.folders, "root": self.root}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> ImageIndex:
        return cls(data["files"], tuple((a, b) for a, b in data["twice"]), data["folders"], data["root"])

    def still_true(self) -> bool:
        """Whether no listed folder has gained or lost a file since; one look per folder, none per file."""
        try:
            return all(Path(name).stat().st_mtime_ns == time for name, time in (self.folders or {}).items())
        except OSError:
            return False


def list_images(roots: Sequence[Path]) -> ImageIndex:
    """List the image roots once.

    Raises:
        CxrbenchError: a root is not a folder.
    """
    files: dict[str, str] = {}
    twice: list[tuple[str, str]] = []
    folders: dict[str, int] = {}
    for root in roots:
        if not root.is_dir():
            raise CxrbenchError(
                "the image root is not a folder", where=str(root), fix="cxrbench data add iu-xray --images FOLDER"
            )
        for folder, subfolders, names in os.walk(root.resolve(), onerror=_unreadable):
            subfolders.sort()
            if folder in folders:
                subfolders.clear()  # a root inside a root given before: already listed
                continue
            folders[folder] = Path(folder).stat().st_mtime_ns
            for name in sorted(names):
                _enter(Path(folder) / name, files, twice)
    return ImageIndex(files, tuple(twice), folders, str(roots[0].resolve()) if roots else "")


def _unreadable(error: OSError) -> None:
    raise CxrbenchError(
        f"a folder of images cannot be listed: {error.strerror}",
        where=str(error.filename),
        fix="make it readable for you",
        code=Exit.INFRASTRUCTURE,
    ) from error


def _enter(path: Path, files: dict[str, str], twice: list[tuple[str, str]]) -> None:
    """Enter one file under the name it goes by; anything that is no IU image is passed over."""
    if not path.name.lower().endswith(EXTENSIONS):
        return
    name = image_id_of(path.name)
    if name is None:
        number = _NUMBER.fullmatch(path.name)
        if number is None or not _FOLDER.fullmatch(path.parent.name):
            return
        name = f"{path.parent.name}/{int(number[1])}"
    if name in files:
        twice.append((files[name], str(path)))
    else:
        files[name] = str(path)
