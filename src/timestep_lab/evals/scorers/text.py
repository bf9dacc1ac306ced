"""Scorers that look at the text of the answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from timestep_lab.evals.datasets.case import Case
from timestep_lab.evals.scorers.base import (
    Answer,
    Score,
    Scorer,
    ValueScorer,
    acceptable,
    passed,
    scorer,
    unknown,
)
from timestep_lab.evals.scorers.bounded import Deadline, TooSlowError, compile_pattern
from timestep_lab.types.errors import UsageError

EMPTY = "the expected answer is empty, as it is in a CSV without one; every answer would pass"


@scorer("exact")
@dataclass(frozen=True, kw_only=True)
class Exact(ValueScorer):
    """The answer is the expected text, white space around it aside. With several expected texts, one of them."""

    case_sensitive: bool = True

    def check(self, answer: Answer, case: Case) -> Score:
        wanted = acceptable(self.value, case)
        if isinstance(wanted, Score):
            return wanted
        return passed(
            fold(answer.output.strip(), self.case_sensitive) in [fold(w.strip(), self.case_sensitive) for w in wanted]
        )


@scorer("contains")
@dataclass(frozen=True, kw_only=True)
class Contains(ValueScorer):
    """The answer contains the expected text: any of several, or with `all` every one."""

    case_sensitive: bool = False
    all: bool = False

    def check(self, answer: Answer, case: Case) -> Score:
        wanted = acceptable(self.value, case)
        if isinstance(wanted, Score):
            return wanted
        if "" in wanted:
            return unknown(EMPTY)
        text = fold(answer.output, self.case_sensitive)
        found = [fold(w, self.case_sensitive) in text for w in wanted]
        return passed(all(found) if self.all else any(found))


@scorer("starts_with")
@dataclass(frozen=True, kw_only=True)
class StartsWith(ValueScorer):
    """The answer begins with the expected text."""

    case_sensitive: bool = True

    def check(self, answer: Answer, case: Case) -> Score:
        wanted = acceptable(self.value, case)
        if isinstance(wanted, Score):
            return wanted
        if "" in wanted:
            return unknown(EMPTY)
        text = fold(answer.output.lstrip(), self.case_sensitive)
        return passed(any(text.startswith(fold(w, self.case_sensitive)) for w in wanted))


@scorer("regex")
@dataclass(frozen=True, kw_only=True)
class Regex(Scorer):
    """A regular expression (as Python's `re` reads it) is found in the answer; with `full` it must match all of it.

    One that looks for more than a second is given up and scores nothing.
    """

    main: ClassVar[str | None] = "pattern"
    pattern: str = ""
    full: bool = False

    def __post_init__(self) -> None:
        if not self.pattern:
            raise UsageError("The scorer regex needs a pattern.", "Write regex:^yes, for example.")
        compile_pattern(self.pattern)

    def check(self, answer: Answer, case: Case) -> Score:
        text = answer.output.strip() if self.full else answer.output
        try:
            return passed(Deadline().find(self.pattern, text, full=self.full))
        except TooSlowError as error:
            return unknown(str(error))


@scorer("fuzzy")
@dataclass(frozen=True, kw_only=True)
class Fuzzy(ValueScorer):
    """How alike answer and expected text are, from 0 to 1 (RapidFuzz); with `at_least`, whether they are that alike."""

    how: Literal["ratio", "partial_ratio", "token_sort_ratio", "token_set_ratio"] = "ratio"
    case_sensitive: bool = False
    at_least: float | None = None

    def check(self, answer: Answer, case: Case) -> Score:
        from rapidfuzz import fuzz

        wanted = acceptable(self.value, case)
        if isinstance(wanted, Score):
            return wanted
        text = fold(answer.output.strip(), self.case_sensitive)
        best = max(getattr(fuzz, self.how)(text, fold(w.strip(), self.case_sensitive)) for w in wanted) / 100.0
        return Score(best) if self.at_least is None else passed(best >= self.at_least, f"{best:.2f} alike")


@scorer("edit_distance")
@dataclass(frozen=True, kw_only=True)
class EditDistance(ValueScorer):
    """At most so many letters must be added, removed or changed to make the answer the expected text (Levenshtein)."""

    at_most: int = 5

    def check(self, answer: Answer, case: Case) -> Score:
        from rapidfuzz.distance import Levenshtein

        wanted = acceptable(self.value, case)
        if isinstance(wanted, Score):
            return wanted
        nearest = min(Levenshtein.distance(answer.output.strip(), w.strip()) for w in wanted)
        return passed(nearest <= self.at_most, f"{nearest} edits")


def fold(text: str, case_sensitive: bool) -> str:
    """The text as it is, or without its case."""
    return text if case_sensitive else text.casefold()
