"""The shipped experiments as a whole, on small networks of the same classes: every mode, anatomy and output works.

Adapters, presets, engines, lengths and batches are those of the files; sizes and precision are not (fp16 has no fast
kernels on a processor). What a full-size network does on a GPU this does not show.
"""

import json
import re

import pytest

from cxrbench.shipped import shipped
from tests import released
from tests.commands import cli  # noqa: F401  (a fixture)

pytest.importorskip("torch")

SMALL = {
    "shape:llava-rad": "shape:small-llama", "shape:llava-med": "shape:small-llama", "shape:slava": "shape:small-phi",
    "image_tokens: 1369": "image_tokens: 144", "image_tokens: 576": "image_tokens: 64",
    "dtype: fp16": "dtype: fp32", "dtype: bf16": "dtype: fp32", "tokens: 59": "tokens: 9", "tokens: 25": "tokens: 4",
    "mean: 100": "mean: 6", "images: 256": "images: 8", "readers: 8": "readers: 1", "batch: 32": "batch: 4",
    "batch: 8,": "batch: 4,", "[8, 32, 64]": "[2, 8]", "[1, 8, 64, 256]": "[1, 8]", "tokens: 16": "tokens: 5",
    ", model, image tokens, output length, precision, batch": ", model, image tokens, output length, batch",
}  # fmt: skip
"""What of the files is made small, as text."""


def small(name, folder):
    text = (shipped("baselines") / "throughput" / f"{name}.yaml").read_text()
    for old, new in SMALL.items():
        text = text.replace(old, new)
    text = re.sub(r"rules: .*", "rules: {blocks: 2, seconds: 0, block_seconds: 0.05, agreeing: 2, warm_most: 2}", text)
    text = re.sub(r"model: (slava|llava-med|llava-rad),", r"model: \1, tokens: 4,", text)
    text = text.replace("load_format: dummy}", 'load_format: dummy, settings: {threads: "1"}}')
    text = text.replace("settings: {attention: eager}", 'settings: {attention: eager, threads: "1"}')
    text = text.replace('settings: {graphs: "off"}', 'settings: {graphs: "off", threads: "1"}')
    (folder / f"{name}.yaml").write_text(text)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_every_mode_and_anatomy_of_slava_6x_is_measured(cli, tmp_path):
    small("slava-6x-short", tmp_path)
    lines = []
    for name in ("slava", "llava-med", "llava-rad"):
        released.model(name, released.MAKERS[name](tmp_path / f"{name}-original")).convert(tmp_path / name)
        lines += [f"[models.{name}]", f'path = "{tmp_path / name}"']
    (tmp_path / "cxrbench.toml").write_text("\n".join(lines) + "\n")
    words = ("throughput", "--experiment", "slava-6x-short.yaml", "--device", "cpu", "-o", "whole.json")
    code, out, err = cli(*words)
    assert code == 0, err
    assert max(map(len, out.splitlines())) <= 100
    result = json.loads((tmp_path / "whole.json").read_text())
    assert result["complete"]
    modes = [entry["mode"] for entry in result["modes"]]
    assert modes == ["as released", "matched batch 1", *["matched sweep"] * 2, "own maximum batch",
                     "natural lengths by trace"]  # fmt: skip
    arms = [arm for entry in result["modes"] for arm in entry["arms"]]
    assert all(arm["blocks"] == 2 and arm["reports_per_s"] > 0 and arm["step_seconds"] > 0 for arm in arms)
    assert {arm["batch"] for arm in result["modes"][4]["arms"]} == {8}
    natural = result["modes"][5]["arms"][0]
    assert natural["tokens_per_report"] != round(natural["tokens_per_report"])
    assert [len(each["walks"][0]["steps"]) for each in result["anatomies"]] == [5, 3]  # one precision
    assert not any(session["discarded"] for session in result["sessions"])
    for name in ("matched batch 1", "own maximum batch"):
        assert cli(*words[:-1], f"{name[:3]}.json", "--only", name)[0] == 0
    code, out, err = cli("throughput", "--from", "mat.json", "--from", "own.json", "-o", "both.html")
    assert code == 0, err
    assert "own maximum batch (offline)" in out
    assert "matched batch 1" in (tmp_path / "both.html").read_text()


@pytest.mark.slow
def test_the_steps_are_measured(cli, tmp_path):
    small("steps", tmp_path)
    code, _, err = cli("throughput", "--experiment", "steps.yaml", "--device", "cpu", "-o", "steps.json")
    assert code == 0, err
    entries = json.loads((tmp_path / "steps.json").read_text())["modes"]
    assert [len(entry["arms"]) for entry in entries] == [2] * 4
    assert all(arm["step_seconds"] > 0 and arm["roofline"]["step"] > 0 for entry in entries for arm in entry["arms"])
