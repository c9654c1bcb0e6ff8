"""What a compressed picture inside a DICOM file says of itself, before a decoder makes room for it.

Decoders believe the stream, not the file: a stream of a few bytes that speaks of 65,500 x 65,500 pixels takes gigabytes
while the file says 20 x 30. Only the head is read. Sources: ITU-T T.81 B.2.2 and T.87 C.2.2 (frame headers of JPEG and
JPEG-LS), T.800 A.5.1 (SIZ of JPEG 2000). Standard library only.
"""

from __future__ import annotations

import struct

DEFLATED = (b"1.2.840.10008.1.2.1.99", b"1.2.840.10008.1.2.4.95")
"""Transfer syntaxes that pack the whole data set: it would be unpacked, whatever its size, before anything is known."""

_SIZ = b"\xff\x4f\xff\x51"
_FRAMES = frozenset({*range(0xC0, 0xD0), 0xF7}) - {0xC4, 0xC8, 0xCC}
"""Markers of frame headers: SOF0..15 without DHT, JPG and DAC; SOF55 of JPEG-LS."""

_ALONE = frozenset({0x01, 0xD8, *range(0xD0, 0xD8)})
"""Markers without a segment: TEM, SOI, RST0..7."""


def stream_size(stream: bytes) -> tuple[int, int, int] | None:
    """(width, height, components) of a JPEG, JPEG-LS or JPEG 2000 stream; None where its head names none.

    >>> stream_size(bytes.fromhex("ffd8 ffc0 000b 08 0014 001e 01 011100"))
    (30, 20, 1)
    """
    at = stream.find(_SIZ, 0, 1 << 16)
    if at >= 0 and not stream.startswith(b"\xff\xd8"):
        head = stream[at + 6 : at + 42]
        if len(head) < 36:
            return None
        _, right, low, left, top = struct.unpack(">HIIII", head[:18])
        return right - left, low - top, struct.unpack(">H", head[34:36])[0]
    return _frame(stream) if stream.startswith(b"\xff\xd8") else None


def _frame(stream: bytes) -> tuple[int, int, int] | None:
    """The first frame header, segment by segment."""
    at = 2
    while at + 10 <= len(stream) and stream[at] == 0xFF:
        marker = stream[at + 1]
        if marker == 0xFF or marker in _ALONE:
            at += 1 if marker == 0xFF else 2
        elif marker in _FRAMES:
            height, width, components = struct.unpack(">HHB", stream[at + 5 : at + 10])
            return width, height, components
        else:
            at += 2 + int(struct.unpack(">H", stream[at + 2 : at + 4])[0])
    return None
