"""Cells on their way into the store: all that finish while one transaction is written go into the next. Told only when durable."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from timestep_lab.evals.results import ComparisonRows
from timestep_lab.model.comparison import CellRecord, ScoreValue
from timestep_lab.store.base import in_thread


class CellWriter:
    """`stored` is called on the event loop with each cell once it is durable. A store that fails ends the comparison."""

    def __init__(self, rows: ComparisonRows, comparison_id: str, stored: Callable[[CellRecord], None]) -> None:
        self._rows, self._comparison_id, self._stored = rows, comparison_id, stored
        self._cells: list[CellRecord] = []
        self._late: list[tuple[CellRecord, ScoreValue]] = []
        self._cache: list[tuple[str, CellRecord]] = []
        self._replies: list[tuple[str, str]] = []
        self._writing: asyncio.Task[None] | None = None

    def add(self, cell: CellRecord, cache_key: str | None = None) -> None:
        self._cells.append(cell)
        if cache_key is not None and cell.status == "done" and not cell.cached:
            self._cache.append((cache_key, cell))
        self._wake()

    def keep_answer(self, key: str, cell: CellRecord) -> None:
        """In the cache already while its scores are still to come."""
        self._cache.append((key, cell))
        self._wake()

    def add_score(self, cell: CellRecord, score: ScoreValue) -> None:
        """A score that came after its cell."""
        self._late.append((cell, score))
        self._wake()

    def keep_reply(self, key: str, text: str) -> None:
        """What a judge said, for the cache."""
        self._replies.append((key, text))
        self._wake()

    async def flush(self) -> None:
        """Return when all that was added is durable. Raises what the store raised."""
        while self._writing is not None or self._unwritten:
            self._wake()
            if self._writing is not None:
                await asyncio.shield(self._writing)

    def check(self) -> None:
        """Raise what the store raised, if it did."""
        if self._writing is not None and self._writing.done() and not self._writing.cancelled():
            self._writing.result()

    @property
    def _unwritten(self) -> bool:
        return bool(self._cells or self._late or self._cache or self._replies)

    def _wake(self) -> None:
        if self._writing is None:
            self._writing = asyncio.create_task(self._write(), name="timestep-lab cells")

    async def _write(self) -> None:
        while self._unwritten:
            cells, self._cells = self._cells, []
            late, self._late = self._late, []
            cache, self._cache = self._cache, []
            replies, self._replies = self._replies, []
            await in_thread(self._rows.add_cells, self._comparison_id, cells, late, cache, replies)
            for cell in cells:
                self._stored(cell)
        self._writing = None
