"""The blind arena over a comparison: two answers to one case without their names, the next pair by what it would tell, votes as rows.

arena = Arena(rows, grid)
duel = arena.next()                  # a DuelRecord: nothing in it says who
arena.vote(duel.id, "left")          # stored before it returns
arena.ranking()                      # ratings with intervals
"""

from __future__ import annotations

import secrets
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Protocol

import numpy as np

from timestep_lab.evals.bradley_terry import POINTS, Outcome, Ranking, Vote, fit, length_difference, rank
from timestep_lab.evals.pairing import next_pair
from timestep_lab.evals.scrub import Scrubber
from timestep_lab.evals.statistics.agreement import Agreement, agreement
from timestep_lab.types.arena import DuelRecord, VoteRecord
from timestep_lab.types.comparison import CellRecord
from timestep_lab.types.errors import NotFoundError, UsageError
from timestep_lab.types.ids import new_id
from timestep_lab.types.records import Json

if TYPE_CHECKING:
    from timestep_lab.evals.grid import Grid

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
