"""What a run used and cost, over all its parts, and the limits that it may not pass."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextvars import ContextVar
from typing import TYPE_CHECKING

from agents import RunContextWrapper

from timestep_lab.model.errors import BudgetError
from timestep_lab.model.records import RunRecord, Usage

if TYPE_CHECKING:
    from timestep_lab.runtime.run_request import RunLimits
    from timestep_lab.runtime.tracing import Route


def counted(wrapper: RunContextWrapper[object]) -> Usage:
    """The tokens that the SDK counted for one run of its own."""
    said = wrapper.usage
    into, out = said.input_tokens_details, said.output_tokens_details
    return Usage(
        requests=said.requests,
        input_tokens=said.input_tokens,
        output_tokens=said.output_tokens,
        cached_tokens=into.cached_tokens or 0,
        cache_write_tokens=getattr(into, "cache_write_tokens", 0) or 0,
        reasoning_tokens=out.reasoning_tokens or 0,
    )


def cost_so_far(before: RunRecord, usage: Usage, costs: Sequence[float | None]) -> float | None:
    """USD of the run's earlier parts and of `costs`, the generations of this one; None unless every price is known.

    `before` is the run's row as it was when this part began, `usage` what all parts used.
    """
    earlier = before.cost_usd if before.usage.requests else 0.0
    known = [cost for cost in costs if cost is not None]
    if earlier is None or not known or len(known) < usage.requests - before.usage.requests:
        return None
    return earlier + sum(known)


class LimitWatch:
    """Says when a run has reached a limit. `run` is its row as it was when this part began, `seconds` what it had worked until then."""

    def __init__(self, limits: RunLimits, run: RunRecord, route: Route, seconds: float = 0.0) -> None:
        self._limits, self._run, self._route = limits, run, route
        self._seconds, self._began = seconds, time.perf_counter()
        self.tool_calls = 0

    @property
    def seconds(self) -> float:
        """So long the run has worked, over all its parts."""
        return self._seconds + time.perf_counter() - self._began

    @property
    def seconds_left(self) -> float | None:
        """None without a limit."""
        return None if self._limits.timeout_s is None else max(0.0, self._limits.timeout_s - self.seconds)

    def check(self) -> None:
        """Before anything that costs. Raises `BudgetError`."""
        if error := self.passed():
            raise error

    def passed(self, *, at_all: bool = False) -> BudgetError | None:
        """The limit in tokens or money that the answers so far have used up; `at_all`: only one that they went over."""
        usd, most = self._limits.budget_usd, self._limits.max_tokens_total
        before = self._run.usage
        tokens = before.input_tokens + before.output_tokens + self._route.tokens
        if most is not None and (tokens > most or (tokens == most and not at_all)):
            return _stopped(f"it used {tokens:,} tokens of {most:,}", "max_tokens_total")
        if usd is None:
            return None
        costs = [self._run.cost_usd if before.requests else 0.0, *self._route.costs]
        if None in costs:
            return _stopped("what an answer cost is not known", "budget_usd")
        spent = sum(cost for cost in costs if cost is not None)
        if spent > usd or (spent == usd and not at_all):
            return _stopped(f"it used ${spent:.4g} of ${usd:.4g}", "budget_usd")
        return None

    def tool_call(self) -> None:
        """One more begins. Raises `BudgetError` when there may be no more."""
        most = self._limits.max_tool_calls
        if most is not None and self.tool_calls >= most:
            raise _stopped(f"it wanted to call a tool once more than {most} times", "max_tool_calls")
        self.tool_calls += 1

    def time_is_up(self) -> BudgetError:
        return _stopped(f"it worked for {self._limits.timeout_s:g} s", "timeout_s")


def _stopped(why: str, limit: str) -> BudgetError:
    return BudgetError(
        f"The run was stopped: {why}.", f"What was said is kept. Run on in its thread, or allow more: {limit}=…",
        code=limit,
    )  # fmt: skip


WATCH: ContextVar[LimitWatch | None] = ContextVar("timestep_lab_limits", default=None)
"""Of the run that goes on in this task, for models that an agent asks inside of a tool."""
