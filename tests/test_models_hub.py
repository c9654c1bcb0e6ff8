"""`models add NAME --path ORG/NAME`: from a real HTTP server on loopback that answers as the hub does (small_hub.py).

The hub itself was never reached: what is proven is what is asked, checked, kept and remembered.
"""

import json
import tomllib

import pytest

pytest.importorskip("huggingface_hub")
pytest.importorskip("torch")

from tests import released
from tests.small_hub import FIRST, SECOND, Hub, Session

SLAVA, RAD, VICUNA = "bluesky333/SLaVA-CXR", "microsoft/llava-rad", "lmsys/vicuna-7b-v1.5"
YES = "--accept-licence"


def files(folder):
    return {file.name: file.read_bytes() for file in sorted(folder.iterdir()) if file.is_file()}


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    root = tmp_path_factory.mktemp("published")
    slava = files(released.slava(root / "slava")["path"])
    rad = {key: files(folder) for key, folder in released.llava_rad(root / "rad").items()}
    further = {
        "modeling.py": b"raise SystemExit",
        "pytorch_model.bin": b"not wanted",
        "README.md": b"",
        "sub/x.json": b"{}",
    }
    made = {
        SLAVA: {FIRST: {**slava, **further}, SECOND: {**slava, "generation_config.json": b"{}"}},
        RAD: {FIRST: rad["path"]},
        VICUNA: {FIRST: rad["base"]},
        "someone/pickles": {FIRST: {"config.json": b"{}", "pytorch_model.bin": b"pickled"}},
        "someone/nothing": {FIRST: {"config.json": b"{}"}},
    }
    hub = Hub()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")  # the child's networks are tiny
        session = Session(hub.url, tmp_path_factory.mktemp("hf"))
    yield hub, session, made
    session.stop()
    hub.stop()


@pytest.fixture
def hub(served):
    served[0].reset()
    served[0].repositories = dict(served[2])
    return served[0]


@pytest.fixture
def cli(hub, served, tmp_path):
    return lambda *words, **options: served[1](tmp_path, "models", *words, **options)


@pytest.fixture
def program(hub, served, tmp_path):
    return lambda *words, **options: served[1](tmp_path, *words, **options)


def settings(tmp_path):
    return tomllib.loads((tmp_path / "config/cxrbench/cxrbench.toml").read_text())["models"]


def folder(tmp_path, repository, commit=FIRST):
    return tmp_path / "cache/cxrbench/assets" / f"{repository.replace('/', '--')}@{commit}"


def test_a_checkpoint_is_fetched_looked_at_and_remembered_with_its_commit(cli, program, hub, tmp_path):
    code, out, err = cli("add", "slava", "--path", f"{SLAVA}@main", YES)
    assert code == 0, err
    assert f"--path: {SLAVA}, commit {FIRST}, 8 files" in out
    assert "licence  MIT" in out
    assert "94 weights fit" in out
    place = folder(tmp_path, SLAVA)
    assert settings(tmp_path)["slava"] == {"path": str(place), "path_from": f"{SLAVA}@{FIRST}"}
    names = {file.name for file in place.iterdir()}
    assert "model-00001-of-00003.safetensors" in names
    assert not names & {"modeling.py", "pytorch_model.bin", "README.md", "x.json"}
    record = json.loads((place / "cxrbench-asset.json").read_text())
    assert (record["repository"], record["revision"], record["commit"]) == (SLAVA, "main", FIRST)
    asked = {path.rpartition("/")[2] for path, _ in hub.requests}
    assert not asked & {"modeling.py", "pytorch_model.bin"}
    assert "bluesky333/SLaVA-CXR@" in cli("list")[1]

    hub.requests.clear()
    code, out, err = cli("add", "slava", "--path", SLAVA)  # nothing to fetch, so nothing to accept
    assert code == 0, err
    assert not [path for path, _ in hub.requests if "/cdn/" in path or "/resolve/" in path]

    hub.requests.clear()
    for words in ((SLAVA, "--offline"), (f"{SLAVA}@{FIRST}",), (f"{SLAVA}@main", "--offline")):
        assert cli("add", "slava", "--path", *words)[0] == 0
    assert hub.requests == []

    code, out, err = program("verify", "model", "slava", "--checkpoint-only")
    assert "--path as fetched" in out
    assert f"{SLAVA} at commit {FIRST}" in " ".join(out.split())
    (place / "config.json").write_bytes((place / "config.json").read_bytes().replace(b" ", b"\t", 1))
    assert "config.json has another SHA-256 than was recorded" in " ".join(
        program("verify", "model", "slava", "--checkpoint-only")[1].split()
    )
    assert code == 1  # small sizes are not the published ones


@pytest.mark.slow
def test_another_commit_is_another_folder(cli, tmp_path):
    assert cli("add", "slava", "--path", SLAVA, YES)[0] == 0
    assert cli("add", "slava", "--path", f"{SLAVA}@{SECOND}", YES)[0] == 0
    assert settings(tmp_path)["slava"]["path_from"] == f"{SLAVA}@{SECOND}"
    assert folder(tmp_path, SLAVA).is_dir()
    assert folder(tmp_path, SLAVA, SECOND).is_dir()


def test_pickles_are_taken_where_the_model_opens_them_with_weights_only(cli, hub, tmp_path):
    code, _, err = cli("add", "llava-rad", "--path", RAD, "--base", VICUNA, YES)
    assert code == 0, err
    assert set(settings(tmp_path)["llava-rad"]) == {"path", "path_from", "base", "base_from"}
    assert (folder(tmp_path, RAD) / "biomedclipcxr_518_checkpoint.pt").is_file()
    code, _, err = cli("add", "medgemma", "--path", "someone/pickles", YES)
    assert code == 2
    assert "the weights are pickles (pytorch_model.bin), and this model reads safetensors only" in err
    assert not [path for path, _ in hub.requests if "someone/pickles" in path and "/api/" not in path]


@pytest.mark.slow
def test_a_local_folder_replaces_a_fetched_one_and_its_origin(cli, tmp_path):
    assert cli("add", "slava", "--path", SLAVA, YES)[0] == 0
    here = released.slava(tmp_path / "own")["path"]
    assert cli("add", "slava", "--path", here)[0] == 0
    assert settings(tmp_path)["slava"] == {"path": str(here)}


def test_nothing_is_fetched_without_a_yes(cli, hub, tmp_path):
    code, out, _ = cli("add", "slava", "--path", SLAVA, answer="n\n")
    assert code == 2
    assert f"fetch {SLAVA} under these terms?" in out
    assert not folder(tmp_path, SLAVA).exists()


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ((SLAVA, "--offline"), 2, "--offline forbids asking the hub"),
        (("weights/slva",), 4, "there is no such folder here either"),
        ((f"{SLAVA}@v9",), 4, "has no such revision"),
        (("someone/nothing",), 4, "holds no weights"),
        (("no/such/folder",), 2, "there is no such folder"),
        (("../weights",), 2, "there is no such folder"),
    ],
)
def test_what_is_not_there_is_one_sentence(cli, tmp_path, words, code, said):
    found, _, err = cli("add", "slava", "--path", *words, YES)
    assert (found, said in err, "to do:" in err) == (code, True, True), err
    assert words[0] in err
    assert not (tmp_path / "config").exists()


def test_a_gated_repository_says_where_to_agree(cli, hub):
    hub.behaviour.gated = True
    code, _, err = cli("add", "slava", "--path", SLAVA, YES)
    assert code == 4
    assert "given only to those who agreed" in err


def test_a_broken_download_is_gone_on_with_and_a_changed_file_refused(cli, hub, tmp_path):
    hub.behaviour.cut = {"model-00001-of-00003.safetensors": [1000]}
    assert cli("add", "slava", "--path", SLAVA, YES)[0] == 0
    assert hub.ranges_asked("model-00001-of-00003.safetensors") == [None, "bytes=1000-"]
    hub.behaviour.served = {"tokenizer.json": b"other"}
    code, _, err = cli("add", "slava", "--path", f"{SLAVA}@{SECOND}", YES)
    assert code == 1
    assert "is not what the hub lists; it was deleted" in err
    assert settings(tmp_path)["slava"]["path_from"] == f"{SLAVA}@{FIRST}"


@pytest.mark.slow
def test_another_models_checkpoint_is_named_and_not_remembered(cli, tmp_path):
    code, _, err = cli("add", "chexagent-2", "--path", SLAVA, YES)
    assert code == 2
    assert "it seems to be SLaVA-CXR" in err
    assert f"stays in {folder(tmp_path, SLAVA)}" in err
    assert not (tmp_path / "config").exists()


def test_a_hub_id_is_converted_and_a_folder_that_is_gone_says_what_to_fetch(cli, program, tmp_path):
    import shutil

    code, _, err = cli("convert", "slava", "--path", SLAVA, YES, "--out", tmp_path / "out")
    assert code == 0, err
    assert (tmp_path / "out/cxrbench.json").is_file()
    assert cli("add", "slava", "--path", SLAVA)[0] == 0
    shutil.rmtree(folder(tmp_path, SLAVA))
    assert "(gone)" in cli("list")[1]
    code, _, err = program("run", "--model", "slava", "--task", "demo-findings", "--dry-run")
    assert code == 2
    assert f"cxrbench models add slava --path {SLAVA}@{FIRST}" in err
