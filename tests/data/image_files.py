"""Small image files in real formats, written for the tests; headers may lie, and the patient is invented."""

from __future__ import annotations

import os
import struct
import zlib
from io import BytesIO

import numpy as np
import pytest
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import DigitalXRayImageStorageForPresentation, ExplicitVRLittleEndian

from cxrbench.data.images import ImageFailure, read_grey


def ramp(height=20, width=30, top=255, dtype=np.uint8):
    return (np.arange(height * width).reshape(height, width) * top // (height * width - 1)).astype(dtype)


def outcome(path):
    """The outcome of a file that must not give pixels; its detail names the file and nothing else of the path."""
    with pytest.raises(ImageFailure) as caught:
        read_grey(path)
    detail = caught.value.detail
    assert detail.startswith(os.path.basename(path)), detail
    assert os.path.dirname(path) not in detail
    return caught.value.outcome, detail


def saved(path, array_or_image, **options):
    picture = array_or_image if isinstance(array_or_image, Image.Image) else Image.fromarray(array_or_image)
    picture.save(path, **options)
    return str(path)


def dicom(path, pixels, syntax=ExplicitVRLittleEndian, data=None, **elements):
    """Write a DICOM file in the layout of a digital radiograph, with an invented patient."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = syntax
    meta.MediaStorageSOPClassUID = DigitalXRayImageStorageForPresentation
    meta.MediaStorageSOPInstanceUID = "1.2.3.4"
    file = Dataset()
    file.file_meta = meta
    file.PatientName = "Invented^Patient"
    file.Rows, file.Columns = pixels.shape[:2]
    file.SamplesPerPixel = 1 if pixels.ndim == 2 else 3
    file.PhotometricInterpretation = "MONOCHROME2" if pixels.ndim == 2 else "RGB"
    if pixels.ndim == 3:
        file.PlanarConfiguration = 0
    file.BitsAllocated = file.BitsStored = 8 * pixels.dtype.itemsize
    file.PixelRepresentation = int(pixels.dtype.kind == "i")
    file.PixelData = pixels.tobytes() if data is None else encapsulate([data])
    for name, value in elements.items():
        setattr(file, name, value)
    file.HighBit = file.BitsStored - 1
    file["PixelData"].VR = "OB" if file.BitsAllocated == 8 or data is not None else "OW"
    if file.PixelData is None:
        del file.PixelData
    file.save_as(path, enforce_file_format=True)
    return str(path)


def png(width, height, bits, colour, row):
    """A PNG of one row, byte by byte, so that headers can lie and depths Pillow does not write can be made."""

    def chunk(name, body):
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" + row)) + chunk(b"IEND", b"")
    )


def unpacked(levels, bits):
    return (levels[..., None] >> np.arange(bits - 1, -1, -1)) & 1


def noise(height, width):
    return np.random.default_rng(3).integers(0, 256, (height, width), dtype=np.uint8)


def jpeg_bytes(array):
    buffer = BytesIO()
    Image.fromarray(array).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


def j2k_bytes(array):
    buffer = BytesIO()
    Image.fromarray(array).save(buffer, "JPEG2000", no_jp2=True)
    return buffer.getvalue()
