"""The conversation as the model reads it: the Agents SDK's `Session` protocol over a thread's session log.

The log is append-only. What comes late (the answer of a client's tool, an approval decided after the talk went on) is
appended where it arrives and shown to the model behind the call it answers, as every provider demands.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, cast

from agents.memory import SessionABC

from timestep_lab.store.base import in_thread

if TYPE_CHECKING:
    from agents import TResponseInputItem

    from timestep_lab.store.store import Store

Item = dict[str, Any]


class StoreSession(SessionABC):
    """One thread's session log. `run_id` marks what this run adds."""

    def __init__(self, store: Store, thread_id: str, run_id: str | None = None) -> None:
        self.session_id = thread_id
        self.session_settings = None
        self.unanswered: set[str] = set()
        """Call ids whose answer comes from the reader's side; the stand-in output that ends the turn is not kept."""
        self._threads = store.threads
        self._run_id = run_id

    async def get_items(self, limit: int | None = None) -> list[TResponseInputItem]:
        items = await in_thread(self._threads.session_items, self.session_id, None)
        ordered = answers_behind_calls(items)
        return cast("list[TResponseInputItem]", ordered if limit is None else ordered[-limit:] if limit > 0 else [])

    async def add_items(self, items: list[TResponseInputItem]) -> None:
        new = [cast(Item, item) for item in items]
        new = [item for item in new if not (is_output(item) and item["call_id"] in self.unanswered)]
        if any(item.get("call_id") for item in new):
            # A run that goes on after a crash says again what the log may hold already.
            known = keys(await in_thread(self._threads.session_items, self.session_id, None))
            new = [item for item in new if key(item) not in known]
        if new:
            await in_thread(self._threads.append_session_items, self.session_id, new, run_id=self._run_id)

    async def pop_item(self) -> TResponseInputItem | None:
        popped = await in_thread(self._threads.pop_session_item, self.session_id)
        return cast("TResponseInputItem | None", popped)

    async def clear_session(self) -> None:
        await in_thread(self._threads.clear_session, self.session_id)


def is_output(item: Item) -> bool:
    return str(item.get("type", "")).endswith("_output") and "call_id" in item


def key(item: Item) -> tuple[str, str] | None:
    """What makes a call or an answer the same one; None for messages."""
    return (str(item.get("type")), str(item["call_id"])) if item.get("call_id") else None


def keys(items: Iterable[Item]) -> set[tuple[str, str]]:
    return {found for item in items if (found := key(item))}


def answers_behind_calls(items: list[Item]) -> list[Item]:
    """Each answer moved up to the turn that asked for it; all else keeps its place."""
    late = _late_answers(items)
    if not late:
        return items
    moved = {id(answer) for answers in late.values() for answer in answers}
    ordered: list[Item] = []
    due: list[Item] = []
    for item in items:
        if id(item) in moved:
            continue
        if due and not (is_output(item) or key(item)):
            ordered += due
            due = []
        ordered.append(item)
        due += late.get(str(item.get("call_id")), []) if not is_output(item) else []
    return ordered + due


def _late_answers(items: list[Item]) -> dict[str, list[Item]]:
    """Call id to the answers that stand behind a later message."""
    messages = 0
    asked_at: dict[str, int] = {}
    late: dict[str, list[Item]] = {}
    for item in items:
        call_id = str(item.get("call_id") or "")
        if not call_id:
            messages += item.get("type", "message") == "message"
        elif not is_output(item):
            asked_at[call_id] = messages
        elif asked_at.get(call_id, messages) != messages:
            late.setdefault(call_id, []).append(item)
    return late
