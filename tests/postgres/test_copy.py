"""`db copy`: a lab moves between the two databases, and to Parquet, and nothing of it changes."""

from __future__ import annotations

from pathlib import Path

import duckdb
import pytest

from tests.postgres.labs import ODD_TEXT, fill
from timestep_lab.model.errors import UsageError
from timestep_lab.store.copy import copy_lab, copy_to_parquet, fingerprint
from timestep_lab.store.postgres.database import PostgresDatabase
from timestep_lab.store.store import Store, open_database


def test_a_lab_goes_from_duckdb_to_postgres_and_back_with_equal_hashes(tmp_path: Path, db: PostgresDatabase) -> None:
    first, last = open_database(tmp_path / "first.duckdb"), open_database(tmp_path / "last.duckdb")
    fill(first)
    heard: list[tuple[str, int]] = []
    copied = copy_lab(first, db, progress=lambda table, rows: heard.append((table, rows)))
    copy_lab(db, last)
    assert fingerprint(first) == fingerprint(db) == fingerprint(last)
    assert {table.name: table for table in copied} == fingerprint(first)
    filled = {table.name for table in copied if table.rows}
    assert filled >= {
        "users", "agents", "mcp_servers", "threads", "thread_items", "session_items", "runs", "score_rows", "traces_raw",
        "spans_raw", "message_bodies", "trace_deltas", "file_parts", "chunks",
    }  # fmt: skip
    assert ("spans_raw", 72) in heard
    for lab in (first, db, last):
        alice = Store(lab, "alice")
        assert alice.agents.get("a").instructions == ODD_TEXT
        assert len(alice.threads.all_items("t1")) == 3
        assert alice.traces.count() == 12
        assert alice.threads.append_session_items("t1", [{"next": 1}]) is None
        assert alice.threads.session_items("t1")[-1] == {"next": 1}
    first.close()
    last.close()


def test_one_changed_character_changes_the_fingerprint(tmp_path: Path) -> None:
    lab = open_database(tmp_path / "lab.duckdb")
    fill(lab, days=1)
    before = fingerprint(lab)
    Store(lab, "bob").agents.update("a", instructions=ODD_TEXT + " ")
    after = fingerprint(lab)
    assert {name for name in before if before[name] != after[name]} == {"agents"}
    lab.close()


def test_a_lab_that_holds_something_is_not_copied_into(tmp_path: Path, db: PostgresDatabase) -> None:
    lab = open_database(tmp_path / "lab.duckdb")
    fill(lab, days=1)
    fill(db, users=("carol",), days=1)
    before = fingerprint(db)
    with pytest.raises(UsageError, match="is not empty"):
        copy_lab(lab, db)
    assert fingerprint(db) == before
    lab.close()


def test_a_lab_goes_to_parquet_a_file_a_table(tmp_path: Path, db: PostgresDatabase) -> None:
    fill(db)
    folder = tmp_path / "parquet"
    copied = copy_to_parquet(db, folder)
    assert {path.name for path in folder.iterdir()} == {f"{table.name}.parquet" for table in copied}
    spans = duckdb.sql(f"select count(*), count(distinct user_id) from '{folder}/spans_raw.parquet'").fetchall()
    assert spans == [(72, 2)]
    with pytest.raises(UsageError, match="not empty"):
        copy_to_parquet(db, folder)
