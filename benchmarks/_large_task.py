"""A task file of as many drawn studies as a real test split has, for benchmarks of what comes after a run."""

from __future__ import annotations


def large_task(samples: int, size: int, metrics: str) -> str:
    """The YAML: `samples` studies of `size` pixels a side, `metrics` as the file has them, `required: [...], ...`."""
    return f"""\
name: large
version: 1
title: Findings of as many drawn studies as a real test split has
kind: findings
access: open
dataset:
  name: phantom
  split: test
  pool_split: train
  options: {{train: 200, validate: 5, test: {samples}, size: {size}}}
include: {{sections: [findings], min_images: 1}}
images: {{offer: all, key: [PA, AP]}}
target: findings
text: whitespace:v1
metrics: {{{metrics}}}
citation: cxrbench
expected: {{n: {samples}, evidence: verified, source: the option above}}
"""
