"""Data sets of strangers: no link, `..` or absolute path makes a file of this machine part of a run."""

import gzip
import json
import os
import zipfile
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from benchmarks._fuzz_targets import OPENI
from cxrbench.data.base import Slice
from cxrbench.data.confined import Confined, leads_out, real_places
from cxrbench.data.images import ImageFailure, read_grey
from cxrbench.data.iu_reports import read_reports
from cxrbench.data.jsonl import Jsonl
from cxrbench.data.mimic_files import find_reports
from cxrbench.data.mimic_tables import read_table
from cxrbench.errors import CxrbenchError
from tests import commands
from tests.commands import rows
from tests.security.limits import blocked_is_caught, within

cli = commands.cli
KEY = ("19999001", "59999001")


@pytest.fixture
def secret(tmp_path):
    """An image and a text outside every data set."""
    folder = tmp_path / "home"
    folder.mkdir()
    Image.fromarray(np.full((8, 8), 99, np.uint8)).save(folder / "secret.png")
    (folder / "secret.txt").write_text(" FINAL REPORT\n FINDINGS: secret words.\n")
    return folder


@pytest.fixture
def data(tmp_path):
    folder = tmp_path / "data"
    (folder / "images").mkdir(parents=True)
    Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).save(folder / "images" / "own.png")
    return folder


TASK = """\
name: own
version: 1
title: Findings of a stranger's data
kind: findings
access: open
dataset: {name: jsonl, split: test, pool_split: train}
include: {sections: [findings], min_images: 1}
images: {offer: all, key: first}
offer: []
target: findings
text: whitespace:v1
metrics: {required: [length]}
citation: nobody
"""
"""A task that is scored in no time: the attack is on the reading of images."""


def outcomes(cli, data, paths):
    """Outcome by sample of a run of one study per image path."""
    lines = [
        {"study_id": f"s{i}", "images": [str(path)], "sections": {"findings": "Clear."}} for i, path in enumerate(paths)
    ]
    lines.append({"study_id": "t", "split": "train", "images": ["images/own.png"], "sections": {"findings": "Clear."}})
    for line in lines[:-1]:
        line["split"] = "test"
    file = data / "data.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert cli("data", "add", "jsonl", "--reports", file)[0] in (0, 1)
    run, task = data.parent / "run", data.parent / "own.yaml"
    task.write_text(TASK)
    code, _, err = cli("run", "--model", "nearest-image", "--task", task, "--replicates", 0, "--out", run)
    assert code in (0, 3), err
    assert b"secret words" not in b"".join(each.read_bytes() for each in run.rglob("*") if each.is_file())
    return {row["sample_id"]: (row["outcome"], row.get("detail") or "") for row in rows(run)}


def test_no_path_of_a_data_set_leads_out_of_it(cli, data, secret, tmp_path):
    (data / "images" / "link.png").symlink_to(secret / "secret.png")
    (data / "images" / "folder").symlink_to(secret)
    (data / "images" / "inner.png").symlink_to("own.png")
    bad = [
        "images/link.png",
        "images/folder/secret.png",
        "../home/secret.png",
        secret / "secret.png",
        "images/../../home/secret.png",
    ]
    found = outcomes(cli, data, [*bad, "images/own.png", "images/inner.png", data / "images/own.png"])
    for i in range(len(bad)):
        outcome, detail = found[f"s{i}"]
        assert outcome == "broken_image"
        assert "leads out of the data set's folders" in detail
        assert str(secret) not in detail
    assert [found[f"s{i}"][0] for i in (5, 6, 7)] == ["ok"] * 3


def test_a_place_that_was_named_may_be_linked_to(data, secret):
    link = data / "images" / "link.png"
    link.symlink_to(secret / "secret.png")
    closed, opened = Confined(read_grey, {"images": (data,)}), Confined(read_grey, {"images": (data, secret)})
    assert opened(str(link)).max() == 99
    with pytest.raises(ImageFailure):
        closed(str(link))
    moved = data.parent / "moved"
    moved.symlink_to(data)  # the root itself is a link: the user named it
    assert Confined(read_grey, {"images": (moved,)})(str(moved / "images" / "own.png")).max() == 63


@pytest.mark.parametrize(
    "path", ["/etc/passwd", "{0}/..", "{0}/../home/secret.png", "{0}x/a.png", "{0}/images/../../b"]
)
def test_paths_that_lead_out(data, path):
    assert leads_out(path.format(data), real_places([data]))


@pytest.mark.parametrize("kind", ["pipe", "device", "folder", "socket"])
def test_what_is_no_file_is_never_waited_for(data, kind):
    place = data / "images" / "odd.png"
    if kind == "pipe":
        os.mkfifo(place)
    elif kind == "device":
        place.symlink_to("/dev/zero")
    elif kind == "folder":
        place.mkdir()
    else:
        import socket

        with socket.socket(socket.AF_UNIX) as server:
            os.chdir(place.parent)
            server.bind("odd.png")
    with blocked_is_caught(), within(), pytest.raises(ImageFailure):
        read_grey(str(place))


def mimic_tree(base):
    folder = base / "files" / "p19" / "p19999001"
    folder.mkdir(parents=True)
    (folder / "s59999002.txt").write_text("FINDINGS: clear")
    return folder


def read_mimic(root, *further):
    with ThreadPoolExecutor(1) as pool:
        return find_reports(root, (root, *further)).read_many([KEY], pool)


@pytest.mark.parametrize("attack", ["link", "folder", "pipe", "device", "huge"])
def test_a_report_of_mimic_is_a_file_of_its_tree(tmp_path, secret, attack):
    folder = mimic_tree(tmp_path / "mimic")
    report = folder / "s59999001.txt"
    if attack == "link":
        report.symlink_to(secret / "secret.txt")
    elif attack == "folder":
        (secret / "s59999001.txt").write_text("FINDINGS: secret words.")
        (secret / "s59999002.txt").write_text("x")
        (folder / "s59999002.txt").unlink()
        folder.rmdir()
        folder.symlink_to(secret)
    elif attack == "pipe":
        os.mkfifo(report)
    elif attack == "device":
        report.symlink_to("/dev/zero")
    else:
        with report.open("wb") as out:
            out.truncate(1 << 30)
    with blocked_is_caught(), within(), pytest.raises(CxrbenchError) as caught:
        read_mimic(tmp_path / "mimic")
    assert "secret" not in str(caught.value)
    assert "p19999001" not in str(caught.value)  # a message names no patient
    if attack in ("link", "folder"):
        assert read_mimic(tmp_path / "mimic", secret) != [None]  # the place it leads to was named as well


def test_a_report_in_the_zip_of_mimic_does_not_grow_without_bound(tmp_path):
    with zipfile.ZipFile(tmp_path / "mimic-cxr-reports.zip", "w", zipfile.ZIP_DEFLATED) as out:
        out.writestr("files/p19/p19999001/s59999001.txt", bytes(48 << 20))
    with within(4, 32), pytest.raises(CxrbenchError, match="bytes"):
        read_mimic(tmp_path / "mimic-cxr-reports.zip")


@pytest.mark.parametrize("attack", ["link", "pipe", "device"])
def test_a_report_of_openi_is_a_file_of_its_folder(tmp_path, secret, attack):
    folder = tmp_path / "ecgen-radiology"
    folder.mkdir()
    (secret / "1.xml").write_bytes(OPENI)
    if attack == "pipe":
        os.mkfifo(folder / "1.xml")
    else:
        (folder / "1.xml").symlink_to(secret / "1.xml" if attack == "link" else "/dev/zero")
    with blocked_is_caught(), within(), pytest.raises(CxrbenchError):
        read_reports(folder)


@pytest.mark.slow
def test_a_packed_table_with_a_line_of_gigabytes_is_left(tmp_path):
    file = tmp_path / "table.csv.gz"
    with gzip.open(file, "wb", compresslevel=1) as out:
        out.write(b"dicom_id,study_id\n")
        for _ in range(48):
            out.write(b"a" * (1 << 20))
    with within(6, 32), pytest.raises(CxrbenchError, match="line 2"):
        read_table(file, ("dicom_id", "study_id"))


def test_a_line_of_own_data_has_a_bound_and_a_pipe_is_refused(tmp_path):
    file = tmp_path / "a.jsonl"
    with file.open("wb") as out:
        out.truncate(256 << 20)  # sparse: nothing on disk
    with within(4, 64), pytest.raises(CxrbenchError, match="line 1"):
        list(Jsonl().studies({"reports": (file,)}, Slice("test", {})))
    file.unlink()
    os.mkfifo(file)
    with blocked_is_caught(), pytest.raises(CxrbenchError):
        list(Jsonl().studies({"reports": (file,)}, Slice("test", {})))
