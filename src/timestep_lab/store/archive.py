"""Archive of a DuckDB lab: moves finished traces of past days from the lab's file to Parquet files, one or a few per day, in the folder
`lab.duckdb.archive` beside it.

Summaries and scores of archived traces stay in the lab; their spans with full inputs move. Views, pages and searches read both together
(`core.stored_spans`), restricted to the user; any DuckDB can read the files. A day is copied and its file made durable before the rows
are deleted, in the transaction that registers the file, so an interrupted archiving can be repeated. Unregistered files are orphans and
are removed. Traces deleted later are excluded from reads at once, and removed from the files by `purge`.

A Postgres lab stores each day in its own partition, so nothing has to be moved.
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from pathlib import Path

from timestep_lab.model.clock import to_naive_utc, utc_now
from timestep_lab.model.errors import ConflictError, UsageError
from timestep_lab.store.base import SYSTEM_USER, Change, Database, Statement
from timestep_lab.store.spans import SPAN_COLUMNS
from timestep_lab.store.trace_sums import fold

ENDING = ".archive"
ORPHAN_AGE_S = 3600.0
"""Age in seconds after which an unregistered file is an orphan of an interrupted archiving."""
COLUMNS = ("span_no", *SPAN_COLUMNS)
_COPIED = ", ".join(
    {"input_refs": "null::varchar as input_refs", "input": "coalesce(s.input, h.input) as input"}.get(name, f"s.{name}")
    for name in COLUMNS
)
_OVER = (
    "select t.user_id, t.trace_id from core.trace_sums t "
    "where t.n_open = 0 and t.started_at < $2 and coalesce(t.ended_at, t.started_at) between $1 and $3 "
    "and (t.user_id, t.trace_id) not in (select user_id, trace_id from core.open_spans) "
    "and (t.user_id, t.trace_id) not in (select user_id, trace_id from core.runs where status in ('running', 'needs_approval'))"
)
"""Traces with spans between $1 and $2 that had ended at $3."""
OPTIONS = "format parquet, compression zstd, row_group_size 30000"


@dataclass(frozen=True, slots=True)
class Archived:
    days: int
    spans: int
    bytes: int
    """Total size of the files written."""


def folder_of(lab: Path) -> Path:
    return lab.with_name(lab.name + ENDING)


def archive(db: Database, before: datetime) -> Archived:
    """Archives everything that ended before a moment; days are in UTC. Raises `UsageError` for a lab without a file."""
    folder = _folder(db)
    made = not folder.exists()
    folder.mkdir(mode=0o700, exist_ok=True)
    if made:
        _durable(folder.parent)
    _sweep(db, folder)
    fold(db, whole=True)
    purge(db)
    end = to_naive_utc(before)
    days = db.query(
        SYSTEM_USER,
        "select distinct cast(started_at as date) from core.spans_raw where started_at < $1 order by 1",
        [end],
    ).rows
    files = [file for (day,) in days if (file := _archive_day(db, folder, day, end)) is not None]
    return Archived(len(files), sum(spans for spans, _ in files), sum(size for _, size in files))


def _archive_day(db: Database, folder: Path, day: date, end: datetime) -> tuple[int, int] | None:
    first = datetime(day.year, day.month, day.day)
    last = min(first + timedelta(days=1), end)
    [newest_span] = db.query(
        SYSTEM_USER,
        f"select max(span_no) from core.spans_raw where started_at >= $1 and started_at < $2 and (user_id, trace_id) in ({_OVER})",
        [first, last, end],
    ).one() or (None,)
    if newest_span is None:
        return None
    selected = (
        "select {0} from core.spans_raw s left join core.span_histories h "
        "on h.user_id = s.user_id and h.trace_id = s.trace_id and h.span_id = s.span_id "
        f"where s.started_at >= {_at(first)} and s.started_at < {_at(last)} and s.span_no <= {newest_span} "
        f"and (s.user_id, s.trace_id) in ({_OVER.replace('$1', _at(first)).replace('$2', _at(last)).replace('$3', _at(end))})"
    )
    name = _write(db, folder, day, selected.format(_COPIED) + " order by s.user_id, s.started_at")
    path, size = folder / name, (folder / name).stat().st_size
    source = f"read_parquet({_text(str(path))})"
    [spans] = db.query(SYSTEM_USER, f"select count(*) from {source}").one() or (0,)
    same = "span_no, status, ended_at, error, cost_usd, output, attributes"
    copied = f"select {same} from core.spans_raw where span_no in (select span_no from {source})"
    statements = [
        # Abort if any of the rows was changed or deleted meanwhile.
        Statement(f"select 1 from (select {same} from {source} except {copied}) limit 1", expect=0),
        Statement(f"delete from core.spans_raw where span_no in (select span_no from {source})", expect=spans),
        Statement("insert into core.archive_files values ($1, $2, $3, $4, $5)", [name, day, spans, size, to_naive_utc(utc_now())]),
        Statement(view_sql(folder, [*_known(db), name])),
    ]  # fmt: skip
    try:
        db.write(SYSTEM_USER, statements, changes=[Change("traces", "", "")])
    except ConflictError:  # The next archiving includes that day.
        path.unlink()
        return None
    return int(spans), size


def purge(db: Database) -> int:
    """Rewrites the files that contain spans of deleted traces, without those spans. Returns the number of files rewritten."""
    if db.dialect != "duckdb" or db.url == ":memory:":
        return 0
    [deleted] = db.query(SYSTEM_USER, "select count(*) from core.archive_deleted").one() or (0,)
    if not deleted:
        return 0
    folder, rewritten, began = _folder(db), 0, to_naive_utc(utc_now())
    gone = "(user_id, trace_id) in (select user_id, trace_id from core.archive_deleted)"
    for name, day in db.query(SYSTEM_USER, "select name, day from core.archive_files order by name").rows:
        source = f"read_parquet({_text(str(folder / name))})"
        [hits, rest] = db.query(
            SYSTEM_USER, f"select count(*) filter (where {gone}), count(*) filter (where not ({gone})) from {source}"
        ).one() or (0, 0)
        if not hits:
            continue
        statements = [Statement("delete from core.archive_files where name = $1", [name], expect=1)]
        names = [known for known in _known(db) if known != name]
        if rest:
            new = _write(db, folder, day, f"select * from {source} where not ({gone})")
            size = (folder / new).stat().st_size
            row = [new, day, rest, size, to_naive_utc(utc_now())]
            statements.append(Statement("insert into core.archive_files values ($1, $2, $3, $4, $5)", row))
            names.append(new)
        db.write(SYSTEM_USER, [*statements, Statement(view_sql(folder, names))])
        (folder / name).unlink(missing_ok=True)
        rewritten += 1
    db.write(SYSTEM_USER, [Statement("delete from core.archive_deleted where deleted_at < $1", [began])])
    return rewritten


def bring_back(db: Database, user_id: str, starts: Mapping[str, datetime]) -> None:
    """Those of the traces (id and start) that are archived are in the lab's file again, for more of them to be stored. Their words stay in
    the search index: a span keeps its number. The next archiving takes them out once more.
    """
    if not starts:
        return
    listed = "user_id = $1 and started_at >= $3 and trace_id in (select unnest(string_split($2, ' ')))"
    params = [user_id, " ".join(starts), min(starts.values())]
    [spans] = db.query(user_id, f"select count(*) from core.archived_spans where {listed}", params).one() or (0,)
    if not spans:
        return
    columns = ", ".join(COLUMNS)
    back = f"insert into core.spans_raw ({columns}) select {columns} from core.archived_spans where {listed}"
    db.write(user_id, [Statement(back, params, expect=spans), Statement(forget_sql(listed), params)])


def newest_archived(db: Database) -> int:
    """The highest number of a span that was archived; 0 without an archive."""
    if db.dialect != "duckdb" or not db.query(SYSTEM_USER, "select 1 from core.archive_files limit 1").rows:
        return 0
    [newest] = db.query(SYSTEM_USER, "select coalesce(max(span_no), 0) from core.archived_spans").one() or (0,)
    return int(newest)


def forget_sql(gone: str) -> str:
    """Returns the statement that excludes deleted traces from the archive; `gone` is the condition on their spans."""
    now = "cast(now() as timestamp)"
    return f"insert into core.archive_deleted select distinct user_id, trace_id, {now} from core.archived_spans where {gone}"


def view_sql(folder: Path, names: list[str]) -> str:
    """Returns the definition of the view of archived spans."""
    if not names:
        return "create or replace view core.archived_spans as select * from core.spans_raw where false"
    listed = ", ".join(_text(str(folder / name)) for name in sorted(names))
    return (
        f"create or replace view core.archived_spans as select {', '.join(COLUMNS)} from read_parquet([{listed}]) "
        "where (user_id, trace_id) not in (select user_id, trace_id from core.archive_deleted)"
    )


def _known(db: Database) -> list[str]:
    return [name for (name,) in db.query(SYSTEM_USER, "select name from core.archive_files").rows]


def _write(db: Database, folder: Path, day: date, query: str) -> str:
    """Writes a new file atomically and durably."""
    name = f"{day:%Y-%m-%d}-{secrets.token_hex(6)}.parquet"
    draft = folder / f"{name}.draft"
    db.query(SYSTEM_USER, f"copy ({query}) to {_text(str(draft))} ({OPTIONS})")
    draft.chmod(0o600)
    _durable(draft)
    draft.rename(folder / name)
    _durable(folder)
    return name


def _sweep(db: Database, folder: Path) -> None:
    known = set(_known(db))
    for path in folder.glob("*.parquet*"):
        if path.name not in known and time.time() - path.stat().st_mtime > ORPHAN_AGE_S:
            path.unlink()


def _durable(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _folder(db: Database) -> Path:
    if db.dialect != "duckdb" or db.url == ":memory:":
        raise UsageError(
            f"The lab {db.url} has no file, so it cannot be archived to Parquet.",
            "A lab in Postgres stores each day in its own partition; `timestep-lab db prune` drops them.",
        )
    return folder_of(Path(db.url))


def _at(moment: datetime) -> str:
    return f"timestamp '{moment.isoformat(sep=' ')}'"


def _text(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"
