"""A comparison that stops itself: its pairs are looked at after every case, and it ends when what to ship is settled.

Cases are asked in an order drawn at random, so that what has come so far stands for what is still to come, and looked at in that order: a
case counts when all its answers are there, not before those drawn ahead of it. How fast an answer comes says nothing about it.

Each pair has one of three outcomes: one is better; one is no worse by more than the margin; not settled. "Better" is corrected by Holm over
all pairs, in the form that holds for tests with spent α (Maurer & Bretz 2013, Statistics in Biopharmaceutical Research 5:311); "no worse"
is read off intervals that hold for all pairs and all looks together (Bonferroni).

It is settled when one candidate is better than, or no worse than, each other one; as long as it is likely to be shown to be better, not only
no worse, it goes on. Nothing is claimed for having stopped, so when it stops does not change what its claims are worth.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np

from timestep_lab.evals.results import MARGIN
from timestep_lab.evals.statistics.intervals import wilson
from timestep_lab.evals.statistics.sequential import Look, Watched, WatchedGroups, cases_for_margin, chance_of_better
from timestep_lab.model.comparison import CellRecord, ComparisonRecord, Outcome, PairRow
from timestep_lab.model.errors import UsageError

if TYPE_CHECKING:
    from timestep_lab.evals.grid import Grid

LIKELY = 0.2
"""Chance of being shown to be better from which on it is worth going on."""


@dataclass(slots=True)
class _Pair:
    a: str
    b: str
    watched: Watched
    scores: list[tuple[float, float] | None] = field(default_factory=list)
    stepped: Watched | None = None
    """At Holm's level, once another pair is told apart."""
    last: Look | None = None
    better: Look | None = None
    """The first look at which the two are told apart."""
    no_worse: dict[str, Look] = field(default_factory=dict)
    """The name of the one that is no worse, and the first look that says so."""

    def claims(self, name: str) -> Look | None:
        """The look that says that this one is better, or no worse."""
        if self.better is not None:
            return self.better if (self.better.diff > 0) == (name == self.b) else None
        return self.no_worse.get(name)


class Family:
    """All pairs of candidates on one scorer, looked at case by case."""

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
        """`groups`: of each case, in the order in which they are looked at."""
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
        """The next case: the mean of each candidate's scores; None where it has none."""
        self.cases += 1
        for pair in self._pairs:
            a, b = means.get(pair.a), means.get(pair.b)
            scores = None if a is None or b is None else (a, b)
            pair.scores.append(scores)
            look = pair.last = pair.watched.add(scores)
            if pair.better is None and _told_apart(look):
                pair.better = look
            margin = self._margin(pair)
            if margin:
                if pair.b not in pair.no_worse and look.low_above(-margin):
                    pair.no_worse[pair.b] = look
                if pair.a not in pair.no_worse and look.high_below(margin):
                    pair.no_worse[pair.a] = look
        self._step_down()

    def _step_down(self) -> None:
        """Holm: what is told apart leaves its share of α to the others."""
        left = [pair for pair in self._pairs if pair.better is None]
        while left and len(left) < len(self._pairs):
            level = self.alpha / len(left)
            for pair in left:
                if pair.stepped is None or pair.stepped.alpha != level:
                    pair.stepped = self._watched(level)
                while pair.better is None and pair.stepped.cases < len(pair.scores):
                    look = pair.stepped.add(pair.scores[pair.stepped.cases])
                    pair.better = look if _told_apart(look) else None
            still = [pair for pair in left if pair.better is None]
            if len(still) == len(left):
                return
            left = still

    def _margin(self, pair: _Pair) -> float | None:
        return self.margin if self.margin is not None else MARGIN if pair.watched.is_unit else None

    @property
    def is_settled(self) -> bool:
        """One candidate is better, or no worse and not likely to be shown better or worse, than each other one."""
        return any(
            all(self._settles(pair, name) for pair in self._pairs if name in (pair.a, pair.b)) for name in self._names
        )

    def _settles(self, pair: _Pair, name: str) -> bool:
        if pair.claims(name) is None or pair.last is None:
            return False
        share = self.cases / self.planned
        return pair.better is not None or chance_of_better(pair.last.score, share, pair.watched.alpha) < LIKELY

    def rows(self, scorer: str) -> list[PairRow]:
        """What is known by now, one row a pair."""
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


def _told_apart(look: Look) -> bool:
    return look.low_above(0.0) or look.high_below(0.0)


class Watch:
    """Follows the answers of a comparison as they come, in whatever order; `is_settled` once no more need be asked."""

    def __init__(
        self, record: ComparisonRecord, case_ids: Sequence[str], scorers: Sequence[str], deciding: str, groups: Sequence[str] | None = None,
    ) -> None:  # fmt: skip
        """`groups`: of each of `case_ids`, where cases belong together; then the looks are after whole groups."""
        settings = record.settings
        self._candidates = [candidate["name"] for candidate in record.candidates]
        self._epochs, self.deciding = record.epochs, deciding
        self._order = drawn(case_ids, int(settings.get("seed", 0)), groups)
        group_of = dict(zip(case_ids, groups or case_ids, strict=True))
        self._unit = "case" if groups is None else "group"
        in_order = None if groups is None else [group_of[id] for id in self._order]
        self._waiting: dict[str, dict[tuple[str, int], CellRecord]] = {id: {} for id in self._order}
        self._families = {
            scorer: Family(
                self._candidates, len(self._order), alpha=float(settings.get("alpha", 0.05)), margin=settings.get("margin"),
                open_ended=bool(settings.get("open_ended")), groups=in_order,
            )
            for scorer in dict.fromkeys([*scorers, deciding])
        }  # fmt: skip
        self._planned_calls = len(self._order) * len(self._candidates) * record.epochs
        self._answers = 0
        self.is_settled = False

    @property
    def looked(self) -> int:
        """Cases looked at."""
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
        """How far it went, and what that saved."""
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
    """The cases in the order in which they are asked: the same for the same cases and seed. Groups come whole, in an order that is drawn."""
    if groups is not None:
        names = list(dict.fromkeys(groups))
        place = {names[at]: n for n, at in enumerate(np.random.default_rng(seed).permutation(len(names)))}
        return [id for id, _ in sorted(zip(case_ids, groups, strict=True), key=lambda one: place[one[1]])]
    return [case_ids[place] for place in np.random.default_rng(seed).permutation(len(case_ids))]


def what_it_takes(cases: int, candidates: int, *, alpha: float, margin: float | None) -> str:
    """Said before it runs: how many cases the margin needs, and what these cases can show."""
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
    """One model compared with itself: what chance alone does, and how often it would have been taken for a difference."""

    grid: Grid
    """The answers: two of each case, as epochs."""
    scorer: str
    n: int
    """Cases that were scored twice."""
    differ: int
    """Cases whose two answers got different scores."""
    runs: int
    wrong: int
    """Runs that called one of the two better."""
    alpha: float

    @property
    def share(self) -> float:
        """Of the runs that were wrong."""
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
    """Of a comparison of one candidate with two epochs: which of a case's two answers is the first's is drawn anew in each run, and so is
    the order. Raises `UsageError`."""
    decides = grid.deciding_scorer
    scores = grid.tables.of(grid.candidates[0], decides)[:, :2] if decides is not None else np.empty((0, 2))
    scores = scores[np.isfinite(scores).all(axis=1)] if scores.shape[1] == 2 else np.empty((0, 2))
    if decides is None or len(scores) == 0:
        raise UsageError("No case has two scored answers.", "Add scorers that can score these cases.")
    generator, wrong = np.random.default_rng(seed), 0
    for _ in range(runs):
        watched, swapped = Watched(len(scores), alpha), generator.random(len(scores)) < 0.5
        drawn_anew = np.where(swapped[:, None], scores[:, ::-1], scores)[generator.permutation(len(scores))]
        wrong += any(_told_apart(watched.add((float(a), float(b)))) for a, b in drawn_anew)
    differ = int((scores[:, 0] != scores[:, 1]).sum())
    return AA(grid=grid, scorer=decides, n=len(scores), differ=differ, runs=runs, wrong=wrong, alpha=alpha)
