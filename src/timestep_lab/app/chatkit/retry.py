"""Answering a message anew: the model forgets what it said and heard since."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from timestep_lab.store.base import Statement, in_thread

if TYPE_CHECKING:
    from timestep_lab.types.protocols import LabLike


async def forget_runs(lab: LabLike, thread_id: str, run_ids: Iterable[str]) -> None:
    """Take what these runs put into the thread's session log away; what waits for approval in them is withdrawn. Their traces stay."""
    store = lab.store
    for run_id in run_ids:
        run = await in_thread(store.runs.get, run_id)
        if run.status == "needs_approval":
            await lab.cancel(run_id)
    statements = [
        Statement(
            "delete from session_items where user_id = $1 and thread_id = $2 and run_id = $3",
            [store.user_id, thread_id, run_id],
        )
        for run_id in run_ids
    ]
    await in_thread(store.db.write, store.user_id, statements, changes=store.threads.changes(thread_id))
