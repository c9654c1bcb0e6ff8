"""What `benchmarks.fuzz` and tests/security/test_fuzz_short.py feed with damaged input: every parser of others' files.

A target reads bytes as a person's file would be read; only `CxrbenchError` (or the refusal its docstring names) may
come out. Seeds are whole, valid files in the real formats, with invented text.
"""

from __future__ import annotations

from benchmarks._fuzz_base import Target
from benchmarks._fuzz_data import DATA
from benchmarks._fuzz_data import OPENI as OPENI
from benchmarks._fuzz_questions import QUESTIONS
from benchmarks._fuzz_runs import RUNS
from benchmarks._fuzz_servers import SERVERS
from benchmarks._fuzz_servers import safetensors as safetensors
from benchmarks._fuzz_settings import SETTINGS

TARGETS = (*DATA, *QUESTIONS, *SETTINGS, *RUNS, *SERVERS)
"""Every target, by the kind of its file."""


def target(name: str) -> Target:
    """The target of this name."""
    return next(each for each in TARGETS if each.name == name)
