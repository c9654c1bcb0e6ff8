"""Coverage-guided fuzzing (atheris) of every parser that reads other people's files; it must only ever refuse.

    pip install -e '.[fuzz]'
    python -m benchmarks.fuzz --list
    python -m benchmarks.fuzz task-yaml checkpoint --inputs 1000000 --seconds 500
    python -m benchmarks.fuzz --tally fuzz-log.jsonl               the table of benchmarks/fuzz-results.md

Each target runs in a process of its own, one after another. What counts as found: any exception but the refusals that
benchmarks/_fuzz_targets.py names, an input that takes more than a second, memory beyond the bound, the end of the
process. Times are those of the processor, so that a machine shared with others finds nothing that is not there. Inputs
that found something are written to --found; the corpus (--corpus) is kept, so that a later call goes on.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import mmap
import os
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import defaultdict
from pathlib import Path
from types import FrameType

from benchmarks._fuzz_base import Target
from benchmarks._fuzz_targets import TARGETS, target

SECONDS_PER_INPUT = 1.0
MEMORY = 2 << 30
"""Bytes of data a target's process may hold, its imports included."""


class _TooLongError(BaseException):
    """An input that takes longer than it may; no handler of `Exception` can swallow it."""


class _Watch:
    """Runs one input at a time, counts, and keeps the first input of each way to fail."""

    def __init__(self, made: Target, args: argparse.Namespace, folder: Path) -> None:
        from cxrbench.errors import CxrbenchError

        self.read, self.refusal = made.make(folder), CxrbenchError
        self.name, self.args, self.found = made.name, args, Path(args.found)
        self.count = self.refused = 0
        self.ways: dict[str, int] = {}
        self.begun = time.process_time()
        self.slowest = 0.0
        self.reading = False
        last = (folder / "last").open("wb+")
        last.truncate(8 + made.longest)
        self.last = mmap.mmap(last.fileno(), 0)
        signal.signal(signal.SIGPROF, self._late)

    def _late(self, number: int, frame: FrameType | None) -> None:
        if self.reading:
            raise _TooLongError

    def __call__(self, data: bytes) -> None:
        self.last[8 : 8 + len(data)] = data  # found there if the process dies of this input
        self.last[:8] = len(data).to_bytes(8, "little")
        begun = time.process_time()
        signal.setitimer(signal.ITIMER_PROF, SECONDS_PER_INPUT)
        try:
            self.reading = True
            self.read(data)
            self.reading = False
        except self.refusal:
            self.reading = False
            self.refused += 1
        except (Exception, _TooLongError) as error:
            self.reading = False
            self._keep(error, data)
        self.slowest = max(self.slowest, time.process_time() - begun)
        self.count += 1
        if self.count >= self.args.inputs or time.process_time() - self.begun > self.args.seconds:
            self._end()

    def _keep(self, error: BaseException, data: bytes) -> None:
        own = [each for each in traceback.extract_tb(error.__traceback__) if "/cxrbench/" in each.filename]
        place = f"{Path(own[-1].filename).name}:{own[-1].lineno}" if own else "outside"
        way = f"{type(error).__name__.strip('_')} {place}"
        self.ways[way] = self.ways.get(way, 0) + 1
        if self.ways[way] == 1:
            keep(self.found, self.name, way, data)

    def _end(self) -> None:
        import resource

        line = {
            "target": self.name,
            "inputs": self.count,
            "refused": self.refused,
            "seconds": round(time.process_time() - self.begun, 1),
            "slowest": round(self.slowest, 3),
            "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
            "found": self.ways,
        }
        record(Path(self.args.log), line)
        sys.stderr.flush()
        os._exit(0)  # libFuzzer does not come back


def keep(folder: Path, name: str, way: str, data: bytes) -> None:
    """Write down an input that found something."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name} {way}".replace(" ", "-").replace(":", "-")).write_bytes(data)


def record(log: Path, line: dict[str, object]) -> None:
    """Append to the log, and say so."""
    with log.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
    print(json.dumps(line), flush=True)


def run_here(name: str, args: argparse.Namespace) -> None:
    """In the child: fuzz one target; ends the process."""
    import resource

    import atheris

    made = target(name)
    with atheris.instrument_imports(include=["cxrbench"]):
        watch = _Watch(made, args, Path(args.scratch))
        for seed in made.seeds():  # what is imported on first use is seen by the fuzzer, and no input's time
            with contextlib.suppress(watch.refusal):
                watch.read(seed)
    corpus = Path(args.corpus) / name
    corpus.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(made.seeds()):
        (corpus / f"seed{number}").write_bytes(seed)
    words = Path(args.scratch) / "words"
    words.write_text("".join(f'"{_quoted(word)}"\n' for word in made.words) or "# none\n")
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
    options = [
        f"-max_len={made.longest}",
        f"-dict={words}",
        "-timeout=86400",
        "-rss_limit_mb=0",
        f"-artifact_prefix={args.scratch}/",
    ]
    atheris.Setup([sys.argv[0], *options, f"-seed={args.seed}", "-verbosity=0", str(corpus)], watch)
    atheris.Fuzz()


def _quoted(word: str) -> str:
    return "".join(f"\\x{byte:02x}" for byte in word.encode())


def run_apart(name: str, args: argparse.Namespace) -> None:
    """Fuzz one target in a process of its own; a process that dies or hangs is a finding, with its last input."""
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as scratch:
        command = [sys.executable, "-m", "benchmarks.fuzz", name, "--child", "--scratch", scratch]
        for option in ("inputs", "seconds", "seed", "corpus", "found", "log"):
            command += [f"--{option}", str(getattr(args, option))]
        with (Path(scratch) / "said").open("wb") as said:
            code = _wait(subprocess.Popen(command, stderr=said), args.seconds)
        if code:
            held = (Path(scratch) / "last").read_bytes()
            way = "hang" if code == -1 else f"died-{code}"
            keep(Path(args.found), name, f"{way}-said", (Path(scratch) / "said").read_bytes()[-4000:])
            keep(Path(args.found), name, way, held[8 : 8 + int.from_bytes(held[:8], "little")])
            record(Path(args.log), {"target": name, "inputs": 0, "seconds": args.seconds, "found": {way: 1}})


def _wait(child: subprocess.Popen[bytes], seconds: float) -> int:
    """The exit code; -1 where it hangs: it has used far more of the processor than it may, or sleeps for minutes.

    Who is paused, or waits for a turn on a busy machine, does not hang: hours of the clock say nothing.
    """
    asleep = 0
    while (code := child.poll()) is None:
        time.sleep(1)
        used, sleeps = _use_of(child.pid)
        asleep = asleep + 1 if sleeps else 0
        if used > 2 * seconds + 120 or asleep > 180:
            child.kill()
            child.wait()
            return -1
    return code


def _use_of(pid: int) -> tuple[float, bool]:
    """Seconds of the processor that a process has used, and whether it waits for something (Linux)."""
    try:
        words = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:  # it has just ended
        return 0.0, False
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK"), words[0] == "S"


def tally(log: Path) -> None:
    """Sum a log by target, as rows of a Markdown table."""
    totals: dict[str, list[float]] = defaultdict(lambda: [0, 0, 0, 0, 0, 0])
    for line in log.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        sums = totals[row["target"]]
        sums[0] += row["inputs"]
        sums[1] += row["inputs"] - row.get("refused", 0) - sum(row["found"].values())
        sums[2] += row["seconds"]
        sums[3] = max(sums[3], row.get("slowest", 0))
        sums[4] = max(sums[4], row.get("peak_mb", 0))
        sums[5] += len(row["found"])
    for name, (inputs, whole, seconds, slowest, peak, found) in sorted(
        totals.items(), key=lambda each: _place(each[0])
    ):
        print(
            f"| {name} | {inputs:,.0f} | {whole:,.0f} | {seconds:,.0f} | {inputs / max(seconds, 1):,.0f} |"
            f" {slowest:.3f} | {peak:,.0f} | {found:.0f} |"
        )


def _place(name: str) -> int:
    return [each.name for each in TARGETS].index(name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help="by default every target")
    parser.add_argument("--inputs", type=int, default=20_000)
    parser.add_argument("--seconds", type=float, default=60.0, help="of the processor, for each target, at most")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--corpus", default=str(Path(tempfile.gettempdir()) / "cxrbench-fuzz" / "corpus"))
    parser.add_argument("--found", default=str(Path(tempfile.gettempdir()) / "cxrbench-fuzz" / "found"))
    parser.add_argument("--log", default=str(Path(tempfile.gettempdir()) / "cxrbench-fuzz" / "log.jsonl"))
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--tally", metavar="LOG")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--scratch", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.list:
        print("\n".join(f"{each.name:20} {each.reads}" for each in TARGETS))
    elif args.tally:
        tally(Path(args.tally))
    elif args.child:
        run_here(args.targets[0], args)
    else:
        Path(args.log).parent.mkdir(parents=True, exist_ok=True)
        for name in args.targets or [each.name for each in TARGETS]:
            run_apart(name, args)


if __name__ == "__main__":
    main()
