"""How often, how long and how much the client may ask: retries, rates and budgets. Touches errors only.

Nothing here knows HTTP or a clock of its own: times are seconds of whatever clock the client runs on.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

from cxrbench.errors import CxrbenchError, Exit


@dataclass(frozen=True, slots=True)
class Policy:
    """How one endpoint is asked. Times in seconds.

    `timeout` is for one attempt, from the connection to the last byte. After a failed attempt the client waits
    `first_delay` times 2, 4, 8, ... up to `longest_delay`, each drawn between half and all of it, so that lanes that
    failed together do not come back together; a server's Retry-After is waited for instead, and up to `longest_wait`.
    `hopeless` requests without one answer in between, and the client takes the server for lost.
    """

    concurrency: int = 8
    timeout: float = 120.0
    connect: float = 10.0
    retries: int = 6
    first_delay: float = 0.5
    longest_delay: float = 60.0
    longest_wait: float = 300.0
    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None
    largest: int = 16 * 1024 * 1024
    hopeless: int = 20

    def __post_init__(self) -> None:
        rates = (self.requests_per_minute, self.tokens_per_minute)
        rules = (
            (self.concurrency >= 1, "concurrency must be at least 1"),
            (0 < self.timeout < math.inf, "timeout must be a positive number of seconds"),
            (self.retries >= 0, "retries must be 0 or more"),
            (0 <= self.first_delay < math.inf, "backoff must be 0 or more seconds"),
            (all(rate is None or 0 < rate < math.inf for rate in rates), "a rate per minute must be positive"),
        )
        for holds, what in rules:
            if not holds:
                raise CxrbenchError(what, where="settings of the server's client")

    def delay(self, attempt: int, draw: random.Random) -> float:
        """Seconds to wait after failed attempt number `attempt` (from 1)."""
        whole = min(self.longest_delay, self.first_delay * 2.0 ** min(attempt - 1, 60))
        return whole * draw.uniform(0.5, 1.0)


class Pace:
    """Starts are spread evenly: no more requests and tokens a minute than allowed, and no burst at its beginning."""

    def __init__(self, policy: Policy) -> None:
        self._per_request = 60.0 / policy.requests_per_minute if policy.requests_per_minute else 0.0
        self._per_token = 60.0 / policy.tokens_per_minute if policy.tokens_per_minute else 0.0
        self._free = -math.inf

    def turn(self, now: float, tokens: int) -> float:
        """Take the next place in the line; seconds to wait for it."""
        start = max(now, self._free)
        self._free = start + max(self._per_request, self._per_token * tokens)
        return start - now

    def correct(self, estimated: int, used: int) -> None:
        """Tokens turned out to be more or fewer than estimated."""
        self._free += self._per_token * (used - estimated)

    def hold(self, now: float, seconds: float) -> None:
        """Nobody starts for so long: the server asked for it."""
        self._free = max(self._free, now + seconds)


@dataclass(frozen=True, slots=True)
class Prices:
    """What a million tokens cost, in any one currency."""

    prompt: float = 0.0
    output: float = 0.0

    def cost(self, prompt: int, output: int) -> float:
        """Cost of so many tokens."""
        return (prompt * self.prompt + output * self.output) / 1e6


class Budget:
    """What may be spent by one process, and what was.

    `requests` counts every attempt, failed ones included: they may be charged. Before a request starts its estimated
    cost is set aside, so that requests in flight together stay within the budget; afterwards the server's own token
    counts take the estimate's place.
    """

    def __init__(
        self, max_requests: int | None = None, max_cost: float | None = None, prices: Prices | None = None
    ) -> None:
        if (max_requests is not None and max_requests < 1) or (max_cost is not None and not 0 < max_cost < math.inf):
            raise CxrbenchError("a budget must be positive", where="max_requests, max_cost")
        if max_cost is not None and prices is None:
            raise CxrbenchError(
                "max_cost needs the price of a million tokens",
                where="max_cost",
                fix="--set price_prompt=2.5 --set price_output=10",
            )
        self.max_requests = max_requests
        self.max_cost = max_cost
        self.prices = prices or Prices()
        self.requests = 0
        self.answered = 0
        self.prompt_tokens = 0
        self.output_tokens = 0
        self._under_way = 0
        self._set_aside = 0.0

    @property
    def cost(self) -> float:
        """Spent so far, in the currency of the prices."""
        return self.prices.cost(self.prompt_tokens, self.output_tokens)

    def waits(self, prompt: int, output: int) -> bool:
        """Whether a request may only start once others are settled, which may cost less than was set aside."""
        more = self.prices.cost(prompt, output)
        limit = self.max_cost
        return limit is not None and self.cost + more <= limit < self.cost + self._set_aside + more

    def admit(self, prompt: int, output: int) -> CxrbenchError | None:
        """Count a request that is about to start and set its cost aside, or say why it may not start."""
        more = self.prices.cost(prompt, output)
        if self.max_requests is not None and self.requests >= self.max_requests:
            return _spent(f"the budget of {self.max_requests} requests is spent")
        if self.max_cost is not None and self.cost + self._set_aside + more > self.max_cost:
            return _spent(f"the budget is spent: {self.cost:g} of {self.max_cost:g}, and the next may cost {more:g}")
        self.requests += 1
        self._under_way += 1
        self._set_aside += more
        return None

    def settle(self, prompt: int, output: int, used: tuple[int | None, int | None] | None) -> CxrbenchError | None:
        """Give back what was set aside and count the tokens `used` (prompt, output); None where there was no answer."""
        self._under_way -= 1
        # Exactly nothing when nobody is under way: a rounding error left over would be waited for without end.
        self._set_aside = self._set_aside - self.prices.cost(prompt, output) if self._under_way else 0.0
        if used is None:
            return None
        self.answered += 1
        self.prompt_tokens += used[0] or 0
        self.output_tokens += used[1] or 0
        if self.max_cost is not None and None in used:
            return CxrbenchError(
                "the server does not say how many tokens it used, so that max_cost cannot be kept",
                where="usage of its answer",
                fix="--set max_requests=N instead",
            )
        return None


def _spent(what: str) -> CxrbenchError:
    return CxrbenchError(
        what,
        where="max_requests, max_cost",
        fix="the same command goes on from here with a new budget",
        code=Exit.UNDECIDED,
    )
