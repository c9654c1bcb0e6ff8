"""Every form in which people have radiographs becomes the same grey picture; every broken file is a named outcome."""

from __future__ import annotations

import os
import pickle
import warnings

import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from image_files import dicom, j2k_bytes, noise, outcome, png, ramp, saved, unpacked
from PIL import Image, ImageFile, PngImagePlugin
from pydicom.pixels.processing import apply_windowing

from cxrbench.data import images
from cxrbench.data.images import ImageFailure, image_info, read_grey, read_raw


class TestPictures:
    def test_grey_png_is_returned_as_it_is(self, tmp_path):
        grey = read_grey(saved(tmp_path / "a.png", ramp()))
        assert grey.dtype == np.uint8
        np.testing.assert_array_equal(grey, ramp())

    def test_equal_channels_give_the_channel_and_colour_gives_luminance(self, tmp_path):
        grey = np.arange(256, dtype=np.uint8).reshape(16, 16)
        np.testing.assert_array_equal(read_grey(saved(tmp_path / "e.png", np.stack([grey] * 3, -1))), grey)
        colour = np.zeros((1, 3, 3), np.uint8)
        colour[0, range(3), range(3)] = 255
        # ITU-R 601: 0.299, 0.587, 0.114 of 255
        np.testing.assert_array_equal(read_grey(saved(tmp_path / "c.png", colour)), [[76, 150, 29]])

    @pytest.mark.parametrize("bits", [1, 2, 4])
    def test_fewer_bits_span_black_to_white(self, tmp_path, bits):
        levels = np.arange(2**bits, dtype=np.uint8)[None]
        path = tmp_path / "few.png"
        path.write_bytes(png(levels.shape[1], 1, bits, 0, np.packbits(unpacked(levels, bits)).tobytes()))
        np.testing.assert_array_equal(read_grey(str(path))[0], np.linspace(0, 255, 2**bits).astype(np.uint8))
        assert image_info(str(path)).bits == bits

    def test_palette_is_looked_up(self, tmp_path):
        picture = Image.fromarray(np.array([[0, 1, 2]], np.uint8), "P")
        picture.putpalette([10, 10, 10, 200, 200, 200, 255, 0, 0])
        np.testing.assert_array_equal(read_grey(saved(tmp_path / "p.png", picture)), [[10, 200, 76]])

    def test_transparency_is_laid_on_white_as_the_stock_processors_do(self, tmp_path):
        from transformers.image_transforms import convert_to_rgb

        picture = Image.fromarray(np.array([[[40, 255], [40, 0], [40, 128]]], np.uint8), "LA")
        expected = np.asarray(convert_to_rgb(picture, return_numpy=True))[..., 0]
        np.testing.assert_array_equal(read_grey(saved(tmp_path / "la.png", picture)), expected)
        assert expected[0, :2].tolist() == [40, 255]

    def test_sixteen_bits_are_scaled_not_clipped(self, tmp_path):
        values = np.array([[0, 128, 129, 257, 32767, 32768, 65406, 65407, 65535]], np.uint16)
        path = saved(tmp_path / "deep.png", values)
        expected = [int(v * 255 / 65535 + 0.5) for v in values[0].tolist()]
        assert read_grey(path)[0].tolist() == expected
        raw = read_raw(path)
        assert raw.maximum == 65535
        np.testing.assert_array_equal(raw.values, values)
        assert image_info(path) == images.ImageInfo("PNG", 9, 1, 16, "I;16")

    def test_sixteen_bits_in_colour_keep_the_high_byte(self, tmp_path):
        (tmp_path / "rgb.png").write_bytes(png(2, 1, 16, 2, bytes([10, 200] * 3 + [255, 0] * 3)))
        (tmp_path / "la.png").write_bytes(png(2, 1, 16, 4, bytes([10, 200, 255, 255, 99, 0, 255, 255])))
        assert read_grey(tmp_path / "rgb.png").tolist() == [[10, 255]]
        assert read_grey(tmp_path / "la.png").tolist() == [[10, 99]]

    def test_sixteen_bits_with_a_transparent_level_are_refused(self, tmp_path):
        path = saved(tmp_path / "t.png", ramp(top=65535, dtype=np.uint16), transparency=7)
        assert "mode I;16 with transparency" in outcome(path)[1]

    def test_sixteen_bits_that_would_be_shown_black_are_refused(self, tmp_path):
        kind, detail = outcome(saved(tmp_path / "twelve.png", ramp(top=4095, dtype=np.uint16)))
        assert kind == "broken_image"
        assert "largest value is 4095 of 65535" in detail
        read_grey(saved(tmp_path / "thirteen.png", ramp(top=4096, dtype=np.uint16)))

    @pytest.mark.parametrize("mode", ["L", "RGB"])
    def test_jpeg(self, tmp_path, mode):
        path = saved(tmp_path / "a.jpg", Image.fromarray(ramp(40, 50)).convert(mode), quality=95)
        with Image.open(path) as picture:
            expected = np.asarray(picture.convert("L"))
        np.testing.assert_array_equal(read_grey(path), expected)
        assert read_raw(path).maximum == 255
        assert image_info(path) == images.ImageInfo("JPEG", 50, 40, 8, mode)

    def test_exif_orientation_is_followed(self, tmp_path):
        picture = Image.fromarray(ramp(16, 32))
        exif = Image.Exif()
        exif[0x0112] = 6
        upright = read_grey(saved(tmp_path / "turned.jpg", picture, exif=exif, quality=100))
        assert upright.shape == (32, 16)

    def test_type_is_told_by_content(self, tmp_path):
        path = saved(tmp_path / "a.png", ramp())
        os.rename(path, tmp_path / "a.dcm")
        np.testing.assert_array_equal(read_grey(str(tmp_path / "a.dcm")), ramp())

    @settings(max_examples=40)
    @given(st.data())
    def test_any_grey_png_survives_the_way(self, tmp_path_factory, data):
        height, width = data.draw(st.integers(1, 9)), data.draw(st.integers(1, 9))
        grey = np.frombuffer(data.draw(st.binary(min_size=height * width, max_size=height * width)), np.uint8)
        path = tmp_path_factory.mktemp("png") / "x.png"
        np.testing.assert_array_equal(read_grey(saved(path, grey.reshape(height, width))), grey.reshape(height, width))


def test_phantom_images_are_drawn():
    from cxrbench.data.phantom import draw

    key = "ph1-s0-test-000000-frontal-64"
    np.testing.assert_array_equal(read_grey(f"phantom:{key}"), draw(key))


class TestBrokenFiles:
    def test_missing(self, tmp_path):
        assert outcome(str(tmp_path / "gone.png"))[0] == "missing_image"
        saved(tmp_path / "a.png", ramp())
        assert outcome(str(tmp_path / "a.png" / "b.png"))[0] == "missing_image"
        with pytest.raises(ImageFailure, match="missing_image"):
            image_info(str(tmp_path / "gone.png"))

    def test_folder_and_pipe(self, tmp_path):
        assert outcome(str(tmp_path))[0] == "broken_image"
        os.mkfifo(tmp_path / "pipe.png")
        assert outcome(str(tmp_path / "pipe.png"))[0] == "broken_image"

    @pytest.mark.parametrize(
        ("content", "words"),
        [
            (b"", "is empty"),
            (b"once upon a time", "not an image"),
            (b"II*\0" + bytes(50), "a TIFF file"),
            (b"GIF89a" + bytes(50), "a GIF file"),
            (b"\x89PNG\r\n\x1a\n", "truncated or damaged"),
            (b"\xff\xd8\xff\xe0", "truncated or damaged"),
            (bytes(128) + b"DICM", "truncated before its end"),
        ],
    )
    def test_not_an_image(self, tmp_path, content, words):
        (tmp_path / "x.jpg").write_bytes(content)
        kind, detail = outcome(str(tmp_path / "x.jpg"))
        assert kind == "broken_image"
        assert words in detail

    @pytest.mark.parametrize("name", ["a.png", "a.jpg", "deep.png"])
    def test_no_truncation_gives_other_pixels(self, tmp_path, name):
        saved(tmp_path / name, ramp(64, 64, 65535, np.uint16) if name == "deep.png" else noise(64, 64))
        whole = (tmp_path / name).read_bytes()
        pixels = read_grey(tmp_path / name)
        cut = tmp_path / ("cut_" + name)
        noticed = 0
        for length in [*range(0, len(whole) - 40, max(len(whole) // 40, 1)), *range(len(whole) - 40, len(whole))]:
            cut.write_bytes(whole[:length])
            try:
                np.testing.assert_array_equal(read_grey(cut), pixels)
            except ImageFailure:
                noticed += 1
        assert noticed > 40

    @settings(max_examples=150)
    @given(
        st.sampled_from(["png", "jpeg", "dicom", "j2k"]),
        st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), max_size=6),
    )
    def test_no_damage_is_a_crash(self, tmp_path_factory, form, changes):
        content = bytearray(sample(form, tmp_path_factory))
        for where, value in changes:
            content[int(where * (len(content) - 1))] = value
        path = tmp_path_factory.mktemp("damaged") / "x"
        path.write_bytes(content)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # damaged files may make the libraries warn
            try:
                grey = read_grey(str(path))
            except ImageFailure:
                return
        assert grey.dtype == np.uint8
        assert grey.ndim == 2

    def test_decompression_bomb_is_refused_before_decoding(self, tmp_path):
        path = tmp_path / "bomb.png"
        path.write_bytes(png(40_000, 40_000, 8, 0, bytes(1000)))
        assert outcome(str(path))[0] == "image_too_large"
        assert image_info(str(path)).width == 40_000

    def test_process_wide_settings_stay(self, tmp_path):
        before = (
            Image.MAX_IMAGE_PIXELS,
            ImageFile.LOAD_TRUNCATED_IMAGES,
            PngImagePlugin.MAX_TEXT_MEMORY,
            list(warnings.filters),
        )
        read_grey(saved(tmp_path / "a.png", ramp()))
        read_grey(dicom(tmp_path / "a.dcm", ramp()))
        after = (
            Image.MAX_IMAGE_PIXELS,
            ImageFile.LOAD_TRUNCATED_IMAGES,
            PngImagePlugin.MAX_TEXT_MEMORY,
            list(warnings.filters),
        )
        assert before == after

    def test_cmyk_is_no_radiograph(self, tmp_path):
        path = saved(tmp_path / "c.jpg", Image.new("CMYK", (8, 8)))
        assert "mode CMYK" in outcome(path)[1]

    def test_failure_crosses_processes_and_knows_its_outcomes(self):
        failure = pickle.loads(pickle.dumps(ImageFailure("broken_image", "x.png is empty")))
        assert (failure.outcome, failure.detail) == ("broken_image", "x.png is empty")
        assert str(failure) == "broken_image: x.png is empty"
        with pytest.raises(ValueError, match="not an outcome"):
            ImageFailure("oops", "")


def sample(form, tmp_path_factory):
    """Bytes of a small whole file of each form."""
    path = tmp_path_factory.mktemp("whole") / "x"
    if form == "png":
        saved(path, noise(24, 24), format="PNG")
    elif form == "jpeg":
        saved(path, noise(24, 24), format="JPEG")
    elif form == "dicom":
        dicom(path, noise(24, 24), WindowCenter=100, WindowWidth=120)
    else:
        dicom(path, noise(24, 24), syntax="1.2.840.10008.1.2.4.90", data=j2k_bytes(noise(24, 24)))
    return path.read_bytes()


@pytest.mark.real_data
class TestRealFiles:
    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("siim_1.2.276.0.7230010.3.1.4.8323329.6904.1517875201.850819.dcm", -959.749),
            ("fake_MONOCHROME1.dcm", 959.75),
        ],
    )
    def test_published_pixel(self, real_data, name, value):
        """Values of torchxrayvision's own reader test, scaled to [-1024, 1024] by 2^BitsStored - 1."""
        raw = read_raw(real_data / "cxr_images" / name)
        assert (2 * raw.values[60, 2] / raw.maximum - 1) * 1024 == pytest.approx(value, abs=2e-3)

    def test_fifteen_bits_in_jpeg_2000_through_the_window(self, real_data):
        path = real_data / "cxr_images" / "wg04_RG1_chest_MONOCHROME1_16bit_j2k.dcm"
        file = pydicom.dcmread(path)
        shown = apply_windowing(file.pixel_array, file)
        raw = read_raw(path)
        assert raw.maximum == 32767
        np.testing.assert_allclose(raw.values, 32767 - shown, atol=0.01)
        assert image_info(path).bits == 15
        grey = read_grey(path)
        assert grey[900, 920] > grey[700, 500]  # the spine is brighter than the lung

    def test_every_real_file_reads(self, real_data):
        files = (
            sorted((real_data / "cxr_images").iterdir()) + sorted((real_data / "iu_xray" / "images").glob("*/*"))[::6]
        )
        for path in files:
            grey, info = read_grey(path), image_info(path)
            assert grey.shape == (info.height, info.width)
            assert grey.std() > 10
