"""Run the benchmarks: each prints what it compares with beside ours, and ends with an error when a limit is missed.

    python -m benchmarks              those that need no data from outside, no network and no Java
    python -m benchmarks --list       all of them, and what the others need
    python -m benchmarks NAME ...     these, with their default arguments

Each runs in a process of its own, so that memory and imports are its own. `python -m benchmarks.NAME -h` has the
arguments of one.
"""

from __future__ import annotations

import argparse
import ast
import subprocess
import sys
import textwrap
import time
from pathlib import Path

NEEDS = {
    "annotator_speed": "the openly licensed data beside the checkout, oracle weights, and tox -e parity",
    "bertscore": "the openly licensed data beside the checkout, and an interpreter that has bert-score",
    "clinical_suite": "the openly licensed data beside the checkout, oracle weights, and tox -e parity",
    "fuzz": "the extra fuzz (atheris)",
    "first_command": "the network (it installs into a fresh environment)",
    "iu_counts": "a copy of the IU X-ray collection (an argument)",
    "kill_ray": "the extra `ray`",
    "meteor": "the openly licensed data beside the checkout, and Java",
    "published": "a case file of the openly licensed data (an argument)",
    "slurm_trial": "a Slurm that takes jobs from here",
    "text_conventions": "the openly licensed data beside the checkout",
    "text_metrics": "the openly licensed data beside the checkout",
}
"""Benchmarks that do not run by themselves everywhere, and why; all others in this folder do."""

FOLDER = Path(__file__).resolve().parent


def known() -> dict[str, str]:
    """Names of all benchmarks, and the first line of what each says of itself."""
    files = sorted(file for file in FOLDER.glob("*.py") if not file.name.startswith("_"))
    return {
        file.stem: (ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or "").split("\n")[0]
        for file in files
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--list", action="store_true")
    given = parser.parse_args()
    names = known()
    unknown = [name for name in given.names if name not in names]
    if unknown:
        parser.error(f"there is no benchmark called {unknown[0]}; known: {', '.join(names)}")
    if given.list:
        for name, about in names.items():
            text = about + (f" Needs {NEEDS[name]}." if name in NEEDS else "")
            print(f"{name:18}" + textwrap.fill(text, 80).replace("\n", "\n" + 18 * " "))
        return
    missed = []
    for name in given.names or [name for name in names if name not in NEEDS]:
        print(f"\n== {name}: {names[name]}", flush=True)
        started = time.monotonic()
        done = subprocess.run([sys.executable, "-m", f"benchmarks.{name}"], cwd=FOLDER.parent)
        print(f"== {name}: exit {done.returncode} after {time.monotonic() - started:.0f} s", flush=True)
        missed += [name] if done.returncode else []
    if missed:
        raise SystemExit(f"missed: {', '.join(missed)}")


if __name__ == "__main__":
    main()
