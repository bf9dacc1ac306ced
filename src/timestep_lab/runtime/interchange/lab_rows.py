"""Our own formats: the store's columns as they are, so that nothing is lost on the way out and back in.

JSONL: a line a trace (`{"object": "timestep.trace", …}`), then a line a span (`{"object": "timestep.span", …}`), times ISO 8601.
Parquet: a row a span, with the trace's `workflow`, `thread_id` and `metadata` beside it.
DuckDB: tables named and shaped like the lab's views, and `lab_spans`, the rows of the Parquet form, from which it is read back.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from timestep_lab.model.clock import iso, parse_iso, to_naive_utc
from timestep_lab.model.spans import SPAN_KINDS, SPAN_STATUSES
from timestep_lab.runtime.interchange.decoded import Decoded
from timestep_lab.store.base import Database
from timestep_lab.store.imported_trace import TraceSaid
from timestep_lab.store.json_text import clean
from timestep_lab.store.span_rows import AT, SPAN_COLUMNS, Row
from timestep_lab.store.trace_selection import aware

TRACE_OBJECT, SPAN_OBJECT = "timestep.trace", "timestep.span"
OF_TRACE = ("workflow", "thread_id", "metadata", "parent_trace_id", "fork_span_id")
FLAT_COLUMNS = (
    *(column for column in SPAN_COLUMNS if column not in ("user_id", "input_refs")),
    *(f"trace_{name}" for name in OF_TRACE),
)
_TIMES = ("started_at", "ended_at")
_NUMBERS = {
    "input_tokens", "output_tokens", "cached_tokens", "reasoning_tokens", "cost_usd", "queue_ms", "rate_limit_ms", "ttft_ms", "io_json",
}  # fmt: skip
BATCH = 200
"""Traces read at once."""


def flat_rows(db: Database, user_id: str, trace_ids: Sequence[str]) -> Iterator[tuple[Any, ...]]:
    """Every span of these traces in order of trace, then of start, with `FLAT_COLUMNS`. Payloads are whole, open spans included."""
    spans = ", ".join(
        f"s.{column}" for column in FLAT_COLUMNS if not column.startswith("trace_") or column == "trace_id"
    )
    starts = ", ".join(["n.workflow", "n.thread_id", *(f"t.{name}" for name in OF_TRACE[2:])])
    for first in range(0, len(trace_ids), BATCH):
        ids = trace_ids[first : first + BATCH]
        places = ", ".join(f"${n}" for n in range(2, len(ids) + 2))
        found = db.query(
            user_id,
            f"select {spans.replace('s.io_json', 'coalesce(r.io_json, o.io_json) as io_json')}, {starts} from core.all_spans s "
            "left join (select trace_id, span_id, max(io_json) as io_json from core.spans_raw where user_id = $1 "
            f"and trace_id in ({places}) group by trace_id, span_id) r on r.trace_id = s.trace_id and r.span_id = s.span_id "
            "left join (select trace_id, span_id, max(io_json) as io_json from core.open_spans where user_id = $1 "
            f"and trace_id in ({places}) group by trace_id, span_id) o on o.trace_id = s.trace_id and o.span_id = s.span_id "
            f"left join (select trace_id, {', '.join(f'max({name}) as {name}' for name in OF_TRACE[2:])} "
            f"from core.traces_raw where user_id = $1 and trace_id in ({places}) group by trace_id) t on t.trace_id = s.trace_id "
            f"left join (select trace_id, workflow, thread_id from traces where trace_id in ({places})) n on n.trace_id = s.trace_id "
            f"where s.user_id = $1 and s.trace_id in ({places}) order by s.trace_id, s.started_at",
            [user_id, *ids],
        )
        yield from found.rows


def json_objects(rows: Iterable[tuple[Any, ...]]) -> Iterator[dict[str, Any]]:
    """The lines of the JSONL form."""
    last = None
    for row in rows:
        values = {
            name: iso(value) if isinstance(value, datetime) else value
            for name, value in aware(row, FLAT_COLUMNS).items()
        }
        of_trace = {name: values.pop(f"trace_{name}") for name in OF_TRACE}
        if values["trace_id"] != last:
            last = values["trace_id"]
            told = {name: value for name, value in of_trace.items() if value is not None}
            yield {"object": TRACE_OBJECT, "trace_id": last, "started_at": values["started_at"], **told}
        yield {"object": SPAN_OBJECT, **{name: value for name, value in values.items() if value is not None}}


def is_lab_row(value: Any) -> bool:
    return isinstance(value, Mapping) and value.get("object") in (TRACE_OBJECT, SPAN_OBJECT)


def read_lab_rows(objects: Iterable[Mapping[str, Any]], user_id: str) -> Decoded:
    """From the lines of the JSONL form."""
    decoded = Decoded(user_id)
    for found in objects:
        try:
            if found.get("object") == TRACE_OBJECT:
                decoded.said.append(_trace(found, ""))
            else:
                decoded.spans.append(_span(found, user_id))
        except (KeyError, ValueError, TypeError) as error:
            decoded.reject(f"A row could not be read: {error!r}")
    return decoded


def read_flat_rows(columns: Sequence[str], rows: Iterable[tuple[Any, ...]], user_id: str) -> Decoded:
    """From the rows of the Parquet form."""
    decoded = Decoded(user_id)
    seen: set[str] = set()
    for row in rows:
        found = dict(zip(columns, row, strict=True))
        try:
            decoded.spans.append(_span(found, user_id))
            if found["trace_id"] not in seen:
                seen.add(found["trace_id"])
                decoded.said.append(_trace(found, "trace_"))
        except (KeyError, ValueError, TypeError) as error:
            decoded.reject(f"A row could not be read: {error!r}")
    return decoded


def _span(found: Mapping[str, Any], user_id: str) -> Row:
    values = [_value(name, found.get(name)) for name in SPAN_COLUMNS]
    values[AT["user_id"]] = user_id
    values[AT["input_refs"]] = None
    values[AT["io_json"]] = int(found.get("io_json") or 0) & 3
    values[AT["attributes"]] = found.get("attributes") or "{}"
    if found["kind"] not in SPAN_KINDS or found["status"] not in SPAN_STATUSES:
        raise ValueError(f"a span of kind {found['kind']!r} and status {found['status']!r}")
    for name, length in (("trace_id", 32), ("span_id", 16)):
        bytes.fromhex(found[name])
        if len(found[name]) != length:
            raise ValueError(f"{name} {found[name]!r} has not {length} hexadecimal digits")
    return tuple(values)


def _trace(found: Mapping[str, Any], prefix: str) -> TraceSaid:
    said = {name: found.get(f"{prefix}{name}") for name in OF_TRACE}
    return TraceSaid(
        found["trace_id"], clean(str(said["workflow"])) if said["workflow"] else None, thread_id=said["thread_id"],
        started_at=_value("started_at", found["started_at"]), metadata=said["metadata"] or "{}",
        parent_trace_id=said["parent_trace_id"], fork_span_id=said["fork_span_id"],
    )  # fmt: skip


def _value(name: str, value: Any) -> Any:
    if value is None:
        return None
    if name in _TIMES:
        return to_naive_utc(value if isinstance(value, datetime) else parse_iso(value))
    if name in _NUMBERS:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError(f"{name} {value!r} is no number")
        return value
    return clean(str(value))
