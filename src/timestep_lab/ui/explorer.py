"""`TraceExplorer`: all traces of a lab, with filters and live updates, and the open trace beside the list."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from functools import partial
from itertools import islice
from operator import index
from typing import TYPE_CHECKING, Any, Unpack, overload

from timestep_lab.model.arguments import checks_arguments, shown, trace_id_of, trace_ids_of
from timestep_lab.model.clock import parse_iso, utc_now
from timestep_lab.model.codec import Json
from timestep_lab.model.display import cost_text, count_text, duration_text
from timestep_lab.model.errors import FilterError, LabError, NotFoundError, QueryError, UsageError
from timestep_lab.service.traces import Facet, Row, TracePage, TraceQuery, Traces
from timestep_lab.store.trace_selection import NEWEST_FIRST
from timestep_lab.store.trace_stats import TimeBucket
from timestep_lab.ui.trace_reader import TraceReader, read_trace
from timestep_lab.ui.trace_view import TraceView, moment, outcome_text, text, trace_html
from timestep_lab.ui.view import LatestOnly, Updates, handles

if TYPE_CHECKING:
    import pandas

    from timestep_lab.service.traces import (
        Source,  # Defined here, since tab completion cannot read a property that is a Literal.
    )
    from timestep_lab.ui.trace_reader import ReaderOptions


# --- The list of traces as plain HTML, with the open trace below


MOST_ROWS = 50


def explorer_html(source: Traces, page: TracePage, selected: str | None) -> str:
    """The static copy of the explorer: a table, and the open trace if there is one."""
    if not page.data:
        return "<p>No traces. Every run is traced: <code>await lab.run(&quot;Umbrella in Oakland?&quot;)</code></p>"
    heads = ("Started", "Asked", "Agents", "Model", "Status")
    numbers = ("Turns", "Tokens", "Cost", "Time")
    head = "".join(f"<th align='left'>{name}</th>" for name in heads)
    head += "".join(f"<th align='right'>{name}</th>" for name in numbers)
    rows = "".join(_row(row) for row in page.data[:MOST_ROWS])
    total = page.total if page.total is not None else len(page.data)
    shown = min(len(page.data), MOST_ROWS)
    parts = [
        f"<p>{total:,} {'trace' if total == 1 else 'traces'}{f', the newest {shown} below' if total > shown else ''}</p>"
    ]
    parts.append(f"<table><tr>{head}</tr>{rows}</table>")
    if selected is not None:
        parts.append(trace_html(source, selected))
    return "\n".join(parts)


def _row(row: Row) -> str:
    known = [n for n in (row.get("input_tokens"), row.get("output_tokens")) if n is not None]
    status = outcome_text(row)
    words = (moment(row.get("started_at")), row.get("input") or row.get("workflow") or "", row.get("agent_path") or "")
    cells = "".join(f"<td align='left'>{text(word, 120)}</td>" for word in (*words, row.get("model") or "", status))
    tokens = count_text(sum(known)) if known else "unknown"
    numbers = (
        row.get("turns") or "",
        tokens,
        cost_text(row.get("cost_usd"), row.get("n_unpriced")),
        duration_text(row.get("duration_ms")),
    )
    return f"<tr>{cells}{''.join(f'<td align=right>{text(number, 40)}</td>' for number in numbers)}</tr>"


PAGE = 50
BUCKETS = 60
COUNTS_KEPT = 20

_Counts = tuple[tuple[TimeBucket, ...], tuple[Facet, ...]]
"""The histogram and the facets of a query, in any order of its traces."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Shown:
    """The current query and its results in the list."""

    query: TraceQuery
    last_s: float | None
    """If set, the query is "the last n seconds", and `query.since` moves with the clock."""
    order: str
    range: str
    """The browser's name for the time range ("yesterday"), if it has one."""
    page: TracePage
    histogram: tuple[TimeBucket, ...]
    facets: tuple[Facet, ...]
    is_empty: bool
    """Whether there are no traces at all, for any query."""


LONGEST_S = 100 * 366 * 86_400.0
"""The longest `last_s`."""


@checks_arguments("lab.traces")
class TraceExplorer(TraceReader):
    """The list of traces and the open one.

    `filter`, `search`, `of`, `since`, `until`, `order` and `selection` are synchronised with the view in both
    directions. `sql` is the query behind the list and `df()` returns its rows. `explorer[trace_id]` is a view of one
    trace.

    It is also a sequence of the matching traces, newest first, read on each access: `for trace in explorer`,
    `explorer[0]`, `explorer[:3]`, `len(explorer)`.

    Example:
        await lab.run("Hello", model="demo/echo")
        explorer = lab.explorer(filter='status == "completed"')
        print(len(explorer), explorer[0].trace_id, explorer.df().columns[:3])
    """

    stem = "explorer"

    def __init__(
        self,
        source: Traces,
        *,
        filter: str = "",
        search: str = "",
        of: Source = "",
        since: datetime | None = None,
        until: datetime | None = None,
        last_s: float | None = None,
        order: str = NEWEST_FIRST,
        range: str = "",
        live: bool = True,
        unread: Sequence[str] = (),
        **options: Unpack[ReaderOptions],
    ) -> None:
        """`unread`: invalid parameters of the request; they are reported above the list."""
        super().__init__(source, **options)
        if last_s is not None and not (type(last_s) in (int, float) and 0 < last_s <= LONGEST_S):
            raise UsageError(
                f"last_s={shown(last_s)} is not a time range.", "Pass a number of seconds above 0.", param="last_s"
            )
        self._unread = [*unread]
        self._query = TraceQuery(filter=filter, search=search, source=of, since=since, until=until)
        self._last_s = last_s
        self._order, self._range = order, range
        self._queries = LatestOnly()
        self._counts: dict[TraceQuery, _Counts] = {}
        """Of the queries since the last change. A change replaces the dict, so a count that it overtook is not kept."""
        self._shown: _Shown | None = None
        self._refused: dict[str, Json] | None = None
        """The invalid filter that the view was opened with, and its error."""
        self._selected: str | None = None
        self._live = live
        self._updates = Updates(self, self._refresh)
        self._changed_ids: set[str] = set()
        self._end: Callable[[], None] | None = None
        self._listeners: list[Callable[[TraceExplorer], None]] = []

    # Python API

    def on_change(self, listener: Callable[[TraceExplorer], None]) -> Callable[[], None]:
        """Call `listener(explorer)` whenever the view changes: filter, search, time, rows or open trace; from Python or
        a browser. Returns a function that removes the listener."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    def _changed_shown(self) -> None:
        for listener in [*self._listeners]:
            listener(self)

    @property
    def filter(self) -> str:
        """The filter expression, as typed. Setting an invalid one raises `FilterError` and leaves the view unchanged."""
        return self._query.filter

    @filter.setter
    def filter(self, text: str) -> None:
        """Raises `FilterError` and leaves the view unchanged if the filter is invalid."""
        self._ask(replace(self._query, filter=text), self._last_s)

    @property
    def search(self) -> str:
        """Words that the input or output must contain."""
        return self._query.search

    @search.setter
    def search(self, text: str) -> None:
        self._ask(replace(self._query, search=text), self._last_s)

    @property
    def of(self) -> Source:
        """The origin of the traces: `live`, `evaluation`, `imported`; empty for all."""
        return self._query.source

    @of.setter
    def of(self, source: Source) -> None:
        self._ask(replace(self._query, source=source), self._last_s)

    @property
    def order(self) -> str:
        """The sort order, such as `duration_ms desc`."""
        return self._order

    @order.setter
    def order(self, order: str) -> None:
        """Raises `UsageError` and leaves the view unchanged if the order is invalid."""
        self._take(self._answer(self._query, self._last_s, order))

    @property
    def since(self) -> datetime | None:
        """Start of the time range, inclusive."""
        return self._query.since

    @since.setter
    def since(self, moment: datetime | None) -> None:
        self._ask(replace(self._query, since=moment), None)

    @property
    def until(self) -> datetime | None:
        """End of the time range, exclusive."""
        return self._query.until

    @until.setter
    def until(self, moment: datetime | None) -> None:
        self._ask(replace(self._query, until=moment), None)

    def where(self, filter: str) -> TraceExplorer:
        """Returns a new explorer of the traces that match `filter` as well, as in `lab.traces.where('agent == "Front desk"')`.

        Raises `FilterError`.
        """
        query = self._query
        both = f"({query.filter}) and ({filter})" if query.filter else filter
        made = TraceExplorer(
            self.source, datasets=self._datasets, search=query.search, of=query.source, since=query.since, until=query.until,
            last_s=self._last_s, order=self._order,
        )  # fmt: skip
        made.filter = both
        return made

    @property
    def sql(self) -> str:
        """The SQL query of the list."""
        return self._now_shown().page.sql

    def df(self) -> pandas.DataFrame:
        """All matching rows, not only those on screen, indexed by trace id, which is also a column."""
        frame = self.source.frame(**self._query.words())
        return frame.set_axis(frame["trace_id"].rename(None), axis="index")

    @property
    def selection(self) -> str | None:
        """Id of the open trace."""
        return self._selected

    @selection.setter
    def selection(self, trace_id: str | None) -> None:
        if trace_id is not None:
            self.source.read(trace_id)
        self._selected = trace_id
        self.emit({"kind": "select", "trace_id": trace_id})
        self.refresh_static()
        self._changed_shown()

    @overload
    def __getitem__(self, which: slice) -> list[TraceView]: ...
    @overload
    def __getitem__(self, which: Any) -> TraceView: ...
    def __getitem__(self, which: object) -> TraceView | list[TraceView]:
        """A trace by id, run, or position among the matches; a list for a slice, or for several ids, runs or DataFrame rows.

        Raises `NotFoundError`, `UsageError`."""
        if isinstance(which, slice):
            ends = (which.start or 0, -1 if which.stop is None else which.stop)
            count = ends[1] if min(ends) >= 0 and (which.step or 1) > 0 else None
            return [
                TraceView(self.source, trace_id, datasets=self._datasets)
                for trace_id in list(islice(self._ids(), count))[which]
            ]
        if isinstance(which, Iterable) and not isinstance(which, str):
            return [TraceView(self.source, trace_id, datasets=self._datasets) for trace_id in trace_ids_of(which)]
        if not hasattr(which, "__index__"):
            return TraceView(self.source, trace_id_of(which), datasets=self._datasets)
        place = index(which)
        ids = list(islice(self._ids(), place + 1 if place >= 0 else None))
        if not -len(ids) <= place < len(ids):
            raise NotFoundError(f"There is no trace {place}: {len(ids)} match.", "Count from 0, or use a trace id.")
        return TraceView(self.source, ids[place], datasets=self._datasets)

    def __iter__(self) -> Iterator[TraceView]:
        return (TraceView(self.source, trace_id, datasets=self._datasets) for trace_id in self._ids())

    def __len__(self) -> int:
        total = self.source.page(**self._query.words(), limit=1).total
        return len(self.df()) if total is None else total

    def _ids(self) -> Iterator[str]:
        """Ids of all matching traces, newest first, read page by page."""
        page = self.source.page(**self._query.words(), order=self._order, limit=PAGE)
        yield from (row["trace_id"] for row in page.data)
        while page.after is not None:
            page = self.source.page(**self._query.words(), order=self._order, limit=PAGE, after=page.after)
            yield from (row["trace_id"] for row in page.data)

    def forget(self) -> None:
        """Read the list again on the next access, unless a browser is connected, which keeps it up to date."""
        if self._end is None:
            self._shown = None

    # View

    async def prepare(self) -> None:
        if self._shown is None:
            try:
                shown = await self.in_turn(self._answer, self._query, self._last_s, self._order, self._range)
            except (FilterError, QueryError) as error:
                self._refuse(error)
                shown = await self.in_turn(self._answer, self._query, self._last_s, self._order, self._range)
            self._show_first(shown)

    def _show_first(self, shown: _Shown) -> None:
        """Show the first result, unless another query was answered meanwhile."""
        if self._shown is None:
            self._shown = shown

    def snapshot(self) -> Json:
        try:
            shown = self._now_shown()
        except FilterError as error:
            self._refuse(error)
            shown = self._now_shown()
        return {
            **self._list_fields(shown),
            "refused": self._refused,
            "unread": self._unread,
            "selected": self._selected,
            "is_live": self._live,
        }

    def _refuse(self, error: LabError) -> None:
        """Handle an invalid filter as if it were typed: show its error beside it, and the list without it."""
        self._refused = {"filter": self._query.filter, "message": error.message, "next_step": error.next_step}
        self._query = replace(self._query, filter="")

    def static_html(self) -> str:
        return explorer_html(self.source, self._now_shown().page, self._selected)

    def watched(self, now: bool) -> None:
        if now and self._end is None and self._live:
            self._counts = {}
            self._end = self.source.subscribe(self._changed)
            self._updates.soon()
        elif not now and self._end is not None:
            self._end()
            self._end = None

    @handles("query")
    async def _from_browser(
        self,
        filter: str,
        search: str,
        since: str | None,
        until: str | None,
        since_s: float | None,
        source: Source = "",
        order: str = NEWEST_FIRST,
        range: str = "",
    ) -> None:
        query = TraceQuery(
            filter=filter,
            search=search,
            source=source,
            since=parse_iso(since) if since else None,
            until=parse_iso(until) if until else None,
        )
        is_latest = self._queries.ask()
        shown = await self.in_turn(self._answer, query, since_s, order, range)
        if is_latest():
            self._take(shown)

    @handles("more")
    async def _more(self, after: str) -> Json:
        return _page(
            await self.in_turn(self.source.page, **self._query.words(), order=self._order, limit=PAGE, after=after)
        )

    @handles("suggest")
    async def _suggest(self, text: str, cursor: int) -> Json:
        return [asdict(s) for s in await self.in_turn(self.source.suggest, text, cursor)]

    @handles("views")
    async def _views(self) -> Json:
        return [asdict(view) for view in await self.in_turn(self.source.views, "traces")]

    @handles("save_view")
    async def _save_view(self, name: str, body: dict[str, Json]) -> None:
        await self.in_turn(self.source.save_view, "traces", name, body)

    @handles("forget_view")
    async def _forget_view(self, view_id: str) -> None:
        await self.in_turn(self.source.delete_view, view_id)

    @handles("graph_all")
    async def _graph_all(self) -> Json:
        return asdict(await self.in_turn(self.source.graph, **self._query.words()))

    @handles("select")
    def _select(self, trace_id: str | None, span_id: str | None = None) -> None:
        self._selected = trace_id
        self._changed_shown()

    # Queries

    def check(self) -> None:
        """Raises what an invalid filter, order or time raises."""
        self.source.page(**self._query.words(), order=self._order, limit=1, with_total=False)

    def _answer(self, query: TraceQuery, last_s: float | None, order: str, range: str = "") -> _Shown:
        if last_s is not None:
            query = replace(query, since=utc_now() - timedelta(seconds=last_s), until=None)
        page = self.source.page(**query.words(), order=order, limit=PAGE, with_total=False)
        buckets, facets = self._counted(query) if page.data else ((), ())
        page = replace(page, total=sum(bucket.count for bucket in buckets))
        is_empty = not page.data and not self.source.page(limit=1).data
        return _Shown(
            query=query, last_s=last_s, order=order, range=range, page=page, histogram=buckets, facets=facets, is_empty=is_empty
        )  # fmt: skip

    def _counted(self, query: TraceQuery) -> _Counts:
        """While changes are followed, a query that was counted since the last one (another order, Back) is not counted again."""
        counts = self._counts if self._end is not None else {}
        if (found := counts.get(query)) is None:
            with ThreadPoolExecutor(1) as other:  # Each reads all that matches: both at once.
                facets = other.submit(copy_context().run, partial(self.source.facets, **query.words()))
                found = tuple(self.source.histogram(**query.words(), buckets=BUCKETS)), tuple(facets.result())
            while len(counts) >= COUNTS_KEPT:
                counts.pop(next(iter(counts)), None)
            counts[query] = found
        return found

    def _ask(self, query: TraceQuery, last_s: float | None) -> None:
        shown = self._answer(query, last_s, self._order)
        self._queries.ask()
        self._take(shown)

    def _take(self, shown: _Shown, *, live: bool = False) -> None:
        self._shown, self._query, self._last_s = shown, shown.query, shown.last_s
        self._order, self._range = shown.order, shown.range
        if not live:
            self._refused = None
        self.emit({"kind": "list", **self._list_fields(shown), "live": live})
        self.refresh_static()
        self._changed_shown()

    def _now_shown(self) -> _Shown:
        if self._shown is None:
            self._shown = self._answer(self._query, self._last_s, self._order, self._range)
        return self._shown

    @staticmethod
    def _list_fields(shown: _Shown) -> dict[str, Json]:
        query = asdict(shown.query)
        if shown.last_s is not None:
            query["since"] = None
        return {
            "query": {**query, "since_s": shown.last_s, "order": shown.order, "range": shown.range},
            "page": _page(shown.page),
            "histogram": [asdict(bucket) for bucket in shown.histogram],
            "facets": [asdict(facet) for facet in shown.facets],
            "is_empty": shown.is_empty,
        }

    # Live updates

    def _changed(self, trace_id: str) -> None:
        self._counts = {}
        self._changed_ids.add(trace_id)
        self._updates.soon()

    async def _refresh(self) -> None:
        changed, self._changed_ids = self._changed_ids, set()
        started, before = time.perf_counter(), self._shown
        shown = await self.in_turn(self._answer, self._query, self._last_s, self._order, self._range)
        if (
            self._shown is before and shown != before
        ):  # Otherwise a later query has been answered, including the new traces.
            self._take(shown, live=True)
        if self._selected in changed and self._selected is not None:
            reply = await self.in_turn(read_trace, self.source, self._selected)
            self.emit({"kind": "trace", "value": reply.value}, reply.buffers)
        self._updates.cost_s = time.perf_counter() - started


def _page(page: TracePage) -> dict[str, Json]:
    return {"rows": page.data, "total": page.total, "sql": page.sql, "after": page.after}
