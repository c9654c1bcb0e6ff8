"""The explorer's data and files; what a browser makes of them is in tests/browser/."""

import base64
import io
import json
import re
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image as Picture

from cxrbench.config import load_config
from cxrbench.data.images import ImageFailure
from cxrbench.errors import CxrbenchError
from cxrbench.features import chexbert
from cxrbench.report.explorer import explore
from cxrbench.report.explorer_data import lay, names
from cxrbench.report.explorer_images import ROOM, SIZES, encoded, thumbnails
from cxrbench.report.explorer_marks import entities, word_places
from cxrbench.scores import load_scores
from cxrbench.store import RunFolder
from cxrbench.types import Image, Sample
from tests.commands import cli  # noqa: F401  (a fixture)
from tests.reader_runs import judge, make_runs, poison


def quiet(stage, done, total):
    pass


def page(runs, pictures="none", public=False):
    return explore(runs, load_config(None), {}, pictures, quiet, public=public)


def data_of(html, name="data"):
    """What a script element of the page holds."""
    found = re.search(rf'<script type="application/json" id="{name}">(.*?)</script>', html.decode(), re.S)
    return json.loads(found[1])


def test_every_sample_stands_in_the_page_with_its_texts_and_values(cli, tmp_path):
    runs = make_runs(tmp_path)
    made = page(runs)
    data = data_of(made.html)
    assert data["runs"] == ["random-report", "nearest-image"]
    assert [row["id"] for row in data["samples"]] == [sample.sample_id for sample in lay(runs).samples]
    said = runs[1].predictions()
    scored = next(each for each in load_scores(runs[1]) if each.metric.key == "rouge-l:raw")
    at = [each["key"] for each in data["columns"]].index("rouge-l:raw/rouge_l")
    for i, row in enumerate(data["samples"]):
        assert row["runs"][1]["text"] == " ".join(said[row["id"]].text.split())
        assert row["runs"][1]["values"][at] == pytest.approx(scored.rows()[i, 1], rel=1e-3)
    assert "nothing is stored of chexbert" in " ".join(made.notes)
    assert all(row["labels"] is None and row["marks"] is None for row in data["samples"])


def test_the_same_runs_give_the_same_bytes(cli, tmp_path):
    runs = make_runs(tmp_path, test=6)
    assert page(runs, "all").html == page(runs, "all").html


def test_stored_labels_and_entities_are_those_the_metrics_counted(cli, tmp_path):
    runs = make_runs(tmp_path, test=12, metrics="rouge-l:raw,chexbert-f1,radgraph-f1:simple-folded")
    made = page(runs)
    data = data_of(made.html)
    assert made.coverage["chexbert"]["stored"] == made.coverage["radgraph"]["stored"] == 36
    scores = {each.metric.key: each.rows() for each in load_scores(runs[0])}
    for i, row in enumerate(data["samples"]):
        true, said = ([each in "13" for each in labels] for labels in (row["labels"], row["runs"][0]["labels"]))
        counts = scores["chexbert-f1:miura"][i, 1:43].reshape(14, 3)  # tp, fp, fn of each label
        assert [a and b for a, b in zip(said, true, strict=True)] == list(counts[:, 0] == 1)
        assert [a and not b for a, b in zip(said, true, strict=True)] == list(counts[:, 1] == 1)
        assert [b and not a for a, b in zip(said, true, strict=True)] == list(counts[:, 2] == 1)
        matched = {(row["runs"][0]["text"][a:b].lower(), kind) for a, b, kind, bit in row["runs"][0]["marks"] if bit}
        every = {(row["runs"][0]["text"][a:b].lower(), kind) for a, b, kind, _ in row["runs"][0]["marks"]}
        precision = scores["radgraph-f1:simple-folded"][i, 1]
        assert len(matched) / len(every) == pytest.approx(precision)
        lost = {(row["text"][a:b].lower(), kind) for a, b, kind, bits in row["marks"] if not bits & 1}
        true_every = {(row["text"][a:b].lower(), kind) for a, b, kind, _ in row["marks"]}
        assert 1 - len(lost) / len(true_every) == pytest.approx(scores["radgraph-f1:simple-folded"][i, 2])


def test_the_page_is_made_without_torch(cli, tmp_path):
    judge(make_runs(tmp_path, test=4), "green")
    code = (
        "import sys; from cxrbench.cli.main import app;"
        f"app(['explore', '{tmp_path}/random-report', '-o', '{tmp_path}/page.html'], standalone_mode=False);"
        f"app(['reader-study', 'create', '{tmp_path}/random-report', '{tmp_path}/nearest-image', '--n', '2', '-o',"
        f" '{tmp_path}/form.html'], standalone_mode=False); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    assert all(
        "On: " in row["runs"][0]["judged"][0][2][0][1]
        for row in data_of((tmp_path / "page.html").read_bytes())["samples"]
    )


def test_credentialed_pages_are_private_and_say_so(cli, tmp_path):
    make_runs(tmp_path, test=4, access="credentialed", models=("random-report",))
    file = tmp_path / "page.html"
    code, out, _ = cli("explore", "random-report", "-o", file)
    assert code == 0
    assert file.stat().st_mode & 0o777 == 0o600
    assert b"Credentialed data, do not share" in file.read_bytes()
    assert "credentialed" in out
    code, _, err = cli("explore", "random-report", "-o", tmp_path / "public.html", "--public")
    assert code == 2
    assert "cannot become public" in err
    assert not (tmp_path / "public.html").exists()


def test_one_credentialed_run_makes_the_page_credentialed(cli, tmp_path):
    runs = make_runs(tmp_path, test=4)
    body = json.loads(runs[1].manifest_file.read_text())
    runs[1].manifest_file.write_text(json.dumps(body | {"access": "credentialed"}))
    with pytest.raises(CxrbenchError, match="cannot become public"):
        page(runs, public=True)


def test_open_data_may_be_public(cli, tmp_path):
    make_runs(tmp_path, test=4, models=("random-report",))
    file = tmp_path / "page.html"
    assert cli("explore", "random-report", "-o", file, "--public")[0] == 0
    assert file.stat().st_mode & 0o777 == 0o644
    assert b"do not share" not in re.sub(rb"<style>.*?</style>", b"", file.read_bytes(), flags=re.S)


def test_runs_that_do_not_belong_together_are_refused(cli, tmp_path):
    one, two = make_runs(tmp_path / "a", test=4)
    (other,) = make_runs(tmp_path / "b", test=5, models=("random-report",))
    with pytest.raises(CxrbenchError, match="did not answer the same samples"):
        page([one, other])
    with pytest.raises(CxrbenchError, match="named twice"):
        page([one, RunFolder(one.path / ".." / one.path.name)])
    with pytest.raises(CxrbenchError, match="1 to 4"):
        page([one, two, one, two, one])


def test_runs_of_one_model_are_told_apart(cli, tmp_path):
    (one,) = make_runs(tmp_path / "a", test=4, models=("random-report",))
    (two,) = make_runs(tmp_path / "b", test=4, models=("random-report",))
    assert names([one, two]) == ["random-report (1)", "random-report (2)"]


def test_a_run_without_scores_is_shown_and_said(cli, tmp_path):
    (run,) = make_runs(tmp_path, test=4, models=("random-report",))
    (run.path / "summary.json").unlink()
    made = page([run])
    assert "no values: random-report has not been scored" in made.notes
    assert data_of(made.html)["columns"] == []


def test_nothing_hostile_leaves_its_element(cli, tmp_path):
    (run,) = make_runs(tmp_path, test=16, models=("random-report",))
    made = page([poison(run)])
    html = made.html.decode()
    assert "\0" not in html
    assert "\u202e" not in html
    assert html.count("<script") == html.count("</script>") == 2  # the data and the program, nothing of a report
    assert "<b>model" not in html
    assert data_of(made.html)["samples"][3]["text"].startswith("a\0b")


def test_other_data_give_no_pictures(cli, tmp_path):
    (run,) = make_runs(tmp_path, test=4, models=("random-report",))
    body = json.loads(run.manifest_file.read_text())
    body["identity"]["data"] = "0" * 16
    run.manifest_file.write_text(json.dumps(body))
    with pytest.raises(CxrbenchError, match="not those of the run") as refused:
        page([run], "all")
    assert "--pictures none" in refused.value.fix


def test_thumbnails_are_small_webp_and_failures_are_named():
    grey = np.random.default_rng(0).integers(0, 255, (400, 300), dtype=np.uint8)

    def read(path):
        if path == "gone":
            raise ImageFailure("missing_image", "gone is not there")
        return grey

    samples = [
        Sample(f"s{i}", f"s{i}", None, "", images=(Image("a", f"p{i}", "PA"), Image("b", "gone", "")), key_image="a")
        for i in range(8)
    ]
    made = thumbnails(samples, read, "all", quiet, room=60_000)
    assert sum(len(each) for each in made.data) <= 60_000
    assert made.size in SIZES
    drawn = Picture.open(io.BytesIO(base64.b64decode(made.data[0])))
    assert (drawn.format, max(drawn.size)) == ("WEBP", made.size)
    assert made.of["s0"] == (("PA", 0), ("", "missing_image"))
    assert made.notes == ("8 images without pixels: missing_image",)
    assert len(thumbnails(samples, read, "key", quiet).data) == 8
    assert thumbnails(samples, read, "none", quiet).data == ()
    assert len(encoded(grey, SIZES[0])) < ROOM


def test_small_images_are_never_enlarged():
    drawn = Picture.open(io.BytesIO(encoded(np.zeros((40, 60), np.uint8), 512)))
    assert drawn.size == (60, 40)


def test_words_that_are_not_in_the_text_have_no_place():
    assert word_places("no X-ray", ["no", "X", "-", "ray", "None"]) == [(0, 2), (3, 4), (4, 5), (5, 8), None]


def test_entities_are_compared_by_folded_words_and_label():
    annotation = {
        "text": "Small effusion .",
        "entities": {
            "1": {"tokens": "Small effusion", "label": "Observation::definitely present", "start_ix": 0, "end_ix": 1,
                  "relations": []},
        },
    }  # fmt: skip
    (found,) = entities("Small  effusion.", annotation)
    assert found.element == ("small effusion", "Observation::definitely present")
    assert found.span == (0, 15)
    assert entities("", annotation) == []


def test_classes_in_the_page_are_those_of_chexbert():
    assert (chexbert.BLANK, chexbert.POSITIVE, chexbert.NEGATIVE, chexbert.UNCERTAIN) == (0, 1, 2, 3)  # explorer.js
