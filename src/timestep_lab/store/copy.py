"""`db copy`: copies all users' rows from one lab to an empty one, on either database, verified by counts and hashes; or to Parquet files.

Rows are read a few thousand at a time, user by user, in ranges of a key. Data that is only meaningful inside its own database is not
copied: active processes, ids of recent batches, the word index, span numbers.
"""

from __future__ import annotations

import hashlib
import re
import struct
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from timestep_lab.model.clock import to_naive_utc, utc_now
from timestep_lab.model.errors import StoreError, UsageError
from timestep_lab.store.archive import forget_sql, purge
from timestep_lab.store.base import SYSTEM_USER, Change, Database, Row, Statement
from timestep_lab.store.search import forget_words
from timestep_lab.store.store import open_database

# --- `db prune`: deletes traces older than a number of days. Threads, runs and annotations stay
#
# Whole days are deleted, on Postgres by dropping their partitions. Bodies of shared messages stay if a running process may know that
# they are stored.


_UNITS = {"d": 1, "w": 7, "m": 30, "y": 365}


@dataclass(frozen=True, slots=True)
class Pruned:
    """Result of pruning. `before`: traces that started earlier were deleted; midnight UTC."""

    before: datetime
    traces: int
    spans: int


def parse_age(text: str) -> timedelta:
    """Parses `30d`, `8w`, `6m` (months of 30 days) or `1y`. Raises `UsageError`."""
    match = re.fullmatch(r"(\d+)\s*([dwmy])", text.strip().lower())
    if not match or not int(match[1]):
        raise UsageError(f"{text!r} is not an age.", "Use a number and d, w, m or y, such as 30d.")
    return timedelta(days=int(match[1]) * _UNITS[match[2]])


def prune(db: Database, older_than: timedelta, *, dry_run: bool = False) -> Pruned:
    """Deletes all users' traces that started on a day before `older_than` ago. With `dry_run`, only counts them.

    Raises `StoreError`, without changing anything.
    """
    before = (to_naive_utc(utc_now()) - older_than).replace(hour=0, minute=0, second=0, microsecond=0)
    source = "core.trace_rollups" if db.dialect == "postgres" else "core.trace_deltas"
    old = f"select user_id, trace_id from {source} group by user_id, trace_id having min(started_at) < $1"
    # Traces on either side of the boundary may have spans on the other side.
    spans_of_old = "(user_id, trace_id) in (select user_id, trace_id from old)"
    counts = db.query(
        SYSTEM_USER,
        f"with old as ({old}) select (select count(*) from old), (select count(*) from core.spans_raw where {spans_of_old}), "
        "(select count(distinct user_id) from old)",
        [before],
    ).rows[0]
    pruned = Pruned(before, int(counts[0]), int(counts[1]))
    if dry_run or not pruned.traces:
        return pruned
    users = db.query(SYSTEM_USER, f"with old as ({old}) select distinct user_id from old", [before]).rows
    sums = ("trace_sums",) if db.dialect == "duckdb" else ()
    among_old = f"(user_id, trace_id) in ({old})"
    archived = [Statement(forget_sql(among_old), [before])] if db.dialect == "duckdb" else []
    statements = [
        *archived,
        Statement(
            "delete from core.score_rows where target = 'span' and (user_id, target_id) in "
            f"(select user_id, span_id from core.spans_raw where {among_old})",
            [before],
        ),
        Statement(f"delete from core.score_rows where target = 'trace' and (user_id, target_id) in ({old})", [before]),
    ]
    if db.dialect == "postgres":
        statements.append(Statement("select core.drop_days_before($1)", [before.date()]))
    statements += [
        Statement(f"delete from core.{table} where {among_old}", [before])
        for table in (*sums, "spans_raw", "open_spans", "traces_raw", "repeated_calls", source.removeprefix("core."))
    ]
    statements.append(Statement("delete from core.waiting_events where received_at < $1", [before]))
    split = {"duckdb": "string_split", "postgres": "string_to_array"}[db.dialect]
    still_referenced = (
        f"select user_id, unnest({split}(input_refs, ' ')) from core.spans_raw where input_refs is not null"
    )
    statements.append(
        # An open span may refer to messages that are known to be stored.
        Statement(
            f"delete from core.message_bodies where (user_id, hash) not in ({still_referenced}) "
            "and user_id not in (select user_id from core.open_spans)"
        )
    )
    db.write(SYSTEM_USER, statements, changes=[Change("traces", user_id, "") for (user_id,) in users])
    forget_words(db, None)
    purge(db)
    return pruned


LEFT_BEHIND = {
    "schema_migrations", "processes", "ingest_batches", "trace_sums", "trace_sums_upto", "archive_files", "archive_deleted", "received",
}  # fmt: skip
NOT_COPIED_COLUMNS = {"span_no", "delta_no", "n_deltas"}
ROLLUPS, DELTAS = "trace_rollups", "trace_deltas"
"""Postgres sums up a trace's deltas as they are inserted (a trigger on `trace_deltas`), DuckDB stores them; a roll-up is also a delta."""
CHUNK_ROWS = 5_000
CHUNKS_OF = {"file_parts": 16}
"""Number of rows per chunk for tables with rows of a mebibyte."""
KEYS = (
    "trace_id",
    "thread_id",
    "owner_id",
    "comparison_id",
    "dataset_id",
    "vector_store_id",
    "hash",
    "key",
    "id",
    "run_id",
    "name",
)
"""Columns by which a table is divided; the first one that it has is used."""
MODULUS = 1 << 256


@dataclass(frozen=True, slots=True)
class TableCopy:
    """Result of copying one table. `sha256` is independent of row order. For roll-ups it is that of the traces in the view `traces`."""

    name: str
    rows: int
    sha256: str


def copy_lab(
    source: Database, target: Database, *, progress: Callable[[str, int], None] | None = None
) -> list[TableCopy]:
    """Copies all tables, then reads them back and compares. `progress` is called with a table and the number of rows copied so far.

    Raises `UsageError`, without writing, when the target is not empty, `StoreError` when a table differs afterwards. Rows written to the
    source during the copy may or may not be included.
    """
    _check_empty(target)
    columns_there = _columns(target)
    copied = []
    for table, columns in _columns(source).items():
        name = DELTAS if table == ROLLUPS else table
        if name not in columns_there and name != DELTAS:
            raise StoreError(
                f"The lab at {target.url} has no table {name}.", "Open both labs with the same version of timestep-lab."
            )
        digest, rows = _Digest(), 0
        for chunk in _chunks(source, table, columns):
            target.append(SYSTEM_USER, {f"core.{name}": (columns, chunk)})
            digest.add(chunk)
            rows += len(chunk)
            if progress:
                progress(name, rows)
        copied.append(TableCopy(name, rows, digest.hex()))
    there = fingerprint(target)
    wanted = [_traces(source) if table.name == DELTAS else table for table in copied]
    for expected in wanted:
        if there[expected.name] != expected:
            raise StoreError(
                f"After copying, {expected.name} has {there[expected.name].rows} row(s), expected {expected.rows}, "
                "or its contents differ.",
                "Stop all writers of the source, then copy into a new lab again.",
            )
    return wanted


def fingerprint(db: Database) -> dict[str, TableCopy]:
    """Returns count and hash of every copied table. Equal labs have equal fingerprints on either database."""
    copies = {}
    for table, columns in _columns(db).items():
        name = DELTAS if table == ROLLUPS else table
        copies[name] = _traces(db) if name == DELTAS else _table(db, table, columns)
    return copies


def copy_to_parquet(source: Database, folder: Path) -> list[TableCopy]:
    """Writes one zstd-compressed Parquet file per table into a new or empty folder. Raises `UsageError`."""
    import duckdb

    if folder.exists() and any(folder.iterdir()):
        raise UsageError(f"The folder {folder} is not empty.", "Use a new folder.")
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        path = Path(scratch) / "lab.duckdb"
        lab = open_database(path)
        try:
            copied = copy_lab(source, lab)
        finally:
            lab.close()
        with duckdb.connect(str(path), read_only=True) as connection:
            for table in copied:
                file = str(folder / f"{table.name}.parquet").replace("'", "''")
                connection.execute(f"copy core.{table.name} to '{file}' (format parquet, compression zstd)")
    return copied


# -- contents of a lab


def _columns(db: Database) -> dict[str, list[str]]:
    """Returns the tables to copy and their columns, both in alphabetical order."""
    rows = db.query(
        SYSTEM_USER,
        "select c.table_name, c.column_name from information_schema.columns c "
        "join information_schema.tables t on t.table_schema = c.table_schema and t.table_name = c.table_name "
        "where c.table_schema = 'core' and t.table_type = 'BASE TABLE' order by 1, 2",
    ).rows
    by_table: dict[str, list[str]] = {}
    for table, column in rows:
        if table not in LEFT_BEHIND and column not in NOT_COPIED_COLUMNS:
            by_table.setdefault(table, []).append(column)
    if ROLLUPS in by_table:
        del by_table[DELTAS]
    return by_table


def _check_empty(target: Database) -> None:
    for table in _columns(target):
        [count] = target.query(SYSTEM_USER, f"select count(*) from core.{table}").rows[0]
        if count:
            raise UsageError(
                f"The lab at {target.url} is not empty: {table} has {count} row(s).", "Copy into a new lab."
            )


def _chunks(db: Database, table: str, columns: list[str]) -> Iterator[list[Row]]:
    """Yields the rows of a whole table."""
    owner = "id" if table == "users" else "user_id"
    if table == "spans_raw" and db.dialect == "duckdb":
        table = "stored_spans"  # Includes archived spans.
    key = next((name for name in KEYS if name in columns), owner)
    most = CHUNKS_OF.get(table, CHUNK_ROWS)
    listed = ", ".join(f'"{column}"' for column in columns)
    users = db.query(SYSTEM_USER, f"select distinct {owner} from core.{table} order by 1").rows
    for (user_id,) in users:
        counts = db.query(
            SYSTEM_USER,
            f'select "{key}", count(*) from core.{table} where {owner} = $1 and "{key}" is not null group by 1 order by 1',
            [user_id],
        ).rows
        for first, last in _ranges(counts, most):
            yield db.query(
                SYSTEM_USER,
                f'select {listed} from core.{table} where {owner} = $1 and "{key}" between $2 and $3',
                [user_id, first, last],
            ).rows
        without = db.query(
            SYSTEM_USER, f'select {listed} from core.{table} where {owner} = $1 and "{key}" is null', [user_id]
        ).rows
        if without:
            yield without


def _ranges(counts: list[Row], most: int) -> Iterator[tuple[object, object]]:
    """Yields the first and last key of consecutive keys that together have about `most` rows."""
    first: object = None
    rows = 0
    for place, (key, count) in enumerate(counts):
        first = key if first is None else first
        rows += count
        if rows >= most or place == len(counts) - 1:
            yield first, key
            first, rows = None, 0


# -- hashes that are the same for both databases


class _Digest:
    """Order-independent hash of a set of rows: the sum of the rows' hashes."""

    def __init__(self) -> None:
        self._sum = 0

    def add(self, rows: list[Row]) -> None:
        for row in rows:
            text = "\x1f".join(map(_text, row))
            self._sum += int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest(), "big")

    def hex(self) -> str:
        return f"{self._sum % MODULUS:064x}"


def _text(value: object) -> str:
    """Returns the same text for a value from either database."""
    match value:
        case None:
            return "\x00"
        case bool():
            return str(value)
        case int() | float():
            return repr(float(value))
        case datetime():
            return value.isoformat()
        case bytes() | bytearray() | memoryview():
            return hashlib.sha256(value).hexdigest()
        case list() | tuple():
            # Embeddings have single precision: one database returns 0.1, the other the nearest double.
            return struct.pack(f"{len(value)}f", *value).hex()
    return str(value)


def _table(db: Database, table: str, columns: list[str]) -> TableCopy:
    digest, rows = _Digest(), 0
    for chunk in _chunks(db, table, columns):
        digest.add(chunk)
        rows += len(chunk)
    return TableCopy(table, rows, digest.hex())


_TRACE_COLUMNS = (
    "trace_id", "thread_id", "workflow", "agent_path", "model", "status", "started_at", "ended_at", "duration_ms",
    "n_spans", "n_errors", "turns", "input_tokens", "output_tokens", "cost_usd", "n_unpriced", "input", "output", "end_user",
)  # fmt: skip


def _traces(db: Database) -> TableCopy:
    """Hashes traces as they are summed up. The last digits of float sums depend on the order and are left out."""
    source = ROLLUPS if db.dialect == "postgres" else DELTAS
    digest, rows = _Digest(), 0
    for (user_id,) in db.query(SYSTEM_USER, f"select distinct user_id from core.{source} order by 1").rows:
        for row in db.query(user_id, f"select {', '.join(_TRACE_COLUMNS)} from traces").rows:
            digest.add([tuple(float(f"{value:.9g}") if isinstance(value, float) else value for value in row)])
            rows += 1
    return TableCopy(DELTAS, rows, digest.hex())
