"""DICOM radiographs of every kind people have become the grey picture a radiologist sees, or a named outcome."""

from __future__ import annotations

import builtins
import warnings
from io import BytesIO

import numpy as np
import pydicom
import pytest
from image_files import dicom, j2k_bytes, jpeg_bytes, noise, outcome, ramp
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.pixels.processing import apply_windowing
from pydicom.sequence import Sequence
from pydicom.uid import JPEGBaseline8Bit, JPEGExtended12Bit, JPEGLosslessSV1, RLELossless

from cxrbench.data import images
from cxrbench.data.dicom import window
from cxrbench.data.images import image_info, read_grey, read_raw


def test_eight_bits_without_a_window_are_shown_as_they_are(tmp_path):
    np.testing.assert_array_equal(read_grey(dicom(tmp_path / "a.dcm", ramp())), ramp())


@pytest.mark.parametrize("bits", [10, 12, 14, 15, 16])
def test_full_range_of_the_stored_bits(tmp_path, bits):
    values = ramp(top=2**bits - 1, dtype=np.uint16)
    path = dicom(tmp_path / "a.dcm", values, BitsStored=bits)
    np.testing.assert_array_equal(read_grey(path), np.floor(values * 255.0 / (2**bits - 1) + 0.5))
    assert read_raw(path).maximum == 2**bits - 1
    np.testing.assert_allclose(read_raw(path).values, values, rtol=1e-6)


def test_monochrome1_is_inverted(tmp_path):
    path = dicom(tmp_path / "a.dcm", ramp(), PhotometricInterpretation="MONOCHROME1")
    np.testing.assert_array_equal(read_grey(path), 255 - ramp())


def test_signed_values(tmp_path):
    values = ramp(top=4095, dtype=np.int16) - 2048
    path = dicom(tmp_path / "a.dcm", values.astype(np.int16), BitsStored=12)
    np.testing.assert_array_equal(read_grey(path), np.floor((values + 2048) * 255.0 / 4095 + 0.5))


def test_a_window_counts_after_the_rescale(tmp_path):
    values = np.array([[0, 1000, 1500, 2000, 4095]], np.uint16)
    path = dicom(
        tmp_path / "a.dcm",
        values,
        BitsStored=12,
        RescaleSlope=2,
        RescaleIntercept=-1000,
        WindowCenter=[2000.5, 7],
        WindowWidth=[2001, 9],
    )
    # rescaled: -1000, 1000, 2000, 3000, 7190; the first window spans 1000 .. 3000
    np.testing.assert_array_equal(read_grey(path), [[0, 0, 128, 255, 255]])


@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
@pytest.mark.parametrize("width", [1, 2, 300.5, 4096])
def test_windows_equal_pydicom(function, width):
    data = Dataset()
    data.PhotometricInterpretation, data.BitsStored, data.PixelRepresentation = "MONOCHROME2", 12, 0
    data.WindowCenter, data.WindowWidth, data.VOILUTFunction = 1000, width, function
    values = np.arange(4096, dtype=np.uint16)
    with np.errstate(over="ignore"):
        theirs = apply_windowing(values, data) / 4095
    np.testing.assert_allclose(window(values.astype(float), 1000, width, function), theirs, atol=1e-12)


def test_a_negative_slope_turns_the_values_but_white_stays_the_largest(tmp_path):
    path = dicom(tmp_path / "a.dcm", ramp(), RescaleSlope=-1, RescaleIntercept=255)
    np.testing.assert_array_equal(read_grey(path), 255 - ramp())


@pytest.mark.parametrize("bits", [8, 12])
@pytest.mark.parametrize("packed", [True, False])
def test_voi_lut_comes_before_the_window(tmp_path, bits, packed):
    top = 2**bits - 1
    table = np.linspace(top, 0, 512).astype(np.uint16)
    item = Dataset()
    item.LUTDescriptor = [512, 100, bits]
    item.LUTData = table.astype(np.uint8).tobytes() if packed and bits == 8 else table.tobytes()
    item["LUTData"].VR = "OW"
    values = np.array([[0, 100, 101, 355, 611, 4095]], np.uint16)
    path = dicom(
        tmp_path / "a.dcm", values, BitsStored=12, VOILUTSequence=Sequence([item]), WindowCenter=1, WindowWidth=2
    )
    expected = np.floor(table[[0, 0, 1, 255, 511, 511]] * 255.0 / top + 0.5)
    np.testing.assert_array_equal(read_grey(path)[0], expected)


def test_modality_lut_takes_the_place_of_the_rescale(tmp_path):
    item = Dataset()
    item.LUTDescriptor, item.ModalityLUTType = [256, 0, 16], "US"
    item.LUTData = list(range(65535, -1, -257))
    item["LUTData"].VR = "US"
    path = dicom(tmp_path / "a.dcm", ramp(), ModalityLUTSequence=Sequence([item]))
    np.testing.assert_array_equal(read_grey(path), 255 - ramp())


def test_colour_is_luminance(tmp_path):
    path = dicom(tmp_path / "a.dcm", np.stack([ramp()] * 3, -1))
    np.testing.assert_array_equal(read_grey(path), ramp())


def test_compressed_forms(tmp_path):
    grey = noise(32, 48)
    file = pydicom.dcmread(dicom(tmp_path / "plain.dcm", grey))
    file.compress(RLELossless)
    file.save_as(tmp_path / "rle.dcm")
    np.testing.assert_array_equal(read_grey(str(tmp_path / "rle.dcm")), grey)
    lossless = dicom(tmp_path / "j2k.dcm", grey, syntax="1.2.840.10008.1.2.4.90", data=j2k_bytes(grey))
    np.testing.assert_array_equal(read_grey(lossless), grey)
    stream = jpeg_bytes(grey)
    baseline = dicom(tmp_path / "jpeg.dcm", grey, syntax=JPEGBaseline8Bit, data=stream)
    np.testing.assert_array_equal(read_grey(baseline), np.asarray(Image.open(BytesIO(stream))))
    assert image_info(baseline).syntax == "JPEG Baseline (Process 1) (1.2.840.10008.1.2.4.50)"


@pytest.mark.parametrize("form", ["jpeg", "j2k", "plain", "rle"])
def test_truncated_streams_are_noticed(tmp_path, form):
    grey = noise(64, 64)
    if form == "jpeg":
        path = dicom(tmp_path / "a.dcm", grey, syntax=JPEGBaseline8Bit, data=jpeg_bytes(grey)[:1500])
    elif form == "j2k":
        path = dicom(tmp_path / "a.dcm", grey, syntax="1.2.840.10008.1.2.4.90", data=j2k_bytes(grey)[:1500])
    else:
        path = dicom(tmp_path / "a.dcm", grey)
        if form == "rle":
            file = pydicom.dcmread(path)
            file.compress(RLELossless)
            file.save_as(path)
        (tmp_path / "a.dcm").write_bytes((tmp_path / "a.dcm").read_bytes()[:-1500])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert outcome(path)[0] == "broken_image"


@pytest.mark.parametrize("syntax", [JPEGLosslessSV1, JPEGExtended12Bit])
def test_missing_decoder_names_the_syntax_and_the_extra(tmp_path, monkeypatch, syntax):
    from pydicom.pixels.decoders import base

    path = dicom(tmp_path / "a.dcm", ramp(dtype=np.uint16), syntax=syntax, data=b"\xff\xd8\xff\xd9", BitsStored=12)
    decoder = base.get_decoder(syntax)
    monkeypatch.setattr(decoder, "_available", {k: v for k, v in decoder._available.items() if k == "pillow"})
    kind, detail = outcome(path)
    assert kind == "no_decoder"
    assert syntax.name in detail
    assert str(syntax) in detail
    assert "cxrbench[dicom]" in detail


def test_unregistered_syntax_is_not_repeated(tmp_path):
    path = tmp_path / "a.dcm"
    dicom(path, ramp(), syntax=JPEGLosslessSV1, data=b"xx")
    path.write_bytes(path.read_bytes().replace(b"1.2.840.10008.1.2.4.70", b"1.2.840.99999.1.2.4.70"))
    kind, detail = outcome(str(path))
    assert kind == "no_decoder"
    assert "99999" not in detail


def test_without_pydicom(tmp_path, monkeypatch):
    path = dicom(tmp_path / "a.dcm", ramp())
    real = builtins.__import__

    def refuse(name, *args, **kwargs):
        if name.split(".")[0] == "pydicom":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    kind, detail = outcome(path)
    assert kind == "no_decoder"
    assert "pip install 'cxrbench[dicom]'" in detail


@pytest.mark.parametrize(
    ("elements", "words"),
    [
        ({"NumberOfFrames": 2}, "several frames"),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, "photometric"),
        ({"WindowCenter": 40, "WindowWidth": 0}, "damaged"),
        ({"RescaleSlope": 0, "RescaleIntercept": 1}, "no numbers"),
        ({"PixelData": None}, "without pixel data"),
        ({"BitsAllocated": 32}, "damaged"),
    ],
)
def test_what_is_no_radiograph_is_refused(tmp_path, elements, words):
    kind, detail = outcome(dicom(tmp_path / "a.dcm", ramp(), **elements))
    assert kind == "broken_image"
    assert words in detail


@pytest.mark.parametrize("element", ["PhotometricInterpretation", "WindowCenter", "VOILUTFunction", "NumberOfFrames"])
def test_no_value_of_a_file_is_repeated(tmp_path, element, caplog, recwarn):
    path = tmp_path / "a.dcm"
    value = {"PhotometricInterpretation": "MONOCHROME2", "VOILUTFunction": "LINEAR_EXACT"}.get(element, "123456789012")
    dicom(path, ramp(), **{"WindowCenter": 100, "WindowWidth": 100, element: value})
    content = path.read_bytes()
    assert content.count(value.encode()) == 1
    path.write_bytes(content.replace(value.encode(), b"Secret^Words"[: len(value)]))
    kind, detail = outcome(str(path))
    assert kind == "broken_image"
    assert "Secret" not in detail + caplog.text + "".join(str(warning.message) for warning in recwarn)


def test_no_path_reaches_the_log(tmp_path, caplog):
    path = tmp_path / "a.dcm"
    dicom(path, noise(64, 64), syntax=JPEGBaseline8Bit, data=jpeg_bytes(noise(64, 64)))
    path.write_bytes(path.read_bytes()[:-1500])
    with pytest.warns(UserWarning, match="End of file") as caught:
        outcome(str(path))
    assert caplog.text
    assert str(tmp_path) not in caplog.text + "".join(str(warning.message) for warning in caught)


def test_too_large_is_refused_before_decoding(tmp_path):
    path = dicom(tmp_path / "a.dcm", ramp(), Rows=60_000, Columns=60_000)
    assert outcome(path)[0] == "image_too_large"


def test_header_of_a_file(tmp_path):
    path = dicom(tmp_path / "a.dcm", ramp(dtype=np.uint16), BitsStored=12, PhotometricInterpretation="MONOCHROME1")
    assert image_info(path) == images.ImageInfo(
        "DICOM", 30, 20, 12, "grey", "MONOCHROME1", "Explicit VR Little Endian (1.2.840.10008.1.2.1)"
    )
