"""Traps of DuckDB that the lab steps around, each held by a test."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest

from timestep_lab.model.errors import BusyError, DataError, QueryError, StoreError
from timestep_lab.store.base import Statement
from timestep_lab.store.duckdb import engine as writer
from timestep_lab.store.duckdb.connect import SETTINGS, connect
from timestep_lab.store.store import open_database


def test_times_are_utc_on_a_machine_in_new_york_by_every_way_in_and_out(tmp_path: Path) -> None:
    script = """
import sys
from datetime import datetime, timezone
from timestep_lab.store.base import Statement
from timestep_lab.store.store import open_database
from timestep_lab.store.store import Store
from timestep_lab.model.clock import utc_now
from timestep_lab.model.records import ScoreRecord

noon = datetime(2026, 7, 1, 12, tzinfo=timezone.utc)
lab = open_database(sys.argv[1])
Store(lab, "u").scores.insert(ScoreRecord(id="1", user_id="u", target="trace", target_id="t", name="n", created_at=noon))
columns = ("id", "user_id", "target", "target_id", "name", "source", "created_at")
for id, moment in (("2", noon.replace(tzinfo=None)), ("3", noon)):
    lab.append("u", {"score_rows": (columns, [(id, "u", "trace", "t", "n", "human", moment)])})
insert = Statement("insert into score_rows (id, user_id, target, target_id, name, source, created_at) "
                   "values ('4', 'u', 'trace', 't', 'n', 'human', $1)", [noon])
lab.write("u", [insert])
assert {moment for (moment,) in lab.query("u", "select created_at from score_rows").rows} == {noon.replace(tzinfo=None)}
assert {moment for (moment,) in lab.select("u", "select created_at from scores").rows} == {noon.replace(tzinfo=None)}
[(now, day)] = lab.select("u", "select now(), hour(timestamptz '2026-07-01 12:00:00+00')").rows
assert abs((utc_now().replace(tzinfo=None) - now).total_seconds()) < 60 and day == 12
assert lab.select("u", "select count(*) from scores where created_at < now()").rows[0][0] in (0, 4)
lab.close()
"""
    environment = os.environ | {"TZ": "America/New_York"}
    command = [sys.executable, "-c", script, str(tmp_path / "lab.duckdb")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


def test_no_extension_is_fetched_and_no_file_is_reached_even_by_sql_of_our_own(tmp_path: Path) -> None:
    secret = tmp_path / "secret.csv"
    secret.write_text("a\n1\n")
    database = open_database(":memory:")
    for sql in (
        "install fts", "load fts", "from fts_main_x.match_bm25('a', 'b')", "from 'https://example.com/x.parquet'",
        f"from '{secret}'", f"attach '{tmp_path / 'other.duckdb'}'", f"copy (select 1) to '{tmp_path / 'out.csv'}'",
        "set enable_external_access = true",
    ):  # fmt: skip
        began = time.monotonic()
        with pytest.raises(StoreError):
            database.query("u", sql)
        assert time.monotonic() - began < 1, f"{sql} waited for a network"
    assert list(tmp_path.iterdir()) == [secret]
    database.close()


def test_a_name_in_sql_never_means_a_python_variable() -> None:
    database = open_database(":memory:")
    some_rows = [(1,)]
    with pytest.raises(StoreError):
        database.query("u", "select * from some_rows")
    assert some_rows
    database.close()


def test_the_settings_are_those_the_lab_relies_on() -> None:
    connection = connect(None)
    names = [*SETTINGS, "TimeZone"]
    found = dict(
        zip(
            names,
            connection.execute(f"select {', '.join(f'current_setting({n!r})' for n in names)}").fetchall()[0],
            strict=True,
        )
    )
    connection.close()
    assert found["TimeZone"] == "UTC"
    assert not any(found[name] for name in found if name.startswith(("auto", "allow", "enable", "python")))
    assert found["checkpoint_threshold"] == "61.0 MiB"


def test_many_threads_read_and_write_at_once_each_with_a_cursor_of_its_own() -> None:
    database = open_database(":memory:")

    def work(n: int) -> int:
        sql = "insert into users (id, kind, created_at) values ($1, 'k', now()::timestamp)"
        database.write("u", [Statement(sql, [str(n)])])
        database.query("u", "select * from users")
        return database.select(str(n % 3), "select count(*) from messages").rows[0][0]

    with ThreadPoolExecutor(12) as pool:
        assert list(pool.map(work, range(60))) == [0] * 60
    assert database.query("u", "select count(*) from users").rows == [(60,)]
    database.close()


def test_a_query_left_in_error_does_not_spoil_the_next() -> None:
    database = open_database(":memory:")
    for _ in range(20):
        with pytest.raises(StoreError):
            database.query("u", "select 1 / cast('x' as int)")
        with pytest.raises(QueryError):
            database.select("u", "select 1 / cast('x' as int)")
        assert database.query("u", "select 1").rows == database.select("u", "select 1").rows == [(1,)]
    database.close()


def test_too_much_waiting_to_be_written_is_said_instead_of_filling_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "MAX_WAITING_ROWS", 5)
    database = open_database(":memory:")
    columns = ("user_id", "thread_id", "seq", "item", "created_at")

    def send(_: int) -> bool:
        rows = [("u", "t", n, "{}", "2026-01-01") for n in range(500)]
        try:
            database.append("u", {"session_items": (columns, rows)})
        except BusyError as error:
            return not error.retry_after
        return True

    with ThreadPoolExecutor(16) as pool:
        outcomes = list(pool.map(send, range(64)))
    assert True in outcomes
    assert False in outcomes
    assert database.query("u", "select count(*) from session_items").rows == [(500 * outcomes.count(True),)]
    database.close()


def test_batch_ids_are_forgotten_after_an_hour(monkeypatch: pytest.MonkeyPatch) -> None:
    database = open_database(":memory:")
    insert = Statement("insert into session_items values ('u', 't', 1, '{}', null, '2026-01-01')")
    database.write("u", [insert], batch_id="old")
    monkeypatch.setattr(writer, "REMEMBER", timedelta(0))
    database.write("u", [insert], batch_id="new")
    assert database.query("u", "select batch_id from ingest_batches").rows == [("new",)]
    database.close()


def test_a_value_that_cannot_be_stored_is_refused_and_nothing_is_lost(tmp_path: Path) -> None:
    database = open_database(":memory:")
    statement = Statement("insert into users (id, kind, created_at) values ($1, 'k', '2026-01-01')", [object()])
    with pytest.raises((DataError, StoreError)):
        database.write("u", [statement])
    assert database.query("u", "select count(*) from users").rows == [(0,)]
    database.close()
