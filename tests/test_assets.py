"""The table of assets is whole; where an asset lies, and what is said where it does not; plan, list and verify."""

import json
from dataclasses import replace

import pytest

from cxrbench import assets
from cxrbench.assets import expand, find, locate, missing, needed_by, state, table
from cxrbench.assets_lock import RECORD, Record, Sum, install, one_writer, sha256, write_record
from cxrbench.config import AssetPlaces, Config, load_config
from cxrbench.errors import CxrbenchError, Exit
from tests import commands

cli = commands.cli
COMMIT = "c3" * 20


@pytest.fixture
def config(tmp_path):
    return Config(tmp_path / "cxrbench.toml", assets=AssetPlaces(folder=tmp_path / "assets"))


def put(place, name, files=None, commit=COMMIT):
    """An asset as a fetch leaves it, with the files it needs."""
    asset = find(name)
    needed = [*(asset.holds or asset.files), *(group[0] for group in asset.one_of if not asset.holds)]
    files = files if files is not None else {each: f"{name} {each}".encode() for each in needed}
    folder = place / name
    for path, data in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
    sums = {path: Sum(len(data), sha256(folder / path)) for path, data in files.items()}
    record = Record(name, asset.repository, "main", commit, "https://hub", "2026-01-01T00:00:00+00:00", asset.licence,
                    asset.terms, sums, sums)  # fmt: skip
    write_record(folder, record)
    return folder


# The table


@pytest.mark.parametrize("asset", table().values(), ids=lambda asset: asset.name)
def test_a_row_of_the_table_is_whole(asset):
    assert asset.kind in assets._NOUNS
    assert asset.repository.count("/") == 1
    assert asset.files
    assert asset.used_by
    assert all(text and "\n" not in text for text in (asset.title, asset.about, asset.licence, asset.terms))
    assert set(asset.known) <= set(asset.files)
    assert asset.archived == all(name.endswith(".tar.gz") for name in asset.files)


@pytest.mark.parametrize("asset", table().values(), ids=lambda asset: asset.name)
def test_what_an_asset_cannot_do_without_is_planned_with_it(asset):
    for other in expand([asset.name]):
        assert set(asset.used_by) <= set(other.used_by)


def test_nothing_is_pinned_that_nobody_has_verified():
    known = {name: entry for asset in table().values() for name, entry in asset.known.items()}
    assert {entry.sha256 for entry in known.values()} | {entry.size for entry in known.values()} == {None}
    assert {name: entry.megabytes for name, entry in known.items()} == {"chexbert.pth": 1253.5, "radgraph.tar.gz": 412}
    assert {asset.revision for asset in table().values()} == {"main"}


def names(found):
    return [asset.name for asset in found]


def test_metrics_find_their_assets_by_name_and_preset():
    assert names(needed_by("bertscore:rexrank")) == ["distilroberta-base"]
    assert names(needed_by("radgraph-f1")) == ["radgraph", "pubmedbert"]
    assert names(needed_by("radgraph-f1:partial")) == ["radgraph", "pubmedbert"]
    assert names(needed_by("radgraph-f1:xl-partial")) == ["radgraph-xl", "cxr-bert"]
    assert len(needed_by("bertscore")) == 4
    assert needed_by("bleu:raw") == []


def test_an_unknown_asset_is_named_with_the_nearest(config):
    with pytest.raises(CxrbenchError, match="did you mean 'chexbert'"):
        locate("chexbret", config)
    wrong = replace(config, assets=AssetPlaces(paths={"chexbret": config.file}))
    with pytest.raises(CxrbenchError, match="did you mean 'chexbert'"):
        state("radgraph", wrong)


# Where they lie


def test_an_asset_that_is_missing_names_the_command(config):
    with pytest.raises(CxrbenchError) as caught:
        locate("chexbert", config)
    assert caught.value.what == "needs the weights of CheXbert"
    assert (caught.value.fix, caught.value.code) == ("cxrbench assets fetch chexbert", Exit.UNDECIDED)
    assert caught.value.where == str(config.assets.folder / "chexbert")
    said = "needs the weights of CheXbert and the tokenizer of bert-base-uncased"
    assert missing("chexbert", config=config) == f"{said}: cxrbench assets fetch chexbert bert-base-uncased"


def test_an_asset_that_is_here_is_found(config):
    folder = put(config.assets.folder, "chexbert")
    assert locate("chexbert", config) == folder
    assert missing("bert-base-uncased", "chexbert", config=config) == (
        "needs the tokenizer of bert-base-uncased: cxrbench assets fetch bert-base-uncased"
    )
    put(config.assets.folder, "bert-base-uncased")
    assert missing("chexbert", config=config) is None


def test_the_cache_folder_is_the_default(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.chdir(tmp_path)
    assert "needs the tokenizer of ModernBERT" in missing("modernbert")
    folder = put(tmp_path / "cache/cxrbench/assets", "modernbert")
    assert locate("modernbert", load_config()) == folder
    assert missing("modernbert") is None


@pytest.mark.parametrize("given", ["mine", "mine/chexbert.pth"])
def test_the_users_own_copy_is_taken_where_the_settings_name_it(tmp_path, config, given):
    own = tmp_path / "mine"
    own.mkdir()
    config = replace(config, assets=AssetPlaces(config.assets.folder, {"chexbert": tmp_path / given}))
    said = "needs the weights of CheXbert; chexbert.pth is missing in the folder [assets.paths] names: correct "
    assert missing("chexbert", config=config).startswith(said)
    (own / "chexbert.pth").write_bytes(b"weights")
    assert locate("chexbert", config) == own
    assert state("chexbert", config).status == "own"


def spoil(folder, how):
    file = folder / "chexbert.pth"
    if how == "size":
        file.write_bytes(b"longer than before")
    elif how == "gone":
        file.unlink()
    elif how == "record":
        (folder / RECORD).write_text('{"format": 1}')
    else:
        (folder / RECORD).write_text((folder / RECORD).read_text().replace('"chexbert"', '"radgraph"'))


@pytest.mark.parametrize(
    ("how", "what"),
    [
        ("size", r"chexbert.pth has 18 bytes, not 21"),
        ("gone", "chexbert.pth is missing"),
        ("record", "its lock record cannot be read"),
        ("other", "its lock record is that of radgraph"),
    ],
)
def test_a_damaged_copy_is_never_used(config, how, what):
    spoil(put(config.assets.folder, "chexbert"), how)
    with pytest.raises(CxrbenchError) as caught:
        locate("chexbert", config)
    assert caught.value.what == f"needs the weights of CheXbert; its copy is damaged ({what})"
    assert missing("chexbert", config=config) == f"{caught.value.what}: cxrbench assets fetch chexbert"


def test_files_put_there_by_hand_are_used_if_they_are_enough(config):
    folder = put(config.assets.folder, "distilroberta-base")
    (folder / RECORD).unlink()
    assert locate("distilroberta-base", config) == folder
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    assert locate("distilroberta-base", config) == folder
    (folder / "pytorch_model.bin").unlink()
    said = missing("distilroberta-base", config=config)
    assert said.startswith(
        "needs the encoder distilroberta-base; model.safetensors or pytorch_model.bin is missing among the files in its"
    )
    assert said.endswith(f"move {folder} away, then cxrbench assets fetch distilroberta-base")


# Settings


def test_settings_name_a_folder_and_single_copies_and_the_nearer_file_wins(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.chdir(tmp_path)
    user = tmp_path / "config/cxrbench/cxrbench.toml"
    user.parent.mkdir(parents=True)
    user.write_text('[assets]\nfolder = "/shared"\n[assets.paths]\nchexbert = "c"\nradgraph = "/r"\n')
    assert load_config().assets.paths["chexbert"] == user.parent / "c"
    (tmp_path / "cxrbench.toml").write_text('[assets.paths]\nchexbert = "mine"\n')
    places = load_config().assets
    assert str(places.folder) == "/shared"
    assert places.paths == {"chexbert": tmp_path / "mine", "radgraph": places.paths["radgraph"]}
    assert str(places.paths["radgraph"]) == "/r"


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("assets = 5\n", "expected a table"),
        ("[assets]\nfolders = 'a'\n", "the key 'folders' is not known"),
        ("[assets]\nfolder = 5\n", "expected a path"),
        ("[assets]\nfolder = ['a', 'b']\n", "expected one path"),
        ("[assets]\npaths = 'a'\n", "expected a table"),
        ("[assets.paths]\nchexbert = ''\n", "expected a path"),
    ],
)
def test_broken_settings_are_named(tmp_path, text, what):
    (tmp_path / "mine.toml").write_text(text)
    with pytest.raises(CxrbenchError, match=what) as caught:
        load_config(tmp_path / "mine.toml")
    assert "mine.toml, assets" in caught.value.where


# Changing what is there


def test_a_folder_takes_the_place_of_another_whole(tmp_path):
    for name in ("new", "x"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).touch()
    install(tmp_path / "new", tmp_path / "x")
    assert [path.relative_to(tmp_path).as_posix() for path in sorted(tmp_path.rglob("*"))] == ["x", "x/new"]


def test_a_folder_that_cannot_be_replaced_stays(tmp_path):
    (tmp_path / "x").mkdir()
    with pytest.raises(FileNotFoundError):
        install(tmp_path / "new", tmp_path / "x")
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_a_process_killed_between_two_folders_left_the_old_one(tmp_path):
    (tmp_path / ".x.old").mkdir()
    (tmp_path / ".x.old/file").touch()
    with one_writer(tmp_path):
        assert (tmp_path / "x/file").exists()


# The commands


def test_a_plan_says_what_is_missing_and_how_to_get_it(cli, tmp_path):
    words = ("assets", "plan", "--metrics", "radcliq", "--model", "always-normal")
    code, out, _ = cli(*words)
    assert code == 0
    assert "to fetch: 1,665.5 MB, and 3 of unknown size" in out
    fetch = "cxrbench assets fetch chexbert bert-base-uncased radgraph pubmedbert distilroberta-base"
    assert f"to do: {fetch}\n" in out
    assert "no redistribution" in " ".join(out.split())
    put(tmp_path / "cache/cxrbench/assets", "chexbert")
    code, out, _ = cli(*words)
    assert f"{COMMIT[:12]}   here" in out
    assert "to fetch: 412.0 MB, and 3 of unknown size" in out
    assert all(len(line) <= 100 for line in out.splitlines() if not line.startswith("to do"))
    for name in ("bert-base-uncased", "radgraph", "pubmedbert", "distilroberta-base"):
        put(tmp_path / "cache/cxrbench/assets", name)
    assert cli(*words)[1].endswith("everything is here\n")


def test_a_plan_of_a_task_names_what_its_optional_metrics_need_too(cli):
    code, out, _ = cli("assets", "plan", "--task", "iu-findings")
    assert code == 0
    for name in ("chexbert", "radgraph", "distilroberta-base", "rate-ner", "biolord"):
        assert name in out


def test_a_plan_for_phantom_needs_nothing_for_what_reads_it_travels_along(cli):
    code, out, _ = cli("assets", "plan", "--task", "demo-findings")
    assert code == 0
    assert out == "nothing has to be fetched\n"


def test_a_plan_without_learned_metrics_needs_nothing(cli):
    assert cli("assets", "plan", "--metrics", "bleu,rouge-l", "--model", "hf:somewhere") == (
        0,
        "nothing has to be fetched\n",
        "",
    )


def test_a_plan_fetches_nothing_into_the_users_own_folders(cli, tmp_path):
    place = tmp_path / "cache/cxrbench/assets"
    (put(place, "chexbert") / RECORD).unlink()
    code, out, _ = cli("assets", "plan", "--metrics", "semb-score")
    assert "here (own)" in out
    assert out.endswith("to fetch: 1 of unknown size\nto do: cxrbench assets fetch bert-base-uncased\n")
    put(place, "bert-base-uncased")
    (place / "chexbert/chexbert.pth").rename(place / "chexbert/another.pth")
    code, out, _ = cli("assets", "plan", "--metrics", "semb-score")
    assert code == 0
    assert "chexbert: chexbert.pth is missing\n" in out
    assert "everything is here" not in out
    assert "to do" not in out


def test_a_plan_for_json(cli):
    code, out, _ = cli("assets", "plan", "--metrics", "semb-score", "--json")
    assert code == 0
    first = json.loads(out)[0]
    assert (first["name"], first["status"], first["megabytes_known"], first["for"]) == (
        "chexbert",
        "missing",
        1253.5,
        ["semb-score:chexbert"],
    )
    assert first["bytes"] is None


@pytest.mark.parametrize(
    ("words", "what"),
    [
        ((), "a plan is for a run"),
        (("--metrics", "bertscor:rexrank"), "did you mean 'bertscore'"),
        (("--task", "no-such-task"), "no-such-task"),
        (("--model", "no-such-model"), "no model called"),
    ],
)
def test_a_plan_for_what_is_not_there_is_refused(cli, words, what):
    code, _, err = cli("assets", "plan", *words)
    assert code == 2
    assert what in err


def test_the_list_shows_every_asset_in_100_columns(cli, tmp_path):
    folder = put(tmp_path / "cache/cxrbench/assets", "biolord")
    (folder / "config.json").unlink()
    code, out, _ = cli("assets", "list")
    assert code == 0
    assert all(f"\n{name} " in out for name in table())
    assert "biolord: config.json is missing" in out
    shown = [line for line in out.splitlines() if not line.startswith("folder: ")]  # a path is as long as it is
    assert max(map(len, shown)) <= 100
    assert [row["name"] for row in json.loads(cli("assets", "list", "--json")[1])] == list(table())


def test_verify_reads_every_file(cli, tmp_path):
    place = tmp_path / "cache/cxrbench/assets"
    assert cli("assets", "verify") == (0, "no asset is here\n", "")
    put(place, "pubmedbert")
    put(place, "biolord")
    code, out, _ = cli("assets", "verify")
    assert (code, out.count(": ok, ")) == (0, 2)
    (place / "biolord/config.json").write_bytes(b"biolord config.jsoN")
    code, out, _ = cli("assets", "verify")
    assert code == 1
    assert "biolord: damaged: config.json has another SHA-256 than was recorded" in out
    assert "to do: cxrbench assets fetch biolord" in out
    assert "pubmedbert: ok, 2 files, commit" in out
    (place / "biolord/config.json").unlink()
    code, out, _ = cli("assets", "verify")
    assert (code, "biolord: damaged: config.json is missing\n" in out) == (1, True)


def test_verify_says_what_it_cannot_check(cli, tmp_path):
    (put(tmp_path / "cache/cxrbench/assets", "pubmedbert") / RECORD).unlink()
    code, out, _ = cli("assets", "verify")
    assert (code, out) == (0, "pubmedbert: not checked: your own files, no lock record to compare with\n")
    assert cli("assets", "verify", "pubmedbert")[0] == 3
    code, out, _ = cli("assets", "verify", "biolord")
    assert (code, out) == (3, "biolord: not checked: missing\n")


def test_a_purge_of_caches_leaves_assets_alone(cli, tmp_path):
    folder = put(tmp_path / "cache/cxrbench/assets", "biolord")
    assert cli("cache", "purge", "--yes")[0] == 0
    assert (folder / "config.json").exists()


def test_fetch_does_not_touch_the_users_own_files(cli, tmp_path):
    folder = put(tmp_path / "cache/cxrbench/assets", "biolord")
    (folder / RECORD).unlink()
    code, _, err = cli("assets", "fetch", "biolord", "--yes")
    assert code == 2
    assert "biolord is taken from your own files, which fetch does not touch" in err
