"""Exports traces to a file; the extension selects the format."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from timestep_lab.model.errors import UsageError
from timestep_lab.model.spans import GenAI, Lab, OpenInference
from timestep_lab.runtime.interchange.conventions import EXPORTED_COLUMNS
from timestep_lab.runtime.interchange.lab_rows import FLAT_COLUMNS, flat_rows, json_objects
from timestep_lab.store.spans import INPUT_IS_JSON, OUTPUT_IS_JSON, events_of
from timestep_lab.store.store import Store
from timestep_lab.store.table import from_json, to_json

# --- Spans as an OTLP/JSON trace request for other tools: GenAI and OpenInference attributes, and the lab's own for the rest


_EPOCH = datetime(1970, 1, 1)
_MICROSECOND = timedelta(microseconds=1)
_KIND_WORDS = {
    "agent": "AGENT", "generation": "LLM", "tool": "TOOL", "handoff": "TOOL", "guardrail": "GUARDRAIL", "retrieval": "RETRIEVER", "embedding": "EMBEDDING",
    "task": "CHAIN", "turn": "CHAIN", "other": "CHAIN",
}  # fmt: skip


def otlp_request(rows: Iterable[tuple[object, ...]]) -> dict[str, Any]:
    """Builds the request from rows with `FLAT_COLUMNS`. An open span has no end."""
    spans = [_span(dict(zip(FLAT_COLUMNS, row, strict=True))) for row in rows]
    return {
        "resourceSpans": [
            {
                "resource": {"attributes": [_pair("service.name", "timestep-lab")]},
                "scopeSpans": [{"scope": {"name": "timestep_lab"}, "spans": spans}],
            }
        ]
    }


def _span(row: Mapping[str, Any]) -> dict[str, Any]:
    attributes = _attributes(row)
    events, links = events_of(attributes), _links_of(attributes)
    for name, entries in ((Lab.EVENTS, events), (Lab.LINKS, links)):
        if attributes.get(name) == entries:
            del attributes[name]
    span: dict[str, Any] = {
        "traceId": row["trace_id"], "spanId": row["span_id"], "name": row["name"], "kind": 3 if row["kind"] == "generation" else 1,
        "startTimeUnixNano": _nanos(row["started_at"]),
        "attributes": _pairs(attributes),
        "status": {"code": 2, "message": row["error"] or "error"} if row["status"] == "error" else {"code": 1 if row["ended_at"] else 0},
    }  # fmt: skip
    if events:
        span["events"] = [
            {"name": event["name"], "timeUnixNano": event["time_unix_nano"], "attributes": _pairs(event["attributes"])}
            for event in events
        ]
    if links:
        span["links"] = [
            {"traceId": link["trace_id"], "spanId": link["span_id"], "attributes": _pairs(link["attributes"])}
            for link in links
        ]
    if row["parent_id"]:
        span["parentSpanId"] = row["parent_id"]
    if row["ended_at"]:
        span["endTimeUnixNano"] = _nanos(row["ended_at"])
    return span


def _links_of(attributes: Mapping[str, object]) -> list[dict[str, Any]]:
    given = attributes.get(Lab.LINKS)
    links = given if isinstance(given, list) else []
    return [
        link
        for link in links
        if isinstance(link, dict)
        and isinstance(link.get("attributes"), dict)
        and all(isinstance(link.get(name), str) for name in ("trace_id", "span_id"))
    ]


def _attributes(row: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the sender's attributes unchanged, plus attributes for those columns that have values."""
    kind, io_json = row["kind"], row["io_json"] or 0
    generation = kind == "generation"
    known = {
        OpenInference.KIND: _KIND_WORDS[kind],
        GenAI.OPERATION: GenAI.OPERATION_OF.get(kind),
        GenAI.AGENT_NAME: row["agent"],
        GenAI.TOOL_NAME: row["name"] if kind == "tool" else None,
        GenAI.CONVERSATION_ID: row["trace_thread_id"],
        OpenInference.SESSION: row["trace_thread_id"],
        OpenInference.USER: row["trace_end_user"],
        GenAI.REQUEST_MODEL: row["model"],
        OpenInference.MODEL: row["model"],
        GenAI.PROVIDER: row["provider"],
        GenAI.INPUT_TOKENS: row["input_tokens"],
        OpenInference.PROMPT_TOKENS: row["input_tokens"],
        GenAI.OUTPUT_TOKENS: row["output_tokens"],
        OpenInference.COMPLETION_TOKENS: row["output_tokens"],
        GenAI.CACHE_READ_TOKENS: row["cached_tokens"],
        GenAI.REASONING_TOKENS: row["reasoning_tokens"],
        OpenInference.COST_TOTAL: row["cost_usd"],
        GenAI.FINISH_REASONS: [row["stop_reason"]] if row["stop_reason"] and generation else None,
    }
    ours = {
        Lab.KIND: kind,
        Lab.QUEUE_MS: row["queue_ms"],
        Lab.RATE_LIMIT_MS: row["rate_limit_ms"],
        Lab.TTFT_MS: row["ttft_ms"],
        Lab.SERVER: row["server"],
        Lab.APPROVAL: row["approval"],
        Lab.FROM_AGENT: row["agent"] if kind == "handoff" else None,
        Lab.TO_AGENT: row["to_agent"],
        OpenInference.INPUT: row["input"],
        OpenInference.INPUT_MIME: _mime(row["input"], io_json & INPUT_IS_JSON),
        OpenInference.OUTPUT: row["output"],
        OpenInference.OUTPUT_MIME: _mime(row["output"], io_json & OUTPUT_IS_JSON),
    }
    given = from_json(row["attributes"] or "{}")
    attributes = {name: value for name, value in known.items() if value is not None and given.get(name) is None}
    attributes.update((name, value) for name, value in ours.items() if value is not None)
    replaced = {name: given[name] for name, value in attributes.items() if name in given and given[name] != value}
    exported = {
        **{column: row[column] for column in EXPORTED_COLUMNS if row[column] is not None},
        "added": [name for name in attributes if name not in given],
        **({"replaced": replaced} if replaced else {}),
    }
    return {**given, **attributes, Lab.EXPORTED: to_json(exported)}


def _mime(text: str | None, is_json: int) -> str | None:
    return None if text is None else "application/json" if is_json else "text/plain"


def _pairs(attributes: Mapping[str, object]) -> list[dict[str, Any]]:
    return [_pair(name, value) for name, value in attributes.items()]


def _pair(name: str, value: object) -> dict[str, Any]:
    return {"key": name, "value": _any_value(value)}


def _any_value(value: object) -> dict[str, Any]:
    match value:
        case bool():
            return {"boolValue": value}
        case int() if abs(value) < 2**63:
            return {"intValue": str(value)}
        case float() | int():
            return {"doubleValue": float(value)}
        case str():
            return {"stringValue": value}
        case list():
            return {"arrayValue": {"values": [_any_value(inner) for inner in value]}}
        case dict():
            return {"kvlistValue": {"values": [_pair(str(key), inner) for key, inner in value.items()]}}
    return {"stringValue": json.dumps(value)} if value is not None else {}


def _nanos(moment: datetime) -> str:
    return str((moment - _EPOCH) // _MICROSECOND * 1000)


_VIEWS = ("traces", "spans", "generations", "tool_calls", "handoffs", "scores")
_TYPES = {"started_at": "timestamp", "ended_at": "timestamp", "cost_usd": "double", "queue_ms": "double", "rate_limit_ms": "double",
          "ttft_ms": "double", "input_tokens": "bigint", "output_tokens": "bigint", "cached_tokens": "bigint",
          "reasoning_tokens": "bigint", "io_json": "utinyint"}  # fmt: skip


def export_file(path: str | Path, store: Store, trace_ids: Sequence[str] | None = None) -> int:
    """Writes traces (None: all) as `.json` (OTLP), `.jsonl`, `.parquet` or `.duckdb`; returns the number of spans. Blocks.

    The file is written atomically; an existing one is replaced. Raises `UsageError` for another extension and for an
    existing `.duckdb` file that is not such an export, `NotFoundError` for an unknown trace.
    """
    target = Path(path)
    write = EXPORT_FORMATS.get(target.suffix.lower())
    if write is None:
        raise UsageError(
            f"Traces cannot be exported as {target.suffix or 'a file without an extension'!r}.",
            f"Use one of the extensions {', '.join(EXPORT_FORMATS)}, .html.",
        )
    _spare_labs(target, store)
    if trace_ids is None:
        ids = [
            row[0] for row in store.db.query(store.user_id, "select trace_id from traces order by started_at", []).rows
        ]
    else:
        ids = [store.traces.get(trace_id)["trace_id"] for trace_id in trace_ids]
    draft = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        n = write(draft, store, ids)
        draft.replace(target)
    finally:
        draft.unlink(missing_ok=True)
    return n


def _spare_labs(target: Path, store: Store) -> None:
    """Raises `UsageError` if the existing file may be a lab. An export replaces a file of the same name, but a lab has more than traces."""
    if target.suffix.lower() != ".duckdb" or not target.exists():
        return
    # The open lab is recognized by its name only: opening its file again could release this process's lock on it.
    if target.resolve() == Path(store.db.url).resolve() or not _is_export(target):
        raise UsageError(
            f"{target} already exists and is not an export of traces; it may be a lab.", "Choose another name."
        )


def _is_export(file: Path) -> bool:
    import duckdb

    try:
        with duckdb.connect(str(file), read_only=True) as connection:
            row = connection.execute("select count(*) from duckdb_tables() where table_name = 'lab_spans'").fetchone()
    except duckdb.Error:  # Not a database, or locked by a process, as labs are.
        return False
    return bool(row and row[0])


def _otlp_json(target: Path, store: Store, ids: Sequence[str]) -> int:
    rows = list(flat_rows(store.db, store.user_id, ids))
    target.write_text(json.dumps(otlp_request(rows), ensure_ascii=False, separators=(",", ":")), encoding="utf-8")
    return len(rows)


def _jsonl(target: Path, store: Store, ids: Sequence[str]) -> int:
    n = 0
    with target.open("w", encoding="utf-8") as file:
        for entry in json_objects(flat_rows(store.db, store.user_id, ids)):
            file.write(json.dumps(entry, ensure_ascii=False, separators=(",", ":")) + "\n")
            n += "span_id" in entry
    return n


def _parquet(target: Path, store: Store, ids: Sequence[str]) -> int:
    import duckdb

    with duckdb.connect(":memory:") as connection:
        n = _fill(connection, "lab_spans", flat_rows(store.db, store.user_id, ids))
        connection.execute(f"copy lab_spans to {_text(target)} (format parquet, compression zstd)")
    return n


def _duckdb(target: Path, store: Store, ids: Sequence[str]) -> int:
    import duckdb

    with duckdb.connect(str(target)) as connection:
        n = _fill(connection, "lab_spans", flat_rows(store.db, store.user_id, ids))
        for view in _VIEWS:
            _copy_view(connection, view, store, ids)
    return n


def _copy_view(connection: Any, view: str, store: Store, ids: Sequence[str]) -> None:
    """Copies the rows of a documented view that belong to these traces to a table of the same name."""
    places = ", ".join(f"${n}" for n in range(1, len(ids) + 1)) or "null"
    key = f"trace_id in ({places})"
    if view == "scores":
        key = f"(target = 'trace' and target_id in ({places})) or (target = 'span' and target_id in (select span_id from spans where trace_id in ({places})))"
    result = store.db.query(store.user_id, f"select * from {view} where {key}", list(ids))
    described = ", ".join(f'"{column}" {_column_type(column)}' for column in result.columns)
    connection.execute(f"create table {view} ({described})")
    if result.rows:
        with connection.appender(view) as appender:
            appender.append_rows(result.rows)


def _fill(connection: Any, table: str, rows: Iterable[tuple[Any, ...]]) -> int:
    connection.execute("set TimeZone = 'UTC'")
    connection.execute(
        f"create table {table} ({', '.join(f'{column} {_column_type(column)}' for column in FLAT_COLUMNS)})"
    )
    with connection.appender(table) as appender:
        appender.append_rows(rows)
    return int(connection.execute(f"select count(*) from {table}").fetchone()[0])


def _column_type(column: str) -> str:
    if column in ("duration_ms", "value"):
        return "double"
    if column in ("n_spans", "n_errors", "turns", "n_unpriced"):
        return "bigint"
    if column == "created_at":
        return "timestamp"
    return _TYPES.get(column, "varchar")


def _text(path: Path) -> str:
    return "'" + str(path).replace("'", "''") + "'"


EXPORT_FORMATS: Mapping[str, Callable[[Path, Store, Sequence[str]], int]] = {
    ".json": _otlp_json, ".jsonl": _jsonl, ".parquet": _parquet, ".duckdb": _duckdb,
}  # fmt: skip
