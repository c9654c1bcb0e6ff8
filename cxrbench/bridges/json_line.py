"""One row of a predictions file (JSONL), letters as they are."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from cxrbench.errors import CxrbenchError


def json_line(row: Mapping[str, Any], where: str) -> bytes:
    """The row in UTF-8 with its line end.

    Raises:
        CxrbenchError: half of a surrogate pair, which UTF-8 has no bytes for and no predictions file may hold.
    """
    try:
        return (json.dumps(row, ensure_ascii=False) + "\n").encode()
    except UnicodeEncodeError:
        raise CxrbenchError("a text holds half of a surrogate pair, which is no character", where=where) from None
