"""From what the user names to a judge: `openai:MODEL`, `local:DIR`, `replay:FILE`, with settings and rubrics."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cxrbench.errors import CxrbenchError, suggest
from cxrbench.http_endpoint import open_endpoint, read_key
from cxrbench.http_limits import Budget, Policy, Prices
from cxrbench.judges.ask import Asker
from cxrbench.judges.engine import Judge
from cxrbench.judges.local import LocalJudge, Opener
from cxrbench.judges.replay import ReplayJudge
from cxrbench.judges.rubric import FOLDER, Rubric, built_in, check_shown, read_rubric
from cxrbench.judges.server import ServerJudge
from cxrbench.types import Access

ENGINE = "engine"
SETTINGS: Mapping[str, str] = {
    ENGINE: "of a local judge: transformers (the usual one), slots or vllm",
    "key_env": "the environment variable that holds the key; without it none is sent",
    "revision": "what you know the served model by; another one is another judge",
    "structured": "auto, yes, no: whether the rubric's JSON schema is sent",
    "limit_key": "how the server calls the length cap: max_tokens or max_completion_tokens",
    "concurrency": "requests under way at once (8)",
    "timeout": "seconds for one attempt (120)",
    "retries": "further attempts after a failed one (6)",
    "backoff": "seconds before the first of them (0.5)",
    "requests_per_minute": "at most so many",
    "tokens_per_minute": "at most about so many",
    "price_prompt": "price of a million prompt tokens",
    "price_output": "price of a million answer tokens",
}
KEY_HINT = "--judge-set key_env=NAME names the environment variable that holds the key"
FORMS = "openai:MODEL with --judge-url, local:DIR, or replay:FILE"


@dataclass(frozen=True, slots=True)
class Wish:
    """What a command line says of a judge."""

    name: str
    url: str | None = None
    repeats: int = 1
    rubrics: tuple[Path, ...] = ()
    max_requests: int | None = None
    max_cost: float | None = None
    settings: Mapping[str, str] | None = None


def build(wish: Wish, access: Access, trusted: Mapping[str, str], device: str, opener: Opener) -> Judge:
    """Make the judge; nothing is sent and no model is loaded.

    Args:
        wish: what the user asked for.
        access: of the data that will be judged.
        trusted: `Config.trusted_endpoints`.
        device: of a local judge.
        opener: opens the folder of a local judge; `engines.chat.Chat`.

    Raises:
        CxrbenchError: a judge or a setting that is not known, a URL the guard refuses, a rubric that is wrong.
    """
    if wish.repeats < 1:
        raise CxrbenchError("there must be at least one repeat", where=f"--judge-repeats {wish.repeats}")
    return Judge(_asker(wish, access, trusted, device, opener), wish.repeats, _rubrics(wish.rubrics))


def _asker(wish: Wish, access: Access, trusted: Mapping[str, str], device: str, opener: Opener) -> Asker:
    kind, _, argument = wish.name.partition(":")
    if kind not in ("openai", "local", "replay") or not argument:
        raise CxrbenchError(f"{wish.name!r} is no judge", where="--judge", fix=FORMS)
    settings = wish.settings or {}
    for name in settings:
        if name not in SETTINGS:
            raise CxrbenchError(
                f"the setting {name!r} is not known{suggest(name, SETTINGS)}",
                where="--judge-set",
                fix=f"one of: {', '.join(SETTINGS)}",
            )
    if kind != "local" and ENGINE in settings:
        raise CxrbenchError(f"--judge {kind}: has no engine", where="--judge-set engine=", fix="leave it out")
    if kind == "openai":
        return _server(argument, wish, settings, access, trusted)
    given = {"--judge-url": wish.url, "--max-requests": wish.max_requests, "--max-cost": wish.max_cost}
    given |= {f"--judge-set {name}": value for name, value in settings.items() if name != ENGINE}
    for flag, value in given.items():
        if value is not None:
            raise CxrbenchError(f"{flag} is for a judge behind a server", where=flag, fix="leave it out")
    if kind == "local":
        return LocalJudge(Path(argument), settings.get(ENGINE, "transformers"), device, opener)
    return ReplayJudge(Path(argument))


def _server(
    model: str, wish: Wish, settings: Mapping[str, str], access: Access, trusted: Mapping[str, str]
) -> ServerJudge:
    if wish.url is None:
        raise CxrbenchError(
            "a judge behind a server needs its URL", where="--judge-url", fix="--judge-url http://127.0.0.1:8000/v1"
        )
    structured = settings.get("structured", "auto")
    limit_key = settings.get("limit_key", "max_tokens")
    if structured not in ("auto", "yes", "no"):
        raise CxrbenchError(f"structured cannot be {structured!r}", where="--judge-set", fix="auto, yes or no")
    if limit_key not in ("max_tokens", "max_completion_tokens"):
        raise CxrbenchError(
            f"{limit_key!r} is no name of a length cap",
            where="--judge-set limit_key=",
            fix="max_tokens or max_completion_tokens",
        )
    usual = Policy()
    policy = Policy(
        concurrency=int(_number(settings, "concurrency", usual.concurrency)),
        timeout=_number(settings, "timeout", usual.timeout),
        retries=int(_number(settings, "retries", usual.retries)),
        first_delay=_number(settings, "backoff", usual.first_delay),
        requests_per_minute=_maybe(settings, "requests_per_minute"),
        tokens_per_minute=_maybe(settings, "tokens_per_minute"),
    )
    prompt, output = _maybe(settings, "price_prompt"), _maybe(settings, "price_output")
    if wish.max_cost is not None and (prompt is None or output is None):
        raise CxrbenchError(
            "--max-cost needs the price of a million tokens",
            where="--max-cost",
            fix="--judge-set price_prompt=2.5 --judge-set price_output=10",
        )
    prices = Prices(prompt or 0.0, output or 0.0) if prompt is not None or output is not None else None
    return ServerJudge(
        model=model,
        endpoint=open_endpoint(wish.url, access, trusted, KEY_HINT),
        policy=policy,
        budget=Budget(wish.max_requests, wish.max_cost, prices),
        key=read_key(settings["key_env"]) if "key_env" in settings else None,
        structured="auto" if structured == "auto" else "yes" if structured == "yes" else "no",
        limit_key=limit_key,
        revision=settings.get("revision", ""),
    )


def _number(settings: Mapping[str, str], name: str, usual: float) -> float:
    found = _maybe(settings, name)
    return usual if found is None else found


def _maybe(settings: Mapping[str, str], name: str) -> float | None:
    if name not in settings:
        return None
    try:
        value = float(settings[name])
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf or (name in ("concurrency", "retries") and value != int(value)):
        raise CxrbenchError(f"{name} cannot be {settings[name]!r}", where="--judge-set", fix=SETTINGS[name])
    return value


def _rubrics(files: Sequence[Path]) -> dict[str, Rubric]:
    """The user's rubrics by the name of the built-in one they replace.

    Raises:
        CxrbenchError: one replaces none, two replace the same, or one does not show what is judged.
    """
    known = sorted(file.stem for file in FOLDER.glob("*.yaml"))
    found: dict[str, Rubric] = {}
    for file in files:
        rubric = read_rubric(file)
        if rubric.name not in known:
            raise CxrbenchError(
                f"no rubric of cxrbench is called {rubric.name!r}{suggest(rubric.name, known)}",
                where=f"--rubric {file}",
                fix=f"name: one of {', '.join(known)}; a rubric of your own is a metric: --metrics judge:{file}",
            )
        if rubric.name in found:
            raise CxrbenchError(f"two rubrics replace {rubric.name}", where=f"--rubric {file}")
        check_shown(rubric, built_in(rubric.name).slots - {"reference"}, file)
        found[rubric.name] = rubric
    return found
