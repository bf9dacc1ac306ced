"""Word search and sorting on Postgres: an index answers as reading does."""

from __future__ import annotations

from datetime import UTC, datetime

import psycopg
import pytest

from tests.postgres.labs import fill
from timestep_lab.store.postgres.database import PostgresDatabase, index_words, keep_house
from timestep_lab.store.store import Store
from timestep_lab.store.trace_selection import COMPUTED, Order

SEARCHES = (
    "ünïcode",
    "quote backslash",
    "tab newl*",
    '"ünïcode 🌂"',
    '"backslash ünïcode"',
    "gener*",
    "user",
    "nothing",
    "0",
    "5 content",
)


def test_days_with_an_index_answer_as_days_that_are_read(db: PostgresDatabase) -> None:
    fill(db, days=4)
    store = Store(db, "alice")
    read = {text: [row["trace_id"] for row in store.traces.list(search=text).data] for text in SEARCHES}
    assert {len(found) for found in read.values()} >= {0, 12}
    assert index_words(db) >= 3
    hours = db.query("alice", "select count(*) from pg_class where relname ~ '_words_[0-9][0-9]$'").rows
    assert abs(hours[0][0] - datetime.now(UTC).hour) <= 1
    assert index_words(db) == 0
    assert {text: [row["trace_id"] for row in store.traces.list(search=text).data] for text in SEARCHES} == read
    keep_house(db)


@pytest.mark.parametrize("column", ["started_at", "duration_ms", "tokens", "cost_usd", "ttft_ms"])
def test_traces_sorted_from_the_most_are_read_off_an_index(db: PostgresDatabase, lab_url: str, column: str) -> None:
    computed = f", {COMPUTED[column]} as {column}" if column in COMPUTED else ""
    query = f"select trace_id from (select v.*{computed} from main.traces v) t where t.user_id = 'alice' {Order(column, True).sql} limit 50"
    with psycopg.connect(lab_url) as owner:
        owner.execute("set local enable_sort = off")
        plan = "\n".join(line for (line,) in owner.execute(f"explain {query}".encode()).fetchall())
    assert "Sort" not in plan, plan
