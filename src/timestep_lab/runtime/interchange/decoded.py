"""What a reader of any format makes of its input: rows ready for the store."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from timestep_lab.store.base import Database
from timestep_lab.store.json_text import clean, to_json
from timestep_lab.store.span_rows import AT, Row
from timestep_lab.store.trace_import import TraceImport

_TRACE, _SPAN, _PARENT = AT["trace_id"], AT["span_id"], AT["parent_id"]
_AGENT, _KIND, _NAME, _STARTED = AT["agent"], AT["kind"], AT["name"], AT["started_at"]


@dataclass(slots=True)
class Decoded:
    """`spans` and `traces` are tuples in the order of `SPAN_COLUMNS` and `TRACE_COLUMNS` of the store."""

    user_id: str
    spans: list[Row] = field(default_factory=list)
    traces: list[Row] = field(default_factory=list)
    rejected: int = 0
    """Spans that could not be read; the others can be stored."""
    problem: str = ""
    """What was wrong with the first of them."""

    def store(self, db: Database) -> int:
        """How many spans were new. Durable on return."""
        return TraceImport(db).rows(self.user_id, self.spans, self.traces)

    def reject(self, problem: str) -> None:
        self.rejected += 1
        self.problem = self.problem or problem

    def finish(self, about: Mapping[str, Mapping[str, Any]]) -> Decoded:
        """Fills in what a span inherits: its agent from the spans above, the trace's start from its root.

        `about` is what the spans said of their trace: `workflow`, `thread_id`, `metadata`.
        """
        self.spans = _with_agents(self.spans)
        starts: dict[str, tuple[datetime, str | None]] = {}
        for row in self.spans:
            known = starts.get(row[_TRACE])
            name = row[_NAME] if row[_PARENT] is None else None
            if known is None:
                starts[row[_TRACE]] = (row[_STARTED], name)
            elif row[_STARTED] < known[0] or (name and not known[1]):
                starts[row[_TRACE]] = (min(row[_STARTED], known[0]), known[1] or name)
        for trace_id, (started_at, root) in starts.items():
            said = about.get(trace_id, {})
            workflow = said.get("workflow") or root
            if workflow is None and "thread_id" not in said:
                continue  # The rest of this trace may tell more; the store gives it a provisional start.
            self.traces.append((
                self.user_id, trace_id, clean(str(workflow or "")), _text(said.get("thread_id")), started_at,
                to_json(said.get("metadata") or {}), None, None,
            ))  # fmt: skip
        return self


def _with_agents(rows: list[Row]) -> list[Row]:
    """A span without an agent works for the agent of the nearest span above it that has one."""
    if all(row[_AGENT] is not None for row in rows):
        return rows
    above = {(row[_TRACE], row[_SPAN]): (row[_PARENT], row[_AGENT]) for row in rows}
    found: dict[tuple[str, str | None], str | None] = {}

    def agent_of(trace_id: str, span_id: str | None) -> str | None:
        path = []
        agent = None
        while span_id is not None and (trace_id, span_id) in above:
            if (trace_id, span_id) in found:
                agent = found[trace_id, span_id]
                break
            path.append((trace_id, span_id))
            found[trace_id, span_id] = None  # A circle of parents ends here.
            span_id, agent = above[trace_id, span_id]
            if agent is not None:
                break
        found.update(dict.fromkeys(path, agent))
        return agent

    filled = []
    for row in rows:
        if row[_AGENT] is None and row[_PARENT] is not None:
            agent = agent_of(row[_TRACE], row[_PARENT])
            if agent is not None:
                row = (*row[:_AGENT], agent, *row[_AGENT + 1 :])
        filled.append(row)
    return filled


def _text(value: Any) -> str | None:
    return None if value is None else clean(str(value))
