"""The views over a real DuckDB store."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest

from timestep_lab.model.clock import utc_now
from timestep_lab.model.errors import FilterError
from timestep_lab.model.ids import LOCAL_USER, new_span_id, new_trace_id
from timestep_lab.model.records import AgentGraph, GraphEdge, GraphNode
from timestep_lab.model.spans import SpanRecord, TraceStart
from timestep_lab.runtime.agent_graph import with_declared
from timestep_lab.service.traces import Traces
from timestep_lab.store.store import Store, open_store
from timestep_lab.store.trace_writer import TraceWriter
from timestep_lab.ui.explorer import TraceExplorer
from timestep_lab.ui.trace_reader import read_trace
from timestep_lab.ui.trace_view import TraceView


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = open_store(tmp_path / "lab.duckdb")
    yield opened
    opened.close()


def traces_of(store: Store) -> Traces:
    return Traces(SimpleNamespace(store=store, flush=lambda: None))  # type: ignore[arg-type]


def write(store: Store) -> str:
    """An agent and its generation, each noted as it began and as it ended, in batches of their own."""
    trace_id, start = new_trace_id(), utc_now() - timedelta(seconds=2)
    trace = TraceStart(trace_id=trace_id, user_id=LOCAL_USER, workflow="Helper", thread_id=None, started_at=start)
    agent = SpanRecord(
        trace_id=trace_id,
        span_id=new_span_id(),
        parent_id=None,
        user_id=LOCAL_USER,
        kind="agent",
        name="Helper",
        started_at=start,
    )
    generation = replace(
        agent, span_id=new_span_id(), parent_id=agent.span_id, started_at=start + timedelta(milliseconds=5), kind="generation", name="demo/echo", agent="Helper", model="demo/echo",
        input=[{"role": "user", "content": "Umbrella in Oakland?"}],
    )  # fmt: skip
    writer = TraceWriter(store.db)
    writer.trace_started(trace)
    writer.span_started(agent)
    writer.span_started(generation)
    writer.flush()
    end = start + timedelta(seconds=1)
    writer.span_ended(replace(generation, status="ok", ended_at=end, input_tokens=40, output_tokens=2, output="No."))
    writer.span_ended(replace(agent, status="ok", ended_at=end))
    writer.flush()
    writer.close()
    return trace_id


def test_a_trace_written_in_batches_is_listed_whole(store: Store) -> None:
    trace_id = write(store)
    [row] = traces_of(store).page(limit=10).data
    assert row["trace_id"] == trace_id
    assert row["duration_ms"] == pytest.approx(1000.0)
    assert (row["input_tokens"], row["output_tokens"], row["status"]) == (40, 2, "completed")


def test_explorer_and_trace_read_it(store: Store) -> None:
    trace_id = write(store)
    explorer = TraceExplorer(traces_of(store), filter='model == "demo/echo"')
    assert list(explorer.df()["trace_id"]) == [trace_id]
    assert "demo/echo" in explorer.sql
    assert [s.text for s in explorer.source.suggest("model == ", 9)] == ['"demo/echo"']
    view = explorer[trace_id]
    assert list(view.df()["kind"]) == ["agent", "generation"]
    assert "No." in view.static_html()
    with pytest.raises(FilterError):
        explorer.filter = "nonsense > 1"


def test_the_sql_of_both_views_runs_and_gives_their_rows(store: Store) -> None:
    trace_id = write(store)
    assert len(store.sql(TraceExplorer(traces_of(store)).sql).rows) == 1
    assert len(store.sql(TraceView(traces_of(store), trace_id).sql).rows) == 2


def test_a_score_from_the_view_is_a_row_of_the_store(store: Store) -> None:
    trace_id, source = write(store), traces_of(store)
    source.score("trace", trace_id, "quality", 1.0, note="right")
    assert read_trace(source, trace_id).value["scores"][0]["note"] == "right"
    assert store.sql("select name, note from scores").rows == [("quality", "right")]


def test_a_change_is_told_with_the_id_of_its_trace(store: Store) -> None:
    told, heard = threading.Event(), []
    end = traces_of(store).subscribe(lambda trace_id: (heard.append(trace_id), told.set()))
    trace_id = write(store)
    assert told.wait(5)
    assert trace_id in heard
    end()


def test_declared_ways_are_laid_under_travelled_ones() -> None:
    travelled = AgentGraph(
        nodes=(GraphNode(path="A", name="A", calls=2), GraphNode(path="A/B", name="B", calls=2)),
        edges=(GraphEdge(from_path="A", to_path="A/B", count=2),),
    )
    declared = AgentGraph(
        nodes=tuple(GraphNode(path=name, name=name) for name in "ABC"),
        edges=(
            GraphEdge(from_path="A", to_path="B", declared=True),
            GraphEdge(from_path="B", to_path="C", declared=True),
        ),
    )
    graph = with_declared(travelled, declared)
    assert [node.path for node in graph.nodes] == ["A", "A/B", "C"]
    assert {(e.from_path, e.to_path): (e.count, e.declared) for e in graph.edges} == {
        ("A", "A/B"): (2, True),
        ("A/B", "C"): (0, True),
    }


def test_an_agent_that_others_hand_off_to_is_not_drawn_again_as_a_beginning_that_never_was() -> None:
    paths = ("Weather", "Desk", "Desk/Weather", "Loop", "Loop/Knot", "Knot", "Knot/Loop")
    ways = (
        ("Desk", "Desk/Weather"),
        ("Loop", "Loop/Knot"),
        ("Loop/Knot", "Loop"),
        ("Knot", "Knot/Loop"),
        ("Knot/Loop", "Knot"),
    )
    declared = AgentGraph(
        nodes=tuple(GraphNode(path=path, name=path.split("/")[-1]) for path in paths),
        edges=tuple(GraphEdge(from_path=start, to_path=end, declared=True) for start, end in ways),
    )
    empty = AgentGraph(nodes=(), edges=())
    graph = with_declared(empty, declared)
    assert [node.path for node in graph.nodes] == ["Desk", "Desk/Weather", "Loop", "Loop/Knot"]
    assert len(graph.edges) == 3
    begun = AgentGraph(nodes=(GraphNode(path="Weather", name="Weather", calls=1),), edges=())
    assert {node.path: node.calls for node in with_declared(begun, declared).nodes}["Weather"] == 1
