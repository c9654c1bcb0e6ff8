"""The package evaluate itself: our metrics in it, a local module of it as one of our metrics."""

import json

import pytest

from cxrbench.errors import CxrbenchError
from tests.commands import cli  # noqa: F401  (a fixture)
from tests.small_task import write_small

evaluate = pytest.importorskip("evaluate")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")

SAID = ["no effusion is seen", "the heart is enlarged", "", "clear lungs"]
MEANT = ["there is no effusion", "the heart is mildly enlarged", "a small effusion", "the lungs are clear"]

MODULE = '''
import datasets
import evaluate


class Overlap(evaluate.Metric):
    """Share of the reference's words that are said."""

    def _info(self):
        kind = datasets.Value("string")
        return evaluate.MetricInfo(
            description="", citation="", features=datasets.Features({"predictions": kind, "references": kind})
        )

    def _compute(self, predictions, references):
        if predictions[0] == "break":
            raise RuntimeError("a report's words")
        shares = [len(set(p.split()) & set(r.split())) / len(set(r.split())) for p, r in zip(predictions, references)]
        return {"overlap": sum(shares) / len(shares), "said": float(len(predictions[0].split()))}
'''


@pytest.fixture(autouse=True)
def _modules_here(tmp_path, monkeypatch):
    """evaluate copies modules into its cache, whose place it decides when it is imported."""
    import evaluate.loading

    monkeypatch.setattr(evaluate.config, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr(evaluate.loading, "init_dynamic_modules", _dynamic_modules(tmp_path, monkeypatch))


def _dynamic_modules(tmp_path, monkeypatch):
    import sys

    folder = tmp_path / "modules"

    def make(*_, **__):
        dynamic = folder / "evaluate_modules"
        dynamic.mkdir(parents=True, exist_ok=True)
        (dynamic / "__init__.py").touch()
        if str(folder) not in sys.path:
            monkeypatch.syspath_prepend(str(folder))
        for name in [name for name in sys.modules if name.startswith("evaluate_modules")]:
            monkeypatch.delitem(sys.modules, name)
        return str(dynamic)

    return make


@pytest.mark.parametrize("name", ["bleu:raw", "rouge-l:raw", "cider:raw", "length", "distinct"])
def test_a_metric_of_ours_gives_in_evaluate_what_score_gives(cli, tmp_path, name):
    from cxrbench.bridges.evaluate_metric import module_file

    rows = [
        json.dumps({"sample_id": str(at), "prediction": said, "reference": meant}) + "\n"
        for at, (said, meant) in enumerate(zip(SAID, MEANT, strict=True))
    ]
    (tmp_path / "predictions.jsonl").write_text("".join(rows))
    code, out, err = cli(
        "score", "predictions.jsonl", "--access", "open", "--metrics", name, "--replicates", 0, "--json"
    )
    assert code == 0, err
    (ours,) = json.loads(out)["metrics"].values()
    module = evaluate.load(module_file(), name)
    found = module.compute(predictions=SAID, references=MEANT)
    assert {key: found[key] for key in ours} == {
        key: pytest.approx(each["value"], nan_ok=True) for key, each in ours.items()
    }
    assert (found["n"], found["n_expected"]) == (4, 4)
    assert found["signature"] == next(iter(ours.values()))["signature"]
    assert not list(tmp_path.rglob("*.arrow"))


def test_a_task_gives_the_corpus_that_is_fitted(tmp_path):
    from cxrbench.bridges.evaluate_metric import CxrbenchMetric

    alone = CxrbenchMetric("cider:raw").compute(predictions=SAID, references=MEANT)
    fitted = CxrbenchMetric("cider:raw").compute(predictions=SAID, references=MEANT, task="demo-findings")
    assert fitted["signature"] != alone["signature"]
    assert fitted["cider"] != alone["cider"]


def test_what_cannot_be_computed_says_so():
    from cxrbench.bridges.evaluate_metric import CxrbenchMetric

    with pytest.raises(CxrbenchError, match="which metric is meant"):
        CxrbenchMetric()
    with pytest.raises(CxrbenchError, match="needs a judge"):
        CxrbenchMetric("green").compute(predictions=SAID, references=MEANT)


def scored(cli, tmp_path, metric, said):
    (tmp_path / "overlap.py").write_text(MODULE)
    rows = [{"sample_id": str(at), "prediction": text, "reference": MEANT[at]} for at, text in enumerate(said)]
    (tmp_path / "predictions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return cli("score", "predictions.jsonl", "--access", "open", "--metrics", metric, "--replicates", 0, "--json")


def test_a_local_module_scores_every_report(cli, tmp_path):
    code, out, err = scored(cli, tmp_path, "evaluate:overlap.py#overlap", SAID)
    assert code == 0, err
    found = json.loads(out)["metrics"]["evaluate:overlap.py#overlap"]["mean"]
    assert found["value"] == pytest.approx((3 / 4 + 4 / 5 + 0 + 2 / 4) / 4)
    assert "|value:overlap|" in found["signature"]


def test_a_report_the_module_breaks_on_is_counted(cli, tmp_path):
    code, out, err = scored(cli, tmp_path, "evaluate:overlap.py#overlap", ["break", *SAID[1:]])
    assert code == 0, err
    found = json.loads(out)["metrics"]["evaluate:overlap.py#overlap"]["mean"]
    assert (found["n"], found["failed"]) == (3, 1)
    assert "words" not in err


@pytest.mark.parametrize(
    ("metric", "said"),
    [
        ("evaluate:overlap.py", "the module gives overlap, said"),
        ("evaluate:overlap.py#other", "not other"),
        ("evaluate:nowhere.py", "no such file"),
        ("evaluate", "needs the file of a metric module"),
    ],
)
def test_a_module_that_says_something_else_is_refused(cli, tmp_path, metric, said):
    code, _, err = scored(cli, tmp_path, metric, SAID)
    assert code != 0
    assert said in err


def test_a_module_that_cannot_be_imported_is_refused_with_evaluates_words(cli, tmp_path):
    """evaluate takes `import datasets, evaluate` for a package called `datasets,`."""
    (tmp_path / "one_line.py").write_text(
        MODULE.replace("import datasets\nimport evaluate", "import datasets, evaluate")
    )
    code, _, err = scored(cli, tmp_path, "evaluate:one_line.py#overlap", SAID)
    assert code == 2  # the file is wrong, as one that is not there
    assert "ImportError: To be able to use one_line, you need to install" in err
    assert "one `import NAME` a line" in err
    words = ("--model", "always-normal", "--task", write_small(tmp_path), "--metrics", "evaluate:one_line.py#overlap")
    code, out, err = cli("run", *words, "--out", "run")
    assert (code, out) == (2, "")
    assert "evaluate cannot load the module: ImportError" in err
    assert not (tmp_path / "run").exists()  # refused before a report is written
