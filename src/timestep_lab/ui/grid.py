"""`GridView`: candidates side by side on the same cases, while they are asked and afterwards."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from timestep_lab.model.comparison import (
    CellDelta,
    CellDone,
    CellStarted,
    ComparisonEnded,
    ComparisonProgress,
    ComparisonRecord,
    ComparisonStarted,
    GridLike,
    headline,
)
from timestep_lab.model.events import Event
from timestep_lab.model.records import Json
from timestep_lab.service.traces import Traces
from timestep_lab.ui.grid_rows import PREVIEW, body, cell_row, head, opened_case, partial_row
from timestep_lab.ui.grid_state import GridState, Key
from timestep_lab.ui.json_safe import json_safe
from timestep_lab.ui.trace_reader import TraceReader
from timestep_lab.ui.updates import Updates
from timestep_lab.ui.view import Reply, handles

Twin = Callable[[GridLike], str]


class GridView(TraceReader):
    """Verdict, differences with their intervals, quality against cost, and the matrix of answers.

    `grid`: a comparison as it stands. `apply(event)` carries one that is under way on. `stop` is called when the reader stops it;
    without it there is no such button. `twin` draws the static copy. A comparison that runs elsewhere is followed: `subscribe` is given
    what to call when it has changed, and returns how to end that; `read` then gives the comparison as it stands, and may block. With
    `read`, `grid` may be without its cases yet.
    """

    stem = "grid"

    def __init__(
        self, source: Traces, grid: GridLike, *, twin: Twin, stop: Callable[[], None] | None = None,
        read: Callable[[], GridLike] | None = None, subscribe: Callable[[Callable[[], None]], Callable[[], None]] | None = None,
        **options: Any,
    ) -> None:  # fmt: skip
        super().__init__(source, **options)
        self._state = GridState.of(grid)
        self._twin = twin
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
        """The comparison as it was last read."""
        return self._state.record

    @property
    def verdict(self) -> str:
        """What the first line says."""
        return headline(self._state)

    @property
    def is_running(self) -> bool:
        return self._state.is_running

    # Following

    def apply(self, event: Event) -> None:
        """Take an event of the comparison. From any thread."""
        with self._lock:
            self._state.apply(event)
            if isinstance(event, ComparisonStarted):
                self.emit({"kind": "grid", **self._head()}, [body(self._state)])
            elif isinstance(event, ComparisonEnded) or (isinstance(event, ComparisonProgress) and event.pairs):
                self.emit({"kind": "head", **self._head()})
            elif isinstance(event, ComparisonProgress):
                self.emit({"kind": "live", "cells": {}, "progress": event.progress, "scorers": None})
            elif isinstance(event, CellDone):
                self._tell(event.cell.key, {"row": cell_row(event.cell)}, scorers=self._state.scorers)
            elif isinstance(event, CellStarted):
                self._tell((event.case_id, event.candidate, event.epoch), {"row": partial_row("")})
            elif isinstance(event, CellDelta):
                self._tell_delta(event)
        self.refresh_twin(now=isinstance(event, ComparisonEnded))

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
        self.refresh_twin()

    def merge(self, last: dict[str, Json], op: dict[str, Json]) -> bool:
        """All that happens to cells within one gathering is one change, a cell's words joined."""
        if last.get("kind") != "live" or op.get("kind") != "live":
            return False
        for place, change in op["cells"].items():
            before = last["cells"].get(place)
            if before is None or "row" in change:
                last["cells"][place] = change
            else:
                before["more"] = before.get("more", "") + change["more"]
        for name in ("progress", "scorers"):
            last[name] = op[name] or last[name]
        return True

    def _tell(self, key: Key, change: dict[str, Json], scorers: Json = None) -> None:
        place = self._state.place(key)
        if place is not None:
            cells = {",".join(map(str, place)): change}
            self.emit({"kind": "live", "cells": cells, "progress": None, "scorers": scorers})

    def _tell_delta(self, event: CellDelta) -> None:
        """Words beyond what a cell can show are not sent; an opened cell asks for them."""
        key = (event.case_id, event.candidate, event.epoch)
        shown = PREVIEW - (len(self._state.partial[key]) - len(event.delta))
        if shown > 0:
            self._tell(key, {"more": event.delta[:shown]})

    # The view's side

    def snapshot(self) -> Reply:
        return Reply(self._head(), [body(self._state)])

    def twin_html(self) -> str:
        text: str = json_safe(self._twin(self._state))
        return text

    def _head(self) -> dict[str, Json]:
        told = {**head(self._state), "can_stop": self._stop is not None}
        return {**told, "headline": "Reading the answers."} if self._unread else told

    @handles("case")
    def _case(self, place: int) -> Json:
        with self._lock:
            return opened_case(self._state, place)

    @handles("stop")
    def _stop_it(self) -> None:
        if self._stop is not None:
            self._stop()
