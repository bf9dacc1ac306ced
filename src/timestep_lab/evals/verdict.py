"""The outcome of a comparison in one accurate, quotable sentence."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from timestep_lab.evals.statistics.paired import LEAST_GRADED
from timestep_lab.model.comparison import CandidateRow, Outcome, PairRow, names_listed

FEW = 20
"""Below this number of cases, the sentence says that it describes only these cases."""


def verdict(
    pairs: Sequence[PairRow], candidates: Sequence[CandidateRow] = (), *, alpha: float = 0.05, tail: str = ""
) -> str:
    """For two candidates one sentence; for many, the leader, the ties and what would settle them, one line each; then
    failed calls, and `tail`. Empty without pairs."""
    if not pairs:
        return ""
    names = list(dict.fromkeys(name for pair in pairs for name in (pair.a, pair.b)))
    lines = [pair_sentence(pairs[0], alpha=alpha)] if len(pairs) == 1 else _of_many(pairs, names, alpha)
    last = " ".join(part for part in (failures(candidates), tail) if part)
    if len(pairs) == 1:
        return " ".join(part for part in (*lines, last) if part)
    return "\n".join(part for part in (*lines, last) if part)


def _of_many(pairs: Sequence[PairRow], names: Sequence[str], alpha: float) -> list[str]:
    """At most one line each: the leader, the candidates not significantly different from it, and what would settle
    that.
    """
    leader = max(names, key=lambda name: _ahead(pairs, name))
    mine = [_turned(pair, leader) for pair in pairs if leader in (pair.a, pair.b)]
    nothing = [pair.a for pair in mine if pair.n == 0 or math.isnan(pair.diff)]
    beaten = sorted((p for p in mine if is_settled(p, alpha=alpha) and p.diff > 0), key=lambda p: p.diff)
    open_ = sorted((p for p in mine if p not in beaten and p.a not in nothing), key=lambda p: p.diff)
    few = _few(max(pair.n for pair in mine))
    if beaten:
        nearest = beaten[0]
        whom = f"all {len(beaten)} others" if not open_ and not nothing else names_listed([p.a for p in beaten])
        next_one = f", the next one, {nearest.a}," if len(beaten) > 1 else ""
        low, high = nearest.ci_low, nearest.ci_high
        lead = (
            f"{few}{leader} leads on {nearest.scorer}: it beats {whom}{next_one} by {_amount(nearest.diff, nearest)}"
            f"{_interval(low, high, nearest)}; {nearest.decided_by} of {nearest.n} {_plural(nearest.n, 'case')} decided it."
        )
    elif open_:
        lead = f"{few}{leader} is ahead on {mine[0].scorer}, and beats none of the others." if open_[-1].diff > 0 else (
            f"{few}{names_listed(names)} are level on {mine[0].scorer}."
        )  # fmt: skip
    else:
        return [
            f"{names_listed(names)} have no case in common with a score for {mine[0].scorer}, so nothing can be said."
        ]
    lines = [lead]
    if open_ or nothing:
        undecided = [_tie(pair) for pair in open_] + [f"{name} (no case in common)" for name in nothing]
        lines.append(f"Not told apart from it: {names_listed(undecided)}.")
    if open_ and (settle := _settle(open_[0], open_[0].ci_low, open_[0].ci_high)):
        lines.append(f"{open_[0].a} is the nearest{settle}.")
    return lines


def _ahead(pairs: Sequence[PairRow], name: str) -> tuple[int, float]:
    """How many others it is ahead of, and the total difference."""
    diffs = [_turned(pair, name).diff for pair in pairs if name in (pair.a, pair.b) and not math.isnan(pair.diff)]
    return sum((diff > 0) - (diff < 0) for diff in diffs), sum(diffs)


def _turned(pair: PairRow, name: str) -> PairRow:
    """The pair oriented so that `name` is second."""
    if pair.b == name:
        return pair
    turned: dict[str, Outcome] = {
        "better": "worse",
        "worse": "better",
        "no worse": "no better",
        "no better": "no worse",
    }
    return replace(
        pair, a=pair.b, b=pair.a, diff=-pair.diff, ci_low=-pair.ci_high, ci_high=-pair.ci_low,
        outcome=turned.get(pair.outcome or "", pair.outcome),
    )  # fmt: skip


def _tie(pair: PairRow) -> str:
    """`B (3.2 points behind, 95 % CI −2.0 to 8.4)`, for a pair whose second candidate leads."""
    by = f"{_amount(pair.diff, pair)} behind" if pair.diff > 0 else "level"
    inside = f"{by}{_interval(pair.ci_low, pair.ci_high, pair).replace(' (', ', ').rstrip(')')}"
    no_worse = f"; not better by more than {_amount(pair.margin or 0.0, pair)}" if pair.outcome == "no worse" else ""
    return f"{pair.a} ({inside}{no_worse})"


def _few(n: int) -> str:
    """The prefix for few cases: they describe themselves rather than what users will ask."""
    return f"In {'this case' if n == 1 else f'these {n} cases'}, " if 0 < n < FEW else ""


def failures(candidates: Sequence[CandidateRow]) -> str:
    """`13 of 20 calls of A failed and are not in this.` Statistics use cases that both answered; empty if no call
    failed.
    """
    lost = [
        f"{row.errors} of {row.n + row.errors} {_plural(row.n + row.errors, 'call')} of {row.name}"
        for row in candidates
        if row.errors
    ]
    return (
        f"{' and '.join(lost)} failed and {'is' if sum(row.errors for row in candidates) == 1 else 'are'} not in this."
        if lost
        else ""
    )


def is_settled(pair: PairRow, *, alpha: float = 0.05) -> bool:
    """Whether one is better: the corrected test rejects, and the interval, if there is one, excludes zero."""
    if pair.looked is not None:
        return pair.outcome in ("better", "worse")
    return _p(pair) <= alpha and not pair.ci_low <= 0.0 <= pair.ci_high


def pair_sentence(pair: PairRow, *, alpha: float = 0.05) -> str:
    """`B beats A by 4.2 points on exact (95 % CI 1.1 to 7.3); 5 of 120 cases decided it.`

    "Beats" is used only if `is_settled`. Otherwise the sentence says how far ahead one is, and how many more cases
    would settle it with a power of 80 % if the true difference were the observed one. That is a forecast for planning a
    new comparison, not a promise (a test that is checked repeatedly rejects too often). Points are hundredths of a
    score from 0 to 1.
    """
    if pair.looked is not None and pair.n:
        return _watched_sentence(pair)
    if pair.n == 0 or math.isnan(pair.diff):
        return f"{pair.a} and {pair.b} have no case in common with a score for {pair.scorer}, so nothing can be said."
    ahead, behind = (pair.b, pair.a) if pair.diff >= 0 else (pair.a, pair.b)
    sign = 1 if pair.diff >= 0 else -1
    low, high = sorted((sign * pair.ci_low, sign * pair.ci_high))
    on, interval = f" on {pair.scorer}", _interval(low, high, pair)
    decided = f"{pair.decided_by} of {pair.n} {_plural(pair.n, 'case')} decided it"
    if pair.decided_by == 0:
        return f"{pair.a} and {pair.b} do not differ{on} in any of {pair.n} {_plural(pair.n, 'case')}{interval}."
    if is_settled(pair, alpha=alpha):
        return f"{_few(pair.n)}{ahead} beats {behind} by {_amount(abs(pair.diff), pair)}{on}{interval}; {decided}."
    tail = _settle(pair, low, high)
    if pair.diff == 0:
        return f"{pair.a} and {pair.b} are level{on}{interval}; {pair.decided_by} of {pair.n} cases differ{tail}."
    settled = ", which is not settled"
    if pair.outcome in ("no worse", "no better") and (pair.outcome == "no worse") == (ahead == pair.b):
        settled += f", but it is no worse by more than {_amount(pair.margin or 0.0, pair)}"
    elif pair.outcome in ("no worse", "no better"):
        settled += f", but {behind} is no worse by more than {_amount(pair.margin or 0.0, pair)}"
    return f"{_few(pair.n)}{ahead} is ahead of {behind} by {_amount(abs(pair.diff), pair)}{on}{interval}{settled}; {decided}{tail}."


def _watched_sentence(pair: PairRow) -> str:
    """The sentence for a comparison with early stopping: better, no worse by more than the margin, or not settled."""
    up = {"better": True, "worse": False, "no worse": True, "no better": False}.get(pair.outcome or "", pair.diff >= 0)
    one, other, sign = (pair.b, pair.a, 1) if up else (pair.a, pair.b, -1)
    low, high = sorted((sign * pair.ci_low, sign * pair.ci_high))
    evidence = f"{_interval(low, high, pair)}; {pair.decided_by} of {pair.n} {_plural(pair.n, 'case')} decided it"
    if pair.outcome in ("better", "worse"):
        return f"{_few(pair.n)}{one} beats {other} by {_amount(abs(pair.diff), pair)} on {pair.scorer}{evidence}."
    if pair.outcome in ("no worse", "no better"):
        allowed = _amount(pair.margin or 0.0, pair)
        return f"{one} is no worse than {other} by more than {allowed} on {pair.scorer}: its difference is {_signed(sign * pair.diff, pair)}{evidence}."
    if pair.decided_by == 0:
        return f"{pair.a} and {pair.b} do not differ on {pair.scorer} in any of {pair.n} {_plural(pair.n, 'case')}{_interval(low, high, pair)}, which is not settled."
    if pair.diff == 0:
        return f"{pair.a} and {pair.b} are level on {pair.scorer}, which is not settled{evidence}."
    return f"{one} is ahead of {other} by {_amount(abs(pair.diff), pair)} on {pair.scorer}, which is not settled{evidence}."


def _signed(diff: float, pair: PairRow) -> str:
    return ("+" if diff > 0 else "−" if diff < 0 else "") + _amount(abs(diff), pair)


def _settle(pair: PairRow, low: float, high: float) -> str:
    """What would settle the pair. `low` and `high`: the interval, from the perspective of the leader. The number of
    cases is proportional to one over the squared difference.
    """
    more = pair.cases_to_settle
    if more is None or math.isnan(pair.diff):
        return ""
    if more > 100_000:
        words = "more than 100,000 further cases are needed to tell them apart"
    elif more == 0:
        words = "as many new cases would settle it with 80 % power"
    else:
        words = f"about {_round(more):,} more {_plural(more, 'case')} would settle it with 80 % power"
        if not math.isnan(high):
            fewest = (pair.n + more) * (pair.diff / high) ** 2 - pair.n
            most = (
                "any number"
                if low <= 0
                else f"{_round(math.ceil((pair.n + more) * (pair.diff / low) ** 2) - pair.n):,}"
            )
            words += f" (from {_round(max(1, math.ceil(fewest))):,} to {most} within the interval)"
    return f"; if the true difference is as large as seen, {words}"


def _round(n: int) -> int:
    """Two significant digits, as precise as a forecast can be."""
    if n <= 0:
        return 0
    step = int(10 ** max(0, len(str(n)) - 2))
    return math.ceil(n / step) * step


def _interval(low: float, high: float, pair: PairRow) -> str:
    if math.isnan(low):
        if pair.looked is not None:
            return " (no interval yet)" if pair.looked < LEAST_GRADED else ""
        alike = pair.decided_by == pair.n > 1
        return " (no interval can be said: all cases differ by the same)" if alike else ""
    scale = 100 if pair.points else 1
    return f" ({100 * pair.level:g} % CI{' at every look' if pair.looked is not None else ''} {_number(low * scale)} to {_number(high * scale)})"


def _amount(diff: float, pair: PairRow) -> str:
    if not pair.points:
        return _number(diff)
    points = _number(diff * 100)
    return f"{points} {'point' if points == '1.0' else 'points'}"


def _number(value: float) -> str:
    text = f"{value:.1f}" if abs(value) >= 0.1 or value == 0 else f"{value:.2g}"
    return "0.0" if text == "-0.0" else text.replace("-", "−")


def _p(pair: PairRow) -> float:
    p = pair.p_value if pair.p_holm is None else pair.p_holm
    return 1.0 if p is None or math.isnan(p) else p


def _plural(n: int, word: str) -> str:
    return word if n == 1 else word + "s"
