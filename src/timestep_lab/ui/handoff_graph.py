"""`HandoffGraph`: handoffs between agents, for one run or many; and the difference of two graphs."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from timestep_lab.model.codec import Json
from timestep_lab.model.display import cost_text, duration_text
from timestep_lab.model.records import AgentGraph, GraphNode
from timestep_lab.ui.trace_view import text
from timestep_lab.ui.view import View

if TYPE_CHECKING:
    from timestep_lab.ui.view import Theme


class HandoffGraph(View):
    """Agents as cards, handoffs as curves: declared ones are dashed, observed ones as wide as they are frequent.

    With `other`, both graphs are combined: counts are shown side by side, and an edge has the colour of the graph in
    which it is more frequent. `labels` are the names of the two.

    Example:
        graph = lab.handoffs("Personal Assistant")
        assert isinstance(graph, HandoffGraph)
    """

    stem = "handoff_graph"

    def __init__(
        self,
        graph: AgentGraph,
        other: AgentGraph | None = None,
        *,
        labels: tuple[str, str] = ("first", "second"),
        title: str = "",
        theme: Theme = "auto",
        height: int | None = None,
    ) -> None:
        super().__init__(theme=theme, height=height)
        self.graph = graph
        self.other = other
        self.labels = labels
        self.title = title

    def snapshot(self) -> Json:
        drawn = asdict(self.graph) if self.other is None else difference(self.graph, self.other)
        return {**drawn, "labels": None if self.other is None else list(self.labels), "title": self.title}

    def static_html(self) -> str:
        names = {node.path: node.name for graph in (self.graph, self.other) if graph for node in graph.nodes}
        counts = {(e.from_path, e.to_path): e.count for e in self.other.edges} if self.other else {}
        rows = []
        ways = {(e.from_path, e.to_path): e for e in (*(self.other.edges if self.other else ()), *self.graph.edges)}
        own = {(e.from_path, e.to_path) for e in self.graph.edges}
        for way, edge in ways.items():
            first = edge.count if way in own else 0
            times = f"{first:,} × / {counts.get(way, 0):,} ×" if self.other else f"{edge.count:,} ×"
            if not edge.count and not counts.get(way):
                times = "declared, never observed"
            ends = f"{text(names.get(way[0], way[0]))} → {text(names.get(way[1], way[1]))}"
            rows.append(f"<tr><td align='left'>{ends}</td><td align='right'>{times}</td></tr>")
        agents = "".join(_agent(node) for node in self.graph.nodes)
        head = f"<p><strong>{text(self.title)}</strong></p>" if self.title else ""
        ways_table = (
            f"<table><tr><th align='left'>Handoff</th><th align='right'>Observed</th></tr>{''.join(rows)}</table>"
        )
        return f"{head}<ul>{agents}</ul>{ways_table if rows else ''}"


def difference(a: AgentGraph, b: AgentGraph) -> dict[str, Json]:
    """The union of both graphs: nodes and edges of `a` or `b`, with `calls_b` and `count_b` beside the counts of `a`.

    `share_a` and `share_b` are an edge's fraction of all handoffs of its graph, so graphs with different numbers of
    runs are comparable.
    """
    nodes: dict[str, dict[str, Json]] = {node.path: {**asdict(node), "calls_b": 0} for node in a.nodes}
    for node in b.nodes:
        empty = {**asdict(replace(node, calls=0)), "calls_b": 0}
        nodes.setdefault(node.path, empty)["calls_b"] = node.calls
    edges: dict[tuple[str, str], dict[str, Any]] = {
        (edge.from_path, edge.to_path): {**asdict(edge), "count_b": 0} for edge in a.edges
    }
    for edge in b.edges:
        empty = {**asdict(replace(edge, count=0)), "count_b": 0}
        edges.setdefault((edge.from_path, edge.to_path), empty)["count_b"] = edge.count
    all_a, all_b = (sum(edge[key] for edge in edges.values()) or 1 for key in ("count", "count_b"))
    for edge_row in edges.values():
        edge_row["share_a"] = edge_row["count"] / all_a
        edge_row["share_b"] = edge_row["count_b"] / all_b
    return {"nodes": list(nodes.values()), "edges": list(edges.values())}


def _agent(node: GraphNode) -> str:
    if not node.calls:
        return f"<li>{text(node.name)}: never ran</li>"
    facts = [f"{node.calls:,} ×", duration_text(node.p50_ms), cost_text(node.cost_usd)]
    facts += [f"{node.errors:,} error{'s' if node.errors != 1 else ''}"] if node.errors else []
    return f"<li>{text(node.name)}: {' · '.join(fact for fact in facts if fact)}</li>"
