"""The loader of the recorded originals: the seed rule, the files it writes, and what it says of wrong answers."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import originals
import pytest

PINNED = [[0.0956583023071289, 0.8009802103042603], [0.3235083818435669, 0.27297306060791016]]
NAMES = ["chexagent", "chexagent-2", "llava-med", "llava-med-v1", "llava-rad", "llm-cxr", "maira-2", "slava"]


def test_the_seed_rule_by_hand():
    label = "cxrbench/originals/slava/model/a"
    seed = int.from_bytes(hashlib.sha256(label.encode()).digest()[:16], "little")
    raw = [int(word) for word in np.random.PCG64(seed).random_raw(3)]
    by_hand = [0.5 + 0.25 * (((word >> 40) - 2**23) / 2**23) for word in raw]
    made = originals.seeded(label, (3,), 0.5, 0.25)
    assert made.dtype == np.float32
    assert made.tolist() == [float(np.float32(value)) for value in by_hand]


def test_the_seed_rule_is_the_one_that_was_recorded():
    assert originals.seeded("a label", (2, 2), 0.0, 1.0).tolist() == PINNED
    assert abs(originals.seeded("many", (10_000,), 0.0, 1.0).mean()) < 0.02


def test_unknown_rules_are_refused():
    with pytest.raises(ValueError, match="unknown rule"):
        originals.tensor("x", (2,), ["gaussian"])


def test_every_golden_is_there_and_small():
    assert originals.names() == NAMES
    for path in originals.FOLDER.glob("*.json"):
        assert path.stat().st_size < 100_000, path.name


@pytest.mark.parametrize("name", NAMES)
def test_the_folder_is_written_as_described(name, tmp_path):
    torch = pytest.importorskip("torch")
    from safetensors.torch import load_file

    golden = originals.load(name)
    root = golden.materialise(tmp_path)
    for file in golden.data["files"]:
        path = root / file["path"]
        if "tensors" in file:
            state = load_file(path) if file["kind"] == "safetensors" else torch.load(path, weights_only=True)
            state = state[file["inside"]] if "inside" in file else state
            expected = golden.tensors(file["path"])
            assert list(expected) == [key for key, _, _ in file["tensors"]]
            assert state.keys() == expected.keys()
            for key, shape, _ in file["tensors"]:
                assert list(state[key].shape) == shape
                assert (state[key].numpy() == expected[key]).all(), key
        elif file["kind"] == "index":
            index = json.loads(path.read_text(encoding="utf-8"))
            assert set(index["weight_map"].values()) == set(file["shards"])
        else:
            assert path.stat().st_size > 0


def test_the_gap_sees_a_changed_column():
    golden = originals.load("slava")
    case = golden.cases["image-inside"]["outputs"]["logits"]
    case["positions"], case["columns"], case["length"] = [0], [0, 1, 2, 3], 1
    case["width"], case["values"], case["argmax"] = 4, [0.0, 1.0, 3.0, 0.5], [2]
    exact = np.array([[0.0, 1.0, 3.0, 0.5]])
    case["log_sum_exp"] = [float(np.log(np.exp(exact).sum()))]
    assert golden.logits_gap("image-inside", exact) < 1e-12
    assert golden.logits_gap("image-inside", exact + np.array([[0, 0.25, 0, 0]])) == pytest.approx(0.25)
    assert golden.logits_gap("image-inside", exact + np.array([[5, 0, 0, 0]])) == float("inf")
    assert golden.logits_gap("image-inside", np.append(exact, [[9.0]], axis=1)) < 1e-12  # a column the authors lack
    with pytest.raises(ValueError, match=r"recorded \(1, 4\)"):
        golden.logits_gap("image-inside", exact[:, :3])


def test_the_gap_sees_what_no_kept_column_shows():
    golden = originals.load("slava")
    kept = golden.cases["image-inside"]["outputs"]["logits"]
    kept["positions"], kept["columns"], kept["length"], kept["width"] = [0], [1], 1, 3
    kept["values"], kept["argmax"], kept["log_sum_exp"] = [1.0], [1], [float(np.log(np.exp([0.0, 1.0, 0.0]).sum()))]
    assert golden.logits_gap("image-inside", np.array([[0.5, 1.0, 0.0]])) > 0.05


def test_a_sampled_array_is_compared_at_the_kept_places():
    golden = originals.load("llm-cxr")
    kept = golden.cases["decode"]["outputs"]["image"]
    array = np.zeros(kept["shape"], dtype=np.float32).ravel()
    array[:: kept["every"]] = kept["values"]
    array = array.reshape(kept["shape"])
    assert golden.sampled_gap("decode", "image", array) == 0
    array[0, 0, 0, 0] += 0.5
    assert golden.sampled_gap("decode", "image", array) == pytest.approx(0.5)
    with pytest.raises(ValueError, match="shape"):
        golden.sampled_gap("decode", "image", array[0])


def test_inputs_and_pictures_are_the_same_each_time():
    golden = originals.load("llava-rad")
    assert golden.input("image-inside", "input_ids").tolist().count(-200) == 1
    pixels = golden.input("image-inside", "pixel_values")
    assert pixels.shape == (1, 3, 56, 56)
    assert (pixels == golden.input("image-inside", "pixel_values")).all()
    assert {name: originals.picture(name).shape for name in originals.PICTURES} == {
        "wide-grey": (301, 417),
        "tall-colour": (640, 523, 3),
    }
