"""The page of comparisons made so far. An opened one is the live matrix of `ui/grid.py`."""

from __future__ import annotations

from typing import ClassVar

from timestep_lab.app.views.page_view import PageView
from timestep_lab.store.base import Topic, in_thread
from timestep_lab.types.records import Json


class ComparePage(PageView):
    stem = "pages/compare"
    title = "Compare"
    topics: ClassVar[frozenset[Topic]] = frozenset({"comparisons"})

    async def read(self) -> Json:
        return await in_thread(self._read)

    def _read(self) -> Json:
        rows = [
            {
                "id": r.id, "name": r.name, "status": r.status, "created_at": r.created_at,
                "candidates": [candidate["name"] for candidate in r.candidates], "epochs": r.epochs,
            }
            for r in self.lab.comparisons()
        ]  # fmt: skip
        return {"comparisons": rows}
