"""Finding Java and the jars of pycocoevalcap, without importing that package (it pulls in what nobody asked for here).

Shared by METEOR and the PTB tokenizer. Nothing is started but `java -version`, once per executable. Touches errors and
the standard library only.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
from functools import lru_cache
from pathlib import Path

from cxrbench.errors import CxrbenchError, Exit

METEOR_JAR = "meteor/meteor-1.5.jar"
PARAPHRASES = "meteor/data/paraphrase-en.gz"
CORENLP_JAR = "tokenizer/stanford-corenlp-3.4.1.jar"
"""Files inside the package folder of pycocoevalcap 1.2."""

NEEDS_JAVA = "needs Java 8 or newer on PATH or in JAVA_HOME, and pip install 'cxrbench[coco]'"
NEEDS_PACKAGE = "needs pip install 'cxrbench[coco]' (pycocoevalcap, which brings the Java archives)"

_VERSION = re.compile(r'version "(?:1\.)?(\d+)')
_PASSED_ON = ("PATH", "SYSTEMROOT", "TMP", "TEMP", "TMPDIR")


def executable() -> str | None:
    """Path of `java`: the one of JAVA_HOME if that is set, else the first on PATH; None where there is none."""
    home = os.environ.get("JAVA_HOME")
    if home:
        return shutil.which("java", path=str(Path(home) / "bin"))
    return shutil.which("java")


@lru_cache(maxsize=8)
def major_version(java: str) -> int | None:
    """Major version (8, 11, 17, ...) of the Java at that path; None where it does not run.

    The stub that macOS has in place of Java is on PATH and fails, so it is asked rather than looked at.
    """
    try:
        done = subprocess.run(  # noqa: S603  (a fixed argument list, no shell)
            [java, "-version"], capture_output=True, timeout=60, env=environment(), stdin=subprocess.DEVNULL
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    found = _VERSION.search(done.stderr.decode(errors="replace"))
    return int(found[1]) if done.returncode == 0 and found else None


def package_folder() -> Path | None:
    """Folder of the installed package pycocoevalcap, None where it is not installed."""
    spec = importlib.util.find_spec("pycocoevalcap")
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(next(iter(spec.submodule_search_locations)))


def ready(*files: str) -> str | None:
    """None when Java runs and these files of pycocoevalcap are there, else one sentence of what is needed."""
    folder = package_folder()
    java = executable()
    if java is None:
        return NEEDS_JAVA
    version = major_version(java)
    if version is None or version < 8:
        return f"{NEEDS_JAVA}; {java} " + ("does not run" if version is None else f"is Java {version}")
    if folder is None:
        return NEEDS_PACKAGE
    missing = [name for name in files if not (folder / name).is_file()]
    if missing:
        return f"{NEEDS_PACKAGE}: {folder / missing[0]} is not there"
    return None


def identity(*files: str) -> str:
    """8 hex digits of SHA-256 over files of pycocoevalcap, for signatures; "absent" where one is not there."""
    folder = package_folder()
    if folder is None or not all((folder / name).is_file() for name in files):
        return "absent"
    return hashlib.sha256(b"".join(_digest(folder / name) for name in files)).hexdigest()[:8]


@lru_cache(maxsize=8)
def _digest(file: Path) -> bytes:
    """SHA-256 of a file, once per process: 60 MB of paraphrases take a tenth of a second."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").digest()


def require(*files: str) -> tuple[str, tuple[Path, ...]]:
    """Return the path of `java` and of the files named.

    Raises:
        CxrbenchError: one of them is not there.
    """
    needs = ready(*files)
    java, folder = executable(), package_folder()
    if needs or java is None or folder is None:
        raise CxrbenchError(f"this {needs}", fix="cxrbench doctor", code=Exit.UNDECIDED)
    return java, tuple(folder / name for name in files)


def environment() -> dict[str, str]:
    """Environment of a Java child: what it needs to start and nothing that could change what it prints.

    JAVA_TOOL_OPTIONS and the like are left out on purpose, and the locale is fixed.
    """
    return {**{name: os.environ[name] for name in _PASSED_ON if name in os.environ}, "LC_ALL": "C"}


def command(java: str, *options: str, heap: str) -> list[str]:
    """Start of a Java command line.

    English locale (a comma-decimal one changes numbers), UTF-8, no performance file in the temporary folder, exit code
    3 when memory is used up, and the collector and compiler that start fastest: these processes live for seconds, and
    up to some 10,000 pairs the second compiler costs more than it gains.
    """
    fixed = ["-Duser.language=en", "-Duser.country=US", "-Dfile.encoding=UTF-8", "-Djava.awt.headless=true"]
    machine = ["-XX:+IgnoreUnrecognizedVMOptions", "-XX:+ExitOnOutOfMemoryError", "-XX:-UsePerfData"]
    short = ["-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", f"-Xmx{heap}"]
    return [java, *fixed, *machine, *short, *options]


OUT_OF_MEMORY = 3
"""Exit code of a Java started by `command` when memory was used up."""
