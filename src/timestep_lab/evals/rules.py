"""`--fail-under`: rules that a result must satisfy.

0.8                              every scorer's mean, for every candidate
exact>=0.8                       this scorer
openai/gpt-4.1:exact>=0.8        this candidate
exact.ci_low>=0.7                also .ci_low, .ci_high, .mean, .pass_at_k, .pass_hat_k
errors<=0   cost_usd<=1.5   latency_ms_p50<=2000
"""

from __future__ import annotations

import operator
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from timestep_lab.types.errors import UsageError
from timestep_lab.types.suggest import did_you_mean

if TYPE_CHECKING:
    from timestep_lab.evals.grid import Grid
    from timestep_lab.types.comparison import CandidateRow

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

    def __str__(self) -> str:
        value = "unknown" if self.value is None else f"{self.value:g}"
        return f"{self.candidate}: {self.what} is {value}; the rule {self.rule} {'holds' if self.holds else 'does not hold'}."


def check(grid: Grid, rules: Sequence[str]) -> list[RuleResult]:
    """One result a rule and candidate it speaks of. Raises `UsageError` for a rule that cannot be read, or names what is not there."""
    return [result for rule in rules for result in _check_one(grid, rule.strip())]


def _check_one(grid: Grid, rule: str) -> list[RuleResult]:
    bound = _bound(rule)
    if bound is not None:
        if not grid.scorers:
            raise UsageError(
                f"The rule {rule} needs a scorer, and there is none.", "Add scorers, or name a number: errors<=0."
            )
        return [_result(rule, row, scorer, ">=", bound) for row in grid.candidate_rows for scorer in grid.scorers]
    match = _RULE.fullmatch(rule)
    if match is None:
        raise UsageError(f"{rule!r} is no rule.", "Write for example: 0.8, exact>=0.8, errors<=0")
    bound = _bound(match["bound"])
    assert bound is not None
    candidate, what = _whom(grid, match["what"])
    rows = [row for row in grid.candidate_rows if candidate is None or row.name == candidate]
    return [_result(rule, row, what, match["op"], bound) for row in rows]


def _bound(text: str) -> float | None:
    try:
        return float(text[:-1]) / 100.0 if text.endswith("%") else float(text)
    except ValueError:
        return None


def _whom(grid: Grid, what: str) -> tuple[str | None, str]:
    """Scorers and candidates may themselves hold colons: the longest candidate's name that fits is taken."""
    if _is_known(grid, what):
        return None, what
    for name in sorted(grid.candidates, key=len, reverse=True):
        if what.startswith(f"{name}:") and _is_known(grid, rest := what[len(name) + 1 :]):
            return name, rest
    known = [*grid.scorers, *_NUMBERS]
    raise UsageError(
        f"The rule speaks of {what!r}, which is not there.{did_you_mean(what, known)}",
        f"Known: {', '.join(known)}, each also as candidate:…",
    )


def _is_known(grid: Grid, what: str) -> bool:
    scorer, dot, part = what.rpartition(".")
    return what in grid.scorers or what in _NUMBERS or (bool(dot) and scorer in grid.scorers and part in _PARTS)


def _result(rule: str, row: CandidateRow, what: str, op: str, bound: float) -> RuleResult:
    if what in row.scores:
        value = row.scores[what].get("mean")
    elif what in _NUMBERS:
        value = getattr(row, what)
    else:
        scorer, _, part = what.rpartition(".")
        value = row.scores[scorer].get(part)
    return RuleResult(rule, row.name, what, value, value is not None and bool(_OPERATORS[op](value, bound)))
