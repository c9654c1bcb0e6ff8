"""Across an air gap and back: what is packed arrives whole or not at all, whoever made the archive."""

import gzip
import hashlib
import io
import json
import os
import shutil
import tarfile
from collections import namedtuple
from dataclasses import replace

import pytest

from cxrbench.assets import Known, find, missing, state
from cxrbench.assets_lock import RECORD, read_record
from cxrbench.assets_pack import MANIFEST, contents, pack, unpack
from cxrbench.assets_tar import safe_name
from cxrbench.assets_tar import unpack as unpack_archive
from cxrbench.config import AssetPlaces, Config
from cxrbench.errors import CxrbenchError, Exit
from tests import commands
from tests.test_assets import put

cli = commands.cli
OTHER = "d4" * 20


def silent(what, done, total):
    """No progress."""


@pytest.fixture
def here(tmp_path):
    """The machine with a network: two assets."""
    folder = tmp_path / "here"
    put(folder, "chexbert")
    put(folder, "radgraph", {"config.json": b"{}", "weights.th": b"w" * 40_000, "vocabulary/a.txt": b"a\n"})
    return Config(tmp_path / "here.toml", assets=AssetPlaces(folder=folder))


@pytest.fixture
def there(tmp_path):
    """The machine without one."""
    return Config(tmp_path / "there.toml", assets=AssetPlaces(folder=tmp_path / "there"))


@pytest.fixture
def archive(tmp_path, here):
    file = tmp_path / "assets.tar"
    pack(file, [find("chexbert"), find("radgraph")], here, silent)
    return file


def contents_of(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def nothing_installed(config):
    return not any(path.name != ".lock" for path in config.assets.folder.glob("*"))


# The way across


def test_what_is_packed_arrives_as_it_was(archive, here, there):
    assert unpack(archive, there, silent) == {"chexbert": "installed", "radgraph": "installed"}
    arrived = contents_of(there.assets.folder)
    arrived.pop(".lock")
    assert arrived == contents_of(here.assets.folder)
    assert state("radgraph", there).status == "here"
    assert read_record(there.assets.folder / "radgraph") == read_record(here.assets.folder / "radgraph")
    assert unpack(archive, there, silent) == {"chexbert": "here already", "radgraph": "here already"}


def test_the_same_assets_give_the_same_bytes(archive, here, tmp_path):
    os.utime(here.assets.folder / "radgraph/weights.th", (1, 1))
    digest = pack(tmp_path / "again.tar", [find("chexbert"), find("radgraph")], here, silent)
    assert digest == hashlib.sha256(archive.read_bytes()).hexdigest()
    assert (tmp_path / "again.tar").read_bytes() == archive.read_bytes()


def test_an_archive_says_what_it_holds(archive):
    found = contents(archive)["chexbert"]
    assert "no redistribution" in found.terms
    assert set(found.files) == {"chexbert.pth", RECORD}


def test_the_commands_carry_assets_to_another_machine(cli, tmp_path, monkeypatch):
    put(tmp_path / "cache/cxrbench/assets", "rate-ner")
    put(tmp_path / "cache/cxrbench/assets", "biolord")
    code, out, err = cli("assets", "pack", "a.tar", "rate-ner")
    assert (code, err) == (0, "")
    assert "a.tar: rate-ner, biolord, <0.1 MB" in out
    assert f"SHA-256 {hashlib.sha256((tmp_path / 'a.tar').read_bytes()).hexdigest()}" in out
    assert "those of its training data: UMLS" in out
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "elsewhere"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "elsewhere"))
    assert "needs the weights of RaTE-NER" in missing("rate-ner")
    code, out, err = cli("assets", "unpack", "a.tar")
    assert (code, err) == (0, "")
    assert out == f"biolord: installed\nrate-ner: installed\nfolder: {tmp_path}/elsewhere/cxrbench/assets\n"
    assert missing("rate-ner") is None
    assert cli("assets", "verify")[0] == 0
    code, _, err = cli("assets", "unpack", "b.tar")
    assert (code, "there is no such file" in err) == (2, True)


# What is not packed


def test_a_damaged_file_is_not_packed(here, tmp_path):
    (here.assets.folder / "radgraph/weights.th").write_bytes(b"x" * 40_000)
    with pytest.raises(CxrbenchError, match=r"radgraph/weights\.th is damaged") as caught:
        pack(tmp_path / "a.tar", [find("chexbert"), find("radgraph")], here, silent)
    assert caught.value.code == Exit.REGRESSION
    assert list(tmp_path.glob("a.tar*")) == []


@pytest.mark.parametrize(
    ("spoil", "what"),
    [
        (lambda folder: (folder / "chexbert/chexbert.pth").unlink(), "chexbert is damaged"),
        (lambda folder: (folder / "chexbert" / RECORD).unlink(), "your own files, without a lock record"),
    ],
)
def test_what_has_no_sound_record_is_not_packed(here, tmp_path, spoil, what):
    spoil(here.assets.folder)
    with pytest.raises(CxrbenchError, match=what):
        pack(tmp_path / "a.tar", [find("chexbert")], here, silent)
    with pytest.raises(CxrbenchError, match="biolord is missing"):
        pack(tmp_path / "a.tar", [find("biolord")], here, silent)


def test_a_file_that_is_there_is_not_overwritten(here, tmp_path):
    (tmp_path / "a.tar").write_text("thesis")
    with pytest.raises(CxrbenchError, match="a file of that name already"):
        pack(tmp_path / "a.tar", [find("chexbert")], here, silent)
    assert (tmp_path / "a.tar").read_text() == "thesis"
    with pytest.raises(CxrbenchError, match="cannot be written"):
        pack(tmp_path / "no/such/folder/a.tar", [find("chexbert")], here, silent)


# What is there already


def test_another_commit_is_replaced_only_when_asked_for(archive, there):
    put(there.assets.folder, "chexbert", {"chexbert.pth": b"other"}, OTHER)
    before = contents_of(there.assets.folder)
    with pytest.raises(CxrbenchError, match=f"chexbert is recorded here at commit {OTHER[:12]}") as caught:
        unpack(archive, there, silent)
    assert "--update replaces it" in caught.value.fix
    after = contents_of(there.assets.folder)
    after.pop(".lock")
    assert after == before
    assert unpack(archive, there, silent, update=True)["chexbert"] == "installed"
    assert state("chexbert", there).record.commit != OTHER


def test_other_files_under_the_same_commit_are_refused(archive, there):
    put(there.assets.folder, "chexbert", {"chexbert.pth": b"other"})
    with pytest.raises(CxrbenchError, match="the archive holds other files"):
        unpack(archive, there, silent)


def test_a_damaged_copy_is_repaired(archive, there):
    unpack(archive, there, silent)
    (there.assets.folder / "chexbert/chexbert.pth").unlink()
    assert unpack(archive, there, silent)["chexbert"] == "installed"
    assert state("chexbert", there).status == "here"


def test_the_users_own_files_are_left_alone(archive, there, tmp_path):
    own = there.assets.folder / "radgraph"
    own.mkdir(parents=True)
    (own / "thesis.txt").write_text("x")
    named = replace(there, assets=AssetPlaces(there.assets.folder, {"chexbert": tmp_path}))
    left = "left alone: your own files"
    assert unpack(archive, named, silent) == {"chexbert": left, "radgraph": left}
    assert contents_of(own) == {"thesis.txt": b"x"}


# Hostile and broken archives


def members(archive):
    with tarfile.open(archive) as tar:
        return [(member, tar.extractfile(member).read()) for member in tar]


def write(file, parts):
    """A tar of (TarInfo or name, bytes)."""
    with tarfile.open(file, "w") as tar:
        for member, data in parts:
            if isinstance(member, str):
                member = tarfile.TarInfo(member)
                member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return file


def special(name, kind, linkname=""):
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, linkname
    return member, b""


HOSTILE = {
    "parent": [("../evil", b"x")],
    "parent inside": [("chexbert/../../evil", b"x")],
    "absolute": [("/tmp/cxrbench-evil", b"x")],
    "backslash": [("chexbert\\..\\evil", b"x")],
    "newline": [("chexbert/a\nb", b"x")],
    "long": [("chexbert/" + "a" * 300, b"x")],
    "symlink": [special("chexbert/link", tarfile.SYMTYPE, "/etc/passwd")],
    "symlink then file": [special("chexbert/d", tarfile.SYMTYPE, "/tmp"), ("chexbert/d/evil", b"x")],
    "hard link": [special("chexbert/link", tarfile.LNKTYPE, "chexbert/chexbert.pth")],
    "device": [special("chexbert/device", tarfile.CHRTYPE)],
    "block device": [special("chexbert/device", tarfile.BLKTYPE)],
    "fifo": [special("chexbert/fifo", tarfile.FIFOTYPE)],
    "sparse": [special("chexbert/sparse", tarfile.GNUTYPE_SPARSE)],
    "twice": [("chexbert/chexbert.pth", b"chexbert chexbert.pth")],
    "twice by a detour": [("./chexbert//chexbert.pth", b"chexbert chexbert.pth")],
    "not listed": [("chexbert/more.bin", b"x")],
    "another asset": [("biolord/config.json", b"x")],
}


@pytest.mark.parametrize("further", HOSTILE.values(), ids=HOSTILE)
def test_hostile_members_are_refused_and_nothing_is_left(archive, there, tmp_path, further):
    for number, parts in enumerate((members(archive) + further, members(archive)[:1] + further + members(archive)[1:])):
        file = write(tmp_path / f"evil-{number}.tar", parts)
        with pytest.raises(CxrbenchError) as caught:
            unpack(file, there, silent)
        assert caught.value.where == str(file)
        assert "nothing was installed" in caught.value.fix
        assert nothing_installed(there)
    assert not list(tmp_path.rglob("evil"))
    assert not os.path.exists("/tmp/cxrbench-evil")


def changed_manifest(archive, change):
    parts = members(archive)
    body = json.loads(parts[0][1])
    change(body)
    return [(MANIFEST, json.dumps(body).encode()), *parts[1:]]


def rename(body, old, new):
    body["assets"][new] = body["assets"].pop(old)


def listed(body):
    return body["assets"]["chexbert"]["files"]


UNREADABLE = "the manifest of the archive cannot be read"
BAD_MANIFESTS = {
    "format": (lambda body: body.update(format=2), UNREADABLE),
    "no assets": (lambda body: body.pop("assets"), UNREADABLE),
    "a list": (lambda body: body.update(assets=[]), UNREADABLE),
    "unknown asset": (lambda body: rename(body, "chexbert", "nonsense"), "which this cxrbench does not know"),
    "path as name": (lambda body: rename(body, "chexbert", "../chexbert"), "which this cxrbench does not know"),
    "wrong asset": (lambda body: rename(body, "chexbert", "biolord"), "is not what its manifest says"),
    "sum": (lambda body: listed(body)["chexbert.pth"].update(sha256="0" * 64), "another SHA-256 than in the manifest"),
    "size": (lambda body: listed(body)["chexbert.pth"].update(size=1), "is not what its manifest says"),
    "negative": (lambda body: listed(body)["chexbert.pth"].update(size=-1), UNREADABLE),
    "text size": (lambda body: listed(body)["chexbert.pth"].update(size="21"), UNREADABLE),
    "unsafe": (lambda body: listed(body).update({"../x": {"size": 1, "sha256": "0"}}), "leads out of its folder"),
    "detour": (lambda body: listed(body).update({"./x": {"size": 1, "sha256": "0"}}), UNREADABLE),
    "missing": (
        lambda body: listed(body).update({"x": {"size": 1, "sha256": "0"}}),
        "cut short: chexbert/x is missing",
    ),
    "fewer": (lambda body: listed(body).pop("chexbert.pth"), "is not what its manifest says"),
    "commit": (lambda body: body["assets"]["chexbert"].update(commit=OTHER), "is about other files"),
    "huge": (lambda body: listed(body)["chexbert.pth"].update(size=1 << 60), "MB are needed"),
}


@pytest.mark.parametrize(("change", "what"), BAD_MANIFESTS.values(), ids=BAD_MANIFESTS)
def test_a_manifest_that_is_not_true_is_refused(archive, there, tmp_path, change, what):
    file = write(tmp_path / "evil.tar", changed_manifest(archive, change))
    with pytest.raises(CxrbenchError, match=what):
        unpack(file, there, silent)
    assert nothing_installed(there)


def test_the_manifest_comes_first_and_is_small(archive, there, tmp_path):
    manifest, *rest = members(archive)
    padded = json.loads(manifest[1]) | {"more": " " * (1 << 20)}
    for parts in ([*rest, manifest], rest, [(MANIFEST, json.dumps(padded).encode()), *rest]):
        with pytest.raises(CxrbenchError, match="the manifest is not its first file"):
            unpack(write(tmp_path / "a.tar", parts), there, silent)


def forged(file, name, files, commit):
    """An archive of one asset whose manifest is true to its files, whatever these are."""
    sums = {path: {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()} for path, data in files.items()}
    packed = {"commit": commit, "licence": "", "terms": "", "files": sums}
    manifest = json.dumps({"format": 1, "assets": {name: packed}}).encode()
    return write(file, [(MANIFEST, manifest), *((f"{name}/{path}", data) for path, data in files.items())])


def record_of(files, path, value):
    """The files with a lock record in which one entry was changed."""
    body = json.loads(files[RECORD])
    *way, last = path
    inner = body
    for key in way:
        inner = inner[key]
    inner[last] = value
    return {**files, RECORD: json.dumps(body).encode()}


CHANGED_RECORDS = {
    "another asset": (("asset",), "biolord"),
    "another commit": (("commit",), OTHER),
    "other files": (("files", "x"), {"size": 1, "sha256": "0"}),
    "other sums": (("files", "chexbert.pth", "sha256"), "0" * 64),
}


@pytest.mark.parametrize(("path", "value"), CHANGED_RECORDS.values(), ids=CHANGED_RECORDS)
def test_a_lock_record_about_other_files_is_refused(here, there, tmp_path, path, value):
    files = contents_of(here.assets.folder / "chexbert")
    commit = json.loads(files[RECORD])["commit"]
    file = forged(tmp_path / "a.tar", "chexbert", record_of(files, path, value), commit)
    with pytest.raises(CxrbenchError, match="the lock record of chexbert in the archive is about other files"):
        unpack(file, there, silent)
    assert nothing_installed(there)
    true = forged(tmp_path / "b.tar", "chexbert", files, commit)
    assert unpack(true, there, silent) == {"chexbert": "installed"}


def test_an_asset_without_its_weights_or_its_record_is_refused(here, there, tmp_path):
    put(here.assets.folder, "biolord", {"config.json": b"{}"})
    files = contents_of(here.assets.folder / "biolord")
    commit = json.loads(files[RECORD])["commit"]
    lacking = r"biolord in the archive has no model\.safetensors or pytorch_model\.bin"
    with pytest.raises(CxrbenchError, match=lacking):
        unpack(forged(tmp_path / "a.tar", "biolord", files, commit), there, silent)
    del files[RECORD]
    with pytest.raises(CxrbenchError, match="the lock record of biolord in the archive cannot be read"):
        unpack(forged(tmp_path / "a.tar", "biolord", files, commit), there, silent)
    assert nothing_installed(there)


def test_a_file_that_cxrbench_knows_is_compared_with_what_it_knows(archive, there, monkeypatch):
    monkeypatch.setitem(find("chexbert").known, "chexbert.pth", Known(sha256="0" * 64))
    with pytest.raises(CxrbenchError, match=r"chexbert\.pth of chexbert is not the file that cxrbench knows"):
        unpack(archive, there, silent)
    assert nothing_installed(there)


def test_an_archive_that_lacks_its_last_file_is_refused(archive, there, tmp_path):
    with pytest.raises(CxrbenchError, match=r"the archive was cut short: radgraph/weights\.th is missing"):
        unpack(write(tmp_path / "a.tar", members(archive)[:-1]), there, silent)
    assert nothing_installed(there)


def test_an_archive_cut_anywhere_is_refused(archive, there, tmp_path):
    whole = archive.read_bytes()
    end = whole.rstrip(b"\0")
    for length in [*range(0, len(end), 2048), len(end) - 1]:
        file = tmp_path / "cut.tar"
        file.write_bytes(whole[:length])
        with pytest.raises(CxrbenchError):
            unpack(file, there, silent)
        assert nothing_installed(there)


def test_a_flipped_byte_is_found(archive, there, tmp_path):
    whole = bytearray(archive.read_bytes())
    whole[whole.index(b"w" * 100) + 50] ^= 1
    file = tmp_path / "flipped.tar"
    file.write_bytes(whole)
    with pytest.raises(CxrbenchError, match=r"radgraph/weights\.th in the archive is damaged"):
        unpack(file, there, silent)
    assert nothing_installed(there)


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04", b"\x1f\x8b\x08" + b"\0" * 600, b"\0" * 10240])
def test_what_is_no_archive_is_named(there, tmp_path, data):
    file = tmp_path / "a.tar"
    file.write_bytes(data)
    with pytest.raises(CxrbenchError) as caught:
        unpack(file, there, silent)
    assert caught.value.where == str(file)


def test_a_full_disk_is_said_before_anything_is_written(archive, there, tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(100, 100, 10))
    with pytest.raises(CxrbenchError, match="MB are needed and 0 MB are free") as caught:
        unpack(archive, there, silent)
    assert caught.value.code == Exit.INFRASTRUCTURE
    assert nothing_installed(there)
    with pytest.raises(CxrbenchError, match="MB are needed and 0 MB are free"):
        unpack_archive(gz(tmp_path / "a.tar.gz", [("config.json", b"x" * 11)]), tmp_path, silent)
    assert not (tmp_path / "config.json").exists()


# Archives of the hub


def gz(file, parts):
    write(file.with_suffix(".plain"), parts)
    file.write_bytes(gzip.compress(file.with_suffix(".plain").read_bytes()))
    return file


LISTED_ONLY = {"twice", "twice by a detour", "not listed", "another asset"}
"""What a manifest is needed for to tell."""
ALWAYS = {name: parts for name, parts in HOSTILE.items() if name not in LISTED_ONLY}


@pytest.mark.parametrize("further", [*ALWAYS.values(), [("./config.json", b"")]], ids=[*ALWAYS, "twice"])
def test_an_archive_of_the_hub_is_looked_at_as_closely(tmp_path, further):
    target = tmp_path / "a/b"
    target.mkdir(parents=True)
    with pytest.raises(CxrbenchError, match="the archive holds"):
        unpack_archive(gz(tmp_path / "a.tar.gz", [("./config.json", b"{}"), *further]), target, silent)
    assert set(contents_of(tmp_path / "a")) <= {"b/config.json"}


def test_an_archive_of_the_hub_that_was_cut_is_refused(tmp_path):
    file = gz(tmp_path / "a.tar.gz", [("config.json", os.urandom(5000))])
    whole = file.read_bytes()
    for number, length in enumerate((0, 5, 100, 4000, len(whole) - 200)):
        file.write_bytes(whole[:length])
        target = tmp_path / str(number)
        target.mkdir()
        with pytest.raises(CxrbenchError, match="damaged or was cut short"):
            unpack_archive(file, target, silent)


@pytest.mark.parametrize(
    ("name", "safe"), [("a/b", "a/b"), ("./a", "a"), ("a//b/", "a/b"), (".", ""), ("..a/b..", "..a/b..")]
)
def test_names_without_detours(tmp_path, name, safe):
    assert safe_name(name, tmp_path) == safe
