"""What `benchmarks.fuzz` feeds with damaged input: task files, rubrics, policies, boards and settings."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from benchmarks._fuzz_base import YAML, Reader, Target, by_first_byte, each, in_file


def _yaml(reader: str, name: str) -> Callable[[Path], Reader]:
    """A target of a module's function that reads one YAML file of this name."""

    def make(folder: Path) -> Reader:
        from importlib import import_module

        module, function = reader.split(":")
        return in_file(folder, name, getattr(import_module(module), function))

    return make


def _task_seeds() -> list[bytes]:
    return [
        b"name: t\nversion: 1\ntitle: T\nkind: findings\naccess: open\ndataset: {name: jsonl, split: test}\n"
        b"include: {sections: [findings], min_images: 1}\nimages: {offer: all, key: [PA, '']}\noffer: [indication]\n"
        b"target: findings\ntext: none\ngeneration: {max_new_tokens: 300}\nmetrics: {required: [bleu:raw]}\ncitation: c\n"  # noqa: E501
    ]


def _rubric_seeds() -> list[bytes]:
    return [
        b"name: r\nversion: 1\nparser: values\nrole: You count.\ntask: 'Reference: {reference} Candidate: {candidate}'\n"  # noqa: E501
        b"settings: {temperature: 0.0, max_tokens: 64}\ncategories:\n- {name: missed, about: x}\n"
        b"- {name: added, low: 0, high: 5}\nscore: max(0, 1 - 0.25 * (missed + added))\nwords: 80\n"
    ]


def _policy_seeds() -> list[bytes]:
    return [
        b'name: p\nalpha: 0.05\nmost: 3\nmetrics:\n- {metric: "bleu:raw", value: bleu_4, margin: 0.01}\n'
        b"length: {max_ratio: 1.25}\nspeed: {min_ratio: 0.9}\nmax_failed_share: 0.02\n"
    ]


def _board_seeds() -> list[bytes]:
    return [
        b"name: b\ntitle: B\nabout: >-\n  words\n  more\ntasks:\n- task: t\n  runs: [a.json, {path: b, label: B}]\n"
        b"  columns: &c\n  - bleu:raw/bleu_4\n- task: u\n  columns: *c\n"
    ]


def _board(file: Path) -> object:
    from cxrbench.report.board_spec import find_board

    return find_board(str(file))


def _plans(folder: Path) -> Reader:
    from cxrbench.compare_suite import read_suite
    from cxrbench.throughput.experiment import read_experiment

    return by_first_byte((in_file(folder, "e.yaml", read_experiment), in_file(folder, "s.yaml", read_suite)))


def _plan_seeds() -> list[bytes]:
    return [
        *each(
            0,
            b"name: e\nimages: 8\nrules: {blocks: 6, seconds: 0, within: 0.05}\nconfigurations:\n"
            b'  a: {model: "shape:small-phi", batch: 1, dtype: fp32, lengths: trace, trace: {mean: 9, cv: 1}}\n'
            b'  b: {model: "shape:small-phi", batch: 8, tokens: 12, load_format: dummy, settings: {threads: "1"}}\n'
            b"modes:\n- {name: m, configurations: [a, b], batches: [1, 4]}\n",
            b"name: e\nimages: 8\nconfigurations:\n  a: {model: demo, batch: 1}\n  b: {model: demo, batch: 8}\n"
            b"anatomies:\n- {name: c, slow: a, fast: b, order: [batch]}\n",
        ),
        *each(1, b"name: s\nmetrics: [rouge-l:raw rouge_l]\ntasks:\n- {baseline: a, candidate: b, name: t}\n"),
    ]


def _config(folder: Path) -> Reader:
    from cxrbench.config import load_config

    return in_file(folder, "cxrbench.toml", load_config)


def _config_seeds() -> list[bytes]:
    return [
        b'[data.jsonl]\nreports = "a.jsonl"\nimages = ["x", "../y"]\nprepared = "p"\n\n[models.hf]\npath = "m"\n\n'
        b'[assets]\nfolder = "w"\n[assets.paths]\nchexbert = "c"\n\n[trusted_endpoints]\n"llm.example" = "an agreement"\n'  # noqa: E501
    ]


SETTINGS = (
    Target("task-yaml", "task files", _yaml("cxrbench.spec:read_task", "t.yaml"), _task_seeds, YAML),
    Target(
        "rubric-yaml",
        "rubrics and their score expressions",
        _yaml("cxrbench.judges.rubric:read_rubric", "r.yaml"),
        _rubric_seeds,
        (*YAML, "max(", "abs(", "**", "lambda:", "__"),
    ),
    Target("policy-yaml", "gate policies", _yaml("cxrbench.gate_policy:read_policy", "p.yaml"), _policy_seeds, YAML),
    Target("board-yaml", "leaderboards", _yaml("benchmarks._fuzz_settings:_board", "b.yaml"), _board_seeds, YAML),
    Target("plans-yaml", "speed experiments, suites of comparisons", _plans, _plan_seeds, YAML),
    Target("config-toml", "cxrbench.toml", _config, _config_seeds, ("[", "]", "=", '"""', "'''", "~", "\\u0000", "[[")),
)
