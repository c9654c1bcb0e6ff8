"""A judge behind an OpenAI-compatible server: `openai:MODEL`. The guard is asked when it is made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from cxrbench.http import Call, Client, Server, encode
from cxrbench.http_answer import REJECTED, Answer
from cxrbench.http_endpoint import Endpoint
from cxrbench.http_limits import Budget, Policy
from cxrbench.judges.ask import Answered, Prompt, Reply

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
        structured: whether a rubric's JSON schema is sent; `auto` finds out with the first prompt.
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
        self._takes_schema = {"auto": None, "yes": True, "no": False}[structured]
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

    def stopped(self) -> str:
        return self._stopped

    def ask(self, prompts: Sequence[Prompt], answered: Answered) -> None:
        client = Client(self.endpoint, self.policy, self.budget, self._key)
        with Server(client) as server:
            waiting = list(range(len(prompts)))
            if self._takes_schema is None and prompts[0].rubric.schema_sent is not None:
                self._try_schema(server, prompts, waiting, answered)
            calls = (self._call(prompts[number]) for number in waiting)
            server.each(calls, lambda place, answer: answered(waiting[place], self._reply(answer)))
        if client.stopped is not None:
            self._stopped = client.stopped.what

    def _try_schema(self, server: Server, prompts: Sequence[Prompt], waiting: list[int], answered: Answered) -> None:
        """Ask the first prompt with its schema; a server that rejects it is asked without from then on."""
        self._takes_schema = True
        (answer,) = server.ask_all([self._call(prompts[0])])
        if answer.outcome == REJECTED:
            self._takes_schema = False
        else:
            if not answer.answered:
                self._takes_schema = None
            waiting.remove(0)
            answered(0, self._reply(answer))

    def _call(self, prompt: Prompt) -> Call:
        settings = dict(prompt.settings)
        longest = settings.pop("max_tokens")
        body: dict[str, Any] = {
            "model": self.model,
            "messages": [{"role": role, "content": content} for role, content in prompt.messages],
            self.limit_key: longest,
            **settings,
        }
        schema = prompt.rubric.schema_sent
        if schema is not None and self._takes_schema is not False:
            body["response_format"] = _response_format(prompt.rubric.name, schema)
        sent = encode(body)
        return Call(sent, len(sent) // BYTES_PER_TOKEN, longest)

    def _reply(self, answer: Answer) -> Reply:
        text = answer.text if answer.answered else None
        cost = None
        if self.budget.prices.prompt or self.budget.prices.output:
            cost = self.budget.prices.cost(answer.prompt_tokens or 0, answer.output_tokens or 0)
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
        )


def _response_format(name: str, output: Mapping[str, Any]) -> dict[str, Any]:
    """A schema that says what is in the object is sent; any object at all is JSON mode."""
    if "properties" not in output:
        return {"type": "json_object"}
    schema = {"name": name.replace("-", "_"), "strict": True, "schema": output}
    return {"type": "json_schema", "json_schema": schema}
