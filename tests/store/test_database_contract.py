"""What every database a lab can live in must do (`store.base.Database`): each test runs on all of them."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

from timestep_lab.model.errors import ConflictError, NotFoundError, StoreError
from timestep_lab.model.records import (
    AgentRecord,
    McpServerRecord,
    RunRecord,
    RunStateRecord,
    ScoreRecord,
    ThreadItem,
    ThreadRecord,
    Usage,
)
from timestep_lab.store.base import SYSTEM_USER, Change, Database, Statement, append_soon, write_soon
from timestep_lab.store.store import Store

ALICE, BOB = "alice", "bob"
NOW = datetime(2026, 11, 22, 12, 0)


def score(id: str, user: str = ALICE, **fields: Any) -> ScoreRecord:
    return ScoreRecord(id=id, user_id=user, target="trace", target_id="t", name="quality", **fields)


def insert_score(id: str, user: str = ALICE, name: str = "quality") -> Statement:
    return Statement(
        "insert into score_rows (id, user_id, target, target_id, name, source, created_at) "
        "values ($1, $2, 'trace', 't', $3, 'human', $4)",
        [id, user, name, datetime(2026, 1, 1)],
    )


def ids(database: Database, user: str = ALICE) -> list[str]:
    rows = database.query(user, "select id from score_rows where user_id = $1 order by id", [user]).rows
    return [id for (id,) in rows]


def until(condition: Callable[[], object], seconds: float = 5.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.005)


# -- values


def test_every_float_comes_back_the_same(database: Database) -> None:
    values = [0.1, 1e308, 5e-324, -0.0, float("inf"), float("-inf"), float("nan"), None]
    scores = Store(database, ALICE).scores
    for n, value in enumerate(values):
        scores.insert(score(str(n), value=value))
    assert [repr(found.value) for found in scores.find()] == [repr(value) for value in values]


def test_integers_beyond_what_a_float_holds_come_back_the_same(database: Database) -> None:
    numbers = (2**53 + 1, -(2**63), 2**63 - 1)
    sql = "select cast($1 as bigint), cast($2 as bigint), cast($3 as bigint)"
    assert database.query(ALICE, sql, numbers).rows == [numbers]


def test_text_with_every_kind_of_character_comes_back_the_same(database: Database) -> None:
    text = 'quote \' " \\ newline \n tab \t umlaut ü emoji 🌂 rtl שלום {"$": "datetime"}'
    store = Store(database, ALICE)
    store.scores.insert(score("s", note=text))
    assert store.scores.get("s").note == text


def test_bytes_come_back_the_same(database: Database) -> None:
    every_byte = bytes(range(256))
    kind = "blob" if database.dialect == "duckdb" else "bytea"
    [(stored,)] = database.query(ALICE, f"select cast($1 as {kind})", [every_byte]).rows
    assert bytes(stored) == every_byte


def test_a_moment_comes_back_to_the_microsecond_in_utc_whatever_zone_it_was_given_in(database: Database) -> None:
    in_tokyo = datetime(2026, 3, 29, 10, 30, 0, 123456, tzinfo=timezone(timedelta(hours=9)))
    store = Store(database, ALICE)
    store.scores.insert(score("s", created_at=in_tokyo))
    found = store.scores.get("s").created_at
    assert found == in_tokyo
    assert found.utcoffset() == timedelta(0)
    assert database.query(ALICE, "select created_at from score_rows").rows == [
        (datetime(2026, 3, 29, 1, 30, 0, 123456),)
    ]


def test_records_with_nested_json_come_back_equal(database: Database) -> None:
    store = Store(database, ALICE)
    agent = AgentRecord(
        id="a", user_id=ALICE, name="Ünïcode", model="openai/gpt", tool_ids=("s.x", "s.*"), handoff_ids=("b",),
        model_settings={"temperature": 0.1, "stop": ["\n"], "nested": {"deep": [1, {"x": None}]}, "big": 2**60},
        approvals={"s.x": {"argument": "location", "contains": "berkeley"}},
    )  # fmt: skip
    server = McpServerRecord(
        id="m", user_id=ALICE, name="time", command=("mcp", "--x"), env={"A": "b"}, allowed_tools=()
    )
    run = RunRecord(
        id="r",
        user_id=ALICE,
        thread_id="t",
        trace_id="f" * 32,
        agent_id=None,
        agent="A",
        usage=Usage(requests=1, input_tokens=2),
    )
    state = RunStateRecord(
        run_id="r",
        user_id=ALICE,
        thread_id="t",
        state='{"$":1}',
        agent_snapshot={"x": [1]},
        interruptions=({"call_id": "c"},),
    )
    for table, record in (
        (store.agents, agent),
        (store.mcp_servers, server),
        (store.runs, run),
        (store.run_states, state),
    ):
        table.insert(record)  # type: ignore[attr-defined]
        assert table.find() == [record]  # type: ignore[attr-defined]


def test_no_list_is_not_an_empty_list(database: Database) -> None:
    store = Store(database, ALICE)
    store.mcp_servers.insert(McpServerRecord(id="all", user_id=ALICE, name="all", allowed_tools=None))
    store.mcp_servers.insert(McpServerRecord(id="none", user_id=ALICE, name="none", allowed_tools=()))
    assert store.mcp_servers.get("all").allowed_tools is None
    assert store.mcp_servers.get("none").allowed_tools == ()


# -- transactions


def test_a_write_is_there_for_every_other_reader_when_it_returns(database: Database) -> None:
    database.write(ALICE, [insert_score("1")])
    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(lambda _: ids(database) == ["1"], range(8)))


def test_a_statement_that_fails_takes_back_those_before_it(database: Database) -> None:
    database.write(ALICE, [insert_score("1")])
    with pytest.raises(ConflictError):
        database.write(ALICE, [insert_score("2"), insert_score("1")])
    assert ids(database) == ["1"]


def test_an_expectation_that_is_not_met_takes_back_the_transaction(database: Database) -> None:
    miss = Statement(
        "update score_rows set name = 'x' where user_id = $1 and id = 'none' returning id", [ALICE], expect=1
    )
    with pytest.raises(ConflictError, match="Expected 1 row"):
        database.write(ALICE, [insert_score("1"), miss])
    assert ids(database) == []


def test_statements_return_what_their_returning_says_and_the_others_nothing(database: Database) -> None:
    update = Statement("update score_rows set name = 'x' where user_id = $1 returning id, name", [ALICE])
    inserted, updated = database.write(ALICE, [insert_score("1"), update])
    assert inserted.rows == []
    assert (updated.columns, updated.rows) == (("id", "name"), [("1", "x")])


def test_wrong_sql_of_ours_is_a_store_error_and_changes_nothing(database: Database) -> None:
    with pytest.raises(StoreError):
        database.write(ALICE, [insert_score("1"), Statement("insert into no_such_table values (1)")])
    with pytest.raises(StoreError):
        database.query(ALICE, "select no_such_column from score_rows")
    assert ids(database) == []


def test_one_failing_write_among_many_at_once_fails_alone(database: Database) -> None:
    database.write(ALICE, [insert_score("taken")])

    def attempt(n: int) -> bool:
        try:
            database.write(ALICE, [insert_score("taken" if n % 5 == 0 else f"new{n:03}")])
        except ConflictError:
            return False
        return True

    with ThreadPoolExecutor(16) as pool:
        outcomes = list(pool.map(attempt, range(40)))
    assert outcomes == [n % 5 != 0 for n in range(40)]
    assert len(ids(database)) == 1 + outcomes.count(True)


def test_of_many_that_claim_at_once_exactly_one_wins(database: Database) -> None:
    store = Store(database, ALICE)
    for round in range(5):
        id = f"r{round}"
        store.run_states.insert(
            RunStateRecord(run_id=id, user_id=ALICE, thread_id="t", state="{}", agent_snapshot={}, interruptions=())
        )

        def claim(who: int, id: str = id) -> bool:
            try:
                store.run_states.update(
                    id, expect={"status": "pending", "rev": 0}, status="claimed", rev=1, claimed_by=str(who)
                )
            except ConflictError:
                return False
            return True

        with ThreadPoolExecutor(8) as pool:
            assert list(pool.map(claim, range(8))).count(True) == 1
        assert store.run_states.get(id).rev == 1


# -- bulk and batches


def test_append_writes_all_tables_and_what_follows_in_one_transaction(database: Database) -> None:
    rows = [(f"{n:05}", ALICE, "trace", "t", "n", n / 7, "human", datetime(2026, 1, 1)) for n in range(5000)]
    columns = ("id", "user_id", "target", "target_id", "name", "value", "source", "created_at")
    then = Statement("update score_rows set note = 'seen' where user_id = $1 and id = '00007'", [ALICE])
    database.append(ALICE, {"score_rows": (columns, rows)}, then=[then])
    store = Store(database, ALICE)
    assert store.scores.count() == 5000
    found = store.scores.get("00007")
    assert (found.value, found.note) == (1.0, "seen")


def test_append_of_a_taken_key_writes_nothing(database: Database) -> None:
    database.write(ALICE, [insert_score("5")])
    columns = ("id", "user_id", "target", "target_id", "name", "source", "created_at")
    rows = [(str(n), ALICE, "trace", "t", "n", "human", datetime(2026, 1, 1)) for n in range(10)]
    with pytest.raises(ConflictError):
        database.append(ALICE, {"score_rows": (columns, rows)})
    assert ids(database) == ["5"]


def test_a_batch_sent_twice_is_written_once_and_answers_the_same(database: Database) -> None:
    insert = insert_score("1")
    returning = Statement(f"{insert.sql} returning id, created_at", insert.params, expect=1)
    first = database.write(ALICE, [returning], batch_id="b1")
    again = database.write(ALICE, [returning], batch_id="b1")
    assert ids(database) == ["1"]
    assert again == first
    assert first[0].rows == [("1", datetime(2026, 1, 1))]


def test_an_appended_batch_sent_twice_at_once_is_written_once(database: Database) -> None:
    columns = ("user_id", "thread_id", "seq", "item", "created_at")
    rows = [(ALICE, "t", n, "{}", datetime(2026, 1, 1)) for n in range(3)]

    def send(_: int) -> None:
        database.append(ALICE, {"session_items": (columns, rows)}, batch_id="b2")

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(send, range(6)))
    assert database.query(ALICE, "select count(*) from session_items").rows == [(3,)]


def test_a_batch_that_failed_may_be_sent_again(database: Database) -> None:
    database.write(ALICE, [insert_score("1")])
    with pytest.raises(ConflictError):
        database.write(ALICE, [insert_score("1")], batch_id="b3")
    database.write(ALICE, [insert_score("2")], batch_id="b3")
    assert ids(database) == ["1", "2"]


# -- changes


def test_subscribers_hear_of_a_change_after_it_can_be_read(database: Database) -> None:
    seen: list[tuple[Change, list[str]]] = []
    end = database.subscribe(lambda change: seen.append((change, ids(database))))
    database.write(ALICE, [insert_score("1")], changes=[Change("scores", ALICE, "1")])
    until(lambda: seen)
    assert seen == [(Change("scores", ALICE, "1"), ["1"])]
    end()


def test_changes_come_in_the_order_of_their_writes(database: Database) -> None:
    heard: list[str] = []
    end = database.subscribe(lambda change: heard.append(change.id))
    for n in range(50):
        database.write(ALICE, [insert_score(f"{n:02}")], changes=[Change("scores", ALICE, f"{n:02}")])
    until(lambda: len(heard) == 50)
    assert heard == sorted(heard)
    end()


def test_a_write_that_fails_tells_nobody(database: Database) -> None:
    heard: list[str] = []
    end = database.subscribe(lambda change: heard.append(change.id))
    with pytest.raises(ConflictError):
        database.write(ALICE, [insert_score("1"), insert_score("1")], changes=[Change("scores", ALICE, "lost")])
    database.write(ALICE, [insert_score("2")], changes=[Change("scores", ALICE, "kept")])
    until(lambda: heard)
    assert heard == ["kept"]
    end()


def test_a_subscriber_that_raises_does_not_silence_the_others(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    heard = threading.Event()

    def fail(change: Change) -> None:
        raise RuntimeError("a view broke")

    ends = [database.subscribe(fail), database.subscribe(lambda change: heard.set())]
    database.write(ALICE, [insert_score("1")], changes=[Change("scores", ALICE, "1")])
    assert heard.wait(5)
    assert "a view broke" in caplog.text
    for end in ends:
        end()


def test_a_users_subscription_hears_that_user_alone(database: Database) -> None:
    heard: list[Change] = []
    end = Store(database, ALICE).subscribe(heard.append)
    Store(database, BOB).scores.insert(score("1", BOB))
    Store(database, ALICE).scores.insert(score("2"))
    until(lambda: heard)
    assert [change.id for change in heard] == ["2"]
    end()


async def test_a_write_begun_by_many_at_once_is_durable_when_its_waiter_goes_on(database: Database) -> None:
    async def one(n: int) -> int:
        await write_soon(database, ALICE, [insert_score(str(n))], changes=[Change("scores", ALICE, str(n))])
        return len(database.query(ALICE, "select 1 from score_rows where id = $1", [str(n)]).rows)

    assert await asyncio.gather(*map(one, range(40))) == [1] * 40
    with pytest.raises(ConflictError):
        await write_soon(database, ALICE, [insert_score("7")])


async def test_rows_that_many_append_at_once_are_all_there_and_a_taken_key_fails_alone(database: Database) -> None:
    columns = ("id", "user_id", "target", "target_id", "name", "source", "created_at")

    async def one(n: int) -> int:
        rows = [(f"{n}{part}", ALICE, "trace", "t", "n", "human", datetime(2026, 1, 1)) for part in "ab"]
        note = Statement("update score_rows set note = 'x' where user_id = $1 and id = $2", [ALICE, f"{n}b"], expect=1)
        await append_soon(database, ALICE, {"score_rows": (columns, rows)}, then=[note])
        return len(database.query(ALICE, "select 1 from score_rows where id in ($1, $2)", [f"{n}a", f"{n}b"]).rows)

    database.write(ALICE, [insert_score("7a")])
    results = await asyncio.gather(*map(one, range(30)), return_exceptions=True)
    assert [type(result) for result in results if result != 2] == [ConflictError]
    assert isinstance(results[7], ConflictError)
    assert len(ids(database)) == 2 * 29 + 1
    assert len(database.query(ALICE, "select 1 from score_rows where note = 'x'").rows) == 29


def test_a_change_of_nobodys_in_particular_is_told_to_every_user(database: Database) -> None:
    heard: list[Change] = []
    end = Store(database, ALICE).subscribe(heard.append)
    database.write(BOB, [insert_score("1", BOB)], changes=[Change("scores", "", "")])
    until(lambda: heard)
    assert heard == [Change("scores", ALICE, "")]
    end()


def test_a_statement_that_returns_nothing_expects_the_rows_that_it_changes(database: Database) -> None:
    database.write(ALICE, [insert_score("1")])
    rename = "update score_rows set name = 'other' where user_id = $1 and id = $2"
    database.write(ALICE, [Statement(rename, [ALICE, "1"], expect=1)])
    with pytest.raises(ConflictError, match="found 0"):
        database.write(ALICE, [Statement(rename, [ALICE, "2"], expect=1)])


def test_nothing_is_heard_after_the_subscription_ended(database: Database) -> None:
    first: list[Change] = []
    second: list[Change] = []
    end_first, end_second = database.subscribe(first.append), database.subscribe(second.append)
    end_first()
    database.write(ALICE, [insert_score("1")], changes=[Change("scores", ALICE, "1")])
    until(lambda: second)
    assert first == []
    end_second()


# -- whose rows


def records(user: str) -> list[tuple[str, Any]]:
    return [
        ("agents", AgentRecord(id="same", user_id=user, name="same")),
        ("mcp_servers", McpServerRecord(id="same", user_id=user, name="same")),
        ("threads", ThreadRecord(id="same", user_id=user)),
        ("runs", RunRecord(id="same", user_id=user, thread_id="t", trace_id="0" * 32, agent_id=None, agent="A")),
        (
            "run_states",
            RunStateRecord(run_id="same", user_id=user, thread_id="t", state="{}", agent_snapshot={}, interruptions=()),
        ),
        ("scores", score("same", user)),
    ]


@pytest.mark.parametrize("name", [name for name, _ in records("")])
def test_a_user_neither_sees_nor_changes_nor_blocks_anothers_record(database: Database, name: str) -> None:
    alice, bob = getattr(Store(database, ALICE), name), getattr(Store(database, BOB), name)
    hers, his = dict(records(ALICE))[name], dict(records(BOB))[name]
    alice.insert(hers)
    assert bob.find() == []
    assert bob.count() == 0
    assert bob.page().data == ()
    for act in (lambda: bob.get("same"), lambda: bob.delete("same"), lambda: bob.update("same", **{bob.order: NOW})):
        with pytest.raises(NotFoundError):
            act()
    with pytest.raises(ConflictError):
        bob.insert(hers)
    bob.insert(his)  # The same id is free for him: hers is not there.
    bob.delete("same")
    assert alice.find() == [hers]


def test_a_users_threads_keep_their_items_from_others(database: Database) -> None:
    alice, bob = Store(database, ALICE).threads, Store(database, BOB).threads
    alice.insert(ThreadRecord(id="t", user_id=ALICE))
    [item] = alice.append_items("t", [ThreadItem(id="i", thread_id="t", user_id=ALICE, type="user_message")])
    alice.append_session_items("t", [{"role": "user"}])
    with pytest.raises(NotFoundError):
        bob.append_items("t", [ThreadItem(id="j", thread_id="t", user_id=BOB, type="user_message")])
    with pytest.raises(NotFoundError):
        bob.append_session_items("t", [{"role": "user"}])
    for act in (lambda: bob.get_item("i"), lambda: bob.delete_item("i"), lambda: bob.delete("t")):
        with pytest.raises(NotFoundError):
            act()
    assert bob.all_items("t") == []
    assert bob.session_items("t") == []
    assert bob.pop_session_item("t") is None
    bob.clear_session("t")
    assert alice.all_items("t") == [item]
    assert alice.session_items("t") == [{"role": "user"}]


def test_a_batch_id_of_one_user_means_nothing_to_another(database: Database) -> None:
    database.write(ALICE, [insert_score("1")], batch_id="b")
    database.write(BOB, [insert_score("1", BOB)], batch_id="b")
    assert (ids(database, ALICE), ids(database, BOB)) == (["1"], ["1"])


# -- life


def test_a_lab_closed_twice_is_closed(database: Database) -> None:
    database.query(ALICE, "select 1")
    database.close()
    database.close()


def test_whoever_opens_a_lab_is_registered_as_a_process_of_it(database: Database) -> None:
    sql = "select pid from processes where process_id = $1"
    assert database.query(SYSTEM_USER, sql, [database.process_id]).rows == [(os.getpid(),)]
