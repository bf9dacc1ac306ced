"""A lab's store as seen by one user: their records and traces only."""

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
    """The records of `user_id` in `db`. Methods block; async callers use `store.base.in_thread`."""

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
        """Quota of a guest of a served lab."""

    @cached_property
    def traces(self) -> Traces:
        from timestep_lab.store.traces import Traces

        return Traces(self.db, self.user_id)

    def for_user(self, user_id: str) -> Store:
        """Returns the same store for another user. Closing either closes the database of both."""
        return Store(self.db, user_id)

    def agent(self, id: str, version: int | None = None) -> AgentRecord | None:
        """Returns an agent in a version, or its current version if that one is not stored."""
        versions = [] if version is None else self.agent_versions.find(1, id=id, version=version)
        return versions[0] if versions else self.agents.try_get(id)

    def sql(self, query: str, params: Sequence[object] = (), limit: int | None = None) -> Rows:
        """Runs one read-only query over the documented views. Raises `QueryError`."""
        return self.db.select(self.user_id, query, params, limit=limit)

    def subscribe(self, callback: Callable[[Change], None]) -> Callable[[], None]:
        """Registers a callback, called on another thread after each change of this user's rows by any process. Returns a function that
        unsubscribes.

        A change with an empty id means that some were missed: read everything of its topic again.
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


# --- The lab's own settings: the secret that signs its tokens and links


@dataclass(frozen=True, slots=True, kw_only=True)
class LabSetting:
    """A row of `lab_settings`."""

    name: str
    user_id: str
    value: str


def secret_of(db: Database, configured: str | None) -> str:
    """Returns `TIMESTEP_LAB_SECRET`, or a secret that is generated once and stored, so that signatures survive a restart."""
    if configured:
        return configured
    settings = Table(db, LOCAL_USER, "lab_settings", LabSetting, noun="setting", key="name", order="name")
    setting = settings.try_get("token_secret")
    if setting is None:
        try:
            setting = settings.insert(
                LabSetting(name="token_secret", user_id=LOCAL_USER, value=secrets.token_urlsafe(48))
            )
        except ConflictError:  # Another process inserted it at the same time.
            setting = settings.get("token_secret")
    return setting.value


# --- Opening a lab by URL: `lab.duckdb`, a path, `:memory:`, or `postgresql://…`


POSTGRES = ("postgresql://", "postgres://")
EMBEDDED = "embedded-postgres"
CONNINFO = re.compile(r"(?:^|\s)(?:host|hostaddr|dbname|user|password)=")
"""libpq's keyword connection string. Taken as a path, it would create a file whose name contains a password."""


def open_database(url: str | Path) -> Database:
    """Opens a lab's database, creating and migrating it if needed. The caller closes it.

    `url` is the path of a DuckDB file (also `duckdb:///…`), `:memory:`, a `postgresql://` URL, or `embedded-postgres`
    (`embedded-postgres:FOLDER`), a server started by the lab itself.
    Raises a `StoreError` that explains why it cannot be opened, `UsageError` for an unsupported URL,
    `MissingExtraError` when the Postgres driver is not installed.
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
            "A keyword connection string (host=… dbname=…) is not supported.",
            "Write it as a URL: postgresql://user:password@host:port/dbname",
        )
    if "://" in text:
        raise UsageError(
            f"{without_credentials(text)!r} is not a supported lab URL.",
            "Pass the path of a file, `:memory:`, or a URL such as postgresql://host/lab",
        )
    if not text.strip():
        raise UsageError("The name of the lab is empty.", "Pass the path of a file, such as lab.duckdb")
    return open_duckdb(Path(text).expanduser().resolve())


def open_store(url: str | Path, user_id: str = LOCAL_USER) -> Store:
    """Opens a lab's store for one user; for errors see `open_database`. `close()` closes the database."""
    return Store(open_database(url), user_id)
