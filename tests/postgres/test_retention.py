"""`db prune`: traces beyond an age go, whole days at a time, and nothing else does."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.postgres.labs import fill
from tests.postgres.server import Server
from timestep_lab.model.errors import UsageError
from timestep_lab.store.base import SYSTEM_USER, Database, Statement
from timestep_lab.store.copy import parse_age, prune
from timestep_lab.store.postgres.database import PostgresDatabase
from timestep_lab.store.store import Store, open_database


@pytest.fixture(params=["duckdb", "postgres"])
def lab(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    url = tmp_path / "lab.duckdb" if request.param == "duckdb" else request.getfixturevalue("lab_url")
    database = open_database(url)
    yield database
    database.close()


def _old(lab: Database, cut: datetime) -> int:
    return sum(trace["started_at"] < cut for trace in Store(lab, "alice").traces.list(limit=100).data)


def test_traces_that_are_too_old_go_with_all_that_is_theirs_and_the_rest_stays(lab: Database) -> None:
    fill(lab, days=6)
    nobodys = Statement("insert into core.message_bodies (user_id, hash, body) values ('carol', 'h', 'zebra')")
    lab.write(SYSTEM_USER, [nobodys])
    cut = (datetime.now(UTC) - timedelta(days=3)).replace(hour=0, minute=0, second=0, microsecond=0)
    old = _old(lab, cut)
    assert 0 < old < 18

    planned = prune(lab, timedelta(days=3), dry_run=True)
    assert (planned.traces, planned.spans) == (2 * old, 6 * old)
    assert Store(lab, "alice").traces.count() == 18
    assert prune(lab, timedelta(days=3)) == planned

    # Messages that no trace refers to any more go with the last that did.
    assert lab.query(SYSTEM_USER, "select count(*) from core.message_bodies where user_id = 'carol'").rows == [(0,)]
    for user in ("alice", "bob"):
        store = Store(lab, user)
        assert store.traces.count() == 18 - old
        assert store.sql("select count(*) from spans").rows == [(3 * (18 - old),)]
        assert store.threads.count() == 3
        assert store.runs.count() == 1
        newest = store.traces.list(limit=1).data[0]["trace_id"]
        assert len(store.traces.spans(newest)) == 3
        assert store.traces.payloads(newest, [store.traces.spans(newest)[1].span_id])[0]["input"]
    again = prune(lab, timedelta(days=3))
    assert (again.traces, again.spans) == (0, 0)


def test_a_few_spans_of_many_old_days_do_not_get_a_partition_each(db: PostgresDatabase) -> None:
    n_days = "select count(*) from pg_class where relname ~ '^spans_raw_\\d{8}$'"
    [before] = db.query(SYSTEM_USER, n_days).rows
    fill(db, days=60, traces_a_day=1)
    [after] = db.query(SYSTEM_USER, n_days).rows
    assert after[0] - before[0] <= 8  # Those of the last days.
    store = Store(db, "alice")
    assert store.traces.count() == 60
    assert store.sql("select count(*) from spans").rows == [(180,)]
    prune(db, timedelta(days=30))
    assert 29 <= store.traces.count() <= 31


def test_pruning_drops_partitions_rather_than_deleting_rows(db: PostgresDatabase, server: Server, lab_url: str) -> None:
    def days() -> list[str]:
        rows = db.query(
            SYSTEM_USER, "select relname from pg_class where relname ~ '^spans_raw_\\d{8}$' order by 1"
        ).rows
        return [name for (name,) in rows]

    fill(db, days=6)
    before = days()
    prune(db, timedelta(days=3))
    cut = f"spans_raw_{datetime.now(UTC) - timedelta(days=3):%Y%m%d}"
    assert days() == [name for name in before if name >= cut]
    assert len(days()) < len(before)


def test_ages_are_read_and_nonsense_is_refused() -> None:
    assert [parse_age(text).days for text in ("30d", "8w", "6m", "1Y")] == [30, 56, 180, 365]
    for text in ("", "30", "d", "-3d", "0d", "3 apples"):
        with pytest.raises(UsageError, match="is not an age"):
            parse_age(text)
