"""A small task over drawn studies, as a user's own YAML file: the real path of every command, in a second."""

from pathlib import Path

SMALL = """\
name: small
version: 1
title: Findings of a few drawn studies
kind: findings
access: {access}
dataset:
  name: phantom
  split: test
  pool_split: train
  options: {{train: 30, validate: 5, test: {test}, size: 64}}
include:
  sections: [findings]
  min_images: 1
images:
  offer: all
  key: [PA, AP]
offer: [indication]
target: findings
text: whitespace:v1
metrics:
  required: [bleu:raw, rouge-l:raw, cider:raw, length, distinct]
slices: [abnormal, seen-in-train, duplicate]
citation: cxrbench
expected: {{n: {test}, evidence: verified, source: the option above}}
"""


def write_small(folder: Path, *, test: int = 24, access: str = "open", extra: str = "") -> Path:
    """Write small.yaml into a folder and return it."""
    file = folder / "small.yaml"
    file.write_text(SMALL.format(test=test, access=access) + extra)
    return file
