"""A judge behind an OpenAI-compatible server: `openai:MODEL`. The guard is asked when it is made."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

from cxrbench.errors import CxrbenchError, Exit
from cxrbench.http import NOBODY, Call, Client, Server, encode
from cxrbench.http_answer import NO_ANSWER, REJECTED, Answer
from cxrbench.http_endpoint import UNKNOWN, Endpoint
from cxrbench.http_limits import Budget, Policy
from cxrbench.judges.ask import Answered, Prompt, Reply
from cxrbench.judges.rubric import Rubric

Structured = Literal["auto", "yes", "no"]
BYTES_PER_TOKEN = 3
"""For estimates of a prompt's tokens: on the safe side of the four or so that English has."""


class ServerJudge:
    """See `cxrbench.judges.ask.Asker`.

    Args:
        model: the server's name for it.
        endpoint: made by `open_endpoint`, so the guard has been asked.
        policy: concurrency, timeouts, retries, rates.
        budget: shared by everything this judge is asked.
        key: sent as the server wants it; None for none.
        structured: whether a rubric's JSON schema is sent; `auto` finds out with the first prompt of each rubric, and
            keeps to what answers are there already.
        limit_key: how the server calls the length cap.
        revision: what the user knows the served model by; part of every key.
    """

    keeps = True

    def __init__(
        self,
        model: str,
        endpoint: Endpoint,
        policy: Policy | None = None,
        budget: Budget | None = None,
        key: str | None = None,
        structured: Structured = "auto",
        limit_key: str = "max_tokens",
        revision: str = "",
    ) -> None:
        self.model = model
        self.endpoint = endpoint
        self.policy = policy or Policy()
        self.budget = budget or Budget()
        self.limit_key = limit_key
        self.revision = revision
        self.structured = structured
        self._key = key
        self._takes: dict[str, bool] = {}
        self._stopped = ""

    @property
    def name(self) -> str:
        return f"openai:{self.model}"

    def identity(self) -> Mapping[str, Any]:
        return {
            "endpoint": self.endpoint.url,
            "model": self.model,
            "revision": self.revision,
            "structured": self.structured,
        }

    def ways(self, rubric: Rubric) -> list[Mapping[str, Any]]:
        """With the schema, without it, or the one that is known or was asked for; a rubric without one has one way."""
        takes = self._takes_schema(rubric)
        return [self._way(sent=each) for each in ((True, False) if takes is None else (takes,))]

    def settle(self, rubric: Rubric, who: Mapping[str, Any]) -> None:
        self._takes[rubric.hash] = who["structured"] == "yes"

    def _way(self, *, sent: bool) -> Mapping[str, Any]:
        return {**self.identity(), "structured": "yes" if sent else "no"}

    def _takes_schema(self, rubric: Rubric) -> bool | None:
        """Whether the schema is sent; None while that is to be found out. Servers differ by the form of a schema."""
        if self.structured == "no" or rubric.schema_sent is None:
            return False
        return True if self.structured == "yes" else self._takes.get(rubric.hash)

    def stopped(self) -> str:
        return self._stopped

    def workers(self, most: int) -> int:
        """As many as there are connections. A budget is kept by one process: no worker knows what others have spent."""
        limited = self.budget.max_requests is not None or self.budget.max_cost is not None
        return 0 if limited else min(most, self.policy.concurrency)

    def divided(self, rank: int, world: int) -> ServerJudge:
        whole = self.policy
        lanes, further = divmod(whole.concurrency, world)
        requests, tokens = (
            None if rate is None else rate / world for rate in (whole.requests_per_minute, whole.tokens_per_minute)
        )
        policy = replace(
            whole, concurrency=lanes + (rank < further), requests_per_minute=requests, tokens_per_minute=tokens
        )
        structured = self.structured
        return ServerJudge(
            self.model, self.endpoint, policy, self.budget, self._key, structured, self.limit_key, self.revision
        )

    def ask(self, prompts: Sequence[Prompt], answered: Answered) -> None:
        client = Client(self.endpoint, self.policy, self.budget, self._key)
        with Server(client) as server:
            away = _unreachable(server)
            if away:  # the same for every prompt: nobody waits through the retries of twenty of them
                self._stopped = away
                for number in range(len(prompts)):
                    answered(number, Reply(NO_ANSWER, detail=f"{NO_ANSWER}: not asked: {away}"))
                return
            waiting = list(range(len(prompts)))
            if self._takes_schema(prompts[0].rubric) is None:
                self._try_schema(server, prompts[0], lambda reply: answered(0, reply))
                waiting.remove(0)
            sent = self._takes_schema(prompts[0].rubric) is not False
            calls = (self._call(prompts[number], sent=sent) for number in waiting)
            server.each(calls, lambda place, answer: answered(waiting[place], self._reply(answer, sent=sent)))
        if client.stopped is not None:
            # Why stands in the failure of every call that was not made: what is to be done stands beside it.
            self._stopped = client.stopped.fix or client.stopped.what

    def _try_schema(self, server: Server, prompt: Prompt, answered: Callable[[Reply], None]) -> None:
        """Ask a prompt with its schema; where only that is rejected, the schema is what is not taken."""
        for sent in (True, False):
            (answer,) = server.ask_all([self._call(prompt, sent=sent)])
            if answer.answered:
                self._takes[prompt.rubric.hash] = sent
            if answer.outcome != REJECTED:
                break
        answered(self._reply(answer, sent=sent))

    def _call(self, prompt: Prompt, *, sent: bool) -> Call:
        settings = dict(prompt.settings)
        longest = settings.pop("max_tokens")
        body: dict[str, Any] = {
            "model": self.model,
            "messages": [{"role": role, "content": content} for role, content in prompt.messages],
            self.limit_key: longest,
            **settings,
        }
        schema = prompt.rubric.schema_sent
        if schema is not None and sent:
            body["response_format"] = _response_format(prompt.rubric.name, schema)
        encoded = encode(body)
        return Call(encoded, len(encoded) // BYTES_PER_TOKEN, longest)

    def _reply(self, answer: Answer, *, sent: bool) -> Reply:
        text = answer.text if answer.answered else None
        cost, (prompt, output) = None, (answer.prompt_tokens, answer.output_tokens)
        # Of tokens nobody counted the price is not known, which is not nothing.
        if (self.budget.prices.prompt or self.budget.prices.output) and prompt is not None and output is not None:
            cost = self.budget.prices.cost(prompt, output)
        return Reply(
            outcome=answer.outcome,
            text=text,
            finish_reason=answer.finish_reason,
            prompt_tokens=answer.prompt_tokens,
            output_tokens=answer.output_tokens,
            cost=cost,
            seconds=answer.ended - answer.begun,
            attempts=answer.attempts,
            model=answer.model,
            fingerprint=answer.fingerprint,
            body=answer.body,
            detail=f"{answer.outcome}: {answer.detail}" if answer.detail else answer.outcome,
            who=self._way(sent=sent),
        )


def _unreachable(server: Server) -> str:
    """Why nothing can be asked; found out by asking for the list of models, which sends no data."""
    try:
        server.models()
    except CxrbenchError as error:
        lost = error.code == Exit.INFRASTRUCTURE
        if lost and not any(reason in error.what for reason in (NOBODY, UNKNOWN)):
            return ""  # somebody is there who has no list of models: the prompts will tell
        return f"{error.what} ({error.fix})" if error.fix else error.what
    return ""


def _response_format(name: str, output: Mapping[str, Any]) -> dict[str, Any]:
    """A schema that says what is in the object is sent; any object at all is JSON mode."""
    if "properties" not in output:
        return {"type": "json_object"}
    schema = {"name": name.replace("-", "_"), "strict": True, "schema": output}
    return {"type": "json_schema", "json_schema": schema}
