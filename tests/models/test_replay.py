"""A predictions file as a model: every sample answered or counted, every row used or counted."""

from __future__ import annotations

import pytest

from cxrbench.errors import CxrbenchError
from cxrbench.models.base import ModelOptions
from cxrbench.models.replay import Replay
from cxrbench.types import Generation, Sample

LINES = "sample_id,prediction,model_score\na,Lungs clear.,1\nb,,2\nc,NA,3\nz,Unasked.,4\n"


def replay(tmp_path, content=LINES, name="p.csv") -> Replay:
    (tmp_path / name).write_text(content, encoding="utf-8")
    return Replay(ModelOptions(argument=str(tmp_path / name)))


def samples(*names):
    return [Sample(name, name, None, "reference") for name in names]


def ask(model: Replay, *names):
    return [model.prepare(model.request(s, "generate", Generation(), 0)) for s in samples(*names)]


def test_rows_become_predictions(tmp_path):
    model = replay(tmp_path)
    prepared = ask(model, "c", "a", "b", "d")
    assert prepared[3].failure is not None
    assert prepared[3].failure[0] == "missing_prediction"
    result = model.generate(3, prepared[:3])
    found = [(p.sample_id, p.outcome, p.text, p.finish_reason, dict(p.times), p.batch) for p in result.predictions]
    assert found == [
        ("c", "ok", "NA", "none", {}, 3),
        ("a", "ok", "Lungs clear.", "none", {}, 3),
        ("b", "empty", "", "none", {}, 3),
    ]


def test_what_was_found_is_counted(tmp_path):
    model = replay(tmp_path)
    ask(model, "a", "b", "c", "d")
    found = model.circumstances()
    assert {key: found[key] for key in ("rows", "matched", "missing", "surplus", "empty")} == {
        "rows": 4,
        "matched": 3,
        "missing": 1,
        "surplus": 1,
        "empty": 1,
    }
    assert found["further_columns"] == ["model_score"]
    assert found["file"] == "p.csv"


def test_identity_is_the_content_not_the_name(tmp_path):
    same, renamed = replay(tmp_path), replay(tmp_path, name="other.csv")
    changed = replay(tmp_path, LINES.replace("clear", "Clear"), "third.csv")
    assert same.identity() == renamed.identity() != changed.identity()


def test_answers_without_a_run_folder(tmp_path):
    found = replay(tmp_path).answers(samples("a", "b", "d"))
    assert {name: (p.outcome, p.text) for name, p in found.items()} == {
        "a": ("ok", "Lungs clear."),
        "b": ("empty", ""),
        "d": ("missing_prediction", None),
    }
    assert found["d"].failed


def test_a_file_for_other_samples_is_refused(tmp_path):
    model = replay(tmp_path)
    ask(model, "x", "y")
    with pytest.raises(CxrbenchError, match="none of the 4 rows belongs to one of the 2 samples"):
        model.circumstances()
    with pytest.raises(CxrbenchError, match="none of the 4 rows"):
        model.answers(samples("x"))


def test_no_file_is_refused():
    with pytest.raises(CxrbenchError, match="needs a predictions file") as caught:
        Replay(ModelOptions())
    assert "replay:predictions.jsonl" in caught.value.fix
