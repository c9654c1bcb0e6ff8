"""From an image file to grey pixels as a radiologist sees them: air dark, bone bright. Never torch.

The type of a file is read from its first bytes, never from its name. Whatever is wrong with a file is an
`ImageFailure` with one of the outcomes of `types.FAILURES`, so that a sample is counted instead of a run lost; its
detail names the file by base name only and repeats no value found in the file. No process-wide setting is changed:
Pillow's size limit and its `LOAD_TRUNCATED_IMAGES` stay as they are. The rules and their sources: docs/images.md.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile

from cxrbench.types import FAILURES

RULES = "images:v1"
"""Version of the pixel rules: goes up whenever the same file would give other pixels. Part of a run's identity."""

MAX_PIXELS = 89_478_485
"""Largest image that is decoded: Pillow's default warning limit, six times a large radiograph (4,280 x 3,520)."""

MAX_BYTES = 1 << 30
"""Largest file that is opened: as many pixels of 16 bits in three colours, uncompressed, have half of it."""

PHANTOM = "phantom:"
"""Paths with this scheme are drawn by the phantom data set instead of read."""

Kind = Literal["PNG", "JPEG", "DICOM"]

_OTHER_FORMATS = {
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"BM": "BMP",
    b"GIF8": "GIF",
    b"RIFF": "WebP",
    b"\0\0\0\x0cjP  ": "JPEG 2000",
    b"\xff\x4f\xff\x51": "JPEG 2000",
}
_SIXTEEN_BIT_MODES = ("I;16", "I;16B", "I;16L", "I")
_LEAST_16_BIT_WHITE = 4096


class ImageFailure(Exception):  # noqa: N818 - an outcome that is counted, not an error of the program
    """An image that gives no pixels: `outcome` is a key of `types.FAILURES`, `detail` one sentence."""

    def __init__(self, outcome: str, detail: str) -> None:
        if outcome not in FAILURES:
            raise ValueError(f"{outcome!r} is not an outcome; known: {', '.join(FAILURES)}")
        super().__init__(outcome, detail)
        self.outcome = outcome
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.outcome}: {self.detail}"


@dataclass(frozen=True, slots=True)
class Raw:
    """Pixels before they are cut to 8 bits: float32 (H, W), 0 is black and `maximum` is white."""

    values: NDArray[np.float32]
    maximum: int


@dataclass(frozen=True, slots=True)
class ImageInfo:
    """What a file's header says. `bits` are used bits per sample, `mode` Pillow's mode (DICOM: grey or colour).

    `photometric` is the DICOM photometric interpretation, empty otherwise; `syntax` the name of the transfer syntax,
    and `decodable` whether a decoder for it is installed.
    """

    format: Kind
    width: int
    height: int
    bits: int
    mode: str
    photometric: str = ""
    syntax: str = ""
    decodable: bool = True


@dataclass(frozen=True, slots=True)
class Stored:
    """Decoded integers (H, W) and how they are shown.

    `display` maps every value the dtype can hold (in the order of its unsigned view) to 0 black .. 1 white;
    None for uint8 values that are grey levels already.
    """

    values: NDArray[Any]
    display: NDArray[np.float64] | None
    maximum: int


def read_grey(path: str | os.PathLike[str]) -> NDArray[np.uint8]:
    """Read an image as 8-bit grey, uint8 (H, W).

    Raises:
        ImageFailure: missing_image, broken_image, no_decoder or image_too_large.
    """
    name = os.fspath(path)
    if name.startswith(PHANTOM):
        from cxrbench.data.phantom import draw

        return draw(name.removeprefix(PHANTOM))
    stored = _load(name)
    if stored.display is None:
        return stored.values
    levels = np.floor(stored.display * 255 + 0.5).astype(np.uint8)
    return _look_up(levels, stored.values)


def read_raw(path: str | os.PathLike[str]) -> Raw:
    """Read a file before the cut to 8 bits, polarity and window applied.

    `maximum` is 2^bits - 1: of the stored bits of a DICOM file, of the depth of a PNG file, of 8 for JPEG.

    Raises:
        ImageFailure: as `read_grey`.
    """
    stored = _load(os.fspath(path))
    if stored.display is None:
        return Raw(stored.values.astype(np.float32), stored.maximum)
    return Raw(_look_up((stored.display * stored.maximum).astype(np.float32), stored.values), stored.maximum)


def image_info(path: str | os.PathLike[str]) -> ImageInfo:
    """Look at a file's header; no pixel is decoded.

    Raises:
        ImageFailure: missing_image or broken_image; no_decoder where pydicom itself is missing.
    """
    with _opened(os.fspath(path)) as (file, kind, name), _damage_is_counted(name, kind):
        if kind == "DICOM":
            from cxrbench.data import dicom

            return dicom.info(file, name)
        picture = _open_picture(file, kind)
        bits = _png_bits(file) if kind == "PNG" else int(picture.bits)
        return ImageInfo(kind, picture.width, picture.height, bits, picture.mode)


def check_size(width: int, height: int, name: str) -> None:
    """Refuse an image over `MAX_PIXELS` before a pixel is decoded.

    Raises:
        ImageFailure: image_too_large, or broken_image for a size of nothing.
    """
    if width * height > MAX_PIXELS:
        raise ImageFailure("image_too_large", f"{name} has {width} x {height} pixels; the limit is {MAX_PIXELS:,}")
    if width < 1 or height < 1:
        raise ImageFailure("broken_image", f"{name} has {width} x {height} pixels")


def _look_up(table: NDArray[Any], values: NDArray[Any]) -> NDArray[Any]:
    """Index a table that is ordered like the unsigned view of the values' dtype."""
    unsigned = values.view(np.dtype(f"u{values.dtype.itemsize}"))
    return np.take(table, unsigned)


def _load(path: str) -> Stored:
    with _opened(path) as (file, kind, name), _damage_is_counted(name, kind):
        if kind == "DICOM":
            from cxrbench.data import dicom

            return dicom.load(file, name)
        picture = _open_picture(file, kind)
        check_size(picture.width, picture.height, name)
        picture.load()
        ImageOps.exif_transpose(picture, in_place=True)
        return _stored(picture, name)


@contextmanager
def _opened(path: str) -> Iterator[tuple[IO[bytes], Kind, str]]:
    """Open a regular file and name its type by its first bytes."""
    name = Path(path).name
    try:
        # A FIFO or a device would block or never end, so the kind of file is asked before it is opened.
        found = os.stat(path)  # noqa: PTH116 - Path() changes paths such as "a/./b"
        if not stat.S_ISREG(found.st_mode):
            raise ImageFailure("broken_image", f"{name} is not a regular file")
        if found.st_size > MAX_BYTES:
            raise ImageFailure("image_too_large", f"{name} has {found.st_size:,} bytes; the limit is {MAX_BYTES:,}")
        # By descriptor: a library that warns about the file then has no path to write into the log.
        file = open(os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0)), "rb")  # noqa: PTH123, SIM115
    except (FileNotFoundError, NotADirectoryError, ValueError):
        raise ImageFailure("missing_image", f"{name} is not there") from None
    except OSError as error:
        raise ImageFailure("broken_image", f"{name} cannot be opened ({type(error).__name__})") from None
    with file:
        yield file, _kind(file, name), name


def _kind(file: IO[bytes], name: str) -> Kind:
    try:
        head = file.read(132)
        file.seek(0)
    except OSError as error:
        raise ImageFailure("broken_image", f"{name} cannot be read ({type(error).__name__})") from None
    if not head:
        raise ImageFailure("broken_image", f"{name} is empty (0 bytes)")
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if head.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if head[128:132] == b"DICM":
        return "DICOM"
    other = next((label for magic, label in _OTHER_FORMATS.items() if head.startswith(magic)), "")
    found = f"a {other} file" if other else "not an image"
    raise ImageFailure("broken_image", f"{name} is {found}; PNG, JPEG and DICOM are read")


@contextmanager
def _damage_is_counted(name: str, kind: Kind) -> Iterator[None]:
    """Turn whatever a decoder throws at damaged data into an outcome.

    The decoder's own message is dropped: it can quote values of the file.
    """
    try:
        yield
    except (ImageFailure, MemoryError):
        raise
    except Exception as error:
        detail = f"{name} is truncated or damaged: its {kind} data cannot be decoded ({type(error).__name__})"
        raise ImageFailure("broken_image", detail) from None


def _open_picture(file: IO[bytes], kind: Kind) -> Any:
    """Parse a header with Pillow.

    The plugin's class is called itself: `Image.open` would also test the size, and warn.
    """
    return PngImageFile(file) if kind == "PNG" else JpegImageFile(file)


def _png_bits(file: IO[bytes]) -> int:
    """Read the bit depth in IHDR: byte 24 of every PNG file (PNG specification, 11.2.1)."""
    file.seek(24)
    return file.read(1)[0]


def _stored(picture: Any, name: str) -> Stored:
    """Make one grey channel of a decoded picture."""
    mode = picture.mode
    transparent = mode in ("LA", "PA", "RGBA") or picture.info.get("transparency") is not None
    if mode in _SIXTEEN_BIT_MODES and not transparent:
        return _sixteen_bits(np.asarray(picture).astype(np.uint16), name)
    if mode not in ("1", "L", "LA", "P", "PA", "RGB", "RGBA"):
        also = " with transparency" if transparent else ""
        raise ImageFailure("broken_image", f"{name} has pixels of a form that is not read: mode {mode}{also}")
    if transparent:
        # As the stock image processors do since transformers 5: what is transparent becomes white.
        layer = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", layer.size, (255, 255, 255, 255)), layer).convert("RGB")
    elif mode == "P":
        picture = picture.convert("RGB")
    # ITU-R 601 luminance with weights that sum to one: three equal channels give exactly that channel.
    return Stored(np.asarray(picture if picture.mode == "L" else picture.convert("L")), None, 255)


def _sixteen_bits(values: NDArray[np.uint16], name: str) -> Stored:
    """Scale by the 16 bits of the file's header; refuse what is not scaled to them."""
    white = int(values.max())
    if white < _LEAST_16_BIT_WHITE:
        detail = (
            f"{name} is a 16-bit PNG whose largest value is {white} of 65535: it would be shown black, and the file "
            f"does not say how many bits are used; rescale it to 16 bits, or use the DICOM file"
        )
        raise ImageFailure("broken_image", detail)
    return Stored(values, np.arange(65536) / 65535, 65535)
