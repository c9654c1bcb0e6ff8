"""What a server said, read strictly: an answer, or a failure with a name. Touches errors and types only.

A response is an answer only if it has the whole shape of a chat completion; anything else is never a text and never a
score. No body of a failed response is kept or quoted: servers repeat prompts and keys in their messages. Of a server's
error codes the known ones below are understood, others are passed over.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any

from cxrbench.errors import CxrbenchError, Exit
from cxrbench.types import EMPTY, OK

REFUSED = "refused"
TOO_LONG = "prompt_too_long"
REJECTED = "engine_error"
NO_ANSWER = "no_answer"

_AGAIN = frozenset({408, 409, 425, 429, *range(500, 600)})
"""Statuses after which the same request may succeed."""

_FATAL: Mapping[int, tuple[str, str]] = {
    401: ("the server refuses the key, or wants one", ""),
    403: ("the server forbids this key, or this machine, to ask", ""),
    404: (
        "the server knows no such path, or no model of this name",
        "check the URL (does it end in /v1?) and the model",
    ),
    405: ("the server takes no chat completions at this path", "check the URL (does it end in /v1?)"),
}
"""Statuses that every further request would meet as well; without what to do: how a key is given."""

_TOO_LONG_CODES = frozenset({"context_length_exceeded", "string_above_max_length"})
_REFUSED_CODES = frozenset({"content_filter", "content_policy_violation", "ResponsibleAIPolicyViolation"})
_FINISH = {"stop": "stop", "length": "length", "content_filter": "content_filter", None: "none"}
_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._/:@+-]{0,119}")


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of one request.

    `outcome` is ok, empty or a key of `types.FAILURES`; `text` is there for ok and empty only. `model` and
    `fingerprint` are what the server calls itself, `body` the response as it came, to be stored raw. `begun` and
    `ended` are readings of `time.perf_counter` around the attempt that was answered, of which `attempts` is the number.
    `detail` explains a failure in our own words.
    """

    outcome: str
    text: str | None = None
    finish_reason: str = "error"
    prompt_tokens: int | None = None
    output_tokens: int | None = None
    model: str | None = None
    fingerprint: str | None = None
    body: bytes | None = None
    begun: float = 0.0
    ended: float = 0.0
    attempts: int = 0
    detail: str | None = None

    @property
    def answered(self) -> bool:
        """Whether the server gave a text, an empty one included."""
        return self.outcome in (OK, EMPTY)


@dataclass(frozen=True, slots=True)
class Trouble:
    """An attempt that failed: `again` after `wait` seconds (None: as the policy says), or with `fatal` never more."""

    detail: str
    outcome: str = NO_ANSWER
    again: bool = True
    wait: float | None = None
    fatal: CxrbenchError | None = None


class _Malformed(Exception):  # noqa: N818 - never leaves this module
    """The response is not a chat completion; the argument says what is wrong with it."""


def read_response(
    status: int, headers: Mapping[str, str], body: bytes, now: float, key_hint: str = ""
) -> Answer | Trouble:
    """Read one response.

    Args:
        status: HTTP status.
        headers: with names in lower case.
        body: as it came, not compressed.
        now: Unix time, for a Retry-After that is a date.
        key_hint: how the user gives a key, see `http_endpoint.Endpoint`.
    """
    if status == 200:
        try:
            return _completion(body)
        except _Malformed as error:
            return Trouble(f"the server's answer is not a chat completion: {error}")
    if 300 <= status < 400:
        fatal = CxrbenchError(
            f"the server redirects (HTTP {status}), which cxrbench never follows",
            where="the endpoint's URL",
            fix="give the URL the server really answers at",
        )
        return Trouble(fatal.what, fatal=fatal)
    codes = _error_codes(body)
    if status == 429 and "insufficient_quota" in codes:
        fatal = CxrbenchError("the account's quota is spent (HTTP 429)", where="the server", code=Exit.UNDECIDED)
        return Trouble(fatal.what, fatal=fatal)
    if status in _FATAL:
        what, fix = _FATAL[status]
        fatal = CxrbenchError(f"{what} (HTTP {status})", where="the endpoint", fix=fix or key_hint)
        return Trouble(fatal.what, fatal=fatal)
    if status in _AGAIN:
        return Trouble(f"HTTP {status}", wait=retry_after(headers, now))
    return _rejected(status, codes)


def _rejected(status: int, codes: frozenset[str]) -> Trouble:
    """The server understood and will not: no second attempt would end otherwise."""
    if codes & _TOO_LONG_CODES:
        return Trouble(f"HTTP {status}: longer than the model's context", TOO_LONG, again=False)
    if codes & _REFUSED_CODES:
        return Trouble(f"HTTP {status}: withheld by the server's content filter", REFUSED, again=False)
    return Trouble(f"HTTP {status}: the server rejects the request", REJECTED, again=False)


def _error_codes(body: bytes) -> frozenset[str]:
    """Values of `code` and `type` in an error body, inner errors included; what has another shape gives none."""
    try:
        error = _json(body)
    except _Malformed:
        return frozenset()
    found = set()
    for _ in range(3):
        error = error.get("error") or error.get("innererror") if isinstance(error, dict) else None
        if not isinstance(error, dict):
            break
        found |= {error[key] for key in ("code", "type") if isinstance(error.get(key), str)}
        error = {"error": error.get("innererror")}
    return frozenset(found)


def _json(body: bytes) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        raise _Malformed("no JSON") from None


def _completion(body: bytes) -> Answer:
    made = _object(_json(body), "the body")
    choices = made.get("choices")
    if not isinstance(choices, list) or len(choices) != 1:
        raise _Malformed("not exactly one choice")
    choice = _object(choices[0], "the choice")
    message = _object(choice.get("message"), "the message")
    reason = choice.get("finish_reason")
    if not isinstance(reason, str | None) or reason not in _FINISH:
        raise _Malformed("a finish reason other than stop and length")
    prompt, output = _usage(made.get("usage"))
    text, refusal = _text(message.get("content")), _text(message.get("refusal"))
    outcome, detail = OK if text.strip() else EMPTY, None
    if refusal or reason == "content_filter":
        outcome, detail = REFUSED, "the model declined" if refusal else "withheld by the server's content filter"
    return Answer(
        outcome=outcome,
        text=None if outcome == REFUSED else text.strip(),
        finish_reason="error" if outcome == REFUSED else _FINISH[reason],
        prompt_tokens=prompt,
        output_tokens=output,
        model=_label(made.get("model")),
        fingerprint=_label(made.get("system_fingerprint")),
        body=body,
        detail=detail,
    )


def _object(value: Any, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _Malformed(f"{what} is not an object")
    return value


def _text(value: Any) -> str:
    """A text that can be written as UTF-8; null is none."""
    if not isinstance(value, str | None):
        raise _Malformed("the content is not a text")
    try:
        (value or "").encode()
    except UnicodeEncodeError:
        raise _Malformed("the content is not Unicode") from None
    return value or ""


def _usage(value: Any) -> tuple[int | None, int | None]:
    """Prompt and output tokens; None where the server counts none."""
    if value is None:
        return None, None
    counts = [_object(value, "the usage").get(name) for name in ("prompt_tokens", "completion_tokens")]
    for count in counts:
        if count is not None and (type(count) is not int or count < 0):
            raise _Malformed("a token count is not a number")
    return counts[0], counts[1]


def _label(value: Any) -> str | None:
    """What a server calls itself, if it reads like a name: it is written into the run folder."""
    return value if isinstance(value, str) and _WORD.fullmatch(value) else None


def model_names(body: bytes) -> tuple[str, ...] | None:
    """Names of a model list; None where the body is none."""
    try:
        rows = _object(_json(body), "the body").get("data")
    except _Malformed:
        return None
    if not isinstance(rows, list):
        return None
    return tuple(name for row in rows if isinstance(row, dict) and (name := _label(row.get("id"))))


def retry_after(headers: Mapping[str, str], now: float) -> float | None:
    """Seconds the server asks to wait: `retry-after-ms`, or `retry-after` as seconds or as a date; None without.

    >>> retry_after({"retry-after": "2"}, 0.0), retry_after({"retry-after": "soon"}, 0.0)
    (2.0, None)
    """
    for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        text = headers.get(name, "").strip()
        if re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", text):
            return float(text) * unit
    try:
        return max(0.0, parsedate_to_datetime(headers["retry-after"]).timestamp() - now)
    except (KeyError, ValueError, TypeError, OverflowError):
        return None
