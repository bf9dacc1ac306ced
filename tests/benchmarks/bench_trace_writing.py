"""Spans coming in: OTLP requests until they can be queried, and live spans through the writer.

The measure is DuckDB's own appender taking the same rows in the same run, committed request by request, as what is acknowledged must be
durable; they take turns, and the best of each counts, so that whatever else the machine does meets all alike. What one single transaction
of the appender would take is printed beside it. Run: `pytest tests/benchmarks/bench_trace_writing.py -m benchmark -s`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import duckdb
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from tests.benchmarks.trace_data import NOW, TraceData

from timestep_lab.runtime.interchange import read_otlp
from timestep_lab.runtime.interchange.otlp_in import PROTOBUF
from timestep_lab.store.spans import AT, SPAN_COLUMNS, Row, span_record
from timestep_lab.store.store import Store, open_store
from timestep_lab.store.trace_writer import TraceWriter

pytestmark = [pytest.mark.benchmark, pytest.mark.timeout(600)]
SPANS, REQUEST, ROUNDS = 20_000, 2_000, 8
SPANS_A_SECOND = 20_000
OTLP_OF_RAW, WRITER_OF_RAW = 0.4, 0.5
OPERATIONS = {"agent": "invoke_agent", "generation": "chat", "tool": "execute_tool"}


def rows(user_id: str, seed: int) -> list[Row]:
    return [row for _, spans in TraceData(user_id, seed).traces(SPANS // 10, first=seed * SPANS) for row in spans]


def otlp(some: list[Row]) -> bytes:
    """About 1 kB a span, by the official classes."""
    message = ExportTraceServiceRequest()
    scope = message.resource_spans.add().scope_spans.add()
    for row in some:
        values = dict(zip(SPAN_COLUMNS, row, strict=True))
        span = scope.spans.add()
        span.trace_id, span.span_id = bytes.fromhex(values["trace_id"]), bytes.fromhex(values["span_id"])
        span.parent_span_id = bytes.fromhex(values["parent_id"] or "")
        span.name = values["name"]
        span.start_time_unix_nano = int(values["started_at"].timestamp() * 1e9)
        span.end_time_unix_nano = int(values["ended_at"].timestamp() * 1e9)
        attributes = {
            "gen_ai.operation.name": OPERATIONS.get(values["kind"]), "gen_ai.agent.name": values["agent"],
            "gen_ai.request.model": values["model"], "gen_ai.provider.name": values["model"] and "openai",
            "gen_ai.usage.input_tokens": values["input_tokens"], "gen_ai.usage.output_tokens": values["output_tokens"],
            "input.value": values["input"], "output.value": values["output"],
        }  # fmt: skip
        for name, value in attributes.items():
            if value is not None:
                pair = span.attributes.add()
                pair.key = name
                if isinstance(value, int):
                    pair.value.int_value = value
                else:
                    pair.value.string_value = value
    return bytes(message.SerializeToString())


def test_otlp_requests_are_queryable_at_two_fifths_of_the_raw_appenders_rate(tmp_path: Path) -> None:
    store = open_store(tmp_path / "lab.duckdb")
    bare = bare_lab(tmp_path)
    taken_s, raw_s, once_s = [], [], []
    for seed in range(ROUNDS):
        some = rows(store.user_id, seed)
        requests = [otlp(some[first : first + REQUEST]) for first in range(0, SPANS, REQUEST)]
        size = sum(map(len, requests)) / SPANS
        decoded = [read_otlp(body, PROTOBUF, None, store.user_id).spans for body in requests]
        taken_s.append(seconds(lambda requests=requests: [take(store, body) for body in requests]))  # type: ignore[misc]
        raw_s.append(seconds(lambda decoded=decoded: [append(bare, some) for some in decoded]))  # type: ignore[misc]
        once_s.append(seconds(lambda decoded=decoded: append(bare, [row for some in decoded for row in some])))  # type: ignore[misc]
        assert store.sql("select count(*) from spans").one() == (SPANS * (seed + 1),)
    report(
        "OTLP to queryable",
        taken_s,
        raw_s,
        f"{size:.0f} bytes a span; in one transaction {SPANS / min(once_s):,.0f} spans/s",
    )
    store.close()
    bare.close()
    assert SPANS / min(taken_s) >= SPANS_A_SECOND
    assert min(raw_s) / min(taken_s) >= OTLP_OF_RAW


def test_the_writer_takes_live_spans_at_half_of_the_raw_appenders_rate(tmp_path: Path) -> None:
    store = open_store(tmp_path / "lab.duckdb")
    bare = bare_lab(tmp_path)
    writer = TraceWriter(store.db)
    taken_s, raw_s = [], []
    for seed in range(ROUNDS):
        some = rows(store.user_id, seed)
        spans = [span_record(dict(zip(SPAN_COLUMNS, row, strict=True))) for row in some]

        def through_the_writer(spans: list[object] = spans) -> None:  # type: ignore[assignment]
            for span in spans:
                writer.span_ended(span)  # type: ignore[arg-type]
            writer.flush()

        taken_s.append(seconds(through_the_writer))
        raw_s.append(seconds(lambda some=some: append(bare, some)))  # type: ignore[misc]
    report("TraceWriter", taken_s, raw_s, f"newest {NOW:%H:%M}")
    writer.close()
    store.close()
    bare.close()
    assert min(raw_s) / min(taken_s) >= WRITER_OF_RAW


def take(store: Store, body: bytes) -> None:
    read_otlp(body, PROTOBUF, None, store.user_id).store(store.db)


def bare_lab(folder: Path) -> duckdb.DuckDBPyConnection:
    """A lab's file, used without the lab."""
    open_store(folder / "bare.duckdb").close()
    return duckdb.connect(str(folder / "bare.duckdb"))


def append(bare: duckdb.DuckDBPyConnection, some: list[Row]) -> None:
    assert len(some[0]) == len(AT)
    bare.execute("begin")
    with bare.appender("core.spans_raw", columns=list(SPAN_COLUMNS)) as appender:
        appender.append_rows(some)
    bare.execute("commit")


def seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def report(what: str, taken_s: list[float], raw_s: list[float], note: str) -> None:
    print(
        f"\n{what}: {SPANS / min(taken_s):,.0f} spans/s; raw appender {SPANS / min(raw_s):,.0f} spans/s; "
        f"ratio {min(raw_s) / min(taken_s):.2f} ({note})"
    )
