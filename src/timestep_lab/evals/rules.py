"""`--fail-under` rules that a result must satisfy.

0.8                              every scorer's mean, for every candidate
exact>=0.8                       this scorer
openai/gpt-4.1:exact>=0.8        this candidate
exact.ci_low>=0.7                also .ci_low, .ci_high, .mean, .pass_at_k, .pass_hat_k
errors<=0   cost_usd<=1.5   latency_ms_p50<=2000

A failed call counts as the worst score: 0 in a rule with a lower bound, 1 in a rule with an upper bound, so a candidate
that rarely answers cannot pass on its few answers. Answers that could not be scored count as neither: a rule about a
scorer holds only if at least the fraction `min_scored` (default: all) of the answers were scored. A score on another
scale has no worst value; with failed calls it is unknown, and a rule about an unknown value does not hold.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Literal

import numpy as np

from timestep_lab.evals.results import ALPHA, MARGIN, mean_row
from timestep_lab.evals.scorers.registry import ASSERTIONS, OVERALL
from timestep_lab.evals.statistics.intervals import (
    Floats,
    Interval,
    beta_cdf,
    skewed_interval,
    t_cdf,
    t_interval,
    within_unit,
)
from timestep_lab.evals.statistics.paired import LEAST_GRADED, batch_size, holm, least_p, skew_rule_p
from timestep_lab.model.arguments import did_you_mean
from timestep_lab.model.comparison import CellRecord, DecisionRow, Measure, Outcome, PairRow
from timestep_lab.model.errors import UsageError

if TYPE_CHECKING:
    from timestep_lab.evals.grid import Grid
    from timestep_lab.model.comparison import CandidateRow


# --- Ratios of durations on the same cases. Times are positive and skewed, so they are compared as ratios


RESAMPLES = 2000


@dataclass(frozen=True, slots=True, kw_only=True)
class Ratio:
    """A ratio b / a with its interval. NaN if there is too little data."""

    n: int
    ratio: float
    interval: Interval
    p_value: float | None
    """None: only the interval is used."""
    test: str


def typical_ratio(a: Floats, b: Floats, level: float = 0.95) -> Ratio:
    """The geometric mean of the per-case ratios, with Student's t on their logarithms. The p-value is at least
    `least_p` of the number of cases.
    """
    logs = np.log(b / a)
    n = len(logs)
    if n < 2:
        return Ratio(n=n, ratio=math.nan, interval=Interval(math.nan, math.nan), p_value=None, test="t on logarithms")
    mean, sd = float(logs.mean()), float(logs.std(ddof=1))
    interval = t_interval(logs, level)
    p = 2.0 * t_cdf(-abs(mean) * math.sqrt(n) / sd, n - 1) if sd > 0 else float(mean == 0.0)
    return Ratio(
        n=n, ratio=math.exp(mean), interval=Interval(math.exp(interval.low), math.exp(interval.high)), p_value=max(p, least_p(n)),
        test="t on logarithms",
    )  # fmt: skip


def median_ratio(a: Floats, b: Floats, level: float = 0.95, *, seed: int = 0) -> Ratio:
    """The ratio of medians, by the estimator of Harrell & Davis (1982, Biometrika 69:635), with a paired percentile
    bootstrap of the logarithm."""
    n = len(a)
    if n < 6:
        return Ratio(n=n, ratio=math.nan, interval=Interval(math.nan, math.nan), p_value=None, test="paired bootstrap")
    weights = harrell_davis_weights(n, 0.5)

    def log_ratio(x: Floats, y: Floats) -> Floats:
        return np.asarray(np.log(np.sort(y) @ weights) - np.log(np.sort(x) @ weights))

    return _bootstrapped(a, b, log_ratio, level, seed)


def tail_ratio(a: Floats, b: Floats, level: float = 0.95, *, quantile: float = 0.95, seed: int = 0) -> Ratio:
    """The ratio of 95th percentiles, with a paired bootstrap. NaN below 72 cases, where the slowest 5 % may be missing
    entirely.
    """
    n = len(a)
    if n < LEAST_GRADED:
        return Ratio(n=n, ratio=math.nan, interval=Interval(math.nan, math.nan), p_value=None, test="paired bootstrap")

    def log_ratio(x: Floats, y: Floats) -> Floats:
        return np.asarray(np.log(np.quantile(y, quantile, axis=-1)) - np.log(np.quantile(x, quantile, axis=-1)))

    return _bootstrapped(a, b, log_ratio, level, seed)


def harrell_davis_weights(n: int, q: float) -> Floats:
    """Weights of the order statistics: the probability that a beta distribution with (n + 1)q and (n + 1)(1 − q)
    assigns to each interval of length 1/n.
    """
    edges = beta_cdf(np.arange(n + 1) / n, (n + 1) * q, (n + 1) * (1 - q))
    return np.asarray(np.diff(edges))


def _bootstrapped(
    a: Floats, b: Floats, log_ratio: Callable[[Floats, Floats], Floats], level: float, seed: int
) -> Ratio:
    n, generator = len(a), np.random.default_rng(seed)
    drawn = np.empty(RESAMPLES)
    step = batch_size(n)
    for start in range(0, RESAMPLES, step):
        stop = min(start + step, RESAMPLES)
        cases = generator.integers(0, n, (stop - start, n))
        drawn[start:stop] = log_ratio(a[cases], b[cases])
    low, high = np.exp(np.quantile(drawn, [0.5 - level / 2, 0.5 + level / 2]))
    return Ratio(
        n=n, ratio=float(np.exp(log_ratio(a, b))), interval=Interval(float(low), float(high)), p_value=None, test="paired bootstrap"
    )  # fmt: skip


# --- The decision table: every candidate relative to the first one in quality, cost and time: better, no worse, worse, or not settled


_QUANTILES: tuple[tuple[Measure, Callable[..., Ratio]], ...] = (("time p50", median_ratio), ("time p95", tail_ratio))


def decide(
    candidates: Sequence[str],
    cells: Sequence[CellRecord],
    pairs: Sequence[PairRow],
    *,
    margin: float | None = None,
    seed: int = 0,
) -> list[DecisionRow]:
    """Five rows per candidate other than the first: quality (from `pairs`), cost, and time by typical ratio, median and
    95th percentile.

    Cost is the mean difference per case, with the rule for skewed values. Each criterion is corrected by Holm over
    candidates. `margin` is also the relative increase of cost or time that counts as no worse.
    """
    if len(candidates) < 2:
        return []
    share = margin if margin is not None and 0 < margin < 1 else MARGIN
    reference, others = candidates[0], candidates[1:]
    quality = {pair.b: pair for pair in pairs if pair.a == reference}
    costs = _corrected([_cost(reference, name, cells, share) for name in others])
    times = _corrected([_time(reference, name, cells, share, "time", typical_ratio) for name in others])
    rows = []
    for name, cost, time in zip(others, costs, times, strict=True):
        rows += [*([_quality(quality[name])] if name in quality else []), cost, time]
        for measure, how in _QUANTILES:
            rows.append(_time(reference, name, cells, share, measure, partial(how, seed=seed)))
    return rows


def _quality(pair: PairRow) -> DecisionRow:
    outcome: Outcome | None = pair.outcome if pair.outcome != "no better" else "not settled"
    return DecisionRow(
        candidate=pair.b, reference=pair.a, measure="quality", outcome=outcome or "not settled", estimate=_known(pair.diff),
        ci_low=_known(pair.ci_low), ci_high=_known(pair.ci_high), unit="points" if pair.points else "score", n=pair.n,
        p_value=pair.p_value, p_holm=pair.p_holm, test=pair.test,
    )  # fmt: skip


def _cost(reference: str, name: str, cells: Sequence[CellRecord], share: float) -> DecisionRow:
    a, b = _both(reference, name, cells, lambda cell: cell.cost_usd)
    row = DecisionRow(
        candidate=name, reference=reference, measure="cost", outcome="not settled", estimate=None, ci_low=None, ci_high=None, unit="usd",
        n=len(a), p_value=None, p_holm=None, test="skew-corrected t",
    )  # fmt: skip
    if len(a) == 0:
        return row
    differences = b - a
    if not differences.any():
        return replace(row, outcome="no worse", estimate=0.0, ci_low=0.0, ci_high=0.0, test="all alike")
    interval = skewed_interval(differences)
    p, dearer = skew_rule_p(differences), skew_rule_p(b - (1 + share) * a)
    # No worse: even if it costs more, by less than this fraction of the reference's cost.
    no_worse = skewed_interval(b - (1 + share) * a).high < 0 and dearer <= ALPHA
    return replace(
        row, outcome="no worse" if no_worse else "not settled", estimate=float(differences.mean()), ci_low=_known(interval.low),
        ci_high=_known(interval.high), p_value=_known(p),
    )  # fmt: skip


def _time(
    reference: str, name: str, cells: Sequence[CellRecord], share: float, measure: Measure, how: Callable[[Floats, Floats], Ratio],
) -> DecisionRow:  # fmt: skip
    a, b = _both(
        reference, name, cells, lambda cell: cell.latency_ms if cell.latency_ms and cell.latency_ms > 0 else None
    )
    ratio = how(a, b)
    low, high = ratio.interval.low, ratio.interval.high
    outcome: Outcome = "no worse" if high < 1 + share and (ratio.p_value is None or ratio.n >= 6) else "not settled"
    if ratio.p_value is None:
        outcome = "better" if high < 1 else "worse" if low > 1 else outcome
    return DecisionRow(
        candidate=name, reference=reference, measure=measure, outcome=outcome, estimate=_known(ratio.ratio), ci_low=_known(low),
        ci_high=_known(high), unit="ratio", n=ratio.n, p_value=ratio.p_value, p_holm=None, test=ratio.test,
    )  # fmt: skip


def _corrected(rows: Sequence[DecisionRow]) -> list[DecisionRow]:
    """Rows with Holm-corrected p-values over candidates; better or worse if the test rejects and the interval agrees."""
    adjusted = holm([math.nan if row.p_value is None else row.p_value for row in rows])
    corrected = []
    for row, p in zip(rows, adjusted, strict=True):
        level = 1.0 if row.unit == "ratio" else 0.0
        if p <= ALPHA and row.ci_high is not None and row.ci_low is not None:
            outcome = "better" if row.ci_high < level else "worse" if row.ci_low > level else row.outcome
            row = replace(row, outcome=outcome)
        corrected.append(replace(row, p_holm=_known(p)))
    return corrected


def _both(
    reference: str, name: str, cells: Sequence[CellRecord], number: Callable[[CellRecord], float | None]
) -> tuple[Floats, Floats]:
    """Means over epochs on the cases that both candidates answered."""
    known: dict[str, dict[str, list[float]]] = {reference: {}, name: {}}
    for cell in cells:
        if cell.candidate in known and cell.status == "done" and (value := number(cell)) is not None:
            known[cell.candidate].setdefault(cell.case_id, []).append(value)
    shared = [case for case in known[reference] if case in known[name]]
    a, b = (np.array([np.mean(known[who][case]) for case in shared]) for who in (reference, name))
    return a, b


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value


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
    """None: unknown, so the rule does not hold."""
    holds: bool
    failed: int = 0
    """Failed calls that were counted as the worst score."""
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
    """A parsed rule. `what` is None if it applies to every scorer."""

    text: str
    what: str | None
    op: str
    bound: float


def read(text: str) -> Rule:
    """Parse a rule. Raises `UsageError`."""
    rule = text.strip()
    bound = _bound(rule)
    if bound is not None:
        return Rule(rule, None, ">=", bound)
    match = _RULE.fullmatch(rule)
    bound = None if match is None else _bound(match["bound"])
    if match is None or bound is None:
        raise UsageError(
            f"{rule!r} is not a rule.", "Write for example: 0.8, exact>=0.8, errors<=0", param="fail_under"
        )
    return Rule(rule, match["what"], match["op"], bound)


def check(grid: Grid, rules: Sequence[str], min_scored: float = 1.0) -> list[RuleResult]:
    """One result per rule and candidate. `min_scored`: the fraction of answers that a scorer must have scored.

    Raises `UsageError` for an invalid rule, or an unknown candidate, scorer or number.
    """
    if not 0.0 <= min_scored <= 1.0:
        raise UsageError(
            f"min_scored={min_scored!r} is out of range.", "Use a fraction from 0 to 1.", param="min_scored"
        )
    return [
        _result(grid, rule, row, what, min_scored) for rule in map(read, rules) for row, what in _targets(grid, rule)
    ]


def refuse_unknown(grid: Grid, rules: Sequence[str]) -> None:
    """Raises what `check` would raise. A grid without answers, of a comparison that is ready to run, is sufficient."""
    for rule in map(read, rules):
        _targets(grid, rule)


def refuse_unscored(rules: Sequence[str], scorers: Sequence[str]) -> None:
    """Raises `UsageError` for a rule about a scorer that is not given: the check that is possible without candidates
    and cases.
    """
    for rule in map(read, rules):
        if rule.what is None:
            if not scorers:
                raise _no_scorer(rule)
        elif not any(_is_known([*scorers, ASSERTIONS, OVERALL], rest) for rest in _endings(rule.what)):
            raise _not_there(rule.what, scorers)


def _targets(grid: Grid, rule: Rule) -> list[tuple[CandidateRow, str]]:
    """The candidates and numbers that a rule applies to."""
    if rule.what is None:
        if not grid.scorers:
            raise _no_scorer(rule)
        return [(row, scorer) for row in grid.candidate_rows for scorer in grid.scorers]
    candidate, what = _whom(grid, rule.what)
    return [(row, what) for row in grid.candidate_rows if candidate is None or row.name == candidate]


def _no_scorer(rule: Rule) -> UsageError:
    return UsageError(
        f"The rule {rule.text} needs a scorer, and there is none.", "Add scorers, or use a number such as errors<=0."
    )


def _not_there(what: str, scorers: Sequence[str]) -> UsageError:
    known = [*scorers, *_NUMBERS]
    return UsageError(
        f"The rule refers to {what!r}, which does not exist.{did_you_mean(what, known)}",
        f"Known: {', '.join(known)}, each also as candidate:…",
    )


def _bound(text: str) -> float | None:
    try:
        return float(text[:-1]) / 100.0 if text.endswith("%") else float(text)
    except ValueError:
        return None


def _whom(grid: Grid, what: str) -> tuple[str | None, str]:
    """Split into candidate and number. Scorers and candidates may contain colons: the longest matching candidate name
    is used.
    """
    if _is_known(grid.scorers, what):
        return None, what
    for name in sorted(grid.candidates, key=len, reverse=True):
        if what.startswith(f"{name}:") and _is_known(grid.scorers, rest := what[len(name) + 1 :]):
            return name, rest
    raise _not_there(what, grid.scorers)


def _endings(what: str) -> list[str]:
    """The whole text, and what follows each of its colons."""
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
    """The end of the scale that is worst for the rule."""
    if rule.op == "==":
        return 0 if rule.bound >= 0.5 else 1
    return 0 if rule.op in (">=", ">") else 1


def _with_misses(grid: Grid, row: CandidateRow, scorer: str, worst: float) -> Mapping[str, float | None]:
    """`row.scores` of a scorer with failed calls counted as the worst score; empty if that is not a number."""
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
