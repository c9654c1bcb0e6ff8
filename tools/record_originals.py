"""Records what the model authors' own code answers on small random checkpoints; run in tox's `parity-models`.

    tox exec -e parity-models -- python tools/record_originals.py [NAME ...]

Without a name, all of them. The goldens land in `tests/models/golden_originals`; `tests/parity_models` checks that
they come out the same again.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

GOLDENS = Path(__file__).resolve().parents[1] / "tests" / "models" / "golden_originals"
RECORDERS = {
    "slava": "tools.originals.llava_phi:record",
    "llava-med": "tools.originals.llava_med:record_v15",
    "llava-med-v1": "tools.originals.llava_med:record_v1",
    "llava-rad": "tools.originals.llava_rad:record",
    "llm-cxr": "tools.originals.llm_cxr:record",
    "chexagent-2": "tools.originals.bridges:record_chexagent2",
    "chexagent": "tools.originals.bridges:record_chexagent",
    "maira-2": "tools.originals.bridges:record_maira2",
    "pixels": "tools.originals.pixels:record",
    "full-size": "tools.originals.full_size:record",
}


def recorder(name: str) -> Callable[[], dict[str, Any]]:
    """The function that runs the original of that name; imported only now, since each needs other packages."""
    module, function = RECORDERS[name].split(":")
    found: Callable[[], dict[str, Any]] = getattr(import_module(module), function)
    return found


def written(document: dict[str, Any]) -> str:
    """The golden as text: one line per top-level entry, short enough to keep in a repository."""
    lines = [f"{json.dumps(key)}: {json.dumps(value, separators=(',', ':'))}" for key, value in document.items()]
    return "{\n" + ",\n".join(lines) + "\n}\n"


def main() -> None:
    """Records the goldens named on the command line, or all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help=f"of: {', '.join(RECORDERS)}; default: all")
    names = parser.parse_args().names or list(RECORDERS)
    GOLDENS.mkdir(parents=True, exist_ok=True)
    for name in names:
        path = GOLDENS / f"{name}.json"
        path.write_text(written(recorder(name)()), encoding="utf-8")
        print(f"{name}: {path.stat().st_size / 1000:.1f} kB")


if __name__ == "__main__":
    main()
