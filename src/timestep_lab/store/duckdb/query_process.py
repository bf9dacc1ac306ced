"""Runs queries of guests in a process of their own, which can be killed and has its own memory limit.

DuckDB interrupts a query between two batches of rows, but not within one call of a function: `regexp_replace(x, 'a.*z|a', '', 'g')` takes
two minutes for a text of 300 kB, and the time is quadratic. A call can also make a batch of texts larger than all memory. Queries that only
call functions of linear time with small results (`QUICK`) run in this process. For others, the rows of the views that they name are copied
to Parquet files of a private folder.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import duckdb

from timestep_lab.model.errors import QueryError, TooLargeError
from timestep_lab.store.base import Rows
from timestep_lab.store.duckdb.connect import SCRATCH, SETTINGS, Cursor, quoted, quoted_text
from timestep_lab.store.memory import TOO_BIG, too_slow
from timestep_lab.store.worker import apart

Node: TypeAlias = Mapping[str, Any]

MEMORY = 3 * 2**27
"""Memory limit of the process in bytes."""
BESIDE_S = 1.0
"""Seconds by which the process may exceed the time limit of the query, which it enforces itself."""

QUICK_NAMES = """
!= % & * ** + - / // < << <= = > >= >> ^ ^@ | ~ add divide mod multiply subtract fdiv xor if nullif coalesce greatest least

abs acos asin atan atan2 cbrt ceil ceiling cos cot degrees even exp floor fmod gcd isfinite isinf isnan lcm ln log log10 log2 pi pow power
radians random round round_even sign signbit sin sqrt tan trunc

age century current_date date_add date_diff date_part date_sub date_trunc datediff datepart datesub datetrunc day dayname dayofmonth dayofweek
dayofyear days_in_month decade epoch epoch_ms epoch_ns epoch_us get_current_time get_current_timestamp hour isodow isoyear last_day make_date
make_time make_timestamp make_timestamp_ms microsecond millisecond minute month monthname now quarter second time_bucket timezone to_days
to_hours to_microseconds to_milliseconds to_minutes to_months to_quarters to_seconds to_timestamp to_weeks to_years today
transaction_timestamp week weekday weekofyear year yearweek

bit_length char_length character_length contains ends_with instr len length octet_length position prefix regexp_full_match regexp_matches
starts_with strlen strpos suffix

any_value approx_count_distinct arbitrary arg_max arg_min argmax argmin avg bool_and bool_or corr count count_if count_star countif covar_pop
covar_samp entropy favg first fsum kurtosis last mad max max_by mean median min min_by mode product quantile quantile_cont quantile_disc
regr_slope regr_intercept regr_r2 sem skewness stddev stddev_pop stddev_samp sum var_pop var_samp variance

cume_dist dense_rank first_value lag last_value lead nth_value ntile percent_rank rank rank_dense row_number

range generate_series unnest
"""
QUICK = frozenset(QUICK_NAMES.split())
"""Functions whose time grows no faster than their arguments, and whose results are small or parts of them."""
SMALL_TYPES = frozenset(
    [
        "BOOLEAN",
        "TINYINT",
        "SMALLINT",
        "INTEGER",
        "BIGINT",
        "HUGEINT",
        "UTINYINT",
        "USMALLINT",
        "UINTEGER",
        "UBIGINT",
        "FLOAT",
        "DOUBLE",
        "DECIMAL",
        "DATE",
        "TIME",
        "TIMESTAMP",
        "INTERVAL",
        "UUID",
    ]
)
LIKE = frozenset({"~~", "!~~", "~~*", "!~~*", "~~~"})


def needs_process(statement: object) -> bool:
    """Returns whether a parsed query calls a function, or makes values, that are not known to be quick and small."""
    return any(_is_costly(node) for node in _nodes(statement))


def _is_costly(node: Node) -> bool:
    if node.get("class") in ("LAMBDA", "COLLATE") or node.get("type") in ("ARRAY_SLICE", "ARRAY_CONSTRUCTOR"):
        return True
    if node.get("class") == "TYPE":
        return _path(node)[-1].upper() not in SMALL_TYPES
    if "function_name" not in node or node.get("type") == "TABLE_FUNCTION":
        return False
    name = _path(node)[-1].lower()
    arguments = [argument.get("expression", argument) for argument in node.get("arguments", [])]
    if name in LIKE:
        return len(arguments) != 2 or not _has_one_segment(arguments[1], case=name in ("~~", "!~~"))
    return name not in QUICK


def _has_one_segment(pattern: Node, case: bool) -> bool:
    """Returns whether a pattern of LIKE is matched in linear time: DuckDB tries all places for each `%`, unless the pattern is a constant
    without `_` and `case` matters."""
    literal = pattern.get("literal", {})
    if pattern.get("class") != "CONSTANT" or literal.get("kind") != "STRING":
        return False
    text = str(literal.get("text", ""))
    return not set(text.strip("%*")) & set("%*[") or (case and "_" not in text)


def _path(node: Node) -> list[str]:
    path = node.get("qualified_name", {}).get("path")
    return [str(part) for part in path] if path else [str(node.get("function_name") or node.get("type_name") or "")]


def _nodes(tree: object) -> Iterator[Node]:
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, list):
            waiting.extend(node)
        elif isinstance(node, dict):
            yield node
            waiting.extend(node.values())


@dataclass(frozen=True, slots=True)
class Copied:
    """A view in a private folder. `columns`: names and types; those not in `copied` occur nowhere in the query, and are null."""

    name: str
    columns: Sequence[tuple[str, str]]
    copied: Sequence[str]


def select(
    cursor: Cursor,
    views: frozenset[str],
    statement: object,
    sql: str,
    params: Sequence[object],
    *,
    limit: int | None,
    timeout_s: float | None,
) -> Rows:
    """Runs a query that `SqlGuard` allows, on copies of the views, for the user of the cursor. Raises `QueryError`."""
    ends = None if timeout_s is None else time.monotonic() + timeout_s
    with _folder() as folder:
        copied = [_copy(cursor, name, statement, sql, Path(folder)) for name in sorted(_named(statement) & views)]
        left_s = 3600.0 if ends is None else max(ends - time.monotonic(), 0.01)
        try:
            return apart(  # type: ignore[no-any-return]
                f"{__name__}:answer", folder, copied, sql, params, limit, left_s, time_limit_s=left_s + BESIDE_S, memory=MEMORY
            )  # fmt: skip
        except TooLargeError as error:
            if ends is not None and time.monotonic() >= ends:
                raise QueryError(*too_slow(timeout_s or 0)) from error
            raise QueryError(*TOO_BIG) from error


_scratch = threading.Lock()


@contextlib.contextmanager
def _folder() -> Iterator[str]:
    with _scratch:
        SCRATCH.mkdir(mode=0o700, exist_ok=True)
        folder = tempfile.mkdtemp(dir=SCRATCH)
    try:
        yield folder
    finally:
        with _scratch:
            shutil.rmtree(folder)
            with contextlib.suppress(OSError):  # Others are running.
                SCRATCH.rmdir()


def _named(statement: object) -> frozenset[str]:
    return frozenset(str(node.get("table_name", "")).lower() for node in _nodes(statement) if _is_table(node))


def _is_table(node: Node) -> bool:
    return node.get("type") in ("BASE_TABLE", "SHOW_REF")


def _copy(cursor: Cursor, name: str, statement: object, sql: str, folder: Path) -> Copied:
    columns = [(str(row[0]), str(row[1])) for row in cursor.execute(f"describe {name}").fetchall()]
    text = sql.lower()
    copied = [column for column, _ in columns if _reads_all(statement) or column.lower() in text]
    listed = ", ".join(map(quoted, copied)) or "null as nothing"
    place = quoted_text(f"{folder / name}.parquet")
    cursor.execute(f"copy (select {listed} from {name}) to {place} (format parquet, row_group_size 30000)")
    return Copied(name, columns, copied)


def _reads_all(statement: object) -> bool:
    """Returns whether the query may read columns without naming them: by `*`, a natural join, or a table's name as a value."""
    tables = {
        str(node.get("alias") or node.get("table_name", "")).lower() for node in _nodes(statement) if _is_table(node)
    }
    return any(
        node.get("class") == "STAR"
        or node.get("ref_type") == "NATURAL"
        or node.get("type") == "SHOW_REF"
        or (node.get("class") == "COLUMN_REF" and str(node["column_names"][-1]).lower() in tables)
        for node in _nodes(statement)
    )


def answer(
    folder: str, copied: Sequence[Copied], sql: str, params: Sequence[object], limit: int | None, timeout_s: float
) -> Rows:
    """Runs the query, in the process of its own. Raises `QueryError`."""
    from timestep_lab.store.duckdb.sql_guard import run

    if hasattr(os, "nice"):
        os.nice(10)  # The server's other work comes first.
    settings = SETTINGS | {
        "memory_limit": f"{MEMORY // 2 >> 20}MB",
        "threads": 1,
        "temp_directory": "",
        "errors_as_json": True,
    }
    with duckdb.connect(":memory:", config=settings) as connection:
        connection.execute("set global TimeZone = 'UTC'")
        connection.execute(f"set allowed_directories = [{quoted_text(f'{folder}/')}]")
        connection.execute("set enable_external_access = false")
        for view in copied:
            listed = ", ".join(
                f"{quoted(name) if name in view.copied else 'null'}::{kind} as {quoted(name)}"
                for name, kind in view.columns
            )
            place = quoted_text(f"{Path(folder) / view.name}.parquet")
            connection.execute(f"create view {view.name} as select {listed} from {place}")
        connection.execute("set lock_configuration = true")
        return run(connection.cursor(), sql, params, limit=limit, timeout_s=timeout_s)
