"""What a comparison looks like now: begun from records, carried on by events."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from timestep_lab.model.comparison import (
    CandidateRow,
    CaseRecord,
    CellDelta,
    CellDone,
    CellRecord,
    CellStarted,
    ComparisonEnded,
    ComparisonProgress,
    ComparisonRecord,
    ComparisonStarted,
    DecisionRow,
    GridLike,
    PairRow,
    ProgressRow,
)
from timestep_lab.model.errors import UsageError
from timestep_lab.model.events import Event

Key = tuple[str, str, int]
"""Case, candidate, epoch."""


@dataclass(slots=True)
class GridState:
    """A `GridLike` that changes. Cells come in whatever order they are answered; cases and candidates keep theirs."""

    record: ComparisonRecord
    cases: Sequence[CaseRecord] = ()
    candidate_rows: Sequence[CandidateRow] = ()
    pair_rows: Sequence[PairRow] = ()
    decision: Sequence[DecisionRow] = ()
    verdict: str = ""
    progress: ProgressRow | None = None
    partial: dict[Key, str] = field(default_factory=dict)
    """Text so far of the answers under way; "" before the first word."""
    _cells: dict[Key, CellRecord] = field(default_factory=dict)
    _places: dict[str, int] = field(default_factory=dict)
    _columns: dict[str, int] = field(default_factory=dict)
    _scorers: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, grid: GridLike) -> GridState:
        """A comparison as it stands. While it runs there is no verdict yet: half the cases would speak for all."""
        state = cls(record=grid.record)
        if not state.is_running:
            state.candidate_rows, state.pair_rows = tuple(grid.candidate_rows), tuple(grid.pair_rows)
            state.verdict, state.decision = grid.verdict, tuple(grid.decision)
        state._begin(grid.cases, grid.cells)
        return state

    # As a `GridLike`

    @property
    def cells(self) -> Sequence[CellRecord]:
        return sorted(self._cells.values(), key=self._order)

    @property
    def candidates(self) -> list[str]:
        return [candidate["name"] for candidate in self.record.candidates]

    @property
    def scorers(self) -> list[str]:
        """In the order they first appear; `overall` last."""
        return sorted(self._scorers, key=lambda name: name == "overall")

    @property
    def deciding_scorer(self) -> str | None:
        """The scorer that the verdict speaks of: `overall` where there is one, else the first."""
        names = self.scorers
        return None if not names else names[-1] if names[-1] == "overall" else names[0]

    # For the view

    @property
    def is_running(self) -> bool:
        return self.record.status == "running"

    @property
    def epochs(self) -> int:
        return max([self.record.epochs, *(cell.epoch + 1 for cell in self._cells.values())])

    def cell(self, key: Key) -> CellRecord | None:
        return self._cells.get(key)

    def case_at(self, place: int) -> CaseRecord:
        """Raises `UsageError`."""
        if not 0 <= place < len(self.cases):
            raise UsageError(f"The comparison has no case {place}.", "Reload the view.")
        return self.cases[place]

    def place(self, key: Key) -> tuple[int, int, int] | None:
        """Row, column and epoch; None for a cell of a case or candidate that is not shown."""
        case_id, candidate, epoch = key
        if case_id not in self._places or candidate not in self._columns:
            return None
        return self._places[case_id], self._columns[candidate], epoch

    # Events

    def apply(self, event: Event) -> None:
        """Events that are none of a comparison's are left aside."""
        if isinstance(event, ComparisonStarted):
            self.record = event.comparison
            self._begin(event.cases, event.cells)
        elif isinstance(event, CellStarted):
            self.partial[event.case_id, event.candidate, event.epoch] = ""
        elif isinstance(event, CellDelta):
            key = (event.case_id, event.candidate, event.epoch)
            self.partial[key] = self.partial.get(key, "") + event.delta
        elif isinstance(event, CellDone):
            self.partial.pop(event.cell.key, None)
            self._take(event.cell)
        elif isinstance(event, ComparisonProgress):
            self.progress = event.progress
            if event.pairs:
                self.pair_rows, self.verdict = event.pairs, event.verdict
        elif isinstance(event, ComparisonEnded):
            self.record, self.verdict = event.comparison, event.verdict
            self.candidate_rows, self.pair_rows, self.decision = event.candidates, event.pairs, event.decision
            self.partial.clear()

    def _begin(self, cases: Sequence[CaseRecord], cells: Sequence[CellRecord]) -> None:
        self.cases = tuple(sorted(cases, key=lambda case: case.position))
        self._places = {case.case_id: place for place, case in enumerate(self.cases)}
        self._columns = {name: column for column, name in enumerate(self.candidates)}
        for cell in cells:
            self._take(cell)

    def _take(self, cell: CellRecord) -> None:
        self._cells[cell.key] = cell
        self._scorers += [score.scorer for score in cell.scores if score.scorer not in self._scorers]

    def _order(self, cell: CellRecord) -> tuple[int, int, int]:
        return self.place(cell.key) or (len(self.cases), 0, 0)
