"""The README's first command on a fresh machine: how long the installation takes, and how long the run itself.

    python -m benchmarks.first_command

Takes the command from README.md as it stands there and types it in an empty directory, without settings or caches of
this user; only `install .` names this checkout instead. The run is held to two processors. Its limit is 60 seconds;
the installation depends on the network and has none. Ends with an error when the run takes longer or leaves no scores.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LIMIT = 60.0
PROCESSORS = 2


def command() -> tuple[str, str]:
    """The first command of the README: what installs, and what runs."""
    found = re.search(r"```sh\n(python3 -m venv .*?)\n```", (ROOT / "README.md").read_text(encoding="utf-8"), re.S)
    if found is None:
        raise SystemExit("README.md shows no command that starts with python3 -m venv")
    install, _, run = found.group(1).replace("\\\n", " ").rpartition("&&")
    return install.strip().replace("'.[models]'", f"'{ROOT}[models]'"), run.strip()


def typed(line: str, place: Path) -> tuple[float, float, float]:
    """Run a command line; wall-clock seconds, processor seconds and peak bytes of its largest process."""
    environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV")}
    environment |= {"XDG_CONFIG_HOME": str(place / "config"), "XDG_CACHE_HOME": str(place / "cache")}
    environment |= {"PIP_CONSTRAINT": str(ROOT / "constraints.txt"), "PIP_QUIET": "1"}  # the versions known to be good
    started = time.perf_counter()
    child = subprocess.Popen(["bash", "-euc", f"exec {line}" if "&&" not in line else line], cwd=place, env=environment)
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise SystemExit(f"exit {child.returncode}: {line}")
    return time.perf_counter() - started, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024


def main() -> None:
    install, run = command()
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        print(f"$ {install.replace(str(ROOT), '.')}", flush=True)
        installed, _, _ = typed(install, place)
        processors = sorted(os.sched_getaffinity(0))[:PROCESSORS]
        os.sched_setaffinity(0, processors)
        print(f"\n$ {run}", flush=True)
        seconds, busy, peak = typed(run, place)
        summaries = [json.loads(file.read_text()) for file in place.glob("runs/*/*/summary.json")]
    print(f"\ninstallation {installed:6.1f} s")
    print(
        f"run          {seconds:6.1f} s on {len(processors)} processors, {busy:.1f} processor seconds, "
        f"peak {peak / 1e6:.0f} MB   (limit {LIMIT:.0f} s; load of the machine {os.getloadavg()[0]:.1f})"
    )
    if seconds > LIMIT or len(summaries) != 1 or summaries[0]["n"] != summaries[0]["n_expected"]:
        raise SystemExit("missed: time, or a score of every sample")


if __name__ == "__main__":
    main()
