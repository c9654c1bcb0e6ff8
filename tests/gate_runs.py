"""Evidence made of numbers, for tests of the gate: no run folder, no model, any size."""

from dataclasses import replace

import numpy as np

from cxrbench.gate_evidence import Column, Evidence
from cxrbench.scoring import make_metric

ROUGE, LABELS, LENGTH = "rouge-l:raw", "label-f1:phantom", "length:words"
ABOUT = {
    "task": {"name": "small", "version": 1, "hash": "abc"},
    "data": "d1",
    "inputs": "task",
    "limit": None,
    "images": None,
    "access": "open",
    "model": "m",
    "run": "12345678",
    "cluster_unit": "patient",
    "n": 200,
    "n_expected": 200,
    "outcomes": {"ok": 200},
    "truncated_share": 0.0,
    "cxrbench": "0.1.0",
    "required": [],
    "speed": {"peak_rss": 1000.0},
    "machine": {"device": "cpu", "cpus": 2, "batch_size": 8},
    "batches": [[i, 8, 1.0 + 0.01 * (i % 3)] for i in range(25)],
}


def column(key, rows):
    metric = make_metric(key)
    return Column(metric, f"{metric.name}|preset:{metric.preset}|v:1", rows, np.zeros(len(rows), bool))


def evidence(seed=0, n=200, per_patient=2, level=0.3, words=30.0, **about):
    """ROUGE-L around `level` with noise of its own, shared difficulty of patients, and lengths around `words`."""
    shared = np.repeat(np.random.default_rng(99).normal(0, 0.1, n // per_patient), per_patient)
    rng = np.random.default_rng(seed)
    score = level + shared + rng.normal(0, 0.05, n)
    lengths = np.ones((n, 5))
    lengths[:, 1] = words * (1 + 0.05 * rng.normal(0, 1, n))
    lengths[:, 2] = 32
    return Evidence(
        ids=tuple(f"s{i}" for i in range(n)),
        clusters=tuple(f"p{i // per_patient}" for i in range(n)),
        columns={
            ROUGE: column(ROUGE, np.stack([np.ones(n), score], axis=1)),
            LENGTH: column(LENGTH, lengths),
        },
        about={**ABOUT, **about},
        where=f"run {seed}",
    )


def changed(made, key, **parts):
    """The same evidence with a part of one column replaced."""
    return replace(made, columns={**made.columns, key: replace(made.columns[key], **parts)})
