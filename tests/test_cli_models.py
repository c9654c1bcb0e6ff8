"""`cxrbench models` and what `list models` says of published checkpoints; a run of one that was remembered."""

import json
import re

import pytest

from tests.commands import cli  # noqa: F401  (a fixture)
from tests.small_task import write_small

torch = pytest.importorskip("torch")

from tests import released  # noqa: E402


@pytest.fixture
def places(tmp_path):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield released.slava(tmp_path / "weights")
    torch.set_num_threads(threads)


def rows(folder):
    (file,) = folder.glob("runs/small/*/predictions/0000.jsonl")
    return [json.loads(line) for line in file.read_text().splitlines()]


RUN = ("run", "--model", "slava", "--set", "max_new_tokens=3", "--replicates", 0)


def test_a_remembered_checkpoint_runs_and_so_does_its_converted_form(cli, places, tmp_path):
    task = write_small(tmp_path, test=3)
    code, out, err = cli("models", "add", "slava", "--path", places["path"], "--here")
    assert code == 0, err
    assert re.search(r"\d+ weights fit, [\d,]+ parameters", out)
    assert "remembered in" in out
    assert f'path = "{places["path"]}"' in (tmp_path / "cxrbench.toml").read_text()
    code, out, err = cli(*RUN, "--task", task)
    assert code == 0, err
    assert "scored 3 of 3 samples" in out
    first = rows(tmp_path)
    assert [row["output_tokens"] for row in first] == [3, 3, 3]
    assert all(row["image_tokens"] == 16 and row["inputs"][0].startswith("image:") for row in first)
    assert all(len(row["inputs"]) == 1 for row in first)
    manifest = json.loads(next(tmp_path.glob("runs/small/*/manifest.json")).read_text())
    assert manifest["identity"]["model"]["image_backend"] == "pil"
    assert manifest["circumstances"][0]["checkpoint_path"] == str(places["path"])

    code, out, err = cli("models", "convert", "slava", "--out", tmp_path / "converted")
    assert code == 0, err
    assert "to use it: cxrbench models add slava --path" in out
    code, out, err = cli(
        *RUN, "--task", task, "--model", f"slava:{tmp_path / 'converted'}", "--out", tmp_path / "again"
    )
    assert code == 0, err
    again = [json.loads(line) for line in (tmp_path / "again/predictions/0000.jsonl").read_text().splitlines()]
    assert [row["text"] for row in again] == [row["text"] for row in first]


def test_a_dry_run_shows_the_exact_prompt(cli, places, tmp_path):
    task = write_small(tmp_path, test=3)
    code, out, err = cli(*RUN[:-2], "--model", f"slava:{places['path']}", "--task", task, "--dry-run")
    assert code == 0, err
    assert "| Write a findings report of this image: ASSISTANT:" in out
    assert "USER: <image>" in out


def test_the_file_named_by_config_is_used(cli, places, tmp_path):
    file = tmp_path / "own.toml"
    assert cli("models", "add", "slava", "--path", places["path"], "--config", file)[0] == 0
    code, out, _ = cli("models", "list", "--config", file)
    assert code == 0
    assert "path:" in out
    task = write_small(tmp_path, test=3)
    assert "needs its checkpoint" in cli(*RUN, "--task", task)[2]
    assert cli(*RUN, "--task", task, "--config", file)[0] == 0


def test_what_is_given_later_joins_what_was_remembered(cli, tmp_path):
    places = released.llava_rad(tmp_path / "weights")
    code, out, err = cli("models", "add", "llava-rad", "--base", places["base"])
    assert code == 0
    assert "has no --path yet" in err
    code, out, err = cli("models", "add", "llava-rad", "--path", places["path"])
    assert code == 0, err
    assert "left out: 43 (BiomedCLIP-CXR's text tower" in out
    code, out, err = cli("models", "convert", "llava-rad", "--out", "out")
    assert code == 0, err
    assert "kept beside them: retrieval.safetensors" in out


def test_a_wrong_checkpoint_is_not_remembered(cli, places, tmp_path):
    code, _, err = cli("models", "add", "llava-rad", "--path", places["path"], "--base", places["path"])
    assert code == 2
    assert "it seems to be SLaVA-CXR" in err
    code, _, err = cli("models", "add", "medgemma", "--path", places["path"])
    assert (code, "it seems to be SLaVA-CXR" in err) == (2, True)
    code, _, err = cli("models", "convert", "slava", "--path", places["path"], "--out", places["path"] / "config.json")
    assert (code, "there is a file of this name" in err) == (2, True)
    words = [file.rename(tmp_path / file.name) for file in places["path"].glob("tokenizer*")]
    code, _, err = cli("models", "add", "slava", "--path", places["path"])
    assert (code, "there is no tokenizer" in err) == (2, True)
    for file in words:
        file.rename(places["path"] / file.name)
    (places["path"] / "model-00002-of-00003.safetensors").unlink()
    code, _, err = cli("models", "add", "slava", "--path", places["path"])
    assert code == 2
    assert "1 of 3 weight files are missing: model-00002-of-00003.safetensors" in err
    assert not list(tmp_path.glob("config/**/*.toml"))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("add", "slava"), "no folder was given"),
        (("add", "slava", "--base", "."), "slava takes no --base"),
        (("add", "slava", "--path", "bluesky333/SLaVA-CXR", "--offline"), "--offline forbids asking the hub"),
        (("add", "slava", "--path", "/no/such/folder"), "there is no such folder"),
        (("add", "slava", "--path", "small.yaml"), "there is no such folder"),
        (("add", "shape", "--path", "."), "no published checkpoint to remember"),
        (("add", "hf", "--path", "."), "or hf:DIR in --model"),
        (("add", "always-normal", "--path", "."), "no published checkpoint to remember"),
        (("add", "slavia", "--path", "."), "did you mean 'slava'"),
        (("add", "slava", "--path", ""), "--path is empty"),
        (("convert", "slava", "--out", "x"), "slava needs its checkpoint"),
        (("convert", "slava", "--out", "x", "--set", "tower=openai"), "slava has no setting 'tower'"),
    ],
)
def test_wrong_calls_say_what_to_do(cli, words, said):
    code, _, err = cli("models", *words)
    assert code == 2
    assert said in err
    assert "to do:" in err


def test_a_tower_is_chosen_for_conversion(cli, tmp_path):
    places = released.llava_med(tmp_path / "weights")
    words = ("models", "convert", "llava-med", "--path", places["path"], "--clip", places["clip"], "--out", "out")
    code, _, err = cli(*words)
    assert code == 2
    assert "--set tower=checkpoint" in err
    code, out, err = cli(*words, "--set", "tower=openai")
    assert code == 0, err
    assert "left out: 55 (the checkpoint's own image tower" in out


def test_random_weights_are_timed_and_never_scored(cli, places, tmp_path):
    task = write_small(tmp_path, test=3)
    assert cli("models", "convert", "slava", "--path", places["path"], "--out", "out")[0] == 0
    words = (*RUN, "--model", "slava:out", "--task", task, "--load-format", "dummy")
    code, out, err = cli(*words)
    assert code == 0, err
    assert "random weights: speed only, never scored" in out


def test_cards_and_engines_are_listed(cli):
    code, out, _ = cli("list", "models")
    assert code == 0
    assert {"slava", "llava-med", "llava-med-v1", "llava-rad"} <= {line.split()[0] for line in out.splitlines() if line}
    code, out, _ = cli("list", "models", "--engines")
    assert code == 0
    (line,) = (line for line in out.splitlines() if line.startswith("slava "))
    assert "generate, score_options" in line
    (line,) = (line for line in out.splitlines() if line.startswith("always-normal"))
    assert "no engine" in line
    assert cli("list", "tasks", "--engines")[0] == 2


@pytest.mark.parametrize("name", ["slava", "llava-med", "llava-med-v1", "llava-rad"])
def test_a_card_tells_source_licence_inputs_and_presets(cli, name):
    code, out, _ = cli("list", "models", "--show", name)
    assert code == 0
    for label in (
        "source:",
        "licence:",
        "revision:",
        "writes:",
        "reads:",
        "published:",
        "folders: --path",
        "preset reference",
    ):
        assert label in out
    assert "never been run" in " ".join(out.split())
    assert max(map(len, out.splitlines())) <= 100


def test_a_model_without_a_card_is_named(cli):
    assert "someone's predictions as a run" in cli("list", "models", "--show", "replay")[1]
    assert "did you mean" in cli("list", "models", "--show", "slavaa")[2]
    assert "--show prints a task or a model's card" in cli("list", "engines", "--show", "slots")[2]


def test_unknown_places_in_the_settings_are_named(cli, tmp_path):
    (tmp_path / "cxrbench.toml").write_text('[models.slava]\nweights = "x"\n')
    code, _, err = cli("models", "list")
    assert code == 2
    assert "the key 'weights' is not known" in err
    assert "path, base, clip" in err
