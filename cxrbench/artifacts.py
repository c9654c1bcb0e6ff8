"""Answers that are no text: pictures and vectors in the folder `artifacts/` of a run.

    artifacts/<hash>.png          one picture
    artifacts/<hash>.npy#ROW      one row of the vectors of a batch, float32 (n, d)

A file is named by its content (16 hex digits of SHA-256), so a prediction's reference says what was answered and not
only where it lies: equal references are equal answers, and a file that was changed since is noticed when it is read.
Files are whole or not there, and on disk before the row that names them; like everything in a run folder they are
their owner's alone. A run folder may be somebody else's, who can name a file by whatever it holds: a picture is not
decoded before its size is believable, vectors not before they are all there. Touches errors, reading and atomic; Pillow
is imported inside functions.
"""

from __future__ import annotations

import hashlib
import io
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from tokenize import TokenError

import numpy as np
from numpy.typing import NDArray

from cxrbench.atomic import write_atomic
from cxrbench.errors import CxrbenchError, Exit
from cxrbench.reading import read_regular

FOLDER = "artifacts"

LARGEST = 4 << 30
"""Bytes of a file: the vectors of a batch of a million samples."""

MOST_PIXELS = 89_478_485
"""Pixels of a picture, as of the images of a data set (data/images.py)."""

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
    from PIL.PngImagePlugin import PngImageFile

    data = content(run, reference, "png")
    try:
        # The plugin's class itself, as in data/images.py: `Image.open` would test the size too late, and warn.
        with PngImageFile(io.BytesIO(data)) as picture:
            if 0 < picture.width * picture.height <= MOST_PIXELS:
                return np.asarray(picture.convert("L"))
    except MemoryError:
        raise
    except Exception as error:  # whatever a decoder throws at damaged data
        raise _no_artifact(run, reference, f"a picture of at most {MOST_PIXELS:,} pixels") from error
    raise _no_artifact(run, reference, f"a picture of at most {MOST_PIXELS:,} pixels")


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
            files[place] = _vectors(run, reference)
        if int(row or 0) >= len(files[place]):
            raise _no_artifact(run, reference, "as many vectors as predictions name")
        rows.append(files[place][int(row or 0)])
    if len({len(row) for row in rows}) > 1:
        raise CxrbenchError("vectors of one run differ in length", where=str(run), code=Exit.INFRASTRUCTURE)
    return np.stack(rows) if rows else np.zeros((0, 0), np.float32)


def _vectors(run: Path, reference: str) -> Vectors:
    """The vectors of a file, float32 (n, d); a header that speaks of other bytes than follow it is not believed."""
    data = content(run, reference, "npy")
    try:
        file = io.BytesIO(data)
        np.lib.format.read_magic(file)
        shape, in_columns, dtype = np.lib.format.read_array_header_1_0(file)
        values = np.frombuffer(data, np.uint8, offset=file.tell())
        if dtype == np.float32 and not in_columns and len(shape) == 2 and 4 * math.prod(shape) == values.size:
            return values.view(np.float32).reshape(shape)
    except (ValueError, TypeError, SyntaxError, TokenError, RecursionError, MemoryError) as error:
        raise _no_artifact(run, reference, "vectors") from error
    raise _no_artifact(run, reference, "vectors")


def _no_artifact(run: Path, reference: str, what: str) -> CxrbenchError:
    return CxrbenchError(
        f"an artifact of the run does not hold {what}",
        where=str(run / reference.partition("#")[0]),
        fix="copy the run folder again, or repeat the run with --out DIR",
        code=Exit.INFRASTRUCTURE,
    )


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
        data = read_regular(path, LARGEST)
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
