"""Scorers that hold an answer to a limit of time or money. A measure that is unknown passes and fails nobody."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from timestep_lab.evals.datasets.case import Case
from timestep_lab.evals.scorers.base import Answer, Score, Scorer, passed, scorer, unknown
from timestep_lab.model.errors import UsageError
from timestep_lab.model.numbers import cost_text, duration_text


@scorer("latency")
@dataclass(frozen=True, kw_only=True)
class Latency(Scorer):
    """The answer was whole within `at_most_ms`; with `first_token`, had begun by then."""

    main: ClassVar[str | None] = "at_most_ms"
    at_most_ms: float | None = None
    first_token: bool = False

    def __post_init__(self) -> None:
        if self.at_most_ms is None:
            raise UsageError("The scorer latency needs a limit in milliseconds.", "Write latency:2000, for example.")

    def check(self, answer: Answer, case: Case) -> Score:
        took = answer.ttft_ms if self.first_token else answer.latency_ms
        if took is None or self.at_most_ms is None:
            return unknown("the time is not known")
        return passed(took <= self.at_most_ms, duration_text(took))


@scorer("cost")
@dataclass(frozen=True, kw_only=True)
class Cost(Scorer):
    """The answer cost at most `at_most_usd`."""

    main: ClassVar[str | None] = "at_most_usd"
    at_most_usd: float | None = None

    def __post_init__(self) -> None:
        if self.at_most_usd is None:
            raise UsageError("The scorer cost needs a limit in US dollars.", "Write cost:0.01, for example.")

    def check(self, answer: Answer, case: Case) -> Score:
        if answer.cost_usd is None or self.at_most_usd is None:
            return unknown("the price of this model is not known")
        return passed(answer.cost_usd <= self.at_most_usd, cost_text(answer.cost_usd))


@scorer("tokens")
@dataclass(frozen=True, kw_only=True)
class Tokens(Scorer):
    """The answer took at most so many output tokens."""

    main: ClassVar[str | None] = "at_most"
    at_most: int | None = None

    def __post_init__(self) -> None:
        if self.at_most is None:
            raise UsageError("The scorer tokens needs a limit.", "Write tokens:300, for example.")

    def check(self, answer: Answer, case: Case) -> Score:
        if answer.output_tokens is None or self.at_most is None:
            return unknown("the number of tokens is not known")
        return passed(answer.output_tokens <= self.at_most, f"{answer.output_tokens} tokens")
