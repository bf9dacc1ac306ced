"""Word search on Postgres: an index answers as reading does."""

from __future__ import annotations

from datetime import UTC, datetime

from tests.postgres.labs import fill
from timestep_lab.store.postgres.database import PostgresDatabase, index_words, keep_house
from timestep_lab.store.store import Store

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
