"""The handoff graph of one or many traces, from the agents' spans.

A node is an agent at one place: its path is the chain of names from the first agent, joined by `/`, through handoffs and agents called
as tools. Agents with the same name under different parents are therefore distinct; an agent that is handed back to, or that continues
after a pause, is the same node.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from itertools import groupby
from operator import attrgetter
from statistics import median
from typing import NamedTuple

from timestep_lab.model.records import AgentGraph, GraphEdge, GraphNode
from timestep_lab.model.spans import Lab
from timestep_lab.store.base import Database, Dialect
from timestep_lab.store.filters import CompiledFilter

SEPARATOR = "/"


class _Step(NamedTuple):
    """An agent span. `cost_usd` is None if a price is unknown; `handed_from` is the agent that handed off to it, if any."""

    trace_id: str
    span_id: str
    agent: str
    failed: bool
    started_at: datetime
    ended_at: datetime | None
    duration_ms: float | None
    cost_usd: float | None
    handed_from: str | None
    resumed: bool
    """It continues after a pause: the same call, to which its time and cost are added."""


@dataclass(slots=True)
class _Tally:
    count: int = 0
    errors: int = 0
    durations: list[float] = field(default_factory=list)
    cost_usd: float = 0.0
    priced: bool = True

    def add(self, step: _Step) -> None:
        again = step.resumed and self.count > 0
        self.count += not again
        self.errors += step.failed
        if step.duration_ms is not None and again and self.durations:
            self.durations[-1] += step.duration_ms
        elif step.duration_ms is not None:
            self.durations.append(step.duration_ms)
        if step.cost_usd is None:
            self.priced = False
        else:
            self.cost_usd += step.cost_usd

    @property
    def p50_ms(self) -> float | None:
        return median(self.durations) if self.durations else None


# A generation belongs to the latest span of its agent that started before it, and a handoff to the next span of its target.
# A generation without an agent (sent by another program, span by span) belongs to the agent that started last.
_COSTS: dict[Dialect, str] = {
    "duckdb": "select a.span_id, g.cost_usd, g.used from g asof join a "
    "on g.trace_id = a.trace_id and g.agent = a.agent and g.started_at >= a.started_at "
    "union all select a.span_id, n.cost_usd, n.used from (select * from g where agent is null) n asof join a "
    "on n.trace_id = a.trace_id and n.started_at >= a.started_at",
    "postgres": "select b.span_id, g.cost_usd, g.used from g join lateral (select a.span_id from a where a.trace_id = g.trace_id "
    "and (g.agent is null or a.agent = g.agent) and a.started_at <= g.started_at order by a.started_at desc limit 1) b on true",
}
_HANDOFFS: dict[Dialect, str] = {
    "duckdb": "select a.span_id, h.agent as handed_from from h asof join a "
    "on h.trace_id = a.trace_id and h.to_agent = a.agent and h.started_at <= a.started_at",
    "postgres": "select b.span_id, h.agent as handed_from from h join lateral (select a.span_id from a where a.trace_id = h.trace_id "
    "and a.agent = h.to_agent and a.started_at >= h.started_at order by a.started_at limit 1) b on true",
}


def agent_graph(db: Database, user_id: str, where: CompiledFilter) -> AgentGraph:
    """Returns the observed handoffs of all matching traces, with a single query."""
    among = f"s.trace_id in (select t.trace_id from traces t where {where.sql})" if where.sql != "true" else "true"
    sql = f"""
with spans_of as (
    select trace_id, span_id, kind, coalesce(agent, case when kind = 'agent' then name end) as agent, to_agent, status,
           started_at, ended_at, duration_ms, cost_usd, coalesce(input_tokens, 0) + coalesce(output_tokens, 0) > 0 as used,
           kind = 'agent' and attributes like '%"{Lab.RESUMED}":%' as resumed
    from core.span_rows s
    where kind in ('agent', 'generation', 'handoff') and {among}
),
a as (select * from spans_of where kind = 'agent'),
g as (select * from spans_of where kind = 'generation'),
h as (select * from spans_of where kind = 'handoff'),
costs as (
    select span_id, sum(cost_usd) as cost_usd, sum(case when used and cost_usd is null then 1 else 0 end) as unpriced
    from ({_COSTS[db.dialect]}) as priced group by span_id
),
origins as (select span_id, max(handed_from) as handed_from from ({_HANDOFFS[db.dialect]}) as handed group by span_id)
select a.trace_id, a.span_id, a.agent, a.status = 'error', a.started_at, a.ended_at, a.duration_ms,
       case when coalesce(costs.unpriced, 0) = 0 then coalesce(costs.cost_usd, 0) end, origins.handed_from, a.resumed
from a
left join costs on costs.span_id = a.span_id
left join origins on origins.span_id = a.span_id
order by a.trace_id, a.started_at, a.ended_at desc nulls first
"""
    return _graph(_Step(*row) for row in db.query(user_id, sql, where.params).rows)


def _graph(steps: Iterable[_Step]) -> AgentGraph:
    """`steps` are ordered by trace, then by start."""
    nodes: dict[str, _Tally] = defaultdict(_Tally)
    edges: dict[tuple[str, str], _Tally] = defaultdict(_Tally)
    for _, trace in groupby(steps, key=attrgetter("trace_id")):
        latest: dict[str, str] = {}
        """Maps an agent's name to its latest path."""
        ways: dict[str, str] = {}
        """Maps a path to the path from which it was last reached."""
        around: list[tuple[datetime | None, str]] = []
        """Active agents, outermost first: (end, path)."""
        for step in trace:
            while around and not _within(step, around[-1][0]):
                around.pop()
            caller = latest.get(step.handed_from) if step.handed_from else around[-1][1] if around else None
            if caller is None and step.agent in latest:
                path = latest[step.agent]
                caller = ways.get(path) if step.resumed else None
            else:
                path = _path(caller, step.agent)
            nodes[path].add(step)
            if caller is not None:
                edges[caller, path].add(step)
                ways[path] = caller
            latest[step.agent] = path
            around.append((step.ended_at, path))
    return AgentGraph(
        nodes=tuple(
            GraphNode(
                path=path, name=path.rsplit(SEPARATOR, 1)[-1], calls=tally.count, p50_ms=tally.p50_ms,
                cost_usd=tally.cost_usd if tally.priced else None, errors=tally.errors,
            )
            for path, tally in nodes.items()
        ),
        edges=tuple(
            GraphEdge(from_path=start, to_path=end, count=tally.count, p50_ms=tally.p50_ms, errors=tally.errors)
            for (start, end), tally in edges.items()
        ),
    )  # fmt: skip


def _within(step: _Step, end: datetime | None) -> bool:
    return end is None or (step.ended_at is not None and step.ended_at <= end and step.started_at < end)


def _path(caller: str | None, agent: str) -> str:
    name = agent.replace(SEPARATOR, "∕")
    if caller is None:
        return name
    chain = caller.split(SEPARATOR)
    return SEPARATOR.join(chain[: chain.index(name) + 1]) if name in chain else f"{caller}{SEPARATOR}{name}"
