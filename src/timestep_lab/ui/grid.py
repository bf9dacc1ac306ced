"""`GridView`: a comparison as a matrix, during the run and afterwards."""

from __future__ import annotations

import json
import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, TypeAlias, Unpack, cast

from timestep_lab.model.codec import Json, object_of
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
    conclusion,
    headline,
    slice_columns,
)
from timestep_lab.model.errors import UsageError
from timestep_lab.model.events import Event
from timestep_lab.service.traces import Traces
from timestep_lab.ui.columns import json_safe
from timestep_lab.ui.trace_reader import TraceReader
from timestep_lab.ui.view import Reply, Updates, handles

if TYPE_CHECKING:
    from timestep_lab.ui.trace_reader import ReaderOptions

# --- The state of a comparison: created from records, updated by events


Key = tuple[str, str, int]
"""Case, candidate, epoch."""


@dataclass(slots=True)
class GridState:
    """A `GridLike` that changes. Cells arrive in any order; cases and candidates keep theirs."""

    record: ComparisonRecord
    cases: Sequence[CaseRecord] = ()
    candidate_rows: Sequence[CandidateRow] = ()
    pair_rows: Sequence[PairRow] = ()
    decision: Sequence[DecisionRow] = ()
    verdict: str = ""
    judge_notes: Sequence[str] = ()
    progress: ProgressRow | None = None
    partial: dict[Key, str] = field(default_factory=dict)
    """Partial text of the answers in progress; "" before the first word."""
    _cells: dict[Key, CellRecord] = field(default_factory=dict)
    _places: dict[str, int] = field(default_factory=dict)
    _columns: dict[str, int] = field(default_factory=dict)
    _scorers: list[str] = field(default_factory=list)
    columns: list[str] = field(default_factory=list)
    """Columns of the data by which the cases can be sliced."""

    @classmethod
    def of(cls, grid: GridLike) -> GridState:
        """The current state of a comparison. While it runs there is no verdict: a part of the cases would be
        misleading.
        """
        state = cls(record=grid.record)
        if not state.is_running:
            state.candidate_rows, state.pair_rows = tuple(grid.candidate_rows), tuple(grid.pair_rows)
            state.verdict, state.decision = grid.verdict, tuple(grid.decision)
            state.judge_notes = tuple(grid.judge_notes)
        state._begin(grid.cases, grid.cells)
        return state

    # GridLike interface

    @property
    def cells(self) -> Sequence[CellRecord]:
        return sorted(self._cells.values(), key=self._order)

    @property
    def candidates(self) -> list[str]:
        return [str(object_of(candidate)["name"]) for candidate in self.record.candidates]

    @property
    def scorers(self) -> list[str]:
        """As the sums have them; while there are none, in the order they first appear; `overall` last."""
        names = list(self.candidate_rows[0].scores) if self.candidate_rows else self._scorers
        return sorted(names, key=lambda name: name == "overall")

    @property
    def deciding_scorer(self) -> str | None:
        """The scorer used for the verdict: `overall` if it exists, else the first."""
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
        """A case by position. Raises `UsageError`."""
        if not 0 <= place < len(self.cases):
            raise UsageError(f"The comparison has no case {place}.", "Reload the view.")
        return self.cases[place]

    def place(self, key: Key) -> tuple[int, int, int] | None:
        """Row, column and epoch; None if the case or candidate is not shown."""
        case_id, candidate, epoch = key
        if case_id not in self._places or candidate not in self._columns:
            return None
        return self._places[case_id], self._columns[candidate], epoch

    # Events

    def apply(self, event: Event) -> None:
        """Apply an event; events of other kinds are ignored."""
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
        self.columns = slice_columns(self.cases)
        for cell in cells:
            self._take(cell)

    def _take(self, cell: CellRecord) -> None:
        self._cells[cell.key] = cell
        self._scorers += [score.scorer for score in cell.scores if score.scorer not in self._scorers]

    def _order(self, cell: CellRecord) -> tuple[int, int, int]:
        return self.place(cell.key) or (len(self.cases), 0, 0)


# --- A compact form of the comparison for the browser; complete answers are fetched when opened


PREVIEW = 260
"""Maximum number of characters of an answer in a cell (three lines)."""
_ASKED, _EXPECTED = 300, 120


def head(state: GridState) -> dict[str, Json]:
    """Everything except cases and cells."""
    record = state.record
    return {
        "id": record.id, "name": record.name, "status": record.status, "headline": headline(state), "epochs": state.epochs,
        "conclusion": "" if state.is_running else conclusion([p for p in state.pair_rows if p.scorer == state.deciding_scorer]),
        "columns": state.columns,
        "candidates": [_candidate(candidate) for candidate in record.candidates], "scorers": state.scorers,
        "deciding": state.deciding_scorer, "summary": [asdict(row) for row in state.candidate_rows],
        "pairs": [asdict(pair) for pair in state.pair_rows],
        "decision": [{**asdict(row), "words": row.words} for row in state.decision],
        "progress": None if state.progress is None else asdict(state.progress), "n_cases": len(state.cases),
    }  # fmt: skip


def body(state: GridState) -> bytes:
    """Cases and cells as UTF-8 JSON: `{"cases": [[input, expected]], "cells": [[row, column, epoch, …cell_row]]}`.

    A single text, so that 6,000 cells are encoded once and parsed once.
    """
    cells = [
        [*place, *cell_row(cell)] for cell in state.cells if (place := state.place(cell.key)) is not None
    ]  # fmt: skip
    growing = [
        [*place, *partial_row(text)] for key, text in state.partial.items() if (place := state.place(key)) is not None
    ]
    whole = {"cases": [_case_row(case) for case in state.cases], "cells": cells + growing}
    try:
        return _encoded(whole)
    except ValueError:  # Lone surrogates or NaN are rare, and checking for them would take longer than everything else.
        return _encoded(json_safe(whole))


def _encoded(value: Json) -> bytes:
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()


def cell_row(cell: CellRecord) -> list[Json]:
    """`[status, text, ms, tokens, usd, is_cached, text_hash, scores, has_trace]`; `text_hash` is equal for equal
    answers.
    """
    text = (cell.output or "") if cell.status == "done" else (cell.error or "failed")
    tokens = None if cell.input_tokens is None and cell.output_tokens is None else sum(_known(cell))
    return [
        cell.status, text[:PREVIEW], _round(cell.latency_ms), tokens, cell.cost_usd, cell.cached,
        zlib.crc32(" ".join(text.split()).encode("utf-8", "replace")), {s.scorer: s.value for s in cell.scores}, bool(cell.trace_id),
    ]  # fmt: skip


def partial_row(text: str) -> list[Json]:
    return ["running", text[:PREVIEW]]


def opened_case(state: GridState, place: int) -> dict[str, Json]:
    """All details of one row of the matrix. Raises `UsageError`."""
    case = state.case_at(place)
    answers = []
    for column, name in enumerate(state.candidates):
        for epoch in range(state.epochs):
            key: Key = (case.case_id, name, epoch)
            cell = state.cell(key)
            if cell is not None:
                answers.append({"column": column, **asdict(cell)})
            elif key in state.partial:
                answers.append({"column": column, "epoch": epoch, "status": "running", "output": state.partial[key]})
    return {"place": place, "case": asdict(case), "answers": answers}


def _candidate(candidate: Json) -> dict[str, Json]:
    return {name: object_of(candidate).get(name) for name in ("name", "model", "agent", "prompt", "model_settings")}


def _case_row(case: CaseRecord) -> list[Json]:
    asked = case.input or ", ".join(f"{name}={value}" for name, value in case.vars.items() if not name.startswith("__"))
    expected = None if case.expected is None else _as_text(case.expected)[:_EXPECTED]
    return [asked[:_ASKED], expected]


def _as_text(value: Json) -> str:
    return value if isinstance(value, str) else json.dumps(json_safe(value), ensure_ascii=False)


def _known(cell: CellRecord) -> list[int]:
    return [count for count in (cell.input_tokens, cell.output_tokens) if count is not None]


def _round(ms: float | None) -> float | None:
    return None if ms is None else round(ms, 1)


StaticCopy = Callable[[GridLike], str]
CellChanges: TypeAlias = dict[str, dict[str, Json]]
"""Maps the place of a cell (`row,column,epoch`) to its change."""
Cut = Callable[[GridLike, str], Json]
"""Maps a comparison and a column of its data to its slices."""


class GridView(TraceReader):
    """Verdict, differences with intervals, quality against cost, and the matrix of answers.

    `grid`: the comparison. `apply(event)` updates it while it runs. `stop`: called by the Stop button; without it there
    is none. `static_copy`: renders plain HTML. `cut`: slices by a column of the data, if given. A comparison that runs
    elsewhere is followed: `subscribe` is given a callback for changes and returns a function that unsubscribes; `read`
    returns the current comparison and may block. With `read`, `grid` may initially be without cases.

    Example:
        view = await lab.start_comparison(["Say 4."], models=["demo/echo"], scorers=["contains:4"])
        assert isinstance(view, GridView)  # it shows the answers as they come
    """

    stem = "grid"

    def __init__(
        self, source: Traces, grid: GridLike, *, static_copy: StaticCopy, cut: Cut | None = None, stop: Callable[[], None] | None = None,
        read: Callable[[], GridLike] | None = None, subscribe: Callable[[Callable[[], None]], Callable[[], None]] | None = None,
        **options: Unpack[ReaderOptions],
    ) -> None:  # fmt: skip
        super().__init__(source, **options)
        self._state = GridState.of(grid)
        self._static_copy, self._cut = static_copy, cut
        self._stop = stop
        self._read, self._subscribe = read, subscribe
        self._updates = Updates(self, self._reread)
        self._end: Callable[[], None] | None = None
        self._unread = read is not None and not grid.cases

    @property
    def id_of_comparison(self) -> str:
        return self._state.record.id

    @property
    def record(self) -> ComparisonRecord:
        """The comparison as last read."""
        return self._state.record

    @property
    def verdict(self) -> str:
        """The verdict, as shown in the first line."""
        return headline(self._state)

    @property
    def is_running(self) -> bool:
        return self._state.is_running

    # Live updates

    def apply(self, event: Event) -> None:
        """Apply an event of the comparison; thread-safe."""
        with self._lock:
            self._state.apply(event)
            if isinstance(event, ComparisonStarted):
                self.emit({"kind": "grid", **self._head()}, [body(self._state)])
            elif isinstance(event, ComparisonEnded) or (isinstance(event, ComparisonProgress) and event.pairs):
                self.emit({"kind": "head", **self._head()})
            elif isinstance(event, ComparisonProgress):
                self.emit({"kind": "live", "cells": {}, "progress": event.progress, "scorers": None})
            elif isinstance(event, CellDone):
                self._send(event.cell.key, {"row": cell_row(event.cell)}, scorers=self._state.scorers)
            elif isinstance(event, CellStarted):
                self._send((event.case_id, event.candidate, event.epoch), {"row": partial_row("")})
            elif isinstance(event, CellDelta):
                self._send_delta(event)
        self.refresh_static(now=isinstance(event, ComparisonEnded))

    def watched(self, now: bool) -> None:
        if now and self._end is None and self._subscribe is not None and (self.is_running or self._unread):
            self._end = self._subscribe(self._updates.soon)
            self._updates.soon()
        elif not now and self._end is not None:
            self._end()
            self._end = None

    async def _reread(self) -> None:
        assert self._read is not None
        began = time.perf_counter()
        grid = await self.in_turn(self._read)
        state = await self.in_turn(GridState.of, grid)
        with self._lock:
            self._state, self._unread = state, False
            self.emit({"kind": "cells", **self._head()}, [body(self._state)])
        self._updates.cost_s = time.perf_counter() - began
        self.refresh_static()

    def merge(self, last: dict[str, Json], op: dict[str, Json]) -> bool:
        """Merge changes to the same cell within one batch into one change, joining its text."""
        if last.get("kind") != "live" or op.get("kind") != "live":
            return False
        cells = cast("CellChanges", last["cells"])
        for place, change in cast("CellChanges", op["cells"]).items():
            before = cells.get(place)
            if before is None or "row" in change:
                cells[place] = change
            else:
                before["more"] = f"{before.get('more', '')}{change['more']}"
        for name in ("progress", "scorers"):
            last[name] = op[name] or last[name]
        return True

    def _send(self, key: Key, change: dict[str, Json], scorers: Json = None) -> None:
        place = self._state.place(key)
        if place is not None:
            cells = {",".join(map(str, place)): change}
            self.emit({"kind": "live", "cells": cells, "progress": None, "scorers": scorers})

    def _send_delta(self, event: CellDelta) -> None:
        """Text beyond what a cell can show is not sent; an open cell requests it."""
        key = (event.case_id, event.candidate, event.epoch)
        shown = PREVIEW - (len(self._state.partial[key]) - len(event.delta))
        if shown > 0:
            self._send(key, {"more": event.delta[:shown]})

    # View

    def snapshot(self) -> Reply:
        return Reply(self._head(), [body(self._state)])

    def static_html(self) -> str:
        return json_safe(self._static_copy(self._state))

    def _head(self) -> dict[str, Json]:
        payload = {**head(self._state), "can_stop": self._stop is not None}
        if self._cut is None:
            payload["columns"] = []
        if self._unread:  # Until the answers are there, the conclusion is the one that was stored at the end.
            return {
                **payload,
                "conclusion": self.record.conclusion or "",
                "headline": "Reading the answers.",
                "unread": True,
            }
        return payload

    @handles("case")
    def _case(self, place: int) -> Json:
        with self._lock:
            return opened_case(self._state, place)

    @handles("slices")
    async def _slices(self, by: str) -> Json:
        assert self._cut is not None
        return json_safe(await self.in_turn(self._cut, self._state, by))

    @handles("stop")
    def _stop_it(self) -> None:
        if self._stop is not None:
            self._stop()
