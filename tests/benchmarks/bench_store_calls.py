"""What a call of the store costs: as the owner of the file, and as a client of another process that owns it.

The measure is bare DuckDB doing the same on a file beside it: one row committed, one row read by key. The three take turns, so that
whatever the machine does meets all alike. Run: `pytest tests/benchmarks/bench_store_calls.py -m benchmark -s`.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import duckdb
import pytest
from tests.store.conftest import OwnerProcess

from timestep_lab.store.base import Database, Statement
from timestep_lab.store.store import open_database

pytestmark = pytest.mark.benchmark
CALLS = 150
AT_MOST = {"write": 4.0, "query": 4.0}
"""Client ÷ bare DuckDB."""
INSERT = "insert into core.users (id, kind, created_at) values ($1, 'bench', $2)"
READ = "select * from core.users where id = $1"
MOMENT = datetime(2026, 1, 1)


def milliseconds(call: Callable[[], object]) -> float:
    before = time.perf_counter()
    call()
    return (time.perf_counter() - before) * 1000.0


def test_a_call_through_another_process_stays_near_what_the_disk_costs(tmp_path: Path) -> None:
    other = OwnerProcess()
    other.tell("open", tmp_path / "theirs.duckdb")
    owner, client = open_database(tmp_path / "ours.duckdb"), open_database(tmp_path / "theirs.duckdb")
    open_database(tmp_path / "bare.duckdb").close()
    bare = duckdb.connect(str(tmp_path / "bare.duckdb"))

    def write(database: Database, id: str) -> Callable[[], object]:
        return lambda: database.write("u", [Statement(INSERT, [id, MOMENT])])

    def read(database: Database, id: str) -> Callable[[], object]:
        return lambda: database.query("u", READ, [id])

    ids = [f"{n:04}" for n in range(CALLS)]
    writes = [
        (
            milliseconds(lambda id=id: bare.execute(INSERT, [id, MOMENT])),
            *(milliseconds(write(db, id)) for db in (owner, client)),
        )  # type: ignore[misc]
        for id in ids
    ]
    reads = [
        (
            milliseconds(lambda id=id: bare.execute(READ, [id]).fetchall()),
            *(milliseconds(read(db, id)) for db in (owner, client)),
        )  # type: ignore[misc]
        for id in ids
    ]
    for database in (owner, client, bare):
        database.close()
    other.tell("close", tmp_path / "theirs.duckdb")
    other.end()
    print(f"\n{'median ms':<10}{'DuckDB':>9}{'owner':>9}{'client':>9}{'client ÷ DuckDB':>18}")
    for name, rows in (("write", writes), ("query", reads)):
        plain, ours, theirs = (statistics.median(column) for column in zip(*rows, strict=True))
        print(f"{name:<10}{plain:>9.2f}{ours:>9.2f}{theirs:>9.2f}{theirs / plain:>12.1f} (at most {AT_MOST[name]})")
        assert theirs / plain <= AT_MOST[name]
