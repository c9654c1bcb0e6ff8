"""`cxrbench run --model hf:DIR`: a checkpoint folder through the whole command, on drawn images."""

import json

import pytest

from tests.small_task import write_small
from tests.test_cli import cli, only_run  # noqa: F401  (a fixture)

torch = pytest.importorskip("torch")


@pytest.fixture
def folder(tmp_path):
    from tests.tiny_llava import make

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield make(tmp_path / "tiny")
    torch.set_num_threads(threads)


def rows(run):
    lines = (run / "predictions/0000.jsonl").read_text().splitlines()
    return {row["sample_id"]: row for row in map(json.loads, lines)}


def test_a_checkpoint_reads_writes_is_scored_and_timed(cli, folder, tmp_path):
    task = write_small(tmp_path, test=6)
    words = ("run", "--model", f"hf:{folder}", "--task", task, "--set", "max_new_tokens=12", "--replicates", 0)
    code, out, err = cli(*words)
    assert code == 0, err
    assert "scored 6 of 6 samples" in out
    assert "cut off by the length cap" in out
    run = only_run(tmp_path)
    summary = json.loads((run / "summary.json").read_text())
    assert {"tokens_per_s", "tokens_per_report", "encode_seconds", "prefill_seconds", "latency_p50"} <= set(
        summary["speed"]
    )
    for row in rows(run).values():
        assert row["output_tokens"] <= 12
        assert row["image_tokens"] > 0
        assert row["finish_reason"] in ("stop", "length")
        assert {"image_read", "preprocess", "latency"} <= set(row["times"])
    identity = json.loads((run / "manifest.json").read_text())["identity"]
    assert identity["model"]["image_backend"] == "pil"
    assert identity["generation"]["max_new_tokens"] == 12


def test_a_dry_run_shows_the_prompt_as_the_model_gets_it(cli, folder, tmp_path):
    task = write_small(tmp_path, test=6)
    code, out, err = cli("run", "--model", f"hf:{folder}", "--task", task, "--dry-run")
    assert code == 0, err
    assert "<image>" in out
    assert "Estimate" in out
    assert "generation_config.json" not in out
    (folder / "generation_config.json").write_text('{"max_length": 40, "num_beams": 2, "length_penalty": 0.5}')
    words = ("run", "--model", f"hf:{folder}", "--task", task, "--preset", "documented", "--dry-run")
    code, out, err = cli(*words)
    assert code == 0, err
    told = " ".join(out.split())
    assert "generation_config.json asks for max_length 40, length_penalty 0.5, which cxrbench does not do" in told
    assert not (tmp_path / "runs").exists()


def test_random_weights_are_timed_and_never_scored(cli, folder, tmp_path):
    task = write_small(tmp_path, test=6)
    words = ("--set", "max_new_tokens=4", "--load-format", "dummy")
    code, out, err = cli("run", "--model", f"hf:{folder}", "--task", task, *words)
    assert code == 0, err
    assert "random weights: speed only, never scored" in out
    assert "answered 6 of 6 samples" in out
    assert "speed: " in out
    assert not (only_run(tmp_path) / "summary.json").exists()
    _, out, _ = cli("run", "--model", f"hf:{folder}", "--task", task, *words, "--json")
    assert json.loads(out)["speed"]["reports"] == 6
    assert "metrics" not in json.loads(out)
    assert "speed: " in cli("runs", "show", only_run(tmp_path))[1]
    code, _, err = cli("score", only_run(tmp_path))
    assert code == 2
    assert "random weights" in err
