"""The blind arena over a comparison: two answers to one case without their names, the next pair by what it would tell, votes as rows.

arena = Arena(rows, grid)
duel = arena.next()                  # a DuelRecord: nothing in it says who
arena.vote(duel.id, "left")          # stored before it returns
arena.ranking()                      # ratings with intervals
"""

from __future__ import annotations

import secrets
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Protocol

import numpy as np

from timestep_lab.evals.bradley_terry import POINTS, Fit, Floats, Outcome, Ranking, Vote, fit, length_difference, rank
from timestep_lab.evals.scrub import Scrubber
from timestep_lab.evals.statistics.agreement import Agreement, agreement
from timestep_lab.evals.statistics.distributions import normal_cdf_array
from timestep_lab.model.arena import DuelRecord, VoteRecord
from timestep_lab.model.comparison import CellRecord
from timestep_lab.model.errors import NotFoundError, UsageError
from timestep_lab.model.ids import new_id
from timestep_lab.model.records import Json

if TYPE_CHECKING:
    from timestep_lab.evals.grid import Grid


# -- Which two candidates to show next: the pair whose vote tells most about the order of all

_NODES, _WEIGHTS = np.polynomial.hermite_e.hermegauss(9)
_WEIGHTS = _WEIGHTS / _WEIGHTS.sum()


def information_gains(fit: Fit) -> dict[tuple[str, str], float]:
    """Bits about the order that one vote between each pair is expected to bring."""
    n = len(fit.names)
    pairs = list(combinations(range(n), 2))
    contrasts = np.zeros((len(pairs), n))
    for row, (i, j) in enumerate(pairs):
        contrasts[row, i], contrasts[row, j] = 1.0, -1.0
    covariance = fit.covariance[:n, :n]
    means = contrasts @ fit.theta
    joint = contrasts @ covariance @ contrasts.T
    variances = np.diag(joint)
    before = _entropy(means / np.sqrt(variances)).sum()
    # Row: the pair voted on. A vote lowers every contrast's variance by a rank-one update, and will move its mean by as much.
    rate = _win_rate(means, variances)
    information = rate * (1.0 - rate)
    moved = joint**2 * (information / (1.0 + information * variances))[:, None]
    left = np.maximum(variances[None, :] - moved, 1e-12)
    shifted = means[None, None, :] + np.sqrt(moved)[None] * _NODES[:, None, None]
    after = np.einsum("q,qrc->r", _WEIGHTS, _entropy(shifted / np.sqrt(left)))
    gains = np.maximum(0.0, before - after)
    return {(fit.names[i], fit.names[j]): float(gain) for (i, j), gain in zip(pairs, gains, strict=True)}


def next_pair(
    fit: Fit, *, seen: Iterable[tuple[str, str]] = (), generator: np.random.Generator | None = None
) -> tuple[str, str]:
    """The most telling pair, left and right by chance. `seen`: pairs with nothing left to show."""
    gone = {frozenset(pair) for pair in seen}
    gains = {pair: gain for pair, gain in information_gains(fit).items() if frozenset(pair) not in gone}
    if not gains:
        raise ValueError("every pair has been shown")
    generator = generator or np.random.default_rng()
    best = max(gains.values())
    ties: Sequence[tuple[str, str]] = [pair for pair, gain in gains.items() if gain >= best - 1e-9]
    left, right = ties[int(generator.integers(len(ties)))]
    return (left, right) if generator.random() < 0.5 else (right, left)


def _win_rate(mean: Floats, variance: Floats) -> Floats:
    """E[σ(x)] for normal x, by MacKay's approximation (MacKay 1992)."""
    return np.asarray(1.0 / (1.0 + np.exp(-mean / np.sqrt(1.0 + np.pi * variance / 8.0))))


def _entropy(z: Floats) -> Floats:
    """Bits of the event that a normal with this z-score is above 0."""
    p = np.clip(normal_cdf_array(z), 1e-15, 1 - 1e-15)
    return np.asarray(-(p * np.log2(p) + (1 - p) * np.log2(1 - p)))


# --

Fight = tuple[str, int, str, str]
"""Case, epoch, left candidate, right candidate."""


class Votes(Protocol):
    def find(self, *, comparison_id: str) -> list[VoteRecord]: ...
    def insert(self, record: VoteRecord, /) -> VoteRecord: ...


class ArenaRows(Protocol):
    """Where votes are kept: `evals.rows.ComparisonRows`, or a served lab."""

    @property
    def user_id(self) -> str: ...
    @property
    def votes(self) -> Votes: ...


@dataclass(frozen=True, slots=True)
class Revealed:
    """Who it was; told after the vote."""

    left: str
    right: str
    outcome: Outcome


class Arena:
    """Methods block; `rows` keeps the votes. Raises `UsageError` when fewer than two candidates answered a common case."""

    def __init__(self, rows: ArenaRows, grid: Grid, *, seed: int | None = None) -> None:
        self._rows, self._grid = rows, grid
        self._generator = np.random.default_rng(seed)
        self._cells: dict[tuple[str, int], dict[str, CellRecord]] = defaultdict(dict)
        for cell in grid.cells:
            if cell.status == "done" and cell.output:
                self._cells[cell.case_id, cell.epoch][cell.candidate] = cell
        self._inputs = {case.case_id: case.input for case in grid.cases}
        agents = [str(c["agent"]) for c in grid.record.candidates if c.get("agent")]
        models = [str(c["model"]) for c in grid.record.candidates if c.get("model")]
        self._scrubber = Scrubber([*grid.candidates, *agents, *models])
        self._open: dict[str, Fight] = {}
        self._votes = rows.votes.find(comparison_id=grid.id)
        if not self._fights_left(set()):
            raise UsageError(
                "There are no two answers to one case to choose between.", "Compare at least two candidates."
            )

    @property
    def votes(self) -> list[VoteRecord]:
        return list(self._votes)

    def next(self) -> DuelRecord | None:
        """The pair of candidates whose vote tells most about the order, on a case not yet voted on for them; None when all are voted on."""
        left = self._fights_left(self._voted())
        if not left:
            return None
        known = fit(self._grid.candidates, [_as_vote(vote) for vote in self._votes])
        spent = [pair for pair in combinations(self._grid.candidates, 2) if frozenset(pair) not in left]
        a, b = next_pair(known, seen=spent, generator=self._generator)
        choices = left[frozenset((a, b))]
        case_id, epoch = choices[int(self._generator.integers(len(choices)))]
        duel_id = secrets.token_hex(12)
        self._open[duel_id] = (case_id, epoch, a, b)
        one, two = self._cells[case_id, epoch][a], self._cells[case_id, epoch][b]
        return DuelRecord(
            id=duel_id, input=self._inputs[case_id], left=self._scrubber.text(one.output or ""), right=self._scrubber.text(two.output or ""),
            left_steps=self._steps(one), right_steps=self._steps(two),
        )  # fmt: skip

    def vote(self, duel_id: str, outcome: Outcome) -> Revealed:
        """Keep a vote, then say who it was. A duel takes one vote. Raises `NotFoundError`, `UsageError`."""
        if outcome not in POINTS:
            raise UsageError(f"{outcome!r} is no vote.", f"Vote {', '.join(POINTS)}.")
        if duel_id not in self._open:
            raise NotFoundError(f"There is no open duel {duel_id!r}.", "It was voted on already; ask for the next one.")
        case_id, epoch, left, right = self._open[duel_id]
        cells = self._cells[case_id, epoch]
        record = VoteRecord(
            id=new_id("vote"), user_id=self._rows.user_id, comparison_id=self._grid.id, case_id=case_id, epoch=epoch,
            left_candidate=left, right_candidate=right, outcome=outcome,
            length=length_difference(cells[left].output or "", cells[right].output or ""),
        )  # fmt: skip
        self._rows.votes.insert(record)
        del self._open[duel_id]
        self._votes.append(record)
        return Revealed(left, right, outcome)

    def ranking(self) -> Ranking:
        """Bradley–Terry ratings of all votes so far, length taken into account."""
        return rank(self._grid.candidates, [_as_vote(vote) for vote in self._votes])

    def agreement_with(self, scorer: str) -> Agreement:
        """Do people prefer what `scorer` scores higher? Cohen's kappa over the votes, on left, tie, right. Raises `UsageError` without votes
        on scored answers."""
        scores = {cell.key: score.value for cell in self._grid.cells for score in cell.scores if score.scorer == scorer}
        human, judge = [], []
        for vote in self._votes:
            left = scores.get((vote.case_id, vote.left_candidate, vote.epoch))
            right = scores.get((vote.case_id, vote.right_candidate, vote.epoch))
            if left is not None and right is not None:
                human.append("tie" if vote.outcome == "both_bad" else vote.outcome)
                judge.append("left" if left > right else "right" if right > left else "tie")
        if not human:
            raise UsageError(
                f"No vote is on two answers that {scorer!r} scored.",
                f"Scorers: {', '.join(self._grid.scorers) or 'none'}.",
            )
        return agreement(human, judge)

    def _steps(self, cell: CellRecord) -> tuple[Mapping[str, Json], ...]:
        return tuple(self._scrubber.value(dict(step)) for step in cell.steps)

    def _voted(self) -> set[tuple[str, int, frozenset[str]]]:
        return {(v.case_id, v.epoch, frozenset((v.left_candidate, v.right_candidate))) for v in self._votes}

    def _fights_left(self, voted: set[tuple[str, int, frozenset[str]]]) -> dict[frozenset[str], list[tuple[str, int]]]:
        left: dict[frozenset[str], list[tuple[str, int]]] = defaultdict(list)
        for (case_id, epoch), cells in self._cells.items():
            for pair in combinations(cells, 2):
                if (case_id, epoch, frozenset(pair)) not in voted:
                    left[frozenset(pair)].append((case_id, epoch))
        return left


def _as_vote(record: VoteRecord) -> Vote:
    return Vote(record.left_candidate, record.right_candidate, record.outcome, record.length)
