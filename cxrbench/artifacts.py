"""Answers that are no text: pictures and vectors in the folder `artifacts/` of a run. Touches errors and atomic.

    artifacts/<hash>.png          one picture
    artifacts/<hash>.npy#ROW      one row of the vectors of a batch, float32 (n, d)

A file is named by its content (16 hex digits of SHA-256), so a prediction's reference says what was answered and not
only where it lies: equal references are equal answers, and a file that was changed since is noticed when it is read.
Files are whole or not there, and on disk before the row that names them; like everything in a run folder they are
their owner's alone. Pillow is imported inside functions.
"""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cxrbench.atomic import write_atomic
from cxrbench.errors import CxrbenchError, Exit

FOLDER = "artifacts"

Picture = NDArray[np.uint8]
"""(H, W) grey, or (H, W, 3) red, green, blue."""

Vectors = NDArray[np.float32]

_REFERENCE = re.compile(rf"{FOLDER}/(?P<hash>[0-9a-f]{{16}})\.(?P<kind>png|npy)(?:#(?P<row>[0-9]{{1,9}}))?")


@dataclass(frozen=True, slots=True)
class Answered:
    """What a run answered, for metrics that read artifacts.

    `references` by sample id, of the samples that have one; `asked` are all samples the run is to answer, and `open`
    those of them without an answer of any kind yet.
    """

    run: Path
    references: Mapping[str, str]
    asked: frozenset[str]
    open: frozenset[str]


def keep(run: Path, outputs: Mapping[str, Picture | Vectors]) -> dict[str, str]:
    """Put the pictures (uint8) and vectors (float32, (d,)) of a batch on disk; returns the reference of each sample.

    Raises:
        CxrbenchError: the disk is full or refuses.
    """
    found = {name: _write(run, _png(output), "png") for name, output in outputs.items() if output.dtype == np.uint8}
    rows = {name: output for name, output in outputs.items() if name not in found}
    if rows:
        file = io.BytesIO()
        np.save(file, np.stack([np.asarray(row, np.float32) for row in rows.values()]), allow_pickle=False)
        place = _write(run, file.getvalue(), "npy")
        found |= {name: f"{place}#{number}" for number, name in enumerate(rows)}
    return found


def read_picture(run: Path, reference: str) -> Picture:
    """A picture as grey levels, uint8 (H, W).

    Raises:
        CxrbenchError: it is not there, or not what was written.
    """
    from PIL import Image

    with Image.open(io.BytesIO(content(run, reference, "png"))) as picture:
        return np.asarray(picture.convert("L"))


def read_vectors(run: Path, references: Iterable[str]) -> Vectors:
    """Vectors in the order of their references, float32 (n, d); each file is read once.

    Raises:
        CxrbenchError: a file is not there or not what was written, or the vectors differ in length.
    """
    files: dict[str, Vectors] = {}
    rows = []
    for reference in references:
        place, _, row = reference.partition("#")
        if place not in files:
            files[place] = np.load(io.BytesIO(content(run, reference, "npy")), allow_pickle=False)
        rows.append(files[place][int(row or 0)])
    if len({len(row) for row in rows}) > 1:
        raise CxrbenchError("vectors of one run differ in length", where=str(run), code=Exit.INFRASTRUCTURE)
    return np.stack(rows) if rows else np.zeros((0, 0), np.float32)


def content(run: Path, reference: str, kind: str) -> bytes:
    """The bytes a reference names, held against their name.

    Raises:
        CxrbenchError: no such reference, no such file, or other bytes than were written.
    """
    match = _REFERENCE.fullmatch(reference)
    if match is None or match["kind"] != kind:
        raise CxrbenchError(f"a prediction names no artifact of kind {kind}", where=str(run), code=Exit.INFRASTRUCTURE)
    path = run / reference.partition("#")[0]
    try:
        data = path.read_bytes()
    except OSError as error:
        raise CxrbenchError(
            "an artifact of the run cannot be read", where=str(path), fix="copy the run folder again, whole"
        ) from error
    if _hash(data) != match["hash"]:
        raise CxrbenchError(
            "an artifact is not what the run wrote",
            where=str(path),
            fix="copy the run folder again, or repeat the run with --out DIR",
            code=Exit.INFRASTRUCTURE,
        )
    return data


def _hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]


def _write(run: Path, data: bytes, kind: str) -> str:
    reference = f"{FOLDER}/{_hash(data)}.{kind}"
    write_atomic(run / reference, data)
    return reference


def _png(picture: Picture | Vectors) -> bytes:
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(picture).save(file, format="PNG")
    return file.getvalue()
