"""Results of before: read back, and the parts of one experiment put together. Standard library only."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cxrbench.errors import CxrbenchError


def read_result(file: Path) -> dict[str, Any]:
    """What `cxrbench throughput -o FILE.json` wrote.

    Raises:
        CxrbenchError: it is no such file.
    """
    try:
        result = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise CxrbenchError(f"cannot be read: {error.strerror}", where=str(file)) from error
    except ValueError as error:
        raise CxrbenchError("this is no JSON", where=str(file), fix="a file that -o FILE.json wrote") from error
    if not isinstance(result, dict) or result.get("kind") != "throughput" or "machine" not in result:
        raise CxrbenchError(
            "this is no result of `cxrbench throughput`", where=str(file), fix="a file that -o FILE.json wrote"
        )
    return result


def joined(results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The parts of one experiment as one result, each part's machine and rules under `parts`.

    Every ratio stays what it was within its own session: nothing is compared across parts.

    Raises:
        CxrbenchError: they are of several experiments, versions of cxrbench or devices, or measured something twice.
    """
    first, *others = results
    if not others:
        return dict(first)
    for other in others:
        for what, of in (("experiment", _name), ("version of cxrbench", _version), ("device", _device)):
            if of(other) != of(first):
                raise CxrbenchError(
                    f"they are no parts of one result: {what} {of(first)} and {of(other)}",
                    where="--from",
                    fix="one --from at a time",
                )
    seen: set[Any] = set()
    for result in results:
        for name in [_session(entry) for entry in result["modes"]] + [each["name"] for each in result["anatomies"]]:
            if name in seen:
                raise CxrbenchError(f"{name} was measured in two of them", where="--from", fix="leave one out")
            seen.add(name)
    counts = [len(result["modes"]) for result in results]
    of_modes = [each for result, count in zip(results, counts, strict=True) for each in result["sessions"][:count]]
    of_chains = [each for result, count in zip(results, counts, strict=True) for each in result["sessions"][count:]]
    parts = [{"machine": each["machine"], "rules": each["rules"], "images": each["images"]} for each in results]
    return {
        **first,
        "complete": all(result.get("complete", True) for result in results),
        "warnings": list(dict.fromkeys(line for result in results for line in result["warnings"])),
        "modes": [entry for result in results for entry in result["modes"]],
        "anatomies": [entry for result in results for entry in result["anatomies"]],
        "sessions": [*of_modes, *of_chains],
        "parts": parts,
    }


def _name(result: Mapping[str, Any]) -> str:
    return str(result["name"])


def _version(result: Mapping[str, Any]) -> str:
    return str(result["cxrbench"])


def _device(result: Mapping[str, Any]) -> str:
    machine = result["machine"]
    return str(machine.get("gpu") or machine.get("device"))


def _session(entry: Mapping[str, Any]) -> str:
    return f"{entry['mode']}, batch {entry['arms'][0]['batch']}"


def blocks_told(result: Mapping[str, Any]) -> str:
    """How many blocks each configuration had at least, over all parts."""
    counts = {part["rules"]["blocks"] for part in result.get("parts", (result,))}
    return f"{min(counts)} blocks of each configuration or more"
