"""Realistic traces, and `Traces` over them in memory, deterministic for a seed."""

from __future__ import annotations

import json
import random
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from timestep_lab.model.clock import ms_between, utc_now
from timestep_lab.model.errors import NotFoundError
from timestep_lab.model.ids import LOCAL_USER, new_id
from timestep_lab.model.records import AgentGraph, GraphEdge, GraphNode, ScoreRecord, TitledGraph
from timestep_lab.service.traces import Facet, SavedView, TracePage, TraceQuery, Traces
from timestep_lab.store.filters import evaluate
from timestep_lab.store.filters.suggestions import Suggestion, suggest
from timestep_lab.store.trace_diff import DiffRow, DiffSide
from timestep_lab.store.trace_stats import FacetField, FacetValue, TimeBucket

MODELS = {"openai/gpt-4.1": (2.0, 8.0), "anthropic/claude-sonnet-4": (3.0, 15.0), "ollama/gpt-oss:20b": (0.0, 0.0)}
CITIES = ("Berkeley", "Oakland", "Reykjavík", "São Paulo", "Nairobi", "Kyoto")


@dataclass
class Recorder:
    """Writes one trace as a run would: `with`-less, by moving a clock."""

    trace_id: str
    at: datetime
    model: str
    random: random.Random
    spans: list[dict[str, Any]] = field(default_factory=list)

    def wait(self, ms: float) -> None:
        self.at += timedelta(milliseconds=ms)

    def open(self, kind: str, name: str, parent: dict[str, Any] | None, **facts: Any) -> dict[str, Any]:
        span = {
            "trace_id": self.trace_id, "span_id": f"{self.random.getrandbits(64):016x}", "kind": kind, "name": name,
            "parent_id": parent["span_id"] if parent else None, "status": "pending", "error": None, "started_at": self.at,
            "ended_at": None, "agent": parent["agent"] if parent else None, "attributes": {}, "input": None, "output": None, **facts,
        }  # fmt: skip
        self.spans.append(span)
        return span

    def close(self, span: dict[str, Any], **facts: Any) -> None:
        span.update({"status": "ok", "ended_at": self.at, **facts})
        span["duration_ms"] = ms_between(span["started_at"], span["ended_at"])

    def generation(
        self, parent: dict[str, Any], messages: list[Any], output: list[Any], ms: float, **facts: Any
    ) -> None:
        span = self.open(
            "generation", self.model, parent, model=self.model, provider=self.model.split("/")[0], input=list(messages)
        )
        self.wait(ms)
        tokens_in, tokens_out = 180 + len(json.dumps(messages)) // 4, 12 + len(json.dumps(output)) // 3
        price_in, price_out = MODELS[self.model]
        self.close(
            span, output=output, input_tokens=tokens_in, output_tokens=tokens_out, cached_tokens=tokens_in // 3,
            cost_usd=(tokens_in * price_in + tokens_out * price_out) / 1e6 if self.model != "ollama/gpt-oss:20b" else None,
            ttft_ms=ms * 0.32, queue_ms=2.0, rate_limit_ms=0.0, stop_reason="stop",
            attributes={"gen_ai.operation.name": "chat", "gen_ai.request.model": self.model, "timestep.inter_token_ms.p50": 14.2}, **facts,
        )  # fmt: skip

    def tool(
        self, parent: dict[str, Any], name: str, arguments: Any, result: Any, ms: float, *, error: str | None = None,
        approval: str = "not_needed",
    ) -> dict[str, Any]:  # fmt: skip
        attributes = {"timestep.mcp.server": "weather", "timestep.approval": approval}
        span = self.open("tool", name, parent, input=json.dumps(arguments), attributes=attributes)
        self.wait(ms)
        self.close(span, output=result, status="error" if error else "ok", error=error)
        return span


def weather_run(
    seed: int, at: datetime, model: str = "openai/gpt-4.1", *, fail: bool = False, approval_ms: float = 0
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Personal Assistant hands off to Weather Assistant, who calls a tool and answers."""
    rng = random.Random(seed)
    city = CITIES[seed % len(CITIES)]
    question = f"What's the weather in {city}? Do I need an umbrella?"
    rec = Recorder(f"{rng.getrandbits(128):032x}", at, model, rng)
    speed = {"openai/gpt-4.1": 1.0, "anthropic/claude-sonnet-4": 1.4, "ollama/gpt-oss:20b": 2.2}[model]
    system = "You are a personal assistant. Hand questions about the weather to the Weather Assistant."
    messages: list[Any] = [{"role": "system", "content": system}, {"role": "user", "content": question}]
    assistant = rec.open("agent", "Personal Assistant", None, agent="Personal Assistant")
    turn = rec.open("turn", "turn 1", assistant)
    call = {"type": "function_call", "name": "transfer_to_weather_assistant", "arguments": "{}", "call_id": "call_1"}
    rec.generation(turn, messages, [call], rng.uniform(400, 900) * speed)
    handoff = rec.open(
        "handoff",
        "Personal Assistant → Weather Assistant",
        turn,
        attributes={"timestep.handoff.from": "Personal Assistant", "timestep.handoff.to": "Weather Assistant"},
    )
    rec.wait(3)
    rec.close(handoff)
    rec.close(turn)
    rec.close(assistant)
    rec.wait(2)
    weather = rec.open("agent", "Weather Assistant", None, agent="Weather Assistant")
    turn = rec.open("turn", "turn 2", weather)
    messages = [
        *messages,
        call,
        {"type": "function_call_output", "call_id": "call_1", "output": '{"assistant": "Weather Assistant"}'},
    ]
    call = {
        "type": "function_call",
        "name": "get_weather",
        "arguments": json.dumps({"location": city}),
        "call_id": "call_2",
    }
    rec.generation(turn, messages, [call], rng.uniform(350, 700) * speed)
    rec.wait(approval_ms)
    report = {
        "location": city,
        "temperature_c": 14,
        "condition": "fog",
        "wind_kmh": 12,
        "hourly": [{"hour": h, "c": 10 + h % 7} for h in range(6)],
    }
    error = "ConnectTimeout: the weather server did not answer within 5 s." if fail else None
    rec.tool(
        turn,
        "get_weather",
        {"location": city},
        None if fail else json.dumps(report),
        rng.uniform(180, 420),
        error=error,
        approval="approved" if approval_ms else "not_needed",
    )
    rec.close(turn)
    turn = rec.open("turn", "turn 3", weather)
    messages = [
        *messages,
        call,
        {"type": "function_call_output", "call_id": "call_2", "output": error or json.dumps(report)},
    ]
    text = f"I could not reach the weather server for {city}. Please try again in a minute." if fail else (
        f"It is **14 °C with fog** in {city}, wind 12 km/h.\n\n- No rain before noon\n- A light jacket is enough\n\nYou can leave the umbrella at home."
    )  # fmt: skip
    rec.generation(
        turn,
        messages,
        [{"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": text}]}],
        rng.uniform(600, 1200) * speed,
    )
    rec.close(turn)
    rec.close(weather)
    return _row(rec, question, text, "Personal Assistant ⇢ Weather Assistant", 3, model), rec.spans


def research_run(
    seed: int, at: datetime, model: str = "anthropic/claude-sonnet-4"
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """A planner with three researchers side by side, a guardrail, a retrieval and a writer."""
    rng = random.Random(seed)
    rec = Recorder(f"{rng.getrandbits(128):032x}", at, model, rng)
    question = "Compare DuckDB and Postgres for storing agent traces, with sources."
    messages: list[Any] = [{"role": "user", "content": question}]
    task = rec.open("task", "research", None)
    guard = rec.open("guardrail", "no personal data", task)
    rec.wait(40)
    rec.close(guard, output={"triggered": False})
    planner = rec.open("agent", "Planner", task, agent="Planner")
    rec.generation(
        planner, messages, [{"role": "assistant", "content": "Three questions: ingest, queries, operations."}], 1400
    )
    begin, ends = rec.at, []
    for topic in ("ingest", "queries", "operations"):
        rec.at = begin
        rec.wait(rng.uniform(5, 60))
        agent = rec.open("agent", f"Researcher ({topic})", planner, agent=f"Researcher ({topic})")
        for step in range(rng.randint(2, 4)):
            rec.generation(
                agent,
                messages,
                [
                    {
                        "type": "function_call",
                        "name": "search_docs",
                        "arguments": json.dumps({"q": f"{topic} {step}"}),
                        "call_id": f"c{step}",
                    }
                ],
                rng.uniform(500, 1300),
            )
            found = rec.open("retrieval", "search_docs", agent, input={"query": f"{topic} {step}"})
            rec.wait(rng.uniform(60, 200))
            rec.close(found, output=[{"id": f"doc{i}", "score": 0.9 - i / 10} for i in range(3)])
        rec.close(agent)
        ends.append(rec.at)
    rec.at = max(ends)
    rec.close(planner)
    writer = rec.open("agent", "Writer", task, agent="Writer")
    text = "DuckDB suits one writer and columns; Postgres suits many writers and rows."
    rec.generation(writer, messages, [{"role": "assistant", "content": text}], 2600)
    rec.close(writer)
    rec.close(task)
    return _row(rec, question, text, "Planner ⇢ Writer", 9, model), rec.spans


def _row(rec: Recorder, question: str, answer: str, path: str, turns: int, model: str) -> dict[str, Any]:
    known = [s for s in rec.spans if s["kind"] == "generation"]
    costs = [s.get("cost_usd") for s in known]
    errors = sum(s["status"] == "error" for s in rec.spans)
    start, end = min(s["started_at"] for s in rec.spans), max(s["ended_at"] or s["started_at"] for s in rec.spans)
    return {
        "trace_id": rec.trace_id, "thread_id": None, "user_id": LOCAL_USER, "workflow": "Agent workflow", "agent_path": path, "model": model,
        "status": "failed" if errors else "completed", "started_at": start, "ended_at": end, "duration_ms": ms_between(start, end),
        "n_spans": len(rec.spans), "n_errors": errors, "turns": turns, "input_tokens": sum(s.get("input_tokens") or 0 for s in known),
        "output_tokens": sum(s.get("output_tokens") or 0 for s in known), "cost_usd": None if None in costs else sum(costs),
        "ttft_ms": known[0].get("ttft_ms") if known else None, "input": question, "output": answer, "n_unpriced": 0, "end_user": None,
        "tags": None, "outcome": "failed" if errors else "done", "source": "live", "error_types": None,
        "failed_tools": "\n".join(sorted({s["name"] for s in rec.spans if s["kind"] == "tool" and s["status"] == "error"})) or None,
    }  # fmt: skip


def big_trace(n: int, seed: int = 7) -> dict[str, list[Any]]:
    """Columns of one trace with `n` spans: agents, turns, generations and tools in a deep enough tree."""
    rng = random.Random(seed)
    start = 1_760_000_000_000_000
    columns: dict[str, list[Any]] = {key: [] for key in ("span_id", "parent_id", "kind", "name", "agent", "status", "model", "started_us", "ended_us", "input_tokens", "output_tokens", "cost_usd", "ttft_ms")}  # fmt: skip
    at, agent_id, turn_id, agent = start, None, None, ""
    for i in range(n):
        span_id, kind = f"{i + 1:016x}", "turn" if i % 10 == 1 else "tool" if i % 3 == 0 else "generation"
        parent, length = turn_id, rng.randint(2_000, 900_000)
        if i % 250 == 0:
            kind, parent, agent, agent_id, length = "agent", None, f"Agent {i // 250 % 12}", span_id, 90_000_000
        elif kind == "turn":
            parent, turn_id, length = agent_id, span_id, 3_000_000
        generation = kind == "generation"
        values = (
            span_id, parent, kind, agent if kind == "agent" else f"{kind} {i % 97}", agent, "error" if i % 501 == 500 else "ok",
            "openai/gpt-4.1" if generation else None, at, at + length, 900 if generation else None, 80 if generation else None,
            0.0021 if generation else None, length / 4000 if generation else None,
        )  # fmt: skip
        for column, value in zip(columns.values(), values, strict=True):
            column.append(value)
        at += rng.randint(1_000, 400_000)
    return columns


class SampleSource(Traces):
    """Everything in dicts. Filters are evaluated by the store's own plain evaluator."""

    def __init__(self, traces: Sequence[tuple[dict[str, Any], list[dict[str, Any]]]] = ()) -> None:
        self.rows: dict[str, dict[str, Any]] = {}
        self.by_trace: dict[str, list[dict[str, Any]]] = {}
        self.spans_of: dict[str, Mapping[str, Sequence[Any]]] = {}
        self.score_rows: list[ScoreRecord] = []
        self.saved: list[SavedView] = []
        self._callbacks: list[Callable[[str], None]] = []
        self._lock = threading.Lock()
        for row, spans in traces:
            self.add(row, spans)

    @classmethod
    def with_history(cls, n: int = 40, now: datetime | None = None) -> SampleSource:
        now = now or utc_now()
        models = list(MODELS)
        traces = []
        for i in range(n):
            at = now - timedelta(minutes=3 + i * i * 1.1)
            if i % 9 == 4:
                traces.append(research_run(i, at))
            else:
                traces.append(weather_run(i, at, models[i % 3], fail=i % 7 == 3, approval_ms=31_000 if i == 0 else 0))
        return cls(traces)

    def add(self, row: dict[str, Any], spans: list[dict[str, Any]]) -> None:
        with self._lock:
            self.rows[row["trace_id"]] = row
            self.by_trace[row["trace_id"]] = spans
        for callback in list(self._callbacks):
            callback(row["trace_id"])

    changed = add

    # As `Traces`

    def _matching(self, query: TraceQuery) -> list[dict[str, Any]]:
        found = [
            row for row in self.rows.values()
            if evaluate(query.filter, {**row, "spans": self.by_trace[row["trace_id"]]}) and query.search.lower() in f"{row['input']} {row['output']}".lower()
            and query.source in ("", row["source"]) and (query.since is None or row["started_at"] >= query.since) and (query.until is None or row["started_at"] < query.until)
        ]  # fmt: skip
        return sorted(found, key=lambda row: row["started_at"], reverse=True)

    def page(
        self,
        *,
        filter: str = "",
        search: str = "",
        source: Any = "",
        since: datetime | None = None,
        until: datetime | None = None,
        order: str = "started_at desc",
        limit: int = 50,
        after: str | None = None,
        with_total: bool = True,
    ) -> TracePage:
        query = TraceQuery(filter=filter, search=search, source=source, since=since, until=until)
        rows = self._matching(query)
        column, _, direction = order.partition(" ")
        if column in ("duration_ms", "cost_usd"):
            rows.sort(key=lambda row: row[column] or 0, reverse=direction == "desc")
        begin = int(after or 0)
        sql = f"select * from traces where {query.filter or 'true'} order by started_at desc"
        return TracePage(
            data=rows[begin : begin + limit],
            has_more=begin + limit < len(rows),
            total=len(rows),
            sql=sql,
            after=str(begin + limit) if begin + limit < len(rows) else None,
        )

    def frame(self, **words: Any) -> Any:
        import pandas

        return pandas.DataFrame(self._matching(TraceQuery(**words)))

    def histogram(self, *, buckets: int = 60, **words: Any) -> list[TimeBucket]:
        query = TraceQuery(**words)
        rows = self._matching(query)
        if not rows:
            return []
        since = query.since or rows[-1]["started_at"]
        until = query.until or max(utc_now(), rows[0]["started_at"] + timedelta(seconds=1))
        step = (until - since) / buckets
        bars = [
            TimeBucket(start=since + i * step, end=since + (i + 1) * step, count=0, failed=0, steps_failed=0)
            for i in range(buckets)
        ]
        for row in rows:
            i = min(int((row["started_at"] - since) / step), buckets - 1)
            bars[i] = replace(bars[i], count=bars[i].count + 1, failed=bars[i].failed + (row["outcome"] == "failed"))
        return bars

    def facets(self, **words: Any) -> list[Facet]:
        rows = self._matching(TraceQuery(**words))
        fields: dict[FacetField, str] = {
            "outcome": "outcome",
            "source": "source",
            "model": "model",
            "failed_tool": "failed_tools",
        }
        found = []
        for name, column in fields.items():
            counts = Counter(row[column] for row in rows if row[column] is not None)
            condition = "{} in failed_tools" if name == "failed_tool" else f"{name} == {{}}"
            found.append(Facet(name=name, values=[
                FacetValue(value=value, count=n, filter=condition.format(json.dumps(value))) for value, n in counts.most_common()
            ]))  # fmt: skip
        return found

    def views(self, kind: Any = None) -> list[SavedView]:
        return [view for view in self.saved if kind in (None, view.kind)]

    def save_view(self, kind: Any, name: str, body: dict[str, Any]) -> SavedView:
        self.saved.append(SavedView(id=new_id("view"), user_id=LOCAL_USER, kind=kind, name=name, body=body))
        return self.saved[-1]

    def delete_view(self, view_id: str) -> None:
        self.saved = [view for view in self.saved if view.id != view_id]

    def suggest(self, text: str, cursor: int) -> list[Suggestion]:
        facets: dict[str, dict[str, int]] = {"model": {}, "status": {}}
        for row in self.rows.values():
            for field_name, counts in facets.items():
                counts[row[field_name]] = counts.get(row[field_name], 0) + 1
        return suggest(text, cursor, {name: sorted(c.items(), key=lambda x: -x[1]) for name, c in facets.items()})

    def read(self, trace_id: str) -> Mapping[str, Any]:
        if trace_id not in self.rows:
            raise NotFoundError(f"There is no trace {trace_id!r}.", "List them with lab.traces.")
        return self.rows[trace_id]

    def columns(self, trace_id: str) -> Mapping[str, Sequence[Any]]:
        if trace_id in self.spans_of:
            return self.spans_of[trace_id]
        spans = self.by_trace[trace_id]
        names = (
            "span_id",
            "parent_id",
            "kind",
            "name",
            "agent",
            "status",
            "model",
            "input_tokens",
            "output_tokens",
            "cost_usd",
            "ttft_ms",
        )
        columns: dict[str, Sequence[Any]] = {name: [span.get(name) for span in spans] for name in names}
        columns["started_us"] = [_us(span["started_at"]) for span in spans]
        columns["ended_us"] = [None if span["ended_at"] is None else _us(span["ended_at"]) for span in spans]
        return columns

    def payloads(self, trace_id: str, span_ids: Sequence[str]) -> Sequence[Mapping[str, Any]]:
        by_id = {span["span_id"]: span for span in self.by_trace.get(trace_id, ())}
        return [by_id[span_id] for span_id in span_ids if span_id in by_id]

    def graph(self, **words: Any) -> AgentGraph:
        return self._graph([row["trace_id"] for row in self._matching(TraceQuery(**words))])

    def graph_of(self, trace_id: str) -> AgentGraph:
        return self._graph([trace_id])

    def handoffs(self, *, trace_id: list[str] | None = None, **_: Any) -> TitledGraph:  # type: ignore[override]
        graph = self._graph(trace_id or [])
        return TitledGraph(nodes=graph.nodes, edges=graph.edges, title="Handoffs")

    def _graph(self, ids: list[str]) -> AgentGraph:
        agents: dict[str, list[dict[str, Any]]] = {}
        ways: dict[tuple[str, str], int] = {}
        for span in (span for i in ids for span in self.by_trace[i]):
            if span["kind"] == "agent":
                agents.setdefault(span["name"], []).append(span)
            if span["kind"] == "handoff":
                way = (span["attributes"]["timestep.handoff.from"], span["attributes"]["timestep.handoff.to"])
                ways[way] = ways.get(way, 0) + 1
        nodes = [
            GraphNode(path=name, name=name, calls=len(s), p50_ms=sorted(x.get("duration_ms") or 0 for x in s)[len(s) // 2], cost_usd=0.002 * len(s))
            for name, s in agents.items()
        ]  # fmt: skip
        edges = [GraphEdge(from_path=a, to_path=b, declared=True, count=n) for (a, b), n in ways.items()]
        if "Personal Assistant" in agents:
            nodes.append(GraphNode(path="Calendar Assistant", name="Calendar Assistant"))
            edges.append(GraphEdge(from_path="Personal Assistant", to_path="Calendar Assistant", declared=True))
            edges.append(GraphEdge(from_path="Weather Assistant", to_path="Personal Assistant", declared=True))
        return AgentGraph(nodes=tuple(nodes), edges=tuple(edges))

    def diff(self, left: str, right: str) -> Sequence[DiffRow]:
        rows, diverged = [], False
        for a, b in zip(self.by_trace[left], self.by_trace[right], strict=False):
            changed = a["input"] != b["input"] and a["kind"] == "tool"
            sides = [
                DiffSide(
                    span_id=s["span_id"],
                    duration_ms=s.get("duration_ms"),
                    input_tokens=s.get("input_tokens"),
                    cost_usd=s.get("cost_usd"),
                )
                for s in (a, b)
            ]
            rows.append(DiffRow(
                change="changed" if changed else "same", depth=0 if a["parent_id"] is None else 1, kind=a["kind"], name=a["name"], left=sides[0], right=sides[1],
                first_divergence=changed and not diverged, fields={"arguments": (a["input"], b["input"])} if changed else {},
            ))  # fmt: skip
            diverged = diverged or changed
        return rows

    def scores(self, trace_id: str) -> Sequence[ScoreRecord]:
        ids = {trace_id, *(span["span_id"] for span in self.by_trace.get(trace_id, ()))}
        return [score for score in self.score_rows if score.target_id in ids]

    def score(
        self,
        target: Literal["trace", "span", "case"],
        target_id: str,
        name: str,
        value: float | None = None,
        *,
        label: str | None = None,
        note: str | None = None,
    ) -> ScoreRecord:
        score = ScoreRecord(
            id=new_id("score"),
            user_id=LOCAL_USER,
            target=target,
            target_id=target_id,
            name=name,
            value=value,
            label=label,
            note=note,
        )
        self.score_rows.append(score)
        return score

    def subscribe(self, callback: Callable[[str], None]) -> Callable[[], None]:
        self._callbacks.append(callback)
        return lambda: self._callbacks.remove(callback)


def _us(moment: datetime) -> int:
    return round(moment.replace(tzinfo=moment.tzinfo or UTC).timestamp() * 1e6)
