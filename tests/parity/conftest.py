"""What the reference packages said, where it was recorded (tools/parity/record.py), and what was found beside it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch

FIGURES: list[dict[str, Any]] = []
"""What each test compared, for the summary and for WORK/compared-<version>.json."""

Tell = Callable[..., None]


@pytest.fixture(scope="session")
def work() -> Path:
    """The folder of CXRBENCH_PARITY; skips where nothing was recorded."""
    named = os.environ.get("CXRBENCH_PARITY")
    if not named or not (Path(named) / "recorded.json").is_file():
        pytest.skip("the reference packages are not installed here and nothing they said is recorded: tox -e parity")
    return Path(named).resolve()


@pytest.fixture(scope="module", autouse=True)
def _two_threads() -> Any:
    threads = torch.get_num_threads()
    torch.set_num_threads(min(threads, 2))
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def tell(request: pytest.FixtureRequest) -> Tell:
    """Note figures of a comparison, which the summary prints whether it passes or not."""

    def note(**figures: Any) -> None:
        FIGURES.append({"test": request.node.name, **figures})

    return note


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print what was compared, every exception by itself, and write it down."""
    if not FIGURES:
        return
    found = f"transformers {version('transformers')}, torch {version('torch')}"
    terminalreporter.section(f"compared with the reference packages: {found}")
    for figures in FIGURES:
        exceptions = figures.get("exceptions", [])
        told = {key: value for key, value in figures.items() if key not in ("test", "exceptions")}
        terminalreporter.write_line(f"{figures['test']}: " + ", ".join(f"{key} {value}" for key, value in told.items()))
        for each in exceptions:
            terminalreporter.write_line(f"    {each}")
    place = Path(os.environ["CXRBENCH_PARITY"]) / f"compared-{version('transformers')}.json"
    place.write_text(json.dumps(FIGURES, indent=1) + "\n", encoding="utf-8")
