"""A million spans in Postgres: how fast they come in, and how fast the explorer's questions are answered.

Run: `pytest tests/benchmarks/bench_postgres_traces.py -m benchmark -s`. The measure for writing is `COPY` of the same rows into a bare
table without index or policy, in the same run.
"""

from __future__ import annotations

import shutil
import statistics
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import psycopg
import pytest
from tests.benchmarks.trace_data import NOW, TraceData

from timestep_lab.store.postgres.database import PostgresDatabase, index_words
from timestep_lab.store.postgres.embedded import EmbeddedPostgres
from timestep_lab.store.spans import SPAN_COLUMNS, Row
from timestep_lab.store.store import Store
from timestep_lab.store.trace_import import TraceImport

pytestmark = [pytest.mark.benchmark, pytest.mark.timeout(3600)]
TRACES, LONG, BATCH = 100_000, 10_000, 20_000
SPANS_A_SECOND, MILLISECONDS = 15_000, 100
AT_MOST_COPIES = 8.0
"""Time to store a batch ÷ time to COPY its spans into a bare table."""
USER = "bench"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedPostgres]:
    folder: Path = tmp_path_factory.mktemp("bench")
    running = EmbeddedPostgres(folder / "pg", configuration="\nshared_buffers = 1GB\nmax_wal_size = 8GB\n").start()
    yield running
    running.close()
    shutil.rmtree(running.folder)


@pytest.fixture(scope="module")
def db(server: EmbeddedPostgres) -> Iterator[PostgresDatabase]:
    database = PostgresDatabase(server.url)
    yield database
    database.close()


def batches() -> Iterator[tuple[list[Row], list[Row]]]:
    starts: list[Row] = []
    spans: list[Row] = []
    data = TraceData(USER)
    for start, of_trace in [data.trace(TRACES + 1, NOW - timedelta(days=3), LONG), *data.traces(TRACES)]:
        starts.append(start)
        spans += of_trace
        if len(spans) >= BATCH or start[1] == data.trace_id(TRACES - 1):
            yield starts, spans
            starts, spans = [], []


def test_a_million_spans_come_in_fast_and_are_found_fast(db: PostgresDatabase, server: EmbeddedPostgres) -> None:
    importer = TraceImport(db)
    stored_s: list[float] = []
    copied_s: list[float] = []
    rows = 0
    with psycopg.connect(server.url, autocommit=True) as bare:
        bare.execute("create unlogged table public.bare as select * from core.spans_raw with no data")
        for number, (starts, spans) in enumerate(batches()):
            began = time.perf_counter()
            importer.rows(USER, spans, starts)
            stored_s.append(time.perf_counter() - began)
            rows += len(spans)
            if number % 10 == 0:
                began = time.perf_counter()
                with bare.cursor().copy(f"copy public.bare ({', '.join(SPAN_COLUMNS)}) from stdin".encode()) as copy:
                    for row in spans:
                        copy.write_row(row)
                copied_s.append(time.perf_counter() - began)
    rate = rows / sum(stored_s)
    ratio = statistics.median(stored_s) / statistics.median(copied_s)
    print(f"\n{rows:,} spans stored at {rate:,.0f}/s, {ratio:.1f} times as long as a bare COPY")

    began = time.perf_counter()
    days = index_words(db)
    print(f"words of {days} days indexed in {time.perf_counter() - began:.0f} s")
    with psycopg.connect(server.url, autocommit=True) as owner:
        owner.execute("vacuum analyze")  # as autovacuum does in time

    traces = Store(db, USER).traces
    day, week = NOW - timedelta(days=1), NOW - timedelta(days=7)
    questions: dict[str, Callable[[], object]] = {
        "newest 50 with roll-ups": lambda: traces.list(limit=50),
        "newest 50 that failed": lambda: traces.list('status == "failed"', limit=50),
        "model + status + last 24 h": lambda: traces.list('model == "gpt-4.1" and status == "failed"', since=day),
        "slow ones, last week": lambda: traces.list("duration_ms > 900", since=week, limit=50),
        "dearest 50": lambda: traces.list(order="cost_usd desc", limit=50),
        "count of a day": lambda: traces.count(since=day),
        "histogram of 60 bars": lambda: traces.histogram(60),
        "facets, 30 d": traces.facets,
        "p50 and p95 by model and hour, 24 h": lambda: traces.latency(since=day),
        "open a trace of 10,000 spans": lambda: traces.columns(TraceData.trace_id(TRACES + 1)),
        "open a trace of 10 spans": lambda: traces.columns(TraceData.trace_id(TRACES // 2)),
        "one span with its payload": lambda: traces.payload(TraceData.trace_id(50_000), TraceData.span_id(50_000, 3)),
        "full text, one hit": lambda: traces.list(search="needle77777"),
        "full text, in most spans": lambda: traces.list(search="umbrella oakland"),
        "full text, no hit": lambda: traces.list(search="nosuchword"),
    }
    others: dict[str, Callable[[], object]] = {
        "a phrase of two common words": lambda: traces.list(search='"rain model"'),
        "p50 and p95 by model and hour, 30 d": traces.latency,
        "any tool failed": lambda: traces.list('any(s.kind == "tool" and s.status == "error" for s in spans)'),
        "agent graph of 1,000 traces": lambda: traces.graph(since=NOW - timedelta(hours=7, minutes=16)),
    }
    slow = []
    for name, question in {**questions, **others}.items():
        took = measured(question)
        print(f"{name:<40}{took:8.1f} ms")
        if name in questions and took > MILLISECONDS:
            slow.append(f"{name}: {took:.0f} ms")
    assert len(traces.list(search="needle77777").data) == 1
    assert slow == []
    assert rate > SPANS_A_SECOND or ratio < AT_MOST_COPIES


def measured(question: Callable[[], object]) -> float:
    """Median of seven, after one that warms up."""
    question()
    took = []
    for _ in range(7):
        began = time.perf_counter()
        question()
        took.append((time.perf_counter() - began) * 1000)
    return statistics.median(took)
