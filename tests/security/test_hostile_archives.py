"""Archives of strangers: nothing is written outside, links and devices are refused, and nothing unfolds without end."""

import io
import tarfile

import pytest

from benchmarks._fuzz_targets import OPENI
from cxrbench.assets_tar import unpack
from cxrbench.data.iu_reports import read_reports
from cxrbench.errors import CxrbenchError
from tests.security.limits import within


def tar(path, *members):
    """A .tgz of members (name, type, content or link)."""
    with tarfile.open(path, "w:gz", compresslevel=1) as out:
        for name, kind, content in members:
            member = tarfile.TarInfo(name)
            member.type = kind
            if kind in (tarfile.SYMTYPE, tarfile.LNKTYPE):
                member.linkname = content
                out.addfile(member)
            else:
                member.size = len(content)
                out.addfile(member, io.BytesIO(content))
    return path


ATTACKS = {
    "absolute": (("/tmp/cxrbench-owned", tarfile.REGTYPE, b"x"),),
    "dots": (("../owned", tarfile.REGTYPE, b"x"),),
    "dots-inside": (("a/../../owned", tarfile.REGTYPE, b"x"),),
    "backslash": (("..\\owned", tarfile.REGTYPE, b"x"),),
    "link-then-through-it": (("a", tarfile.SYMTYPE, ".."), ("a/owned", tarfile.REGTYPE, b"x")),
    "hard-link": (("a", tarfile.LNKTYPE, "/etc/passwd"),),
    "device": (("a", tarfile.CHRTYPE, b""),),
    "pipe": (("a", tarfile.FIFOTYPE, b""),),
    "twice": (("a", tarfile.REGTYPE, b"x"), ("./a", tarfile.REGTYPE, b"y")),
    "control": (("a\x1b[2J", tarfile.REGTYPE, b"x"),),
    "record": (("cxrbench-asset.json", tarfile.REGTYPE, b"{}"),),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_nothing_of_an_archive_leaves_its_folder(tmp_path, attack):
    target = tmp_path / "in" / "folder"
    target.mkdir(parents=True)
    file = tar(tmp_path / "a.tgz", *ATTACKS[attack])
    before = {path for path in tmp_path.rglob("*") if target not in path.parents}
    with pytest.raises(CxrbenchError):
        unpack(file, target, lambda *_: None)
    assert {path for path in tmp_path.rglob("*") if target not in path.parents} == before
    assert not any(path.is_symlink() for path in target.rglob("*"))


def test_an_archive_larger_than_the_disk_is_refused_before_it_is_written(tmp_path):
    target = tmp_path / "folder"
    target.mkdir()
    with tarfile.open(tmp_path / "a.tgz", "w:gz") as out:
        member = tarfile.TarInfo("a")
        member.size = 1 << 50
        out.fileobj.write(member.tobuf())
    with within(), pytest.raises(CxrbenchError):
        unpack(tmp_path / "a.tgz", target, lambda *_: None)
    assert not any(target.iterdir())


@pytest.mark.parametrize(
    "attack",
    [
        (("ecgen/1.xml", tarfile.SYMTYPE, "/etc/passwd"),),
        (("ecgen/1.xml", tarfile.LNKTYPE, "/etc/passwd"),),
        (("ecgen/1.xml", tarfile.CHRTYPE, b""),),
        (("ecgen/1.xml", tarfile.REGTYPE, bytes(5 << 20)),),
        (("1.xml", tarfile.REGTYPE, b'<!DOCTYPE a [<!ENTITY b "x"><!ENTITY c "&b;&b;">]><eCitation>&c;</eCitation>'),),
        (
            (
                "1.xml",
                tarfile.REGTYPE,
                b'<!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]><eCitation>&b;</eCitation>',
            ),
        ),
        (
            (
                "1.xml",
                tarfile.REGTYPE,
                b'<?xml version="1.0" encoding="utf-16"?>' + OPENI[38:].replace(b"Clear", b"\xff"),
            ),
        ),
        (("1.xml", tarfile.REGTYPE, b"<a>" * 100_000),),
        (("1.xml", tarfile.REGTYPE, b"<eCitation " + b'a="1" ' * 50_000 + b"/>"),),
    ],
)
def test_reports_of_an_archive_are_neither_links_nor_bombs(tmp_path, attack):
    with within(3, 64), pytest.raises(CxrbenchError) as caught:
        read_reports(tar(tmp_path / "NLMCXR_reports.tgz", *attack))
    assert "root:" not in str(caught.value)


def test_an_archive_read_in_memory_writes_nothing(tmp_path):
    file = tar(tmp_path / "a.tgz", ("../../x/1.xml", tarfile.REGTYPE, OPENI))
    assert list(read_reports(file)) == ["CXR7"]
    assert list(tmp_path.iterdir()) == [file]
