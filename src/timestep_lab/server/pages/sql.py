"""The SQL page: a query over the lab's views, as a table or a chart; `?query=` runs a query."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, ClassVar

from timestep_lab.model.codec import Json
from timestep_lab.model.errors import UsageError
from timestep_lab.server.pages.page_view import PageView
from timestep_lab.store.base import Topic, in_thread
from timestep_lab.ui.columns import json_safe
from timestep_lab.ui.view import handles

if TYPE_CHECKING:
    from timestep_lab.server.labs import UserLab

MOST_ROWS = 1_000
VIEWS = ("traces", "spans", "generations", "tool_calls", "handoffs", "messages", "scores", "usage")
CHARTS = ("table", "line", "bar")


def answer(lab: UserLab, query: str) -> dict[str, Json]:
    """`columns`, `rows` (lists) and whether there were more. Blocks. Raises `QueryError`."""
    result = lab.store.typed_sql(query, limit=MOST_ROWS)
    return {
        "columns": list(result.columns),
        "rows": [[_exact(json_safe(value)) for value in row] for row in result.rows],
        "truncated": result.truncated,
    }


def _exact(value: Json) -> Json:
    """A whole number that a browser would round, as text."""
    return str(value) if isinstance(value, int) and abs(value) >= 2**53 else value


class SqlPage(PageView):
    stem = "pages/sql"
    title = "SQL"
    topics: ClassVar[frozenset[Topic]] = frozenset()

    async def read(self) -> object:
        saved = await self.in_turn(self.lab.trace_source.views, "sql")
        return {"saved": [asdict(view) for view in saved], "views": await self.in_turn(self._views)}

    def _views(self) -> dict[str, list[str]]:
        return {name: list(self.lab.store.sql(f"select * from {name} limit 0").columns) for name in VIEWS}

    @handles("run")
    async def _run(self, query: str) -> Json:
        return await self.in_turn(answer, self.lab, query)

    @handles("save")
    async def _save(self, name: str, query: str, chart: str = "table", panel: bool = False) -> None:
        if chart not in CHARTS:
            raise UsageError(f"Unknown chart {chart!r}.", f"Choose one of {', '.join(CHARTS)}.")
        body: dict[str, Json] = {"query": query, "chart": chart, "panel": panel}
        await in_thread(self.lab.trace_source.save_view, "sql", name, body)
        await self.refresh()

    @handles("forget")
    async def _forget(self, view_id: str) -> None:
        await in_thread(self.lab.trace_source.delete_view, view_id)
        await self.refresh()


def page(lab: UserLab, *, is_owner: bool) -> SqlPage:
    return SqlPage(lab)
