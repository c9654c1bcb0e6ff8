"""Images of strangers: a header that promises gigabytes costs nothing, and no decoder sees what it was not asked to."""

import struct
import zlib

import numpy as np
import pytest
from pydicom.uid import DeflatedExplicitVRLittleEndian, JPEG2000Lossless, JPEGBaseline8Bit, JPEGLosslessSV1

from cxrbench.data.images import ImageFailure, image_info, read_grey
from tests.data.image_files import dicom, ramp
from tests.security.limits import within


def chunk(kind, body):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width, height, *chunks, depth=8):
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(chunks) + chunk(b"IEND", b"")


def refused(path, outcome, *, megabytes=64, seconds=3):
    with within(seconds, megabytes), pytest.raises(ImageFailure) as caught:
        read_grey(str(path))
    assert caught.value.outcome == outcome, caught.value.detail


def test_a_png_of_a_billion_pixels_is_not_decoded(tmp_path):
    file = tmp_path / "a.png"
    file.write_bytes(png(60_000, 60_000, chunk(b"IDAT", zlib.compress(bytes(1 << 20), 9))))
    refused(file, "image_too_large")
    file.write_bytes(png(2**31 - 1, 2**31 - 1))
    refused(file, "image_too_large")


@pytest.mark.slow
@pytest.mark.parametrize("kind", [b"zTXt", b"iTXt", b"iCCP"])
def test_text_packed_into_a_png_does_not_unfold(tmp_path, kind):
    packed = zlib.compress(bytes(96 << 20), 1)
    head = b"key\0\1\0\0\0" if kind == b"iTXt" else b"key\0\0"
    idat = chunk(b"IDAT", zlib.compress(b"\0" + b"\x07" * 8 + b"\0" + b"\x07" * 8))
    file = tmp_path / "a.png"
    file.write_bytes(png(8, 2, chunk(kind, head + packed), idat))
    with within(3, 64):
        try:
            assert read_grey(str(file)).shape == (2, 8)
        except ImageFailure as failure:
            assert failure.outcome == "broken_image"  # noqa: PT017 - either answer is fine, gigabytes are not


def test_a_jpeg_of_the_largest_size_is_not_decoded(tmp_path):
    frame = b"\xff\xc0" + struct.pack(">HBHHB", 11, 8, 65_500, 65_500, 1) + b"\x01\x11\x00"
    (tmp_path / "a.jpg").write_bytes(b"\xff\xd8" + frame + b"\xff\xd9")
    refused(tmp_path / "a.jpg", "image_too_large")


def test_a_dicom_file_that_says_it_is_large_or_has_many_frames(tmp_path):
    refused(dicom(tmp_path / "a.dcm", ramp(), Rows=60_000, Columns=60_000), "image_too_large")
    refused(dicom(tmp_path / "b.dcm", ramp(), NumberOfFrames=2_000_000_000), "broken_image")


def deflated(path, size):
    """A DICOM file whose whole data set is packed, with a comment of so many bytes."""
    plain = (path.parent / "plain.dcm").with_suffix(".dcm")
    dicom(plain, ramp())
    raw = plain.read_bytes()
    group = struct.unpack("<I", raw[140:144])[0]
    body = raw[144 + group :]
    padding = b"\xfc\xff\xfc\xffOB\0\0" + struct.pack("<I", size) + bytes(size)  # Data Set Trailing Padding
    packed = zlib.compressobj(1, zlib.DEFLATED, -15)
    old, new = b"1.2.840.10008.1.2.1\0", str(DeflatedExplicitVRLittleEndian).encode()
    meta = raw[144 : 144 + group]
    at = meta.index(old) - 2
    meta = (
        meta[:at]
        + struct.pack("<H", len(new) + len(new) % 2)
        + new
        + b"\0" * (len(new) % 2)
        + meta[at + 2 + len(old) :]
    )
    head = raw[:140] + struct.pack("<I", len(meta))
    path.write_bytes(head + meta + packed.compress(body + padding) + packed.flush())
    return path


def test_a_packed_dicom_file_does_not_unfold(tmp_path):
    file = deflated(tmp_path / "bomb.dcm", 96 << 20)
    assert file.stat().st_size < 1 << 20
    refused(file, "broken_image")
    with within(3, 64), pytest.raises(ImageFailure):
        image_info(str(file))


def jpeg_2000(side):
    """The head of a JPEG 2000 stream that speaks of a picture of side * side."""
    siz = struct.pack(">HIIIIIIIIHBBB", 0, side, side, 0, 0, side, side, 0, 0, 1, 7, 1, 1)
    cod = b"\xff\x52" + struct.pack(">HBBHBBBBBB", 12, 0, 0, 1, 0, 5, 4, 4, 0, 1)
    qcd = b"\xff\x5c" + struct.pack(">HB", 19, 0x40) + bytes(16)
    return b"\xff\x4f\xff\x51" + struct.pack(">H", 2 + len(siz)) + siz + cod + qcd + b"\xff\xd9"


def jpeg(side, marker):
    frame = bytes([0xFF, marker]) + struct.pack(">HBHHB", 11, 8, side, side, 1) + b"\x01\x11\x00"
    return b"\xff\xd8" + frame + b"\xff\xd9"


@pytest.mark.parametrize(
    ("syntax", "stream"),
    [
        (JPEG2000Lossless, jpeg_2000(65_500)),
        (JPEGBaseline8Bit, jpeg(65_500, 0xC0)),
        (JPEGLosslessSV1, jpeg(65_500, 0xC3)),
    ],
)
def test_a_stream_larger_than_its_dicom_header_says_is_not_decoded(tmp_path, syntax, stream):
    """The decoder would make room for the stream's own size, whatever Rows and Columns say."""
    file = dicom(tmp_path / "a.dcm", ramp(), syntax=syntax, data=stream)
    with within(3, 64), pytest.raises(ImageFailure) as caught:
        read_grey(file)
    assert "size" in caught.value.detail or caught.value.outcome == "image_too_large"


def test_pixels_are_still_read(tmp_path):
    assert np.array_equal(read_grey(dicom(tmp_path / "a.dcm", ramp())), ramp())
