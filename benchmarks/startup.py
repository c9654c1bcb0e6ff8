"""How fast the program starts, and that it starts without torch.

    python -m benchmarks.startup [--runs 15]

Whole processes are timed, Python's own start included (its share is the first line); of the runs the fastest counts,
because it is what other work on the machine disturbs least. Processor time is beside it. Then help, compare, score with
the text metrics of a task, and list are run as a user types them, and every module they import is looked at
(`python -X importtime`).
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from tests.small_task import write_small

FORBIDDEN = ("torch", "transformers", "pydicom", "plotly")
"""Heavy packages that none of the looked-at commands needs."""


def process(arguments: Sequence[str]) -> tuple[float, float]:
    """Wall-clock and processor seconds of one Python process."""
    started = time.perf_counter()
    child = subprocess.Popen([sys.executable, *arguments], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise SystemExit(f"{' '.join(arguments)} exits {child.returncode}")
    return time.perf_counter() - started, usage.ru_utime + usage.ru_stime


def timed(title: str, arguments: Sequence[str], runs: int, limit: float | None) -> bool:
    """Print one row; whether the limit is missed."""
    process(arguments)
    wall, processor = zip(*(process(arguments) for _ in range(runs)), strict=True)
    print(
        f"{title:28} {1000 * min(wall):7.0f} {1000 * statistics.median(wall):7.0f} {1000 * min(processor):10.0f}"
        + (f" {1000 * limit:7.0f}" if limit else "")
    )
    return limit is not None and min(wall) > limit


def imported(words: Sequence[str], place: Path) -> list[str]:
    """Top-level packages a command imports."""
    command = [sys.executable, "-X", "importtime", "-m", "cxrbench", *words]
    done = subprocess.run(command, capture_output=True, text=True, cwd=place, env=os.environ | {"PYTHONPATH": root()})
    if done.returncode:
        raise SystemExit(f"cxrbench {' '.join(words)} exits {done.returncode}\n{done.stdout}")
    return sorted({name.split(".")[0] for name in re.findall(r"^import time: .*\| +([\w.]+)$", done.stderr, re.M)})


def root() -> str:
    return str(Path(__file__).resolve().parents[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=15)
    runs = parser.parse_args().runs
    print(f"{'milliseconds':28} {'fastest':>7} {'median':>7} {'processor':>10} {'limit':>7}")
    timed("python -c pass", ["-c", "pass"], runs, None)
    missed = [
        timed("python -c 'import cxrbench'", ["-c", "import cxrbench"], runs, 0.1),
        timed("cxrbench --help", ["-m", "cxrbench", "--help"], runs, 0.35),
        timed("cxrbench run --help", ["-m", "cxrbench", "run", "--help"], runs, 0.35),
    ]
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        write_small(place)
        for model in ("always-normal", "random-report"):
            imported(["run", "--model", model, "--task", "small.yaml", "--out", model, "--replicates", "0"], place)
        print()
        commands = (
            ["--help"],
            ["compare", "always-normal", "random-report", "--replicates", "100"],
            ["score", "always-normal", "--replicates", "100"],
            ["list", "models"],
            ["runs", "show", "always-normal"],
        )
        for words in commands:
            packages = imported(words, place)
            heavy = [each for each in FORBIDDEN if each in packages]
            missed.append(bool(heavy))
            print(f"cxrbench {words[0]:8} {len(packages):4} packages imported; heavy: {', '.join(heavy) or 'none'}")
    if any(missed):
        raise SystemExit("missed: a limit, or a heavy import")


if __name__ == "__main__":
    main()
