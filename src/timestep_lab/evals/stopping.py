"""Early stopping: all pairs of candidates are checked after every case, and the comparison ends when the result is
settled.

Cases are run in random order, so that the cases so far are representative of the rest, and they are evaluated in that
order: a case counts when all its answers are there, and not before the cases drawn ahead of it. So the speed of answers
does not influence the result.

Each pair has one of three outcomes: one is better; one is no worse by more than the margin; not settled. "Better" is
corrected by Holm's procedure over all pairs, in the form for tests with spent α (Maurer & Bretz 2013, Statistics in
Biopharmaceutical Research 5:311); "no worse" is read from intervals that hold for all pairs and all looks (Bonferroni).

The result is settled when one candidate is better than, or no worse than, each other one; as long as it is likely to be
shown to be better, not only no worse, the comparison continues. All claims hold at every look, so the stopping time
does not affect their validity.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import TYPE_CHECKING, cast

import numpy as np

from timestep_lab.evals.results import MARGIN, candidate_names, seed_of
from timestep_lab.evals.statistics.intervals import wilson
from timestep_lab.evals.statistics.sequential import Look, Watched, WatchedGroups, cases_for_margin, chance_of_better
from timestep_lab.model.comparison import CellRecord, ComparisonRecord, Outcome, PairRow
from timestep_lab.model.errors import UsageError

if TYPE_CHECKING:
    from timestep_lab.evals.grid import Grid

LIKELY = 0.2
"""Minimum probability of being shown to be better for the comparison to continue."""


@dataclass(slots=True)
class _Pair:
    a: str
    b: str
    watched: Watched
    scores: list[tuple[float, float] | None] = field(default_factory=list)
    stepped: Watched | None = None
    """At Holm's level, once another pair is significant."""
    last: Look | None = None
    better: Look | None = None
    """The first look at which the two differ significantly."""
    no_worse: dict[str, Look] = field(default_factory=dict)
    """The name of the candidate that is no worse, and the first look that shows it."""

    def claims(self, name: str) -> Look | None:
        """The look that shows that this candidate is better or no worse; None if there is none."""
        if self.better is not None:
            return self.better if (self.better.diff > 0) == (name == self.b) else None
        return self.no_worse.get(name)


class Family:
    """All pairs of candidates on one scorer, checked case by case."""

    def __init__(
        self,
        names: Sequence[str],
        planned: int,
        *,
        alpha: float = 0.05,
        margin: float | None = None,
        open_ended: bool = False,
        groups: Sequence[object] | None = None,
    ) -> None:
        """`groups`: the group of each case, in the order of the looks."""
        self._groups = groups
        self.planned, self.alpha, self.margin, self._open_ended = planned, alpha, margin, open_ended
        self.cases = 0
        self._names = list(names)
        many = list(combinations(names, 2))
        self._pairs = [_Pair(a, b, self._watched(alpha / len(many))) for a, b in many]

    def _watched(self, level: float) -> Watched:
        if self._groups is not None:
            return WatchedGroups(self.planned, level, self._groups)
        return Watched(self.planned, level, open_ended=self._open_ended)

    def look(self, means: Mapping[str, float | None]) -> None:
        """Add the next case: the mean of each candidate's scores; None if missing."""
        self.cases += 1
        for pair in self._pairs:
            a, b = means.get(pair.a), means.get(pair.b)
            scores = None if a is None or b is None else (a, b)
            pair.scores.append(scores)
            look = pair.last = pair.watched.add(scores)
            if pair.better is None and _excludes_zero(look):
                pair.better = look
            margin = self._margin(pair)
            if margin:
                if pair.b not in pair.no_worse and look.low_above(-margin):
                    pair.no_worse[pair.b] = look
                if pair.a not in pair.no_worse and look.high_below(margin):
                    pair.no_worse[pair.a] = look
        self._step_down()

    def _step_down(self) -> None:
        """Holm's procedure: significant pairs pass their share of α to the others."""
        left = [pair for pair in self._pairs if pair.better is None]
        while left and len(left) < len(self._pairs):
            level = self.alpha / len(left)
            for pair in left:
                if pair.stepped is None or pair.stepped.alpha != level:
                    pair.stepped = self._watched(level)
                while pair.better is None and pair.stepped.cases < len(pair.scores):
                    look = pair.stepped.add(pair.scores[pair.stepped.cases])
                    pair.better = look if _excludes_zero(look) else None
            still = [pair for pair in left if pair.better is None]
            if len(still) == len(left):
                return
            left = still

    def _margin(self, pair: _Pair) -> float | None:
        return self.margin if self.margin is not None else MARGIN if pair.watched.is_unit else None

    @property
    def is_settled(self) -> bool:
        """Whether one candidate is better, or no worse and unlikely to be shown better or worse, than each other one."""
        return any(
            all(self._settles(pair, name) for pair in self._pairs if name in (pair.a, pair.b)) for name in self._names
        )

    def _settles(self, pair: _Pair, name: str) -> bool:
        if pair.claims(name) is None or pair.last is None:
            return False
        share = self.cases / self.planned
        return pair.better is not None or chance_of_better(pair.last.score, share, pair.watched.alpha) < LIKELY

    def rows(self, scorer: str) -> list[PairRow]:
        """The current results, one row per pair."""
        return [self._row(pair, scorer) for pair in self._pairs]

    def _row(self, pair: _Pair, scorer: str) -> PairRow:
        look = pair.better or max(pair.no_worse.values(), key=lambda look: look.cases, default=pair.last)
        margin = self._margin(pair)
        if look is None:
            return PairRow(
                a=pair.a, b=pair.b, scorer=scorer, n=0, diff=math.nan, ci_low=math.nan, ci_high=math.nan, p_value=None, p_holm=None,
                test="none", decided_by=0, cases_to_settle=None, outcome="not settled", margin=margin, looked=0, level=1 - self.alpha,
            )  # fmt: skip
        interval = look.interval()
        outcome: Outcome = "not settled"
        if pair.better is not None:
            outcome = "better" if look.diff > 0 else "worse"
        elif pair.b in pair.no_worse:
            outcome = "no worse"
        elif pair.a in pair.no_worse:
            outcome = "no better"
        return PairRow(
            a=pair.a, b=pair.b, scorer=scorer, n=look.n, diff=look.diff, ci_low=interval.low, ci_high=interval.high, p_value=None,
            p_holm=None, test=look.test, decided_by=look.decided_by, cases_to_settle=None, points=pair.watched.is_unit, outcome=outcome,
            margin=margin, looked=look.cases, level=1 - self.alpha,
        )  # fmt: skip


def _excludes_zero(look: Look) -> bool:
    return look.low_above(0.0) or look.high_below(0.0)


class Watch:
    """Follows the answers of a comparison, in whatever order they arrive; `is_settled` once no more are needed."""

    def __init__(
        self, record: ComparisonRecord, case_ids: Sequence[str], scorers: Sequence[str], deciding: str, groups: Sequence[str] | None = None,
    ) -> None:  # fmt: skip
        """`groups`: the group of each of `case_ids`, if cases are grouped; then there is a look after each complete
        group.
        """
        settings = record.settings
        self._candidates = candidate_names(record)
        self._epochs, self.deciding = record.epochs, deciding
        self._order = drawn(case_ids, seed_of(record), groups)
        group_of = dict(zip(case_ids, groups or case_ids, strict=True))
        self._unit = "case" if groups is None else "group"
        in_order = None if groups is None else [group_of[id] for id in self._order]
        self._waiting: dict[str, dict[tuple[str, int], CellRecord]] = {id: {} for id in self._order}
        self._families = {
            scorer: Family(
                self._candidates, len(self._order), alpha=float(cast(float, settings.get("alpha", 0.05))),
                margin=cast("float | None", settings.get("margin")),
                open_ended=bool(settings.get("open_ended")), groups=in_order,
            )
            for scorer in dict.fromkeys([*scorers, deciding])
        }  # fmt: skip
        self._planned_calls = len(self._order) * len(self._candidates) * record.epochs
        self._answers = 0
        self.is_settled = False

    @property
    def looked(self) -> int:
        """Number of cases looked at."""
        return self._families[self.deciding].cases

    def take(self, cells: Iterable[CellRecord]) -> None:
        for cell in cells:
            waiting = self._waiting.get(cell.case_id)
            if waiting is not None and (cell.candidate, cell.epoch) not in waiting:
                waiting[cell.candidate, cell.epoch] = cell
                self._answers += 1
        wanted = len(self._candidates) * self._epochs
        while not self.is_settled and self.looked < len(self._order):
            answers = self._waiting[self._order[self.looked]]
            if len(answers) < wanted:
                return
            for scorer, family in self._families.items():
                family.look({name: _mean(answers, name, scorer) for name in self._candidates})
            self.is_settled = self._families[self.deciding].is_settled

    def rows(self, scorer: str) -> list[PairRow]:
        return self._families[scorer].rows(scorer)

    @property
    def words(self) -> str:
        """How far the comparison went, and what that saved."""
        cases = f"{self.looked} of {len(self._order)} cases"
        if not self.is_settled and self.looked == len(self._order):
            return f"Looked at after every {self._unit}; all {self.looked} are used."
        if not self.is_settled:
            return f"Looked at after every {self._unit}, {cases} so far."
        saved = self._planned_calls - self._answers
        spared = f": {saved:,} of {self._planned_calls:,} calls were not needed" if saved else ""
        return f"Settled after {cases}{spared}."


def _mean(answers: Mapping[tuple[str, int], CellRecord], candidate: str, scorer: str) -> float | None:
    values = [
        score.value
        for (name, _), cell in answers.items() if name == candidate
        for score in cell.scores if score.scorer == scorer and score.value is not None
    ]  # fmt: skip
    return sum(values) / len(values) if values else None


def drawn(case_ids: Sequence[str], seed: int, groups: Sequence[str] | None = None) -> list[str]:
    """The cases in the order in which they are run; deterministic for the same cases and seed. Groups stay together."""
    if groups is not None:
        names = list(dict.fromkeys(groups))
        place = {names[at]: n for n, at in enumerate(np.random.default_rng(seed).permutation(len(names)))}
        return [id for id, _ in sorted(zip(case_ids, groups, strict=True), key=lambda one: place[one[1]])]
    return [case_ids[place] for place in np.random.default_rng(seed).permutation(len(case_ids))]


def what_it_takes(cases: int, candidates: int, *, alpha: float, margin: float | None) -> str:
    """Printed before the comparison: how many cases the margin needs, and what these cases can show."""
    margin = MARGIN if margin is None else margin
    if not margin:
        return "Without a margin it stops only when one is better."
    level = alpha / max(1, math.comb(candidates, 2))
    few, many = (cases_for_margin(share, margin, alpha=level) for share in (0.1, 0.25))
    reach = math.sqrt(cases_for_margin(0.1, 1.0, alpha=level, power=0.8) / cases) if cases else math.inf
    words = (
        f"That one is no worse by more than {margin * 100:g} points takes about {few:,} cases to show where two candidates differ in one case "
        f"in ten, {many:,} where in one of four; there are {cases:,}."
    )
    if cases < few:
        words += f" It is out of reach here, unless they differ in fewer; {cases:,} cases can show about {math.ceil(reach * 100):g} points."
    return words


@dataclass(frozen=True, slots=True, kw_only=True)
class AA:
    """The result of an A/A test: one model compared with itself, and how often chance alone would have been taken for a
    difference.
    """

    grid: Grid
    """The answers: two per case, as epochs."""
    scorer: str
    n: int
    """Number of cases that were scored twice."""
    differ: int
    """Number of cases whose two answers got different scores."""
    runs: int
    wrong: int
    """Number of runs that declared one of the two better."""
    alpha: float

    @property
    def share(self) -> float:
        """The fraction of runs that were wrong."""
        return self.wrong / self.runs

    def __str__(self) -> str:
        interval = wilson(self.wrong, self.runs)
        return (
            f"Asked twice, {self.grid.candidates[0]} differs from itself in {self.differ} of {self.n} cases on {self.scorer}. Compared with "
            f"itself {self.runs:,} times, one of the two would have been called better in {100 * self.share:.1f} % (95 % CI "
            f"{100 * interval.low:.1f} to {100 * interval.high:.1f}); {100 * self.alpha:g} % are allowed."
        )

    __repr__ = __str__


def aa(grid: Grid, alpha: float = 0.05, runs: int = 1000, seed: int = 0) -> AA:
    """An A/A test from a comparison of one candidate with two epochs: each run randomly assigns the two answers of a
    case to the sides, and the order of cases. Raises `UsageError`."""
    decides = grid.deciding_scorer
    scores = grid.tables.of(grid.candidates[0], decides)[:, :2] if decides is not None else np.empty((0, 2))
    scores = scores[np.isfinite(scores).all(axis=1)] if scores.shape[1] == 2 else np.empty((0, 2))
    if decides is None or len(scores) == 0:
        raise UsageError("No case has two scored answers.", "Add scorers that can score these cases.")
    generator, wrong = np.random.default_rng(seed), 0
    for _ in range(runs):
        watched, swapped = Watched(len(scores), alpha), generator.random(len(scores)) < 0.5
        drawn_anew = np.where(swapped[:, None], scores[:, ::-1], scores)[generator.permutation(len(scores))]
        wrong += any(_excludes_zero(watched.add((float(a), float(b)))) for a, b in drawn_anew)
    differ = int((scores[:, 0] != scores[:, 1]).sum())
    return AA(grid=grid, scorer=decides, n=len(scores), differ=differ, runs=runs, wrong=wrong, alpha=alpha)
