"""The pixel path equals the stock PIL processors bit for bit, or says None."""

from __future__ import annotations

import importlib
import json
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from cxrbench.data.pixels import DEFAULTS, transform_for

MODULES = {
    "CLIP": "clip",
    "Bit": "bit",
    "Llava": "llava",
    "Blip": "blip",
    "Siglip": "siglip",
    "ViT": "vit",
    "DeiT": "deit",
}


def stock(stem, config):
    """The stock PIL class, built from a configuration as `from_pretrained` builds it."""
    module = importlib.import_module(f"transformers.models.{MODULES[stem]}.image_processing_pil_{MODULES[stem]}")
    kept = {key: value for key, value in config.items() if key != "image_processor_type"}
    return getattr(module, f"{stem}ImageProcessorPil")(**kept)


def stock_pixels(stem, config, grey):
    rgb = Image.fromarray(grey).convert("RGB")
    return stock(stem, config)(rgb, return_tensors="np")["pixel_values"][0]


def assert_same_bits(ours, theirs):
    assert ours.dtype == theirs.dtype == np.float32
    assert ours.shape == theirs.shape
    np.testing.assert_array_equal(ours.view(np.uint32), np.ascontiguousarray(theirs).view(np.uint32))


def noise(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width), dtype=np.uint8)


@pytest.mark.parametrize("stem", sorted(DEFAULTS))
@pytest.mark.parametrize("shape", [(300, 300), (431, 257), (90, 500)])
def test_class_defaults_are_those_of_the_stock_classes(stem, shape):
    config = {"image_processor_type": f"{stem}ImageProcessor"}
    assert_same_bits(transform_for(config)(noise(*shape)), stock_pixels(stem, config, noise(*shape)))


side = st.integers(1, 48)
sizes = st.one_of(
    st.fixed_dictionaries({"shortest_edge": side}),
    st.fixed_dictionaries({"shortest_edge": side, "longest_edge": st.integers(20, 90)}),
    st.fixed_dictionaries({"height": side, "width": side}),
    st.fixed_dictionaries({"max_height": st.integers(20, 60), "max_width": st.integers(20, 60)}),
    side,
    st.tuples(side, side).map(list),
)
crops = st.one_of(st.fixed_dictionaries({"height": side, "width": side}), side, st.tuples(side, side).map(list))
numbers = st.floats(0.05, 1)
channels = st.one_of(st.lists(numbers, min_size=3, max_size=3), numbers)
configs = st.fixed_dictionaries(
    {"size": sizes},
    optional={
        "crop_size": crops,
        "do_center_crop": st.sampled_from([True, False, None]),
        "do_resize": st.sampled_from([True, False, None]),
        "do_rescale": st.just(True),
        "do_normalize": st.booleans(),
        "do_convert_rgb": st.booleans(),
        "resample": st.integers(0, 5),
        "rescale_factor": st.floats(1e-4, 2),
        "image_mean": channels,
        "image_std": channels,
        "data_format": st.just("channels_first"),
    },
)


@settings(max_examples=250)
@given(
    stem=st.sampled_from(sorted(DEFAULTS)),
    config=configs,
    height=st.integers(5, 70),
    width=st.integers(5, 70),
    seed=st.integers(0, 9),
)
def test_equal_to_the_stock_processor_for_any_size_and_setting(stem, config, height, width, seed):
    grey = noise(height, width, seed)
    try:
        theirs = stock_pixels(stem, config, grey)
    except ValueError:  # e.g. DeiT crops without being told a crop size
        theirs = None
    transform = transform_for({"image_processor_type": f"{stem}ImageProcessor", **config})
    if theirs is None:
        assert transform is None
    else:
        assert_same_bits(transform(grey), theirs)


@settings(max_examples=60)
@given(height=st.integers(2, 60), width=st.integers(2, 60), mean=channels.filter(lambda m: isinstance(m, list)))
def test_llava_padding_to_a_square_with_the_mean_colour(height, width, mean):
    config = {
        "do_pad": True,
        "image_mean": mean,
        "size": {"shortest_edge": 24},
        "crop_size": {"height": 24, "width": 24},
    }
    transform = transform_for({"image_processor_type": "LlavaImageProcessor", **config})
    assert_same_bits(transform(noise(height, width)), stock_pixels("Llava", config, noise(height, width)))


def test_rescaling_switched_off_and_nothing_switched_on():
    config = {"do_rescale": False, "size": 20, "crop_size": 20}
    named = {"image_processor_type": "CLIPImageProcessor", **config}
    assert_same_bits(transform_for(named)(noise(40, 30)), stock_pixels("CLIP", config, noise(40, 30)))
    assert transform_for(named | {"do_normalize": False}) is None  # the stock output is uint8 then


def test_configurations_as_files_store_them(tmp_path):
    """Old key, fast class, nested processor_config.json: one transform."""
    saved = stock("CLIP", {"size": {"shortest_edge": 28}, "crop_size": {"height": 28, "width": 28}})
    saved.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "preprocessor_config.json").read_text())
    grey = noise(50, 61)
    expected = transform_for(config)(grey)
    assert_same_bits(expected, saved(Image.fromarray(grey).convert("RGB"), return_tensors="np")["pixel_values"][0])
    old = {key: value for key, value in config.items() if key != "image_processor_type"}
    for variant in (
        {"processor_class": "LlavaProcessor", "image_processor": config},
        old | {"feature_extractor_type": "CLIPFeatureExtractor", "size": 28, "crop_size": 28},
        config | {"image_processor_type": "CLIPImageProcessorFast", "device": None},
    ):
        assert_same_bits(transform_for(variant)(grey), expected)


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"image_processor_type": "Gemma3ImageProcessor", "size": {"height": 896, "width": 896}},
        {"image_processor_type": "CLIPImageProcessor", "do_pad": True, "pad_size": {"height": 900, "width": 900}},
        {"image_processor_type": "CLIPImageProcessor", "size": {"longest_edge": 224}},
        {"image_processor_type": "CLIPImageProcessor", "size": {"height": 224}},
        {"image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": 0}},
        {"image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": 224.5}},
        {"image_processor_type": "CLIPImageProcessor", "size": "224"},
        {"image_processor_type": "CLIPImageProcessor", "crop_size": {"shortest_edge": 224}},
        {"image_processor_type": "CLIPImageProcessor", "resample": 17},
        {"image_processor_type": "CLIPImageProcessor", "image_mean": [0.5]},
        {"image_processor_type": "CLIPImageProcessor", "image_std": [0.0, 0.1, 0.1]},
        {"image_processor_type": "CLIPImageProcessor", "input_data_format": "channels_last"},
        {"image_processor_type": "CLIPImageProcessor", "use_square_size": True},
        {"image_processor_type": "SiglipImageProcessor", "do_center_crop": True},
    ],
)
def test_what_is_not_known_to_be_exact_is_refused(config):
    assert transform_for(config) is None


@pytest.mark.parametrize("resample", range(6))
def test_one_band_is_resized_as_each_band_of_an_rgb_image(resample):
    """The whole idea rests on this property of Pillow."""
    rgb = np.random.default_rng(1).integers(0, 256, (97, 61, 3), dtype=np.uint8)
    whole = np.asarray(Image.fromarray(rgb).resize((23, 31), resample))
    for band in range(3):
        alone = Image.fromarray(np.ascontiguousarray(rgb[..., band])).resize((23, 31), resample)
        np.testing.assert_array_equal(np.asarray(alone), whole[..., band])


def test_transform_travels_to_worker_processes_and_rejects_colour():
    transform = transform_for({"image_processor_type": "SiglipImageProcessor"})
    assert_same_bits(pickle.loads(pickle.dumps(transform))(noise(30, 20)), transform(noise(30, 20)))
    with pytest.raises(ValueError, match="grey uint8"):
        transform(np.zeros((4, 4, 3), np.uint8))
