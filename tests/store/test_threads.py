"""Threads, their items, and the log of what the model has seen: on every database."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from timestep_lab.model.clock import utc_now
from timestep_lab.model.errors import ConflictError, NotFoundError
from timestep_lab.model.records import RunRecord, RunStateRecord, ThreadItem, ThreadRecord
from timestep_lab.store.base import Database, Statement
from timestep_lab.store.store import Store, ThreadTail

ALICE = "alice"


@pytest.fixture
def store(database: Database) -> Store:
    store = Store(database, ALICE)
    store.threads.insert(ThreadRecord(id="t", user_id=ALICE, title="Rain"))
    return store


def item(id: str, thread_id: str = "t", **fields: Any) -> ThreadItem:
    return ThreadItem(
        id=id, thread_id=thread_id, user_id=ALICE, **{"type": "user_message", "data": {"text": id}} | fields
    )


def test_items_stand_in_the_order_they_were_written_whatever_the_clocks_said(store: Store) -> None:
    yesterday = utc_now() - timedelta(days=1)
    first = store.threads.append_items("t", [item("a"), item("b", created_at=yesterday)])
    second = store.threads.append_items("t", [item("c", created_at=yesterday - timedelta(days=1))])
    assert [found.item_index for found in first + second] == [0, 1, 2]
    assert store.threads.all_items("t") == first + second


def test_many_writers_at_once_give_each_item_a_place_of_its_own(store: Store) -> None:
    def write(n: int) -> list[int]:
        return [found.item_index for found in store.threads.append_items("t", [item(f"{n}x"), item(f"{n}y")])]

    with ThreadPoolExecutor(8) as pool:
        given = list(pool.map(write, range(12)))
    assert all(y == x + 1 for x, y in given)
    assert [found.item_index for found in store.threads.all_items("t")] == list(range(24))


def test_a_place_is_not_given_again_after_its_item_was_deleted(store: Store) -> None:
    store.threads.append_items("t", [item("a"), item("b")])
    store.threads.delete_item("b")
    [c] = store.threads.append_items("t", [item("c")])
    assert c.item_index == 2
    with pytest.raises(NotFoundError, match="no thread item 'b'"):
        store.threads.get_item("b")


def test_an_id_that_is_taken_keeps_all_the_items_out(store: Store) -> None:
    store.threads.append_items("t", [item("a")])
    with pytest.raises(ConflictError):
        store.threads.append_items("t", [item("b"), item("a")])
    assert [found.id for found in store.threads.all_items("t")] == ["a"]


def test_saving_an_item_replaces_it_where_it_stands_or_puts_it_at_the_end(store: Store) -> None:
    a, _ = store.threads.append_items("t", [item("a"), item("b")])
    saved = store.threads.save_item(replace(a, data={"text": "more"}, agent="Weather"))
    assert saved == store.threads.get_item("a")
    assert (saved.item_index, saved.data) == (0, {"text": "more"})
    assert store.threads.save_item(item("c")).item_index == 2
    store.threads.insert(ThreadRecord(id="other", user_id=ALICE))
    with pytest.raises(ConflictError, match="belongs to another thread"):
        store.threads.save_item(item("a", "other"))


def test_pages_go_through_all_items_in_either_direction(store: Store) -> None:
    store.threads.append_items("t", [item(str(n)) for n in range(7)])
    for newest_first in (False, True):
        seen: list[str] = []
        after: str | None = None
        while True:
            page = store.threads.items("t", after, limit=3, newest_first=newest_first)
            seen += [found.id for found in page.data]
            after = page.after
            if not page.has_more:
                break
        assert seen == sorted(map(str, range(7)), reverse=newest_first)
        assert after is None
    with pytest.raises(NotFoundError):
        store.threads.items("t", after="unknown")


def test_listing_threads_goes_by_time_then_id(store: Store) -> None:
    same = store.threads.get("t").created_at
    for id in ("x2", "x1", "x3"):
        store.threads.insert(ThreadRecord(id=id, user_id=ALICE, created_at=same))
    assert [found.id for found in store.threads.page(limit=10).data] == ["x3", "x2", "x1", "t"]
    page = store.threads.page(limit=2)
    assert [found.id for found in store.threads.page(limit=2, after=page.after).data] == ["x1", "t"]


def test_nothing_is_written_to_a_thread_that_does_not_exist(store: Store) -> None:
    with pytest.raises(NotFoundError, match=r"no thread 'nope'.*threads.list"):
        store.threads.append_items("nope", [item("a", "nope")])
    with pytest.raises(NotFoundError):
        store.threads.append_session_items("nope", [{"role": "user"}])
    with pytest.raises(NotFoundError):
        store.threads.delete("nope")


def test_the_session_log_is_kept_apart_in_its_own_order(store: Store) -> None:
    log = [{"role": "user", "content": f"ü{n}", "n": None} for n in range(4)]
    store.threads.append_session_items("t", log[:3], run_id="r")
    store.threads.append_session_items("t", log[3:])
    store.threads.append_session_items("t", [])
    assert store.threads.session_items("t") == log
    assert store.threads.session_items("t", limit=2) == log[2:]
    assert store.threads.pop_session_item("t") == log[3]
    assert store.threads.session_items("t") == log[:3]
    store.threads.clear_session("t")
    assert store.threads.session_items("t") == []
    assert store.threads.pop_session_item("t") is None
    assert store.threads.all_items("t") == []


def test_deleting_a_thread_takes_everything_of_it_and_nothing_of_another(store: Store) -> None:
    store.threads.insert(ThreadRecord(id="kept", user_id=ALICE))
    for id in ("t", "kept"):
        store.threads.append_items(id, [item(f"i{id}", id)])
        store.threads.append_session_items(id, [{"of": id}])
        store.runs.insert(RunRecord(id=id, user_id=ALICE, thread_id=id, trace_id=id, agent_id=None, agent="A"))
        store.run_states.insert(
            RunStateRecord(run_id=id, user_id=ALICE, thread_id=id, state="{}", agent_snapshot={}, interruptions=())
        )
    store.threads.delete("t")
    assert [found.id for found in store.threads.find()] == ["kept"]
    assert (store.threads.all_items("t"), store.threads.session_items("t")) == ([], [])
    assert [found.id for found in store.runs.find()] == ["kept"]
    assert [found.run_id for found in store.run_states.find()] == ["kept"]
    assert len(store.threads.all_items("kept")) == 1
    assert store.threads.session_items("kept") == [{"of": "kept"}]


def test_the_newest_run_of_each_thread_is_found_in_one_reading(store: Store) -> None:
    store.threads.insert(ThreadRecord(id="u", user_id=ALICE))
    for n, (run_id, thread_id) in enumerate([("r1", "t"), ("r2", "u"), ("r3", "t")]):
        run = RunRecord(
            id=run_id, user_id=ALICE, thread_id=thread_id, trace_id=f"trace {n}", agent="Desk", agent_id="desk", input="?",
            status="completed", started_at=utc_now() + timedelta(seconds=n),
        )  # fmt: skip
        store.runs.insert(run)
    found = store.runs.newest_of_each("thread_id", ["t", "u", "none"])
    assert {run.thread_id: run.id for run in found} == {"t": "r3", "u": "r2"}
    assert store.runs.newest_of_each("thread_id", []) == []


def said(*texts: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text} for text in texts]


async def test_a_run_goes_on_where_the_thread_ends_also_when_others_have_written_meanwhile(store: Store) -> None:
    tail = ThreadTail(store.threads, "t", "run_1")
    placed = await tail.append([item("a"), item("b")], said("one"))
    placed += await tail.append([item("c")])
    await tail.append(session_entries=said("two", "three"))
    store.threads.append_items("t", [item("by another")])
    store.threads.append_session_items("t", said("by another"))
    placed += await tail.append([item("d"), item("e")], said("four"))
    placed += await tail.append([item("f")], said("five"))
    assert [one.item_index for one in placed] == [0, 1, 2, 4, 5, 6]
    assert [one.id for one in store.threads.all_items("t")] == ["a", "b", "c", "by another", "d", "e", "f"]
    log = [entry["content"] for entry in store.threads.session_items("t")]
    assert log == ["one", "two", "three", "by another", "four", "five"]
    assert store.threads.session_items("t", run_id="run_1")[-1]["content"] == "five"


async def test_two_runs_that_write_to_one_thread_at_once_lose_nothing(store: Store) -> None:
    async def write(name: str) -> None:
        tail = ThreadTail(store.threads, "t", name)
        for n in range(10):
            await tail.append([item(f"{name}{n}")], said(f"{name}{n}"))

    await asyncio.gather(write("a"), write("b"))
    found = store.threads.all_items("t")
    assert [one.item_index for one in found] == list(range(20))
    for name in ("a", "b"):
        assert [one.id for one in found if one.id.startswith(name)] == [f"{name}{n}" for n in range(10)]
    assert len(store.threads.session_items("t")) == 20


async def test_nothing_is_appended_when_a_statement_of_the_same_transaction_is_refused(store: Store) -> None:
    tail = ThreadTail(store.threads, "t", "run_1")
    await tail.append([item("a")])
    never = Statement("update threads set title = 'x' where user_id = $1 and id = 'no such thread'", [ALICE], expect=1)
    with pytest.raises(ConflictError):
        await tail.append([item("b")], said("b"), then=[never])
    assert [one.id for one in store.threads.all_items("t")] == ["a"]
    assert store.threads.session_items("t") == []
    [placed] = await tail.append([item("c")])
    assert placed.item_index == 1


async def test_nothing_is_appended_to_a_thread_that_was_deleted(store: Store) -> None:
    tail = ThreadTail(store.threads, "t", "run_1")
    await tail.append([item("a")])
    store.threads.delete("t")
    with pytest.raises(ConflictError):
        await tail.append([item("b")], said("b"))
    assert store.threads.all_items("t") == []
    assert store.threads.session_items("t") == []
