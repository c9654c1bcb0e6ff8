"""The `--set` keys of engine `openai`: where the server is, how it is asked, what may be spent. Asks the guard."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from cxrbench.errors import CxrbenchError
from cxrbench.http_endpoint import Endpoint, open_endpoint, read_key
from cxrbench.http_limits import Budget, Policy, Prices
from cxrbench.models.base import ModelOptions

_T = TypeVar("_T")

SETTINGS: Mapping[str, str] = {
    "url": "the server: http://127.0.0.1:8000/v1, unix:/run/server.sock, https://HOST/v1",
    "served": "the name the server knows the model by (openai:NAME and hf:DIR: what follows the colon)",
    "key_env": "the environment variable that holds the key; without it none is sent",
    "concurrency": "requests under way at once (8)",
    "timeout": "seconds for one attempt (120)",
    "retries": "further attempts after a failed one (6)",
    "backoff": "seconds before the first of them, doubled from one to the next (0.5)",
    "requests_per_minute": "at most so many",
    "tokens_per_minute": "at most about so many, prompt and answer together",
    "max_requests": "stop after so many requests, failed ones included",
    "max_cost": "stop before more is spent, in the currency of the prices",
    "price_prompt": "price of a million prompt tokens",
    "price_output": "price of a million answer tokens",
    "limit_key": "how the server calls the length cap: max_tokens (the default) or max_completion_tokens",
    "max_side": "bring images down to so many pixels on their longer side (as they are by default)",
}

KEY_HINT = "--set key_env=NAME names the environment variable that holds the key"


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """What `--set` says of a server. The key is in no repr."""

    endpoint: Endpoint
    model: str
    policy: Policy
    budget: Budget
    key: str | None = field(repr=False)
    limit_key: str
    max_side: int | None


def read_settings(options: ModelOptions) -> ServerSettings:
    """Read the keys of `SETTINGS`.

    Raises:
        CxrbenchError: no URL, one the guard refuses, a value of the wrong kind, or an option that means nothing here.
    """
    _refuse_local(options)
    extra = options.extra
    if "url" not in extra:
        raise CxrbenchError(
            "engine openai needs the URL of a server", where="--set url=", fix="--set url=http://127.0.0.1:8000/v1"
        )
    endpoint = open_endpoint(extra["url"], options.access, options.trusted_endpoints, KEY_HINT)
    model = extra.get("served", options.argument)
    if not model:
        raise CxrbenchError(
            "the server's name for the model is not known", where="--set served=", fix="--set served=NAME"
        )
    limit_key = extra.get("limit_key", "max_tokens")
    if limit_key not in ("max_tokens", "max_completion_tokens"):
        raise CxrbenchError(
            f"{limit_key!r} is no name of a length cap",
            where="--set limit_key=",
            fix="max_tokens or max_completion_tokens",
        )
    side = _whole(extra, "max_side", None)
    return ServerSettings(
        endpoint=endpoint,
        model=model,
        policy=_policy(extra),
        budget=_budget(extra),
        key=read_key(extra["key_env"]) if "key_env" in extra else None,
        limit_key=limit_key,
        max_side=side,
    )


def _refuse_local(options: ModelOptions) -> None:
    for value, name in (
        (options.dtype, "--dtype"),
        (options.device, "--device"),
        (options.load_format, "--load-format"),
    ):
        if value != "auto":
            raise CxrbenchError(f"{name} is the server's to choose", where=f"{name} {value}", fix="leave it out")


def _policy(extra: Mapping[str, str]) -> Policy:
    usual = Policy()
    return Policy(
        concurrency=_whole(extra, "concurrency", usual.concurrency),
        timeout=_number(extra, "timeout", usual.timeout),
        retries=_whole(extra, "retries", usual.retries, least=0),
        first_delay=_number(extra, "backoff", usual.first_delay, zero=True),
        requests_per_minute=_number(extra, "requests_per_minute", None),
        tokens_per_minute=_number(extra, "tokens_per_minute", None),
    )


def _budget(extra: Mapping[str, str]) -> Budget:
    prompt = _number(extra, "price_prompt", None, zero=True)
    output = _number(extra, "price_output", None, zero=True)
    prices = Prices(prompt, output) if prompt is not None and output is not None else None
    return Budget(_whole(extra, "max_requests", None), _number(extra, "max_cost", None), prices)


def _whole(extra: Mapping[str, str], key: str, usual: _T, *, least: int = 1) -> int | _T:
    text = extra.get(key)
    if text is None:
        return usual
    if not (text.isascii() and text.isdecimal()) or int(text) < least:
        raise CxrbenchError(f"{key} must be a whole number from {least}, not {text!r}", where=f"--set {key}=")
    return int(text)


def _number(extra: Mapping[str, str], key: str, usual: _T, *, zero: bool = False) -> float | _T:
    text = extra.get(key)
    if text is None:
        return usual
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (0 < value < math.inf or (zero and value == 0)):
        raise CxrbenchError(f"{key} must be a positive number, not {text!r}", where=f"--set {key}=")
    return value
