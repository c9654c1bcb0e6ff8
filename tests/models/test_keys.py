"""Key maps are strict, sources are whole, the converted form is the same model."""

from __future__ import annotations

import json
import os

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from cxrbench.errors import CxrbenchError
from cxrbench.models import network
from cxrbench.models.adapter import LoadSettings
from cxrbench.models.converted import read_card
from cxrbench.models.keys import Drop, Unset, heads_apart, plan, same, thirds, to
from cxrbench.models.recognise import describe
from cxrbench.models.shards import Deltas, LoraMerged, Shards, Together, find_files
from cxrbench.privacy import hold
from tests import released
from tests.models import originals

CPU = LoadSettings(dtype="fp32", device="cpu")


def refusal(call, *arguments, **options) -> str:
    with pytest.raises(CxrbenchError) as error:
        call(*arguments, **options)
    return str(error.value)


# The plan


def test_every_name_finds_its_place_and_the_first_row_wins():
    rows = (Drop("a.old", "not used", keep="kept.safetensors"), to(r"a\.(.+)", r"b.\1"), Unset("b.free", "never read"))
    made = plan(["a.x", "a.old"], rows, ["b.x", "b.free"], "here")
    assert [(step.source, step.targets) for step in made.steps] == [("a.x", ("b.x",))]
    assert made.left_out == {"a.old": "not used"}
    assert made.kept == {"a.old": "kept.safetensors"}
    assert made.unset == ("b.free",)


@pytest.mark.parametrize(
    ("names", "rows", "stock", "words"),
    [
        (["a", "z"], (to("a", "b"),), ["b"], "in no row of the key map: z"),
        (["a"], (to("a", "b"),), ["b", "c"], "missing from the checkpoint: c"),
        (["a"], (to("a", "c"),), ["b"], "does not have: c"),
        (["a", "b"], (to("a|b", "c"),), ["c"], "filled twice: c"),
    ],
)
def test_what_does_not_fit_is_named(names, rows, stock, words):
    message = refusal(plan, names, rows, stock, "the folder")
    assert words in message
    assert "the folder" in message


def test_a_row_matches_whole_names_only():
    assert "in no row" in refusal(plan, ["a.b"], (to("a", "b"),), ["b"], "")


# Changes


@given(st.integers(1, 4), st.integers(1, 3), st.integers(1, 5))
def test_heads_apart_is_the_inverse_of_the_fused_layout(heads, width, inner):
    parts = [torch.arange(heads * width * inner).reshape(heads * width, inner) + 1000 * part for part in range(3)]
    fused = torch.stack([part.reshape(heads, width, inner) for part in parts], dim=1).reshape(-1, inner)
    assert all(torch.equal(a, b) for a, b in zip(heads_apart(heads)(fused), parts, strict=True))
    assert all(
        torch.equal(a, b) for a, b in zip(heads_apart(heads)(fused[:, 0]), [p[:, 0] for p in parts], strict=True)
    )


def test_thirds_cuts_along_the_first_axis():
    assert [part.tolist() for part in thirds(torch.arange(6))] == [[0, 1], [2, 3], [4, 5]]


# Sources


def shards(folder, files):
    for name, tensors in files.items():
        save_file(tensors, folder / name, metadata={"format": "pt"})
    table = {key: name for name, tensors in files.items() for key in tensors}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": table}))


def test_shards_are_found_by_their_index_and_read_one_after_another(tmp_path):
    shards(tmp_path, {"b.safetensors": {"x": torch.ones(2)}, "a.safetensors": {"y": torch.zeros(3)}})
    source = Shards(find_files(tmp_path))
    assert list(source.names()) == ["y", "x"]
    assert source.shape("x") == (2,)
    assert source.read("x").tolist() == [1, 1]


def test_a_missing_shard_is_one_sentence_that_names_it(tmp_path):
    shards(tmp_path, {"a.safetensors": {"y": torch.zeros(3)}, "b.safetensors": {"x": torch.ones(2)}})
    (tmp_path / "b.safetensors").unlink()
    assert "1 of 2 weight files are missing: b.safetensors" in refusal(find_files, tmp_path)


def test_a_shard_of_another_checkpoint_is_noticed(tmp_path):
    shards(tmp_path, {"a.safetensors": {"y": torch.zeros(3)}, "b.safetensors": {"x": torch.ones(2)}})
    save_file({"z": torch.ones(2)}, tmp_path / "b.safetensors")
    assert "in none of its files: x" in refusal(lambda: Shards(find_files(tmp_path)))


def test_a_name_in_two_files_is_refused(tmp_path):
    shards(tmp_path, {"a.safetensors": {"y": torch.zeros(3)}, "b.safetensors": {"y": torch.ones(3)}})
    assert "two files hold the weight y" in refusal(Shards, sorted(tmp_path.glob("*.safetensors")))


def test_no_weights_at_all(tmp_path):
    assert "there are no weights" in refusal(find_files, tmp_path)


def test_pickles_hold_tensors_and_nothing_else(tmp_path):
    torch.save({"x": torch.ones(2)}, tmp_path / "pytorch_model.bin")
    assert Shards(find_files(tmp_path)).read("x").tolist() == [1, 1]
    torch.save({"x": torch.ones(2)}, tmp_path / "old.bin", _use_new_zipfile_serialization=False)
    assert Shards([tmp_path / "old.bin"]).shape("x") == (2,)
    torch.save({"epoch": 3, "state_dict": {"x": torch.ones(2)}}, tmp_path / "deep.pt")
    assert Shards([tmp_path / "deep.pt"], "state_dict").names() == ("x",)
    assert "no table of weights" in refusal(Shards, [tmp_path / "deep.pt"])


class Bomb:
    def __reduce__(self):
        return (print, ("it ran",))


def test_a_pickle_that_wants_to_run_code_is_not_opened(tmp_path, capsys):
    torch.save({"x": torch.ones(2), "bomb": Bomb()}, tmp_path / "pytorch_model.bin")
    assert "holds more than tensors" in refusal(Shards, [tmp_path / "pytorch_model.bin"])
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 nothing", b"\x80\x02."])
def test_a_damaged_pickle_is_named(tmp_path, content):
    (tmp_path / "pytorch_model.bin").write_bytes(content)
    assert str(tmp_path) in refusal(Shards, [tmp_path / "pytorch_model.bin"])


def test_a_pickle_cut_short_is_named(tmp_path):
    file = tmp_path / "pytorch_model.bin"
    torch.save({"x": torch.ones(1000)}, file)
    file.write_bytes(file.read_bytes()[:-100])
    assert "cut short" in refusal(Shards, [file])


class Given:
    """A source made of a dictionary."""

    where = "given"

    def __init__(self, **tensors):
        self.tensors = {name.replace("__", "."): value for name, value in tensors.items()}

    def names(self):
        return tuple(self.tensors)

    def shape(self, name):
        return tuple(self.tensors[name].shape)

    def read(self, name):
        return self.tensors[name]


def test_parts_keep_their_names_apart():
    source = Together({"a/": Given(x=torch.ones(1)), "b/": Given(x=torch.zeros(2))})
    assert list(source.names()) == ["a/x", "b/x"]
    assert source.read("b/x").tolist() == [0, 0]
    assert source.shape("a/x") == (1,)


DELTAS = {"alone": "new", "grows": "table", "ignored": "freq"}


def test_deltas_are_added_and_new_rows_stay():
    delta = Given(table=torch.ones(3, 1), w=torch.ones(2), new=torch.ones(1), freq=torch.zeros(1))
    base = Given(table=torch.full((2, 1), 5.0), w=torch.full((2,), 2.0), freq=torch.ones(1))
    source = Deltas(delta, base, **DELTAS)
    assert source.read("table").reshape(-1).tolist() == [6, 6, 1]
    assert source.read("w").tolist() == [3, 3]
    assert source.read("new").tolist() == [1]
    assert delta.read("w").tolist() == [1, 1]  # what was read is not changed


@pytest.mark.parametrize(
    ("base", "words"),
    [
        ({"table": torch.ones(2, 1)}, "in the delta and not in the base: w"),
        ({"table": torch.ones(2, 1), "w": torch.ones(2), "z": torch.ones(1)}, "in the base and not in the delta: z"),
        ({"table": torch.ones(2, 2), "w": torch.ones(2)}, "have other shapes: table"),
        ({"table": torch.ones(2, 1), "w": torch.ones(1)}, "have other shapes: w"),
    ],
)
def test_another_base_is_refused(base, words):
    assert words in refusal(Deltas, Given(table=torch.ones(3, 1), w=torch.ones(2)), Given(**base), **DELTAS)


def test_low_rank_updates_are_merged():
    low, high = torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0], [4.0]])
    updates = Given(base_model__model__w__lora_A__weight=low, base_model__model__w__lora_B__weight=high)
    source = LoraMerged(Given(w__weight=torch.zeros(2, 2, dtype=torch.float16), v__weight=torch.ones(1)), updates, 2.0)
    assert source.read("w.weight").tolist() == [[6, 12], [8, 16]]
    assert source.read("w.weight").dtype == torch.float16
    assert source.read("v.weight").tolist() == [1]


def test_half_a_pair_or_an_update_without_a_weight_is_refused():
    low = Given(base_model__model__w__lora_A__weight=torch.ones(1, 2))
    assert "no pair" in refusal(LoraMerged, Given(w__weight=torch.ones(2, 2)), low, 1.0)
    assert "updated and not in it: w.weight" in refusal(LoraMerged, Given(v__weight=torch.ones(2, 2)), low, 1.0)
    odd = Given(base_model__model__lm_head__weight=torch.ones(2, 2))
    assert "no pair" in refusal(LoraMerged, Given(w__weight=torch.ones(2, 2)), odd, 1.0)


# Whole checkpoints, by the recorded originals


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Checkpoints the tests only read."""
    return {name: make(tmp_path_factory.mktemp(name)) for name, make in released.MAKERS.items()}


@pytest.mark.parametrize("name", list(released.MAKERS))
def test_the_converted_form_is_the_same_network(folders, name, tmp_path):
    original = released.model(name, folders[name])
    done: list[tuple[int, int]] = []
    made = original.convert(tmp_path / "out", lambda *step: done.append(step))
    assert done[-1][0] == done[-1][1] == sum(len(step.targets) for step in made.steps)
    again = released.model(name, {"path": tmp_path / "out"}, extra=dict(original.opened.choices))
    assert again.opened.form == "converted"
    ours, theirs = (each.module(CPU).state_dict() for each in (original, again))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(value, theirs[key]) for key, value in ours.items())
    card = read_card(tmp_path / "out")
    assert card["made_from"] == original.identity()["weights"]
    assert describe(tmp_path / "out") == f"the converted form of {name}"
    assert "converted form already" in refusal(again.convert, tmp_path / "twice")


@pytest.mark.parametrize("name", list(released.MAKERS))
def test_buffers_are_those_of_a_network_built_the_usual_way(folders, name):
    model = released.model(name, folders[name])
    kind = model.network_class()
    usual = dict(kind(model.opened.config).named_buffers())
    made = dict(model.module(CPU).named_buffers())
    assert usual.keys() == made.keys()
    assert all(torch.equal(value, made[key]) for key, value in usual.items())


def test_loading_leaves_the_random_state_alone(folders):
    state = torch.random.get_rng_state()
    released.model("slava", folders["slava"]).module(CPU)
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize("name", list(released.MAKERS))
@pytest.mark.parametrize("other", list(released.MAKERS))
def test_a_folder_of_another_model_is_told_what_it_seems_to_be(folders, name, other):
    if name == other:
        return
    places = {**folders[name], "path": folders[other]["path"]}
    message = refusal(released.model, name, places)
    assert "seems to be" in message
    assert f"(adapter {other})" in message


def test_a_converted_folder_of_another_model(folders, tmp_path):
    released.model("slava", folders["slava"]).convert(tmp_path / "out")
    assert "the converted form of slava" in refusal(released.model, "llava-rad", {"path": tmp_path / "out"})


def test_no_folder_and_no_config(tmp_path):
    assert "no folder is known" in refusal(released.model, "slava", {})
    assert "cxrbench models add slava" in refusal(released.model, "slava", {})
    assert "there is no folder" in refusal(released.model, "slava", {"path": tmp_path / "none"})
    assert "no config.json" in refusal(released.model, "slava", {"path": tmp_path})
    (tmp_path / "config.json").write_text("{}")
    assert "names no model type" in refusal(released.model, "slava", {"path": tmp_path})


def edit(folder, **changes):
    """Change tensors of the shard that holds them; None drops one, and the index forgets it."""
    index = folder / "model.safetensors.index.json"
    body = json.loads(index.read_text())
    for name, change in changes.items():
        file = folder / body["weight_map"].get(name, next(iter(body["weight_map"].values())))
        tensors = load_file(file)
        value = change(tensors.get(name)) if change else None
        tensors.pop(name, None)
        body["weight_map"].pop(name, None)
        if value is not None:
            tensors[name] = value.contiguous()
            body["weight_map"][name] = file.name
        save_file(tensors, file, metadata={"format": "pt"})
    index.write_text(json.dumps(body))


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("lm_head.bias", None, "missing from the checkpoint: lm_head.bias"),
        ("model.extra.weight", lambda _: torch.ones(1), "in no row of the key map: model.extra.weight"),
        ("model.mm_projector.0.bias", lambda bias: bias[:5], "another shape"),
        ("lm_head.bias", lambda bias: bias * float("nan"), "lm_head.bias holds NaN"),
        ("lm_head.bias", lambda bias: bias / 0, "lm_head.bias holds NaN or infinite"),
        ("model.layers.0.self_attn.query_key_value.weight", lambda w: w[:5], "cannot be taken apart"),
        ("model.layers.0.self_attn.query_key_value.weight", lambda w: w[:-12], "becomes"),
    ],
)
def test_weights_that_do_not_fit_are_named(tmp_path, name, change, words):
    places = released.slava(tmp_path)
    edit(places["path"], **{name: change})
    model = released.model("slava", places)
    assert words in refusal(model.module, CPU)
    if "becomes" not in words:
        assert words in refusal(model.convert, tmp_path / "out")
        assert not (tmp_path / "out").exists()
        assert not list(tmp_path.glob(".out.cxrbench-*"))


def test_a_conversion_touches_nothing_but_its_own_folder(tmp_path):
    """A folder called OUT.part is somebody's; what a killed conversion left goes, what another one holds stays."""
    model = released.model("slava", released.slava(tmp_path))
    names = "out", f".out.cxrbench-{'a' * 16}", f".out.cxrbench-{'b' * 16}"
    theirs, left, held = (tmp_path / f"{name}.part" for name in names)
    for folder in (theirs, left, held):
        folder.mkdir()
        (folder / "weights").write_text("mine")
    (tmp_path / "out").mkdir()  # an empty one may be there
    handle = os.open(held, os.O_RDONLY)
    hold(handle)
    model.convert(tmp_path / "out")
    os.close(handle)
    assert (tmp_path / "out" / "cxrbench.json").is_file()
    assert (theirs / "weights").read_text() == "mine"
    assert (held.is_dir(), left.exists()) == (True, False)


def test_what_overflows_in_half_precision_is_named(tmp_path):
    places = released.slava(tmp_path)
    edit(places["path"], **{"lm_head.bias": lambda bias: bias + 1e6})
    model = released.model("slava", places)
    message = refusal(model.module, LoadSettings(dtype="fp16", device="cpu"))
    assert "lm_head.bias holds NaN or infinite values in fp16" in message
    assert "--dtype bf16" in message
    assert model.module(LoadSettings(dtype="bf16", device="cpu")).lm_head.bias.dtype == torch.bfloat16


def test_a_folder_in_use_is_not_written_to(folders, tmp_path):
    (tmp_path / "mine.txt").write_text("x")
    model = released.model("slava", folders["slava"])
    assert "not empty" in refusal(model.convert, tmp_path)
    assert [each.name for each in tmp_path.iterdir()] == ["mine.txt"]


def test_a_later_form_of_conversion_is_refused(folders, tmp_path):
    released.model("slava", folders["slava"]).convert(tmp_path / "out")
    (tmp_path / "out" / "cxrbench.json").write_text('{"format": 2, "model": "slava"}')
    assert "does not read" in refusal(released.model, "slava", {"path": tmp_path / "out"})


def test_the_identity_names_weights_and_files(folders, tmp_path):
    places = released.slava(tmp_path)
    identity = released.model("slava", places).identity()
    assert identity == released.model("slava", folders["slava"]).identity()
    edit(places["path"], **{"lm_head.bias": lambda bias: bias + 1})
    assert released.model("slava", places).identity()["weights"] != identity["weights"]


def test_a_pickled_base_counts_in_the_identity(tmp_path):
    places = released.llava_rad(tmp_path)
    before = released.model("llava-rad", places).identity()["weights"]
    file = places["base"] / "pytorch_model-00002-of-00002.bin"
    tensors = torch.load(file, weights_only=True)
    torch.save({**tensors, "lm_head.weight": tensors["lm_head.weight"] + 1}, file)
    assert released.model("llava-rad", places).identity()["weights"] != before


# Sizes


@pytest.mark.parametrize(
    ("name", "billions"), [("slava", 3.092), ("llava-med", 7.566), ("llava-med-v1", 7.046), ("llava-rad", 6.845)]
)
def test_full_size_parameter_counts(name, billions):
    module = released.model(name, {}, load_format="dummy").build("bf16")
    assert all(parameter.is_meta for parameter in module.parameters())
    assert round(network.count(module) / 1e9, 3) == billions


def test_stock_names_need_no_tied_weight():
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {
        "vocab_size": 8,
        "hidden_size": 8,
        "intermediate_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    }
    tied = network.build(LlamaForCausalLM, LlamaConfig(**sizes, tie_word_embeddings=True))
    free = network.build(LlamaForCausalLM, LlamaConfig(**sizes, tie_word_embeddings=False))
    assert set(network.stock_names(free)) - set(network.stock_names(tied)) == {"lm_head.weight"}


def test_same_is_a_row_for_stock_names():
    assert plan(["a.b"], (same(),), ["a.b"], "").steps[0].targets == ("a.b",)


def test_the_recorded_originals_are_read(folders):
    assert set(released.MAKERS) <= {file.stem for file in originals.FOLDER.glob("*.json")}
