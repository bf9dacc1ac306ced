"""The handoff graph as rows: what was declared, and what was travelled."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphNode:
    """An agent at one place in the graph. `path` is the chain of agent ids or names from the root: two agents that share a name stay apart."""

    path: str
    name: str
    calls: int = 0
    p50_ms: float | None = None
    cost_usd: float | None = None
    errors: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphEdge:
    """`declared` without `count` is a way never travelled."""

    from_path: str
    to_path: str
    declared: bool = False
    count: int = 0
    p50_ms: float | None = None
    errors: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentGraph:
    """Agents and the ways between them, declared or travelled, as rows to be drawn, compared and counted."""

    nodes: tuple[GraphNode, ...]
    edges: tuple[GraphEdge, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class TitledGraph(AgentGraph):
    """A graph that says what it is of."""

    title: str
