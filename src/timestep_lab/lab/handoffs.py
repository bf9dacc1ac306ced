"""`lab.handoffs`: what was declared and what was travelled, as one graph."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from timestep_lab.types.graph import AgentGraph
from timestep_lab.ui.handoff_graph import HandoffGraph

if TYPE_CHECKING:
    from timestep_lab.lab.lab import Lab


def handoff_graph(lab: Lab, agent: Any, filter: str, traces: Sequence[str] | None) -> HandoffGraph:
    """Declared from `agent` (None: only what was travelled), laid under what the traces travelled."""
    from timestep_lab.runtime.agent_graph import declared_graph

    lab.flush()
    travelled = lab.store.traces.graph(traces, filter)
    if agent is None:
        return HandoffGraph(travelled, title="Handoffs")
    root = lab.agents.get(agent) if isinstance(agent, str) else agent
    records = {record.id: record for record in lab.agents.list()}
    return HandoffGraph(over(declared_graph(root, records), travelled), title=f"Handoffs of {root.name}")


def over(declared: AgentGraph, travelled: AgentGraph) -> AgentGraph:
    """The declared graph with the numbers of what was travelled; what was travelled undeclared is in it too."""
    nodes = {node.path: node for node in declared.nodes} | {node.path: node for node in travelled.nodes}
    ways = {(edge.from_path, edge.to_path): edge for edge in travelled.edges}
    edges = {}
    for edge in declared.edges:
        key = (edge.from_path, edge.to_path)
        edges[key] = replace(ways[key], declared=True) if key in ways else edge
    return AgentGraph(nodes=tuple(nodes.values()), edges=tuple((ways | edges).values()))


def declared_for(lab: Lab, trace_id: str | None) -> AgentGraph:
    """Handoffs declared from the agent that a trace began with; of all agents without one. Empty when that agent is gone."""
    from timestep_lab.runtime.agent_graph import declared_graph

    records = {record.id: record for record in lab.agents.list()}
    roots = list(records.values())
    if trace_id is not None:
        workflow = lab.store.traces.get(trace_id)["workflow"]
        roots = [record for record in roots if record.name == workflow]
    found = [declared_graph(root, records) for root in roots]
    nodes = {node.path: node for graph in found for node in graph.nodes}
    edges = {(edge.from_path, edge.to_path): edge for graph in found for edge in graph.edges}
    return AgentGraph(nodes=tuple(nodes.values()), edges=tuple(edges.values()))
