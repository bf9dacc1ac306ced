"""The trace views' source over a store."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

from timestep_lab.store.agent_graphs import SEPARATOR
from timestep_lab.store.base import Change
from timestep_lab.store.store import Store
from timestep_lab.types.errors import UsageError
from timestep_lab.types.graph import AgentGraph, GraphEdge, GraphNode
from timestep_lab.types.records import ScoreRecord
from timestep_lab.ui.sources import Bucket, DiffRow, SpanColumns, Suggestion, TracePage, TraceQuery
from timestep_lab.ui.suggestions import suggest

if TYPE_CHECKING:
    import pandas


class StoreSource:
    """One user's traces.

    `declared(trace_id)` gives the handoffs that agents have, travelled or not (of all agents for None); without it only travelled ways are drawn.
    `diff` aligns two traces, given by their ids.
    """

    def __init__(
        self,
        store: Store,
        *,
        declared: Callable[[str | None], AgentGraph] | None = None,
        diff: Callable[[str, str], Sequence[DiffRow]] | None = None,
    ) -> None:
        self._store = store
        self._declared = declared
        self._diff = diff

    def list(self, query: TraceQuery, *, limit: int, after: str | None = None) -> TracePage:
        traces, words = self._store.traces, _words(query)
        page = traces.list(**words, limit=limit, after=after)
        # A first page that holds everything need not be counted again.
        total = len(page.data) if after is None and not page.has_more else traces.count(**words)
        return TracePage(rows=page.data, total=total, sql=traces.sql(**words), after=page.after)

    def frame(self, query: TraceQuery) -> pandas.DataFrame:
        return self._store.traces.frame(**_words(query))

    def histogram(self, query: TraceQuery, *, buckets: int) -> Sequence[Bucket]:
        bars = self._store.traces.histogram(buckets, **_words(query))
        return [Bucket(start=bar.start, end=bar.end, count=bar.count, errors=bar.errors) for bar in bars]

    def suggest(self, text: str, cursor: int) -> Sequence[Suggestion]:
        return suggest(text, cursor, self._store.traces.facets())

    def trace(self, trace_id: str) -> Mapping[str, Any]:
        return self._store.traces.get(trace_id)

    def spans(self, trace_id: str) -> SpanColumns:
        return self._store.traces.columns(trace_id)

    def payloads(self, trace_id: str, span_ids: Sequence[str]) -> Sequence[Mapping[str, Any]]:
        return self._store.traces.payloads(trace_id, span_ids)

    def graph(self, *, trace_id: str | None = None, query: TraceQuery | None = None) -> AgentGraph:
        traces = self._store.traces
        of_many = _words(query or TraceQuery())
        travelled = traces.graph(**of_many) if trace_id is None else traces.graph([trace_id])
        return travelled if self._declared is None else with_declared(travelled, self._declared(trace_id))

    def diff(self, left: str, right: str) -> Sequence[DiffRow]:
        if self._diff is None:
            raise UsageError("This view has no way to align two traces.", "Open it as lab.trace(run) or lab.traces.")
        return self._diff(left, right)

    def scores(self, trace_id: str) -> Sequence[ScoreRecord]:
        return self._store.traces.scores(trace_id)

    def add_score(
        self,
        target: Literal["trace", "span"],
        target_id: str,
        *,
        name: str,
        value: float | None,
        label: str | None,
        note: str | None,
    ) -> ScoreRecord:
        return self._store.traces.score(target, target_id, name, value, label=label, note=note)

    def subscribe(self, callback: Callable[[str], None]) -> Callable[[], None]:
        def changed(change: Change) -> None:
            if change.topic in ("traces", "runs"):
                callback(change.id)

        return self._store.subscribe(changed)


def with_declared(travelled: AgentGraph, declared: AgentGraph) -> AgentGraph:
    """Both as one graph. Declared agents are matched by path, and where paths differ, by a name that only one node has."""
    place = {node.path: node.path for node in travelled.nodes}
    declared = _without_echoes(declared, place.keys())
    names = [node.name for node in travelled.nodes]
    alone = {node.name: node.path for node in travelled.nodes if names.count(node.name) == 1}
    nodes = [*travelled.nodes]
    for node in declared.nodes:
        if node.path not in place:
            place[node.path] = alone.get(node.name, node.path)
            if node.name not in alone:
                nodes.append(GraphNode(path=node.path, name=node.name))
    edges = {(edge.from_path, edge.to_path): edge for edge in travelled.edges}
    for edge in declared.edges:
        way = (place.get(edge.from_path, edge.from_path), place.get(edge.to_path, edge.to_path))
        edges[way] = (
            replace(edges[way], declared=True)
            if way in edges
            else GraphEdge(from_path=way[0], to_path=way[1], declared=True)
        )
    return AgentGraph(nodes=tuple(nodes), edges=tuple(edges.values()))


def _without_echoes(declared: AgentGraph, travelled: Set[str]) -> AgentGraph:
    """Declared from every agent, one that others hand off to is there twice: at their places, and with all it declares as a beginning of
    its own. Where nothing began there, that second picture is left out."""
    below: dict[str, set[str]] = {node.path: set() for node in declared.nodes if SEPARATOR not in node.path}
    for node in declared.nodes:
        if SEPARATOR in node.path:
            below.setdefault(node.path.split(SEPARATOR)[0], set()).add(node.name)
    reached = set().union(*below.values())
    kept = {root for root in below if root not in reached or root in travelled}
    for root in below:  # Agents that only hand off to each other: the first of them stands for the rest.
        if root not in kept and not any(root in below[other] for other in kept):
            kept.add(root)
    return AgentGraph(
        nodes=tuple(node for node in declared.nodes if node.path.split(SEPARATOR)[0] in kept),
        edges=tuple(edge for edge in declared.edges if edge.from_path.split(SEPARATOR)[0] in kept),
    )


def _words(query: TraceQuery) -> dict[str, Any]:
    return {"filter": query.filter, "search": query.search, "since": query.since, "until": query.until}
