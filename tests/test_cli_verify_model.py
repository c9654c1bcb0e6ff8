"""`cxrbench verify model`: a checkpoint beside its card, runs beside published figures; nothing agrees by accident."""

import json
from copy import deepcopy

import pytest
import yaml

from cxrbench import anchors, registry, spec
from cxrbench.report import published
from tests.commands import cli  # noqa: F401  (a fixture)
from tests.small_task import write_small

torch = pytest.importorskip("torch")

from tests import released, released_more  # noqa: E402

MODELS = (
    *("slava", "llava-med", "llava-med-v1", "llava-rad", "chexagent-2", "chexagent"),
    *("llm-cxr", "maira-2", "medgemma", "chexpert-plus"),
)
TEMPLATED = ("maira-2", "medgemma")
"""Their prompts come from a chat template in the folder."""

MAKERS = {**released.MAKERS, **released_more.MAKERS, "medgemma": released_more.medgemma} | {
    "chexpert-plus": released_more.chexpert_plus
}


# What is kept of each model


@pytest.mark.parametrize("name", MODELS)
def test_every_model_has_anchors_or_a_sentence(name):
    known = anchors.read_anchors(name)
    assert known.name == name
    assert known.anchors or len(known.not_found) > 80
    adapter = registry.load("models", name)
    for each in known.anchors:
        table, row = anchors.find_row(each.name)
        assert anchors.evidence(table, row) in ("primary", "secondary")
        target = spec.find_task(each.task).target
        assert adapter.reference(target if target in adapter.targets else adapter.targets[0]).name == each.preset
        assert not each.of or not known.parameters or each.of in {count.of for count in known.parameters}
        for figure in each.figures:
            if figure.here is not None:
                metric, preset = figure.metric.split(":")
                made = registry.load("metrics", metric)(preset)
                assert figure.value in made.values
                assert made.key == figure.metric


@pytest.mark.parametrize(
    "name", [name if name in ("slava", "medgemma") else pytest.param(name, marks=pytest.mark.slow) for name in MODELS]
)
def test_a_card_refers_to_the_published_tables(cli, name):
    code, out, err = cli("list", "models", "--show", name)
    assert code == 0, err
    text = " ".join(out.split())
    for each in anchors.read_anchors(name).anchors:
        table, row = anchors.find_row(each.name)
        assert f"published: {each.name}" in text
        assert f"{table.columns[0].name} {row.values[0]:g}" in text


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_counts_of_parameters_are_those_of_the_full_size(name):
    from cxrbench.models.base import ModelOptions

    for number, count in enumerate(anchors.read_anchors(name).parameters):
        extra = {"size": ("4b", "27b")[number]} if name == "medgemma" else {}
        extra |= {"tower": "openai"} if name == "llava-med" else {}
        model = registry.load("models", name)(ModelOptions(load_format="dummy", extra=extra))
        assert model.check()[1] == count.count


# A checkpoint


@pytest.fixture
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def small_numbers(monkeypatch, tmp_path, name, **changes):
    """The anchors of a model with other figures, as a file of their own."""
    body = yaml.safe_load(anchors.anchor_files()[name].read_text()) | changes
    file = tmp_path / f"{name}.yaml"
    file.write_text(yaml.safe_dump(body))
    monkeypatch.setattr(anchors, "anchor_files", lambda: {name: file})
    return body


@pytest.mark.parametrize("name", [name for name in MODELS if name not in TEMPLATED])
def test_prompts_are_rendered_letter_by_letter(name):
    from cxrbench.model_sanity import _request
    from cxrbench.models.base import ModelOptions

    for prompt in anchors.read_anchors(name).prompts:
        extra = {"target": prompt.target, **prompt.settings}
        model = registry.load("models", name)(ModelOptions(load_format="dummy", extra=extra))
        assert model.render(_request(model, prompt)) == prompt.prompt


@pytest.mark.parametrize(
    "name", [name if name in TEMPLATED else pytest.param(name, marks=pytest.mark.slow) for name in MODELS]
)
def test_a_small_checkpoint_has_the_prompts_and_not_the_sizes(one_thread, tmp_path, name):
    from cxrbench.cli.verify_model import Here
    from cxrbench.model_sanity import look

    known = anchors.read_anchors(name)
    folders = MAKERS[name](tmp_path)
    found = list(look(known, folders, Here(registry.load("models", name), folders, {}).open))
    prompts = [each for each in found if each.what.startswith("prompt")]
    assert [each.verdict for each in prompts] == ["agrees"] * len(known.prompts), prompts
    assert next(each for each in found if each.what == "names and shapes").verdict in ("agrees", "noted")
    wrong = {each.what for each in found if each.verdict == "differs"}
    assert wrong <= {"parameters", *(f"image tokens, {each.target}" for each in known.prompts)}  # it is a small one
    assert ("parameters" in wrong) == bool(known.parameters)


def test_a_checkpoint_that_agrees_and_one_that_does_not(cli, one_thread, monkeypatch, tmp_path):
    places = released.slava(tmp_path / "weights")
    assert cli("models", "add", "slava", "--path", places["path"])[0] == 0
    code, out, _ = cli("verify", "model", "slava", "--checkpoint-only")
    assert code == 1
    assert "9,166,096, not 3,092,371,456 (SLaVA-CXR)" in " ".join(out.split())
    assert "16 per image, not 576" in out
    assert max(map(len, out.splitlines())) <= 100

    count = [{"of": "a small one", "count": 9166096, "source": "here"}]
    body = small_numbers(monkeypatch, tmp_path, "slava", parameters=count, image_tokens=16)
    code, out, err = cli("verify", "model", "slava", "--checkpoint-only")
    assert code == 0, out + err
    assert "9,166,096, those of a small one (here)" in " ".join(out.split())
    assert "noted" in out

    prompts = deepcopy(body["prompts"])
    prompts[0]["prompt"] = prompts[0]["prompt"].replace("findings report", "report")
    small_numbers(monkeypatch, tmp_path, "slava", parameters=count, image_tokens=16, prompts=prompts)
    code, out, _ = cli("verify", "model", "slava", "--checkpoint-only")
    assert code == 1
    assert "' Write a findings" not in out
    assert "from letter" in out

    (places["path"] / "model-00002-of-00003.safetensors").unlink()
    code, out, _ = cli("verify", "model", "slava", "--checkpoint-only")
    assert code == 1
    assert "1 of 3 weight files are missing" in " ".join(out.split())


def test_a_checkpoint_that_is_not_here(cli):
    code, out, _ = cli("verify", "model", "llava-med")
    assert code == 3
    assert "not here; to do: cxrbench models add llava-med --path DIR" in out
    assert "No figure of its authors on reports exists" in " ".join(out.split())
    code, out, _ = cli("verify", "model", "llava-rad")
    assert code == 3
    assert "cxrbench run --model llava-rad --task mimic-findings-llavarad --preset reference" in out
    assert out.count("to do: cxrbench run") == 1
    assert "5 figures: 0 agrees, 0 differs, 5 cannot be compared" in out


# Runs beside figures

TABLE = {
    "name": "a-table", "title": "Figures", "task": "demo-findings", "citation": "A paper, 2024.",
    "source": "its table 1", "evidence": "primary", "differs": "nothing",
    "columns": [{"name": "ROUGE-L"}, {"name": "Rating"}],
    "rows": [{"model": "SLaVA", "values": [20.0, 3.0]}, {"model": "Other", "values": [None, None]}],
}  # fmt: skip
ROUGE = {"column": "ROUGE-L", "here": "rouge-l:raw/rouge_l", "scale": 0.01, "tolerance": 1.0, "convention": "same"}
ANCHOR = {
    "table": "a-table", "row": "SLaVA", "task": "demo-findings", "preset": "reference",
    "samples": {"are": "same", "about": "its own", "n": 50},
    "figures": [ROUGE, {"column": "Rating", "why": "people gave it"}],
}  # fmt: skip


@pytest.fixture
def figures(monkeypatch, tmp_path):
    """Set the anchor and the table; returns a function that changes them."""
    folder = tmp_path / "kept"
    folder.mkdir()

    def put(table=(), **changes):
        (folder / "a-table.yaml").write_text(yaml.safe_dump({**TABLE, **dict(table)}))
        body = yaml.safe_load((anchors.shipped("baselines") / "anchors/slava.yaml").read_text())
        (folder / "slava.yaml").write_text(yaml.safe_dump({**body, "anchors": [{**ANCHOR, **changes}]}))

    put()
    monkeypatch.setattr(anchors, "anchor_files", lambda: {"slava": folder / "slava.yaml"})
    monkeypatch.setattr(published, "published_files", lambda: {"a-table": folder / "a-table.yaml"})
    return put


def write_run(tmp_path, name="slava-1", value=0.2, ci=(0.18, 0.22), identity=(), model=(), n=50, scored=True):
    """A finished run as the settings of the preset make it."""
    from dataclasses import asdict

    from cxrbench.models.generation import resolve
    from cxrbench.models.slava import Slava

    preset = Slava.reference("findings")
    made = {
        "task": {"name": "demo-findings", "version": 1, "hash": "x"},
        "model": {"name": "slava", "weights": "w", "load_format": "auto",
                  "preset": {"name": "reference", "version": preset.version, "source": preset.source}, **dict(model)},
        "generation": asdict(resolve({}, preset, {})), "inputs": "task", "seed": 0, "limit": None, **dict(identity),
    }  # fmt: skip
    body = {"format": 1, "identity": made, "access": "open", "n_expected": n, "clusters": 20, "patient_ids": True,
            "batch_size": 8, "task": {"generation": {}}, "circumstances": []}  # fmt: skip
    run = tmp_path / "runs/demo-findings" / name
    run.mkdir(parents=True)
    (run / "manifest.json").write_text(json.dumps(body))
    entry = {"value": value, "ci": list(ci) if ci else None, "signature": "rouge-l|preset:raw|v:1"}
    metrics = {"rouge-l:raw": {"rouge_l": entry}} if scored else {}
    summary = {"n": n, "n_expected": n, "clusters": 20, "metrics": metrics, "outcomes": {"ok": n}, "required": [],
               "task": "demo-findings", "not_scored": {}, "slices": {}, "distinct": None}  # fmt: skip
    (run / "summary.json").write_text(json.dumps(summary))
    return run


def verdict(cli, *words):
    code, out, err = cli("verify", "model", "slava", "--json", *words)
    assert not err
    found = json.loads(out)
    return code, found, found["anchors"][0]["figures"][0]


def direct(tmp_path, *assume):
    """The same without the command line: exit code, what is still to be typed, the first figure."""
    from cxrbench.cli.verify_model import _code
    from cxrbench.model_verification import beside, commands, runs_of
    from cxrbench.models.slava import Slava

    runs, preset = runs_of("slava", tmp_path / "runs"), Slava.reference("findings")
    found = [beside(each, runs, preset, assume) for each in anchors.read_anchors("slava").anchors]
    return int(_code([], found, checkpoint_only=False)), list(commands("slava", found, {})), found[0].figures[0]


@pytest.mark.parametrize(
    ("value", "code", "said"),
    [(0.2, 0, "agrees"), (0.21, 0, "agrees"), (0.2101, 1, "differs"), (None, 3, "cannot be compared")],
)
def test_on_the_same_samples_the_tolerance_decides(cli, figures, tmp_path, value, code, said):
    write_run(tmp_path, value=value, ci=(0.0, 1.0))  # however wide the interval is
    found, data, figure = verdict(cli)
    assert (found, figure["verdict"]) == (code, said)
    assert data["verdict"] == {0: "agrees", 1: "differs", 3: "not compared"}[code]
    assert figure["published"] == 20.0
    assert data["anchors"][0]["figures"][1]["reasons"] == ["no value of ours: people gave it"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"identity": {"limit": 5}}, "a part of the samples (--limit 5)"),
        ({"identity": {"inputs": "image"}}, "other inputs (--inputs image)"),
        ({"model": {"preset": {"name": "matched", "version": 1}}}, "another preset (matched, not reference)"),
        ({"model": {"preset": {"name": "reference", "version": 0}}}, "another version of the preset (0, not 1)"),
        ({"model": {"load_format": "dummy"}}, "random weights"),
        ({"identity": {"generation": {"max_new_tokens": 300}}}, "max_new_tokens is 300, not 512"),
        ({"n": 49}, "49 samples, and the source has 50"),
        ({"scored": False}, "rouge-l:raw was not scored"),
    ],
)  # fmt: skip
def test_a_run_of_another_kind_is_not_compared(figures, tmp_path, changes, said):
    run = write_run(tmp_path, **changes)
    code, (line,), figure = direct(tmp_path)
    assert (code, figure.verdict) == (3, "cannot be compared")
    assert said in figure.reasons
    begin = "cxrbench run --model slava --task demo-findings --preset reference"
    begin = f"cxrbench score {run}" if "scored" in changes else begin
    assert line == f"{begin} --metrics rouge-l:raw"


def test_the_run_with_fewest_reasons_is_taken_unless_one_is_named(cli, figures, tmp_path):
    other = write_run(tmp_path, "slava-0", model={"preset": {"name": "matched", "version": 1}})
    good = write_run(tmp_path, "slava-1")
    assert verdict(cli)[1]["anchors"][0]["run"] == str(good.relative_to(tmp_path))
    code, data, _ = verdict(cli, "--run", other)
    assert (code, data["anchors"][0]["run"]) == (3, str(other))
    assert verdict(cli, "--runs", tmp_path / "nowhere")[0] == 3


@pytest.mark.parametrize(
    ("key", "table", "changes", "said"),
    [
        ("secondary", {"evidence": "secondary"}, {}, "only secondary evidence"),
        ("convention", {}, {"figures": [ROUGE | {"convention": "unknown", "why": "so"}]}, "not known: so"),
        ("samples", {}, {"samples": {"are": "unknown", "about": "nobody says"}}, "not known: nobody says"),
    ],
)  # fmt: skip
def test_what_is_not_known_stands_between_them_unless_it_is_assumed(figures, tmp_path, key, table, changes, said):
    figures(table, **changes)
    write_run(tmp_path)
    code, to_do, figure = direct(tmp_path)
    assert (code, to_do, figure.verdict) == (3, [], "cannot be compared")
    assert said in figure.reasons[0]
    code, _, figure = direct(tmp_path, key)
    assert (code, figure.verdict, figure.assumed) == (0, "agrees", (key,))


def test_what_a_verdict_rests_on_is_printed(cli, figures, tmp_path):
    figures({"evidence": "secondary"})
    write_run(tmp_path)
    code, out, _ = cli("verify", "model", "slava", "--assume", "secondary")
    assert (code, "agrees, if secondary" in out) == (0, True)
    assert "1 agrees, 0 differs, 1 cannot be compared" in out


@pytest.mark.parametrize(("ci", "code"), [((0.15, 0.19), 0), ((0.15, 0.1899), 1), ((0.21, 0.25), 0), (None, 3)])
def test_on_other_samples_the_interval_decides(figures, tmp_path, ci, code):
    figures(samples={"are": "unknown", "about": "nobody says"})
    write_run(tmp_path, value=0.17 if ci and ci[0] < 0.2 else 0.23, ci=ci)
    assert direct(tmp_path, "samples")[0] == code


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"cannot": "its prompt is not stated"}, "its prompt is not stated"),
        ({"samples": {"are": "other", "about": "another text"}}, "other samples: another text"),
        ({"row": "Other"}, "the source has no figure"),
    ],
)
def test_some_figures_are_never_compared(figures, tmp_path, changes, said):
    figures(**changes)
    write_run(tmp_path)
    code, to_do, figure = direct(tmp_path, "secondary", "convention", "samples")
    assert (code, to_do, figure.verdict) == (3, [], "cannot be compared")
    assert said in figure.reasons


def test_other_weights_than_those_that_are_here(cli, figures, one_thread, tmp_path):
    assert cli("models", "add", "slava", "--path", released.slava(tmp_path / "weights")["path"])[0] == 0
    write_run(tmp_path)
    assert "other weights than those that are here (w)" in verdict(cli)[2]["reasons"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("slavia",), "did you mean 'slava'"),
        (("demo",), "nothing published is kept for a model called 'demo'"),
        (("slava", "--assume", "sample"), "did you mean 'samples'"),
        (("slava", "--run", "nowhere"), "there is no run here"),
        (("slava", "--run-now", "--checkpoint-only"), "--run-now makes new runs"),
    ],
)
def test_wrong_calls_say_what_to_do(cli, words, said):
    code, _, err = cli("verify", "model", *words)
    assert code == 2
    assert said in err
    assert "to do:" in err


def test_a_run_of_another_model_is_refused(cli, figures, tmp_path):
    run = write_run(tmp_path, model={"name": "llava-rad"})
    assert "the run is one of llava-rad, not of slava" in cli("verify", "model", "slava", "--run", run)[2]


def test_run_now_types_the_commands(cli, figures, one_thread, monkeypatch, tmp_path):
    small = write_small(tmp_path, test=1)
    monkeypatch.setattr(spec, "task_files", lambda: {"small": small})
    figures({"task": "small"}, task="small", samples={"are": "same", "about": "its own", "n": 1})
    places = released.slava(tmp_path / "weights")
    assert cli("models", "add", "slava", "--path", places["path"])[0] == 0
    code, out, err = cli("verify", "model", "slava", "--run-now")
    assert "cxrbench run --model slava --task small --preset reference --metrics rouge-l:raw" in err
    assert "1 differs, 1 cannot be compared" in out, out + err
    assert code == 1
    assert len(list(tmp_path.glob("runs/small/*/summary.json"))) == 1
    code, out, err = cli("verify", "model", "slava", "--run-now")  # nothing is left to do
    assert (code, "cxrbench run" in err) == (1, False)
