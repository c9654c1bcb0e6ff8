"""Tables and figures of the pages that stand in the code or in shipped files too: both say the same."""

import json
import re
import tomllib

import pytest
import yaml

from cxrbench import registry
from cxrbench.errors import Exit
from tests.docs_commands import ROOT

DOCS = ROOT / "docs"


def page(name):
    return (DOCS / name if name != "README.md" else ROOT / name).read_text(encoding="utf-8")


def table(text, head):
    """Cells of the rows below the header that begins with `head`."""
    lines = text[text.index(f"\n{head}") :].strip("\n").split("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines if line.startswith("|")]


def code(cell):
    return re.findall(r"`([^`]+)`", cell)


def test_exit_codes():
    rows = table(page("README.md"), "| code | meaning |")
    assert [int(row[0]) for row in rows] == [*sorted(int(code) for code in Exit), 141]


def test_demo_against_the_baselines_is_what_the_shipped_summary_holds():
    runs = json.loads((ROOT / "baselines/demo/demo-findings.json").read_text())["runs"]
    values = {run["model"]: run["values"] for run in runs}
    keys = ("bleu:raw/bleu_4", "rouge-l:raw/rouge_l", "cider:raw/cider", "label-f1:phantom/micro_f1")
    rows = table(page("demo.md"), "| `demo` minus |")
    assert len(rows) == 3
    for name, *told in rows:
        found = [values["demo"][key]["value"] - values[code(name)[0]][key]["value"] for key in keys]
        assert [f"{each:.3f}" for each in found] == told, name
    assert "| 0.042 |" in page("phantom.md")
    assert f"{values['always-normal'][keys[0]]['value']:.3f}" == "0.042"


def test_every_asset_has_a_licence_line():
    known = set(tomllib.loads((ROOT / "cxrbench/assets.toml").read_text()))
    told = {name for row in table(page("assets.md"), "| asset | licence |") for name in code(row[0])}
    assert told == known


def test_every_checkpoint_has_a_row_and_every_row_a_checkpoint():
    from cxrbench.models.medgemma import MedGemma
    from cxrbench.models.released import ReleasedModel

    kinds = {name: entry.load() for name, entry in registry.entries("models").items()}
    published = {
        name
        for name, kind in kinds.items()
        if isinstance(kind, type) and issubclass(kind, (ReleasedModel, MedGemma)) and name not in ("shape",)
    }
    heads = ((each, "| model | what | folder") for each in ("models.md", "models-more.md"))
    told = {name for each, head in heads for row in table(page(each), head) for name in code(row[0])}
    assert told == published - {"biomedclip-cxr"}
    not_run = {name for row in table(page("not-run.md"), "| part |") for name in code(row[0])}
    assert published <= not_run
    assert all(f"`{name}`" in page("README.md") for name in told)


@pytest.mark.parametrize(
    ("name", "head", "metric", "told_apart"),
    [
        ("metrics-clinical.md", "| preset | uncertain counts as", "chexbert-f1", str),
        ("metrics-clinical.md", "| preset | what must agree", "radgraph-f1", lambda preset: preset.split("-")[-1]),
        ("metrics-bertscore.md", "| preset | encoder", "bertscore", str),
        ("metrics-ratescore.md", "| preset | weights of pairs", "ratescore", str),
        ("metrics-meteor.md", "| preset | texts", "meteor", str),
    ],
)
def test_presets_of_a_metric(name, head, metric, told_apart):
    known = registry.load("metrics", metric)
    rows = table(page(name), head)
    told = {code(cell)[0] if "(also" in cell else each for cell, *_ in rows for each in code(cell)}
    assert told == {told_apart(preset) for preset in known.presets if not preset.endswith("-folded")}
    if any("(default)" in row[0] for row in rows):
        (default,) = [code(row[0])[0] for row in rows if "(default)" in row[0]]
        assert default == known.default_preset


def test_text_metrics_have_the_presets_of_their_table():
    told = {}
    for row in table(page("metrics-text.md"), "| preset | metrics | words"):
        for metric in row[1].split(", "):
            told.setdefault(metric, set()).add(code(row[0])[0])
    assert told == {metric: set(registry.load("metrics", metric).presets) for metric in told}


def test_settings_of_a_server():
    from cxrbench.engines.server_settings import SETTINGS
    from cxrbench.http_limits import Policy

    rows = {row[0]: row[1] for row in table(page("openai.md"), "| `--set` | default")}
    usual = Policy()
    assert rows.pop("`concurrency`") == str(usual.concurrency)
    waits = f"{usual.timeout:.0f} s, {usual.retries}, {usual.first_delay} s"
    assert rows.pop("`timeout`, `retries`, `backoff`") == waits
    assert set(rows.values()) == {"none"}
    assert all(f"{key}" in page("openai.md") for key in SETTINGS)
    assert f"{usual.hopeless} requests in a row" in page("openai.md")


def test_settings_of_slots():
    from cxrbench.engines.slots import SlotsEngine

    assert [key for key in SlotsEngine.settings if f"--set {key}=" not in page("engines.md")] == []


def test_the_default_policy_of_the_gate():
    body = yaml.safe_load((ROOT / "baselines/gates/default.yaml").read_text())
    text = " ".join(page("gate.md").split())
    named = [each["metric"].split(":")[0] for each in body["metrics"]]
    assert f"of {', '.join(named[:-1])} and {named[-1]} the first three" in text
    assert f"(`most: {body['most']}`), margin {body['metrics'][0]['margin']}" in text
    assert {each["margin"] for each in body["metrics"]} == {0.01}
    assert f"at most {body['length']['max_ratio']} times as long" in text
