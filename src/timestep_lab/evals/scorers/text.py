"""Scorers that look at the text of the answer."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import ClassVar, Literal

from timestep_lab.evals.datasets.case import Case
from timestep_lab.evals.scorers.base import Answer, Score, Scorer, ValueScorer, acceptable, passed, scorer
from timestep_lab.types.errors import UsageError


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
        text = fold(answer.output.lstrip(), self.case_sensitive)
        return passed(any(text.startswith(fold(w, self.case_sensitive)) for w in wanted))


@scorer("regex")
@dataclass(frozen=True, kw_only=True)
class Regex(Scorer):
    """A regular expression (Python's `re`) is found in the answer; with `full` it must match all of it."""

    main: ClassVar[str | None] = "pattern"
    pattern: str = ""
    full: bool = False

    def __post_init__(self) -> None:
        if not self.pattern:
            raise UsageError("The scorer regex needs a pattern.", "Write regex:^yes, for example.")
        try:
            re.compile(self.pattern)
        except re.error as error:
            raise UsageError(f"{self.pattern!r} is no regular expression: {error}.", "Correct it.") from error

    def check(self, answer: Answer, case: Case) -> Score:
        match = re.fullmatch if self.full else re.search
        return passed(match(self.pattern, answer.output.strip() if self.full else answer.output) is not None)


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
