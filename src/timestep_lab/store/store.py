"""A lab as one user sees it: every record and trace that is theirs, and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self

from timestep_lab.model.ids import LOCAL_USER
from timestep_lab.model.records import (
    AgentRecord,
    DatasetRecord,
    McpServerRecord,
    RunRecord,
    RunStateRecord,
    ScoreRecord,
)
from timestep_lab.store.base import Change, Database, Rows
from timestep_lab.store.table import Table
from timestep_lab.store.threads import Threads

if TYPE_CHECKING:
    from timestep_lab.store.quota import Quota
    from timestep_lab.store.traces import Traces


class Store:
    """The tables of `user_id` in `db`. Methods block: async callers go through `store.base.in_thread`."""

    def __init__(self, db: Database, user_id: str = LOCAL_USER) -> None:
        self.db, self.user_id = db, user_id
        self.agents = Table(db, user_id, "agents", AgentRecord, noun="agent", topic="agents")
        self.mcp_servers = Table(db, user_id, "mcp_servers", McpServerRecord, noun="MCP server", topic="mcp_servers")
        self.threads = Threads(db, user_id)
        self.runs = Table(db, user_id, "runs", RunRecord, noun="run", topic="runs", order="started_at")
        self.run_states = Table(
            db, user_id, "run_states", RunStateRecord, noun="paused run", topic="approvals", key="run_id"
        )
        self.scores = Table(db, user_id, "score_rows", ScoreRecord, noun="score", topic="scores")
        self.datasets = Table(
            db, user_id, "dataset_versions", DatasetRecord, noun="data set", topic="comparisons", order="created_at"
        )
        self.quota: Quota | None = None
        """Of a guest of a served lab."""

    @cached_property
    def traces(self) -> Traces:
        from timestep_lab.store.traces import Traces

        return Traces(self.db, self.user_id)

    def for_user(self, user_id: str) -> Store:
        """The same lab as another user sees it. Closing either closes the database of both."""
        return Store(self.db, user_id)

    def sql(self, query: str, params: Sequence[Any] = (), limit: int | None = None) -> Rows:
        """One read-only query over the documented views. Raises `QueryError`."""
        return self.db.select(self.user_id, query, params, limit=limit)

    def subscribe(self, callback: Callable[[Change], None]) -> Callable[[], None]:
        """Call back, on another thread, after each change of this user's rows, made by any process. Returns what ends it.

        A change with an empty id means that some were missed: read again whatever of its topic you show.
        """

        def mine(change: Change) -> None:
            if change.user_id == self.user_id:
                callback(change)
            elif not change.user_id:
                callback(replace(change, user_id=self.user_id))

        return self.db.subscribe(mine)

    def close(self) -> None:
        self.db.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
