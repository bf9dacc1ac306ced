"""Branches: a new thread that holds what came before one message, for the reader and for the model alike."""

from __future__ import annotations

from dataclasses import replace

from timestep_lab.model.clock import utc_now
from timestep_lab.model.errors import NotFoundError
from timestep_lab.model.ids import new_id
from timestep_lab.model.records import ThreadRecord
from timestep_lab.store.base import Statement
from timestep_lab.store.store import Store


def branch(store: Store, thread_id: str, before_item_id: str) -> ThreadRecord:
    """Copy everything before the item into a new thread. The old one stays as it is; the new one remembers where it came from.

    Raises `NotFoundError` for a thread or item that is not there.
    """
    old = store.threads.get(thread_id)
    items = store.threads.all_items(thread_id)
    at = next((n for n, item in enumerate(items) if item.id == before_item_id), None)
    if at is None:
        raise NotFoundError(f"Thread {thread_id} has no item {before_item_id!r}.", "Reload the conversation.")
    now = utc_now()
    new = ThreadRecord(
        id=new_id("thread"), user_id=store.user_id, title=old.title, created_at=now, updated_at=now,
        metadata={**old.metadata, "branch_of": thread_id, "branched_before": before_item_id},
    )  # fmt: skip
    if store.quota:
        store.quota.take_thread()
    store.threads.insert(new)
    copies = [replace(item, id=new_id("item"), thread_id=new.id, item_index=-1) for item in items[:at]]
    # What waits in the old thread is decided there.
    kept = [copy for copy in copies if copy.type != "approval" or copy.data.get("decision")]
    store.threads.append_items(new.id, kept)
    first_run = items[at].run_id
    copied = Statement(
        "insert into session_items (user_id, thread_id, seq, item, run_id, created_at) "
        "select user_id, $3, row_number() over (order by seq) - 1, item, run_id, created_at from session_items "
        "where user_id = $1 and thread_id = $2 and seq < coalesce("
        "(select min(seq) from session_items where user_id = $1 and thread_id = $2 and run_id = $4), 9223372036854775807)",
        [store.user_id, thread_id, new.id, first_run],
    )
    counted = Statement(
        "update threads set next_session_seq = (select count(*) from session_items where user_id = $1 and thread_id = $2) "
        "where user_id = $1 and id = $2",
        [store.user_id, new.id],
    )
    store.db.write(store.user_id, [copied, counted], changes=store.threads.changes(new.id))
    return store.threads.get(new.id)
