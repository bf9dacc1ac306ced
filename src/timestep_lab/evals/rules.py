"""`--fail-under`: rules that a result must satisfy.

0.8                              every scorer's mean, for every candidate
exact>=0.8                       this scorer
openai/gpt-4.1:exact>=0.8        this candidate
exact.ci_low>=0.7                also .ci_low, .ci_high, .mean, .pass_at_k, .pass_hat_k
errors<=0   cost_usd<=1.5   latency_ms_p50<=2000

A call that failed counts as a miss: where the rule asks for at least so much it is a score of 0, where for at most so much of 1.
So a candidate that seldom answers does not pass on the few answers that came. An answer that could not be scored is neither passed nor
missed: a rule about a scorer holds only where at least the share `min_scored` of the answers (all of them, unless told otherwise) were
scored. A score on a scale of its own has no such end; with
failed calls it is unknown then, and a rule about what is unknown does not hold.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from timestep_lab.evals.results import mean_row
from timestep_lab.evals.scorers.registry import ASSERTIONS, OVERALL
from timestep_lab.evals.statistics.intervals import within_unit
from timestep_lab.model.arguments import did_you_mean
from timestep_lab.model.errors import UsageError

if TYPE_CHECKING:
    from timestep_lab.evals.grid import Grid
    from timestep_lab.model.comparison import CandidateRow

_RULE = re.compile(r"(?P<what>.+?)\s*(?P<op>>=|<=|>|<|==)\s*(?P<bound>-?\d+(?:\.\d+)?%?)")
_OPERATORS = {">=": operator.ge, "<=": operator.le, ">": operator.gt, "<": operator.lt, "==": operator.eq}
_NUMBERS = ("n", "errors", "cost_usd", "latency_ms_p50", "ttft_ms_p50", "input_tokens", "output_tokens")
_PARTS = ("mean", "ci_low", "ci_high", "pass_at_k", "pass_hat_k")


@dataclass(frozen=True, slots=True)
class RuleResult:
    rule: str
    candidate: str
    what: str
    value: float | None
    """None: it is not known, and the rule does not hold."""
    holds: bool
    failed: int = 0
    """Calls that failed and were counted as misses."""
    unscored: int = 0
    """Answers that the scorer could not score."""
    answers: int = 0
    min_scored: float = 1.0

    def __str__(self) -> str:
        value = "unknown" if self.value is None else f"{self.value:g}"
        calls = "call" if self.failed == 1 else "calls"
        missed = (
            f" with {self.failed} failed {calls} {'left out' if self.value is None else 'as misses'}"
            if self.failed
            else ""
        )
        if self.unscored:
            missed += f", {self.unscored} of {self.answers} answers not scored (at least {self.min_scored:.0%} must be)"
        return f"{self.candidate}: {self.what} is {value}{missed}; the rule {self.rule} {'holds' if self.holds else 'does not hold'}."


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule as it was read. `what` is None when it speaks of every scorer."""

    text: str
    what: str | None
    op: str
    bound: float


def read(text: str) -> Rule:
    """Raises `UsageError` for what is no rule."""
    rule = text.strip()
    bound = _bound(rule)
    if bound is not None:
        return Rule(rule, None, ">=", bound)
    match = _RULE.fullmatch(rule)
    bound = None if match is None else _bound(match["bound"])
    if match is None or bound is None:
        raise UsageError(f"{rule!r} is no rule.", "Write for example: 0.8, exact>=0.8, errors<=0", param="fail_under")
    return Rule(rule, match["what"], match["op"], bound)


def check(grid: Grid, rules: Sequence[str], min_scored: float = 1.0) -> list[RuleResult]:
    """One result a rule and candidate it speaks of. `min_scored`: the share of its answers that a scorer must have scored.

    Raises `UsageError` for a rule that cannot be read, or names what is not there.
    """
    if not 0.0 <= min_scored <= 1.0:
        raise UsageError(f"min_scored={min_scored!r} is not possible.", "Give a share from 0 to 1.", param="min_scored")
    return [
        _result(grid, rule, row, what, min_scored) for rule in map(read, rules) for row, what in _targets(grid, rule)
    ]


def refuse_unknown(grid: Grid, rules: Sequence[str]) -> None:
    """Raises what `check` would raise. A comparison that is ready to run has a grid without answers: it is enough."""
    for rule in map(read, rules):
        _targets(grid, rule)


def refuse_unscored(rules: Sequence[str], scorers: Sequence[str]) -> None:
    """Raises `UsageError` for a rule about something that none of the named scorers gives: all that can be said without candidates and cases."""
    for rule in map(read, rules):
        if rule.what is None:
            if not scorers:
                raise _no_scorer(rule)
        elif not any(_is_known([*scorers, ASSERTIONS, OVERALL], rest) for rest in _endings(rule.what)):
            raise _not_there(rule.what, scorers)


def _targets(grid: Grid, rule: Rule) -> list[tuple[CandidateRow, str]]:
    """Which number of which candidate it speaks of."""
    if rule.what is None:
        if not grid.scorers:
            raise _no_scorer(rule)
        return [(row, scorer) for row in grid.candidate_rows for scorer in grid.scorers]
    candidate, what = _whom(grid, rule.what)
    return [(row, what) for row in grid.candidate_rows if candidate is None or row.name == candidate]


def _no_scorer(rule: Rule) -> UsageError:
    return UsageError(
        f"The rule {rule.text} needs a scorer, and there is none.", "Add scorers, or name a number: errors<=0."
    )


def _not_there(what: str, scorers: Sequence[str]) -> UsageError:
    known = [*scorers, *_NUMBERS]
    return UsageError(
        f"The rule speaks of {what!r}, which is not there.{did_you_mean(what, known)}",
        f"Known: {', '.join(known)}, each also as candidate:…",
    )


def _bound(text: str) -> float | None:
    try:
        return float(text[:-1]) / 100.0 if text.endswith("%") else float(text)
    except ValueError:
        return None


def _whom(grid: Grid, what: str) -> tuple[str | None, str]:
    """Scorers and candidates may themselves hold colons: the longest candidate's name that fits is taken."""
    if _is_known(grid.scorers, what):
        return None, what
    for name in sorted(grid.candidates, key=len, reverse=True):
        if what.startswith(f"{name}:") and _is_known(grid.scorers, rest := what[len(name) + 1 :]):
            return name, rest
    raise _not_there(what, grid.scorers)


def _endings(what: str) -> list[str]:
    """The whole, and what stands after each of its colons."""
    return [what, *(what[place + 1 :] for place, letter in enumerate(what) if letter == ":")]


def _is_known(scorers: Sequence[str], what: str) -> bool:
    scorer, dot, part = what.rpartition(".")
    return what in scorers or what in _NUMBERS or (bool(dot) and scorer in scorers and part in _PARTS)


def _result(grid: Grid, rule: Rule, row: CandidateRow, what: str, min_scored: float) -> RuleResult:
    failed = unscored = 0
    value: float | None
    if what in _NUMBERS and what not in grid.scorers:
        value = getattr(row, what)
    else:
        scorer, part = (what, "mean") if what in grid.scorers else what.rpartition(".")[::2]
        value, failed = _with_misses(grid, row, scorer, _worst(rule)).get(part), row.errors
        unscored = int(row.scores[scorer].get("unscored") or 0)
    enough = row.n - unscored >= min_scored * row.n
    holds = value is not None and enough and _OPERATORS[rule.op](value, rule.bound)
    return RuleResult(rule.text, row.name, what, value, holds, failed, unscored, row.n, min_scored)


def _worst(rule: Rule) -> Literal[0, 1]:
    """The end of the scale that is farther from what the rule wants."""
    if rule.op == "==":
        return 0 if rule.bound >= 0.5 else 1
    return 0 if rule.op in (">=", ">") else 1


def _with_misses(grid: Grid, row: CandidateRow, scorer: str, worst: float) -> Mapping[str, float | None]:
    """`row.scores` of a scorer, failed calls being misses; empty where a miss is no number."""
    if not row.errors:
        return row.scores[scorer]
    scores = grid.tables.of(row.name, scorer).copy()
    if not within_unit(scores):
        return {}
    places = {case.case_id: place for place, case in enumerate(grid.cases)}
    for cell in grid.cells:
        if cell.candidate == row.name and cell.status == "error":
            scores[places[cell.case_id], cell.epoch] = worst
    return mean_row(scores, grid.groups)
