"""`lab.my_data`: counts, exports and deletes all data of a user."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from timestep_lab.model.errors import ConflictError, UsageError
from timestep_lab.service import operation as op
from timestep_lab.service.operation import Scope
from timestep_lab.store.archive import forget_sql, purge
from timestep_lab.store.base import Change, Statement, Topic
from timestep_lab.store.search import forget_words
from timestep_lab.store.table import to_json
from timestep_lab.store.traces import delete_statements

if TYPE_CHECKING:
    from timestep_lab.store.store import Store

Kind = Literal["conversations", "traces", "files", "comparisons", "datasets", "agents"]

TABLES: dict[Kind, tuple[str, ...]] = {
    "conversations": (
        "threads", "thread_items", "session_items", "run_states", "runs", "feedback", "conversations", "conversation_items", "responses",
    ),
    "traces": ("traces_raw",),
    "files": (
        "files", "file_parts", "chunks", "vector_stores", "vector_store_files", "uploads", "upload_parts", "chatkit_attachments",
    ),
    "comparisons": ("comparison_runs", "comparison_cases", "comparison_cells", "comparison_scores", "votes", "answer_cache"),
    "datasets": ("dataset_versions", "dataset_cases"),
    "agents": ("agents", "agent_versions", "mcp_servers"),
}  # fmt: skip
"""Tables of each kind; rows of the first table are counted. The other trace tables are handled by `store.traces`."""
NOT_DELETED = {"users", "lab_settings", "processes", "ingest_batches", "schema_migrations", "archive_deleted"}
"""Tables of the lab itself, not of a user's activity."""
NOT_EXPORTED = {"file_parts", "run_states", "chunks", "answer_cache", "upload_parts", "mcp_servers"}
"""File contents (exported as files), tables for internal use, and tables that hold credentials."""
TOPICS: tuple[Topic, ...] = (
    "threads",
    "runs",
    "approvals",
    "traces",
    "scores",
    "files",
    "comparisons",
    "agents",
    "mcp_servers",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class MyDataCounts:
    """Number of items of each kind."""

    conversations: int
    traces: int
    files: int
    comparisons: int
    datasets: int
    agents: int


def check_place(target: Path, example: str) -> None:
    """Raises `UsageError` if no file can have this path."""
    if not target.parent.is_dir():
        raise UsageError(f"The folder {target.parent} does not exist.", f"Create it with: mkdir -p {target.parent}")
    if target.is_dir():
        raise UsageError(f"{target} is a folder.", f"Give a file name, such as: {target / example}")


@contextmanager
def written_whole(target: Path) -> Iterator[Path]:
    """A temporary file beside `target`. It replaces `target` when the block succeeds and is deleted when it fails."""
    draft = target.with_name(f".{target.name}.draft")
    try:
        yield draft
        draft.replace(target)
    finally:
        draft.unlink(missing_ok=True)


@op.noun("my_data")
class MyData:
    """All data of one user. `delete(kind)` or `delete_everything()` removes it; `export(path)` writes it to a .zip
    file.
    """

    def __init__(self, scope: Scope) -> None:
        self._scope = scope

    @op.get("/my-data")
    def counts(self) -> MyDataCounts:
        """Number of items of each kind."""
        store = self._scope.store
        counts = {kind: _count(store, "count(*)", tables[0]) for kind, tables in TABLES.items()}
        counts["traces"] = _count(store, "count(distinct trace_id)", "traces_raw")
        counts["datasets"] = _count(store, "count(distinct name)", "dataset_versions")
        return MyDataCounts(**counts)

    @op.delete("/my-data")
    def delete_everything(self) -> None:
        """Delete everything: conversations, runs, traces, files, comparisons, data sets, shared links, agents and MCP
        servers.

        Raises `ConflictError` while runs or comparisons are running.
        """
        self._check_nothing_goes_on()
        store = self._scope.store
        self._scope.flush()
        rest = [table for table in _tables(store) if table not in NOT_DELETED]
        every = [Statement(f"delete from core.{table} where user_id = $1", [store.user_id]) for table in rest]
        if store.db.dialect == "duckdb":
            every.insert(0, Statement(forget_sql("user_id = $1"), [store.user_id]))
        store.db.write(store.user_id, every, changes=[Change(topic, store.user_id, "") for topic in TOPICS])
        forget_words(store.db, store.user_id)
        purge(store.db)

    @op.delete("/my-data/{kind}")
    def delete(self, kind: Kind) -> None:
        """Delete all data of one kind. Conversations are deleted with their runs and traces, files with the vector
        stores that contain them.

        Raises `ConflictError` while runs or comparisons are running.
        """
        self._check_nothing_goes_on()
        store = self._scope.store
        self._scope.flush()
        if kind == "conversations":
            ran = "select trace_id from core.runs where user_id = $1 and trace_id is not null"
            _delete_traces(store, [str(row[0]) for row in store.db.query(store.user_id, ran, [store.user_id]).rows])
        statements = [
            Statement(f"delete from core.{table} where user_id = $1", [store.user_id]) for table in TABLES[kind]
        ]
        if kind == "traces":
            statements = delete_statements(store.db.dialect, store.user_id)
        if kind == "comparisons":
            statements.append(
                Statement("delete from core.score_rows where user_id = $1 and target = 'case'", [store.user_id])
            )
        store.db.write(store.user_id, statements, changes=[Change(topic, store.user_id, "") for topic in TOPICS])
        forget_words(store.db, store.user_id)
        purge(store.db)

    def export(self, path: str | Path) -> Path:
        """Write everything to a .zip file: a `.jsonl` file per table, `traces.jsonl` as written by `lab.export`, and
        the files.

        Credentials of MCP servers are not included. The file is written completely or not at all.
        """
        target = Path(path)
        check_place(target, "my-data.zip")
        self._scope.flush()
        with written_whole(target) as draft, zipfile.ZipFile(draft, "w", zipfile.ZIP_DEFLATED) as archive:
            _write_all(self._scope.store, archive, target.parent)
        return target

    def _check_nothing_goes_on(self) -> None:
        store = self._scope.store
        running = store.runs.count(status="running")
        comparing = _count(store, "count(*)", "comparison_runs", " and status = 'running'")
        if running or comparing:
            what = f"{running} {'run' if running == 1 else 'runs'}" if running else "A comparison"
            raise ConflictError(
                f"{what} {'is' if running < 2 else 'are'} still running, so nothing was deleted.",
                "Stop them first, then delete.",
            )


def _count(store: Store, what: str, table: str, more: str = "") -> int:
    [count] = store.db.query(
        store.user_id, f"select {what} from core.{table} where user_id = $1{more}", [store.user_id]
    ).one() or (0,)
    return int(count)


def _delete_traces(store: Store, trace_ids: list[str]) -> None:
    """Delete these traces, also those of waiting runs: they are deleted with their conversation."""
    for start in range(0, len(trace_ids), 500):
        ids = trace_ids[start : start + 500]
        store.db.write(store.user_id, delete_statements(store.db.dialect, store.user_id, ids))


def _tables(store: Store) -> list[str]:
    """Every table with user rows, determined from the schema so that tables of later versions are included."""
    rows = store.db.query(
        store.user_id,
        "select c.table_name from information_schema.columns c join information_schema.tables t "
        "on t.table_schema = c.table_schema and t.table_name = c.table_name "
        "where c.table_schema = 'core' and t.table_type = 'BASE TABLE' and c.column_name = 'user_id' order by 1",
    ).rows
    return [str(row[0]) for row in rows]


def _write_all(store: Store, archive: zipfile.ZipFile, folder: Path) -> None:
    from timestep_lab.runtime.files.files import Files
    from timestep_lab.runtime.interchange.export import export_file

    for tables in TABLES.values():
        for table in tables:
            if table not in NOT_EXPORTED and table != "traces_raw":
                archive.writestr(f"{table}.jsonl", "".join(_lines(store, table)))
    archive.writestr("scores.jsonl", "".join(_lines(store, "score_rows")))
    ids = [str(row[0]) for row in store.sql("select trace_id from traces order by started_at").rows]
    if ids:
        traces = folder / f".{store.user_id}.traces.jsonl"
        try:
            export_file(traces, store, ids)
            archive.write(traces, "traces.jsonl")
        finally:
            traces.unlink(missing_ok=True)
    files = Files(store)
    for file in files.list():
        archive.writestr(f"files/{file.id}-{Path(file.filename).name}", files.content(file.id))


def _lines(store: Store, table: str) -> Iterator[str]:
    result = store.db.query(store.user_id, f"select * from core.{table} where user_id = $1", [store.user_id])
    for row in result.dicts():
        yield to_json({name: _value(value) for name, value in row.items()}) + "\n"


def _value(value: object) -> object:
    """The decoded value of a JSON column; other values unchanged."""
    if isinstance(value, str) and value[:1] in ("{", "["):
        read: Callable[[str], object] = json.loads
        try:
            return read(value)
        except ValueError:
            return value
    return value
