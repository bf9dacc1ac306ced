"""The outcome of a comparison in one sentence that a hurried reader may quote without being wrong."""

from __future__ import annotations

import math
from collections.abc import Sequence

from timestep_lab.evals.statistics.paired import LEAST_GRADED
from timestep_lab.types.comparison import CandidateRow, PairRow


def verdict(
    pairs: Sequence[PairRow], candidates: Sequence[CandidateRow] = (), *, alpha: float = 0.05, tail: str = ""
) -> str:
    """One sentence for each pair of candidates, the clearest result first; then which of the candidates' calls failed, and `tail`. Empty
    without pairs."""
    if not pairs:
        return ""
    ranked = sorted(pairs, key=lambda p: (_p(p), -abs(p.diff)))
    sentences = [pair_sentence(pair, alpha=alpha) for pair in ranked]
    return " ".join(part for part in (*sentences, failures(candidates), tail) if part)


def failures(candidates: Sequence[CandidateRow]) -> str:
    """`13 of 20 calls of A failed and are not in this.` Statistics are over cases that both answered; empty when none failed."""
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
    """One is better: the test, corrected for the number of comparisons, rejects, and the interval, where there is one, leaves zero out."""
    if pair.looked is not None:
        return pair.outcome in ("better", "worse")
    return _p(pair) <= alpha and not pair.ci_low <= 0.0 <= pair.ci_high


def pair_sentence(pair: PairRow, *, alpha: float = 0.05) -> str:
    """`B beats A by 4.2 points on exact (95 % CI 1.1 to 7.3); 5 of 120 cases decided it.`

    "Beats" is said only of what `is_settled`; otherwise the sentence says how far ahead one is and how many more cases
    would settle it with a power of 80 %, were the true difference as large as the one seen: a forecast for planning a new look, as wide
    as the interval is, and no promise (a test looked at again and again rejects too often). Points are hundredths of a score that runs from 0 to 1.
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
        return f"{ahead} beats {behind} by {_amount(abs(pair.diff), pair)}{on}{interval}; {decided}."
    tail = _settle(pair, low, high)
    if pair.diff == 0:
        return f"{pair.a} and {pair.b} are level{on}{interval}; {pair.decided_by} of {pair.n} cases differ{tail}."
    return f"{ahead} is ahead of {behind} by {_amount(abs(pair.diff), pair)}{on}{interval}, which is not settled; {decided}{tail}."


def _watched_sentence(pair: PairRow) -> str:
    """Of a comparison that stops itself: better, no worse by more than the margin, or not settled."""
    up = {"better": True, "worse": False, "no worse": True, "no better": False}.get(pair.outcome or "", pair.diff >= 0)
    one, other, sign = (pair.b, pair.a, 1) if up else (pair.a, pair.b, -1)
    low, high = sorted((sign * pair.ci_low, sign * pair.ci_high))
    found = f"{_interval(low, high, pair)}; {pair.decided_by} of {pair.n} {_plural(pair.n, 'case')} decided it"
    if pair.outcome in ("better", "worse"):
        return f"{one} beats {other} by {_amount(abs(pair.diff), pair)} on {pair.scorer}{found}."
    if pair.outcome in ("no worse", "no better"):
        allowed = _amount(pair.margin or 0.0, pair)
        return f"{one} is no worse than {other} by more than {allowed} on {pair.scorer}: its difference is {_signed(sign * pair.diff, pair)}{found}."
    if pair.diff == 0:
        return f"{pair.a} and {pair.b} are level on {pair.scorer}, which is not settled{found}."
    return (
        f"{one} is ahead of {other} by {_amount(abs(pair.diff), pair)} on {pair.scorer}, which is not settled{found}."
    )


def _signed(diff: float, pair: PairRow) -> str:
    return ("+" if diff > 0 else "−" if diff < 0 else "") + _amount(abs(diff), pair)


def _settle(pair: PairRow, low: float, high: float) -> str:
    """`low` and `high`: the interval, from the side of the one ahead. Cases needed go by one over the difference squared."""
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
    """Two significant digits: a forecast is no better than that."""
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
