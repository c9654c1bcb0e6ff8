"""Stored values of a DICOM radiograph, and the table that shows them. Imported only when a DICOM file is met.

Order: decode, modality LUT or rescale, VOI LUT or window, inversion of MONOCHROME1 (DICOM PS3.3 C.11.1, C.11.2,
C.7.6.3.1.2; PS3.4 N.2). Every step is a function of one stored value, so it is worked out once for each of the 2^16
values a pixel can have. Only the technical elements named here are parsed, and no value is ever repeated in a message.
"""

from __future__ import annotations

from io import BytesIO
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cxrbench.data.dicom_stream import DEFLATED, stream_size
from cxrbench.data.images import ImageFailure, ImageInfo, Stored, check_size

_ELEMENTS = [
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "PlanarConfiguration",
    "NumberOfFrames",
    "Rows",
    "Columns",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
    "RescaleSlope",
    "RescaleIntercept",
    "ModalityLUTSequence",
    "WindowCenter",
    "WindowWidth",
    "VOILUTFunction",
    "VOILUTSequence",
    "ExtendedOffsetTable",
    "ExtendedOffsetTableLengths",
    "PixelData",
]
_GREY = ("MONOCHROME1", "MONOCHROME2")
_COLOUR = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")
_FIRST = "pillow"
"""Lossy JPEG differs between decoders by a grey level, so the one that is always installed is preferred."""
_RLE = "1.2.840.10008.1.2.5"
_HEAD = 1 << 20
"""Bytes looked at for the transfer syntax where no pixels are wanted."""

_JPEG_EXTENDED = "1.2.840.10008.1.2.4.51"
"""JPEG Extended: Pillow is offered for it, but reads 8-bit samples only."""


def info(file: IO[bytes], name: str) -> ImageInfo:
    """Read the header. Raises ImageFailure no_decoder without pydicom."""
    data = _dataset(file, name, pixels=False)
    photometric = _photometric(data)
    return ImageInfo(
        format="DICOM",
        width=int(data.Columns),
        height=int(data.Rows),
        bits=int(data.BitsStored),
        mode="grey" if int(data.get("SamplesPerPixel", 1)) == 1 else "colour",
        photometric=photometric if photometric in (*_GREY, *_COLOUR) else "other",
        syntax=_syntax_name(data.file_meta.TransferSyntaxUID),
        decodable=_decoder(data) is not None,
    )


def load(file: IO[bytes], name: str) -> Stored:
    """Decode a single-frame radiograph.

    Raises:
        ImageFailure: no_decoder, image_too_large, or broken_image for what is not one grey or RGB frame.
    """
    # From memory: pydicom then has no file name to put into a warning.
    data = _dataset(BytesIO(file.read()), name, pixels=True)
    if "PixelData" not in data:
        raise ImageFailure("broken_image", f"{name} is a DICOM file without pixel data, or is truncated before its end")
    check_size(int(data.Columns), int(data.Rows), name)
    if _number(data, "NumberOfFrames", 1) != 1:
        raise ImageFailure("broken_image", f"{name} is a DICOM file of several frames; one is expected")
    photometric = _photometric(data)
    if photometric not in (*_GREY, *_COLOUR):
        raise ImageFailure("broken_image", f"{name} has a photometric interpretation other than grey, RGB or YBR")
    pixels = _decode(data, name)
    if photometric in _COLOUR:
        return Stored(_luminance(pixels, name), None, 255)
    if pixels.ndim != 2 or pixels.dtype.kind not in "iu" or pixels.dtype.itemsize > 2:
        raise ImageFailure("broken_image", f"{name} does not hold grey values of 8 or 16 bits")
    fraction = _display(data, pixels.dtype)
    if photometric == "MONOCHROME1":
        fraction = 1 - fraction
    if not np.isfinite(fraction).all():
        raise ImageFailure("broken_image", f"{name} has a rescale or window that gives no numbers")
    return Stored(pixels, fraction, 2 ** int(data.BitsStored) - 1)


def _dataset(file: IO[bytes], name: str, *, pixels: bool) -> Any:
    try:
        import pydicom
    except ImportError:
        detail = f"{name} is a DICOM file and pydicom is not installed: pip install 'cxrbench[dicom]'"
        raise ImageFailure("no_decoder", detail) from None
    head = file.read() if pixels else file.read(_HEAD)
    file.seek(0)
    if any(syntax in head for syntax in DEFLATED):
        raise ImageFailure(
            "broken_image", f"{name} is a DICOM file packed as a whole (deflated), which is not unpacked"
        )
    return pydicom.dcmread(file, specific_tags=_ELEMENTS, stop_before_pixels=not pixels)


def _syntax_name(uid: Any) -> str:
    """Name a registered transfer syntax; an unregistered one is not repeated, for it could be anything."""
    return f"{uid.name} ({uid})" if uid.is_transfer_syntax and not uid.is_private else "unregistered transfer syntax"


def _decoder(data: Any) -> Any:
    """Find pydicom's decoder for the transfer syntax, or None where none can run."""
    from pydicom.pixels import get_decoder

    try:
        decoder = get_decoder(data.file_meta.TransferSyntaxUID)
    except NotImplementedError:
        return None
    return decoder if decoder.is_available else None


def _decode(data: Any, name: str) -> NDArray[Any]:
    from pydicom.pixels import pixel_array

    decoder = _decoder(data)
    if decoder is None:
        raise _no_decoder(data, name)
    if not decoder.is_encapsulated:
        return np.asarray(pixel_array(data))
    plugins = set(decoder.available_plugins)
    if data.file_meta.TransferSyntaxUID == _JPEG_EXTENDED and int(data.BitsStored) > 8:
        plugins.discard("pillow")
    if not plugins:
        raise _no_decoder(data, name)
    _check_stream(data, name)
    # One decoder and no second try: a lenient one would make a picture out of a truncated stream.
    return np.asarray(pixel_array(data, decoding_plugin=min(plugins, key=lambda plugin: (plugin != _FIRST, plugin))))


def _check_stream(data: Any, name: str) -> None:
    """Hold the size that the compressed stream speaks of against the file's, before a decoder believes it."""
    from pydicom.encaps import generate_frames

    if data.file_meta.TransferSyntaxUID == _RLE:
        return  # run lengths name no size: they unfold to at most 64 times their own
    said = stream_size(next(generate_frames(data.PixelData, number_of_frames=1)))
    if said != (int(data.Columns), int(data.Rows), int(data.get("SamplesPerPixel", 1))):
        raise ImageFailure("broken_image", f"{name} holds a picture of another size than its DICOM header says")


def _no_decoder(data: Any, name: str) -> ImageFailure:
    syntax = _syntax_name(data.file_meta.TransferSyntaxUID)
    return ImageFailure(
        "no_decoder", f"{name} is stored as {syntax}; its decoder comes with: pip install 'cxrbench[dicom]'"
    )


def _luminance(pixels: NDArray[Any], name: str) -> NDArray[np.uint8]:
    if pixels.ndim != 3 or pixels.dtype != np.uint8:
        raise ImageFailure("broken_image", f"{name} holds colour that is not RGB of 8 bits")
    return np.asarray(Image.fromarray(pixels).convert("L"))


def _display(data: Any, dtype: np.dtype[Any]) -> NDArray[np.float64]:
    """Map every value of the dtype, in the order of its unsigned view, to 0 black .. 1 white."""
    unsigned = np.arange(2 ** (8 * dtype.itemsize)).astype(f"u{dtype.itemsize}")
    stored = unsigned.view(dtype).astype(np.float64)
    bits = int(data.BitsStored)
    low, high = (-(2.0 ** (bits - 1)), 2.0 ** (bits - 1) - 1) if int(data.PixelRepresentation) else (0.0, 2.0**bits - 1)
    modality = data.get("ModalityLUTSequence")
    if modality:
        values, high = _lookup_table(data, modality[0], stored)
        low = 0.0
    else:
        slope, intercept = _number(data, "RescaleSlope", 1), _number(data, "RescaleIntercept", 0)
        values = stored * slope + intercept
        low, high = sorted((low * slope + intercept, high * slope + intercept))
    return _values_of_interest(data, values, low, high)


def _values_of_interest(data: Any, values: NDArray[np.float64], low: float, high: float) -> NDArray[np.float64]:
    """Apply the first VOI LUT, else the first window, else show the full range of the stored bits."""
    lut = data.get("VOILUTSequence")
    if lut:
        shown, top = _lookup_table(data, lut[0], values)
        return np.clip(shown / top, 0, 1)
    center, width = _number(data, "WindowCenter", np.nan), _number(data, "WindowWidth", np.nan)
    if np.isnan(center) or np.isnan(width):
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.clip((values - low) / (high - low), 0, 1)
    return window(values, center, width, next(iter(_words(data, "VOILUTFunction")), "LINEAR"))


def _words(data: Any, keyword: str) -> list[str]:
    """Read a text element as the file spells it, its empty values left out.

    Not through pydicom, whose checks quote an unlawful value in a warning and in the log.
    """
    from pydicom.datadict import tag_for_keyword

    tag = tag_for_keyword(keyword)
    raw = data.get_item(tag).value if tag in data else None
    return [word for part in (raw or b"").decode("ascii", "replace").split("\\") if (word := part.strip(" \0"))]


def _number(data: Any, keyword: str, absent: float) -> float:
    """Read the first of several numbers, as viewers do for windows; `absent` where the element is missing or empty."""
    return float(next(iter(_words(data, keyword)), absent))


def _photometric(data: Any) -> str:
    return next(iter(_words(data, "PhotometricInterpretation")), "")


def window(values: NDArray[np.float64], center: float, width: float, function: str) -> NDArray[np.float64]:
    """Map values to 0 .. 1 by the formulas of DICOM PS3.3 C.11.2.1.2 and C.11.2.1.3.

    >>> window(np.array([0.0, 127.5, 255.0]), 128, 256, "LINEAR").tolist()
    [0.0, 0.5, 1.0]
    """
    if width < 1 if function == "LINEAR" else width <= 0:
        raise ValueError("a window needs a width")
    if function == "SIGMOID":
        with np.errstate(over="ignore"):
            return 1 / (1 + np.exp(-4 * (values - center) / width))
    if function == "LINEAR":
        center, width = center - 0.5, width - 1
    elif function != "LINEAR_EXACT":
        raise ValueError("not a VOI LUT function")
    if width == 0:
        return (values > center).astype(np.float64)
    return np.clip((values - center) / width + 0.5, 0, 1)


def _lookup_table(data: Any, item: Any, values: NDArray[np.float64]) -> tuple[NDArray[np.float64], float]:
    """Apply a modality or VOI LUT (PS3.3 C.11.1.1.1); returns the output and its largest possible value.

    Values before the first mapped one take the first entry, those past the end the last.
    """
    entries, first, bits = (int(n) for n in item.LUTDescriptor)
    entries = entries or 65536
    raw = item.LUTData
    little = data.file_meta.TransferSyntaxUID.is_little_endian
    if not isinstance(raw, bytes):
        raw = np.asarray(raw, dtype="<u2" if little else ">u2").tobytes()
    # 8-bit entries may be packed two to a word or padded to 16 bits: the length tells which.
    packed = len(raw) < 2 * entries
    table = np.frombuffer(raw, dtype=np.uint8 if packed else np.dtype("<u2" if little else ">u2"))[:entries]
    if not 8 <= bits <= 16 or len(table) < entries:
        raise ValueError("a lookup table is shorter than it says")
    positions = np.clip(np.rint(values) - first, 0, entries - 1).astype(np.int64)
    return table[positions].astype(np.float64), 2.0**bits - 1
