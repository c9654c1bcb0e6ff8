"""One row of a JSONL file of predictions: letters as they are, and valid UTF-8 whatever a model wrote."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any


def json_line(row: Mapping[str, Any]) -> bytes:
    """The row and its line end; half a surrogate pair, which UTF-8 has no bytes for, is escaped.

    >>> json_line({"a": "é"}), json_line({"a": chr(0xD800)})
    (b'{"a": "\\xc3\\xa9"}\\n', b'{"a": "\\\\ud800"}\\n')
    """
    try:
        return (json.dumps(row, ensure_ascii=False) + "\n").encode()
    except UnicodeEncodeError:
        return (json.dumps(row) + "\n").encode()
