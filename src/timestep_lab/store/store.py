"""A lab's store as seen by one user: their records and traces only."""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from timestep_lab.model.clock import to_naive_utc, utc_now
from timestep_lab.model.codec import Json
from timestep_lab.model.display import without_credentials
from timestep_lab.model.errors import ConflictError, UsageError
from timestep_lab.model.ids import LOCAL_USER
from timestep_lab.model.records import (
    AgentRecord,
    DatasetRecord,
    McpServerRecord,
    Page,
    RunRecord,
    RunStateRecord,
    ScoreRecord,
    ShareRecord,
    ThreadItem,
    ThreadRecord,
)
from timestep_lab.store.base import Change, Database, Rows, Statement, Tables, append_soon, write_soon
from timestep_lab.store.memory import growing_at_most
from timestep_lab.store.table import Table, stored_json

if TYPE_CHECKING:
    from timestep_lab.store.quota import Quota
    from timestep_lab.store.traces import Traces


# --- Threads, their visible items, and the session log of the model
#
# Positions (`item_index`, `seq`) are assigned by counters in the thread's row, in the transaction that writes the items: they follow the
# order of writes, independent of clocks, and are unique.


SESSION_COLUMNS = ("user_id", "thread_id", "seq", "item", "run_id", "created_at")
BELONGING = ("thread_items", "session_items", "run_states", "runs")
"""Tables whose rows are deleted with their thread. Traces are kept, as a record of what happened."""


class Threads(Table[ThreadRecord]):
    """A user's threads. All methods raise `NotFoundError` for a thread or an item that does not exist."""

    def __init__(self, db: Database, user_id: str) -> None:
        super().__init__(db, user_id, "threads", ThreadRecord, noun="thread", topic="threads")
        self._items = Table(db, user_id, "thread_items", ThreadItem, noun="thread item", order="item_index")

    # -- items

    def items(
        self, thread_id: str, after: str | None = None, limit: int = 20, *, newest_first: bool = False
    ) -> Page[ThreadItem]:
        """Returns one page of a thread's items in order. `after` is the id of the last item of the previous page."""
        return self._items.page(after=after, limit=limit, newest_first=newest_first, thread_id=thread_id)

    def all_items(self, thread_id: str) -> list[ThreadItem]:
        return self._items.find(thread_id=thread_id)

    def get_item(self, item_id: str) -> ThreadItem:
        return self._items.get(item_id)

    def append_items(self, thread_id: str, items: Sequence[ThreadItem]) -> list[ThreadItem]:
        """Appends items in one transaction and returns them with their `item_index`.

        Raises `ConflictError` when an id exists already.
        """
        if not items:
            return []
        results = self._write_to(thread_id, self.append_statements(thread_id, items))
        return self.appended(thread_id, items, results)

    def append_statements(
        self,
        thread_id: str,
        items: Sequence[ThreadItem],
        session_entries: Sequence[Mapping[str, Json]] = (),
        run_id: str | None = None,
    ) -> list[Statement]:
        """Returns the statements of `append_items` (and of `append_session_items`, for `said`), for a larger transaction. `appended` reads
        their results."""
        if not items and not session_entries:
            return []
        return [
            self._take(thread_id, next_item=len(items), next_session_seq=len(session_entries)),
            *(self._insert(item, thread_id, offset - len(items)) for offset, item in enumerate(items)),
            *self._session_statements(thread_id, session_entries, run_id),
        ]

    def new_rows(
        self,
        thread: ThreadRecord,
        items: Sequence[ThreadItem],
        session_entries: Sequence[Mapping[str, Json]],
        run_id: str,
    ) -> Tables:
        """Returns the rows of a new thread with its first items, whose `item_index` is set."""
        counted = (*self.columns, "next_item", "next_session_seq")
        return {
            self.name: (counted, [[*self.to_row(thread), len(items), len(session_entries)]]),
            **self.rows_at(thread.id, 0, items, session_entries, run_id),
        }

    def rows_at(
        self,
        thread_id: str,
        first_seq: int,
        items: Sequence[ThreadItem],
        session_entries: Sequence[Mapping[str, Json]],
        run_id: str | None,
    ) -> Tables:
        """Returns the rows of items whose `item_index` is set, and of session entries from `first_seq` on."""
        now = to_naive_utc(utc_now())
        entries = [
            (self.user_id, thread_id, seq, _to_json(entry), run_id, now)
            for seq, entry in enumerate(session_entries, first_seq)
        ]
        return {
            **({self._items.name: (self._items.columns, list(map(self._items.to_row, items)))} if items else {}),
            **({"session_items": (SESSION_COLUMNS, entries)} if entries else {}),
        }

    def appended(self, thread_id: str, items: Sequence[ThreadItem], results: Sequence[Rows]) -> list[ThreadItem]:
        """Returns the items with their `item_index`, from the results of `append_statements`."""
        return [
            replace(item, thread_id=thread_id, item_index=rows.rows[0][0])
            for item, rows in zip(items, results[1:], strict=False)
        ]

    def save_item(self, item: ThreadItem) -> ThreadItem:
        """Replaces the item with this id in place, or appends it. An item's `item_index` never changes."""
        known = self._items.try_get(item.id)
        if known is None:
            try:
                return self.append_items(item.thread_id, [item])[0]
            except ConflictError:  # Another client has just written it.
                known = self._items.get(item.id)
        if known.thread_id != item.thread_id:
            raise ConflictError(f"Item {item.id!r} belongs to another thread.", "Use a new id for the copy.")
        return self.update_item(item)

    def update_item(self, item: ThreadItem) -> ThreadItem:
        """Same as `save_item`, for an existing item. Raises `ConflictError` when it does not exist."""
        row = dict(zip(self._items.columns, self._items.to_row(item), strict=True))
        fixed = ("id", "user_id", "thread_id", "item_index")
        columns = [column for column in self._items.columns if column not in fixed]
        sets = ", ".join(f"{column} = ${n}" for n, column in enumerate(columns, 3))
        update = Statement(
            f"update thread_items set {sets} where user_id = $1 and id = $2 returning item_index",
            [self.user_id, item.id, *(row[column] for column in columns)],
            expect=1,
        )
        [rows] = self.db.write(self.user_id, [update], changes=self.changes(item.thread_id))
        return replace(item, item_index=rows.rows[0][0])

    def data_statement(self, item: ThreadItem) -> Statement:
        """Returns the statement that updates the data of an existing item."""
        return Statement(
            "update thread_items set data = $3 where user_id = $1 and id = $2",
            [self.user_id, item.id, _to_json(item.data)],
            expect=1,
        )

    def delete_item(self, item_id: str) -> None:
        item = self._items.get(item_id)
        statement = Statement("delete from thread_items where user_id = $1 and id = $2", [self.user_id, item_id])
        self.db.write(self.user_id, [statement], changes=self.changes(item.thread_id))

    # -- session log of the model

    def session_items(
        self, thread_id: str, limit: int | None = None, *, run_id: str | None = None
    ) -> list[dict[str, Any]]:
        """Returns Agents SDK input items, oldest first; with `limit`, only the newest; with `run_id`, those of one run."""
        tail = f" limit {int(limit)}" if limit is not None else ""
        of_run = "" if run_id is None else " and run_id = $3"
        rows = self.db.query(
            self.user_id,
            f"select item from session_items where user_id = $1 and thread_id = $2{of_run} order by seq desc{tail}",
            [self.user_id, thread_id, *([] if run_id is None else [run_id])],
        ).rows
        return [stored_json(item) for (item,) in reversed(rows)]

    def append_session_items(
        self, thread_id: str, items: Sequence[Mapping[str, Json]], run_id: str | None = None
    ) -> None:
        if items:
            self._write_to(thread_id, self.append_statements(thread_id, (), items, run_id))

    def _session_statements(
        self, thread_id: str, items: Sequence[Mapping[str, Json]], run_id: str | None
    ) -> list[Statement]:
        count, now = len(items), to_naive_utc(utc_now())
        return [
            Statement(
                f"insert into session_items ({', '.join(SESSION_COLUMNS)}) "
                f"select $1, $2, next_session_seq + {offset - count}, $3, $4, $5 from threads where user_id = $1 and id = $2",
                [self.user_id, thread_id, _to_json(item), run_id, now],
            )
            for offset, item in enumerate(items)
        ]

    def pop_session_item(self, thread_id: str) -> dict[str, Any] | None:
        """Removes and returns the newest item; None when there is none."""
        statement = Statement(
            "delete from session_items where user_id = $1 and thread_id = $2 and seq = "
            "(select max(seq) from session_items where user_id = $1 and thread_id = $2) returning item",
            [self.user_id, thread_id],
        )
        [rows] = self.db.write(self.user_id, [statement])
        return stored_json(rows.rows[0][0]) if rows.rows else None

    def clear_session(self, thread_id: str) -> None:
        self.db.write(self.user_id, [self._delete_from("session_items", thread_id)])

    # -- threads

    def search(self, text: str, limit: int = 50) -> list[ThreadRecord]:
        """Returns threads whose title or messages contain `text`, case-insensitively, newest first."""
        columns = ", ".join(f"t.{column}" for column in self.columns)
        rows = self.db.query(
            self.user_id,
            f"select {columns} from threads t where t.user_id = $1 and (position(lower($2) in lower(coalesce(t.title, ''))) > 0 "
            "or exists (select 1 from thread_items i where i.user_id = $1 and i.thread_id = t.id "
            "and i.type in ('user_message', 'assistant_message') and position(lower($2) in lower(i.data ->> 'text')) > 0)) "
            f"order by t.created_at desc, t.id desc limit {int(limit)}",
            [self.user_id, text],
        )
        return [self.from_row(row) for row in rows.rows]

    def touch_statement(self, thread_id: str) -> Statement:
        """Returns a statement that serializes concurrent transactions on the thread."""
        return self._take(thread_id)

    def delete(self, id: str) -> None:
        """Deletes the thread with its items, session log, runs and run states. Its traces are kept."""
        thread = Statement(
            "delete from threads where user_id = $1 and id = $2 returning id", [self.user_id, id], expect=1
        )
        self._write_to(id, [thread, *(self._delete_from(table, id) for table in BELONGING)])

    # -- statements

    def _take(self, thread_id: str, **counts: int) -> Statement:
        wanted = [(counter, count) for counter, count in counts.items() if count]
        sets = "".join(f", {counter} = {counter} + {count}" for counter, count in wanted)
        return Statement(
            f"update threads set updated_at = $3{sets} where user_id = $1 and id = $2 returning next_item, next_session_seq",
            [self.user_id, thread_id, to_naive_utc(utc_now())],
            expect=1,
        )

    def _insert(self, item: ThreadItem, thread_id: str, offset: int) -> Statement:
        """`offset` is relative to the thread's counter, which already counts the new items."""
        row = dict(zip(self._items.columns, self._items.to_row(replace(item, thread_id=thread_id)), strict=True))
        del row["item_index"]
        places = ", ".join(f"${n}" for n in range(3, len(row) + 3))
        return Statement(
            f"insert into thread_items ({', '.join(row)}, item_index) select {places}, next_item + {offset} "
            "from threads where user_id = $1 and id = $2 returning item_index",
            [self.user_id, thread_id, *row.values()],
            expect=1,
        )

    def _delete_from(self, table: str, thread_id: str) -> Statement:
        return Statement(f"delete from {table} where user_id = $1 and thread_id = $2", [self.user_id, thread_id])

    def _write_to(self, thread_id: str, statements: Sequence[Statement]) -> list[Rows]:
        try:
            return self.db.write(self.user_id, statements, changes=self.changes(thread_id))
        except ConflictError:
            if self.try_get(thread_id) is None:
                raise self.missing(thread_id) from None
            raise


class ThreadTail:
    """Appends to one thread on behalf of a run.

    It remembers where the thread ends, so that what it appends are plain rows. When others have appended too, the counters in the
    thread's row differ, nothing is written, and the positions are read from there.
    """

    def __init__(self, threads: Threads, thread_id: str, run_id: str | None) -> None:
        self._threads, self._thread_id, self._run_id = threads, thread_id, run_id
        self._end: tuple[int, int] | None = None

    def ends_at(self, next_item: int, next_session_seq: int) -> None:
        self._end = (next_item, next_session_seq)

    async def append(
        self,
        items: Sequence[ThreadItem] = (),
        session_entries: Sequence[Mapping[str, Json]] = (),
        *,
        then: Sequence[Statement] = (),
        changes: Sequence[Change] = (),
    ) -> list[ThreadItem]:
        """Appends items and session entries and runs `then`, in one transaction; returns the items with their `item_index`.

        Raises `ConflictError`, without writing anything, when the thread was deleted or the `expect` of a statement is not met.
        """
        threads, db = self._threads, self._threads.db
        if self._end is not None and (items or session_entries):
            start, first_seq = self._end
            placed = [replace(item, thread_id=self._thread_id, item_index=n) for n, item in enumerate(items, start)]
            self._end = (
                start + len(items),
                first_seq + len(session_entries),
            )  # A write that begins meanwhile comes after this one.
            move = self._move((start, first_seq), self._end)
            rows = threads.rows_at(self._thread_id, first_seq, placed, session_entries, self._run_id)
            try:
                await append_soon(db, threads.user_id, rows, first=[move], then=then, changes=changes)
            except ConflictError:
                self._end = None
            except BaseException:
                self._end = None
                raise
            else:
                return placed
        statements = [*threads.append_statements(self._thread_id, items, session_entries, self._run_id), *then]
        results = await write_soon(db, threads.user_id, statements, changes=changes)
        if items or session_entries:
            self._end = results[0].rows[0]
        return threads.appended(self._thread_id, items, results)

    def _move(self, start: tuple[int, int], end: tuple[int, int]) -> Statement:
        """Returns the statement that sets the counters which `end` moves, if they are still at `start`."""
        counters = zip(("next_item", "next_session_seq"), start, end, strict=True)
        moved = [(name, was, now) for name, was, now in counters if was != now]
        params: list[object] = [self._threads.user_id, self._thread_id, to_naive_utc(utc_now())]
        sets, conditions = "", ""
        for name, was, now in moved:
            sets += f", {name} = ${len(params) + 1}"
            conditions += f" and {name} = ${len(params) + 2}"
            params += [now, was]
        sql = f"update threads set updated_at = $3{sets} where user_id = $1 and id = $2{conditions}"
        return Statement(sql, params, expect=1)


def _to_json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


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

    def typed_sql(self, query: str, params: Sequence[object] = (), limit: int | None = None) -> Rows:
        """Runs a query that the user wrote, within a guest's quota. Raises `QueryError`, and `BusyError` if guests' queries use all places."""
        with growing_at_most(self.quota.query_bytes if self.quota else None):
            return self.sql(query, params, limit)

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
