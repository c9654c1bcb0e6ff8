"""Recorded responses as a judge: `replay:FILE`, a JSONL file with one response per line.

    {"sample_id": "s1", "rubric": "green", "text": "[Explanation]: ..."}

`repeat` (default 0) and `part` (default "") tell responses of one sample apart, `rubric` may be left out where the file
holds those of one rubric only. Nothing is asked, and what the file does not hold is a failure.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cxrbench.errors import CxrbenchError
from cxrbench.http_answer import NO_ANSWER
from cxrbench.judges.ask import Answered, Prompt, Reply
from cxrbench.types import OK

_KEYS = {"sample_id", "text", "rubric", "repeat", "part"}
_Place = tuple[str, str, int, str]


class ReplayJudge:
    """See `cxrbench.judges.ask.Asker`."""

    keeps = False

    def __init__(self, file: Path) -> None:
        self.file = file
        try:
            body = file.read_bytes()
            lines = body.decode("utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            said = error.strerror if isinstance(error, OSError) else "not UTF-8"
            raise CxrbenchError(f"the recorded responses cannot be read: {said}", where=str(file)) from error
        self._hash = hashlib.sha256(body).hexdigest()[:8]
        self._texts: dict[_Place, str] = {}
        for number, line in enumerate(lines, start=1):
            if line.strip():
                self._keep(line, f"{file}, line {number}")

    def _keep(self, line: str, where: str) -> None:
        try:
            row = json.loads(line)
            strange = set(row) - _KEYS
            place = (row["sample_id"], row.get("rubric", ""), row.get("repeat", 0), row.get("part", ""))
            text = row["text"]
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            strange, place, text = set(), ("", "", 0, ""), None
        right = isinstance(text, str) and [type(each) for each in place] == [str, str, int, str] and place[0]
        if strange or not right:
            said = f"the key {sorted(strange)[0]!r} is not known" if strange else "the line is no recorded response"
            raise CxrbenchError(said, where=where, fix='{"sample_id": ..., "text": ...}, further keys: docs/judges.md')
        if place in self._texts:
            raise CxrbenchError("the same response is recorded twice", where=where, fix="keep one of the lines")
        self._texts[place] = text

    @property
    def name(self) -> str:
        return f"replay:{self.file.name}"

    def identity(self) -> Mapping[str, Any]:
        return {"endpoint": "replay", "model": self.file.name, "revision": self._hash}

    def stopped(self) -> str:
        return ""

    def ask(self, prompts: Sequence[Prompt], answered: Answered) -> None:
        for number, prompt in enumerate(prompts):
            answered(number, self._reply(prompt))

    def _reply(self, prompt: Prompt) -> Reply:
        for sample_id in prompt.sample_ids:
            for rubric in (prompt.rubric.name, ""):
                text = self._texts.get((sample_id, rubric, prompt.repeat, prompt.part))
                if text is not None:
                    return Reply(OK, text, finish_reason="stop")
        return Reply(NO_ANSWER, detail="no response is recorded for it")
