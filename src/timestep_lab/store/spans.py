"""Reading and writing of spans, and extraction of the user's and the assistant's text from payloads.

Known payload shapes: Chat Completions messages (`role`, `content`), Responses items (`type`, `content[].text`), OpenTelemetry GenAI
messages (`role`, `parts[].content`), and objects that wrap one of these. They are recognized by their keys; others become JSON text.
"""

from __future__ import annotations

import threading
import weakref
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, TypedDict

from timestep_lab.model.clock import to_aware_utc, to_naive_utc
from timestep_lab.model.errors import NotFoundError
from timestep_lab.model.spans import Lab, SpanRecord, TraceStart
from timestep_lab.store.base import Columns, Database, Dialect, NamedRow
from timestep_lab.store.base import Row as Row
from timestep_lab.store.table import CodedText, clean, from_json, to_json
from timestep_lab.store.trace_selection import aware

if TYPE_CHECKING:
    import numpy
    from numpy.typing import NDArray


# --- Spans and trace starts as tuples for `Database.append`, and back
#
# The column order is defined here only; code that builds tuples directly (the importers, for speed) uses `SPAN_COLUMNS`.


SPAN_COLUMNS = (
    "user_id", "trace_id", "span_id", "parent_id", "kind", "name", "agent", "status", "error", "model", "provider",
    "started_at", "ended_at", "input_tokens", "output_tokens", "cached_tokens", "reasoning_tokens", "cost_usd",
    "queue_ms", "rate_limit_ms", "ttft_ms", "stop_reason", "server", "approval", "to_agent", "io_json", "input_refs",
    "attributes", "input", "output",
)  # fmt: skip
OPEN_COLUMNS = (
    "user_id", "trace_id", "span_id", "parent_id", "kind", "name", "agent", "model", "provider", "started_at",
    "server", "approval", "to_agent", "io_json", "attributes", "input", "process_id",
)  # fmt: skip
TRACE_COLUMNS = (
    "user_id", "trace_id", "workflow", "thread_id", "started_at", "metadata", "parent_trace_id", "fork_span_id",
)  # fmt: skip
AT = {column: place for place, column in enumerate(SPAN_COLUMNS)}
"""Maps a column name to its index in a span tuple."""

INPUT_IS_JSON, OUTPUT_IS_JSON = 1, 2
_OPEN_PLACES = tuple(AT[column] for column in OPEN_COLUMNS[:-1])


def span_row(span: SpanRecord) -> Row:
    """Returns the row of a span. Never fails on unusual payloads: see `json_text`."""
    attributes = span.attributes
    get = attributes.get
    started_at, ended_at, error = span.started_at, span.ended_at, span.error
    input_text, input_json = payload_text(span.input)
    output_text, output_json = payload_text(span.output)
    return (
        span.user_id, span.trace_id, span.span_id, span.parent_id, span.kind, _word(span.name),
        _word(span.agent) if span.agent else _text(get(Lab.FROM_AGENT)), span.status, None if error is None else clean(str(error)),
        _word(span.model), _word(span.provider),
        # Same as `to_naive_utc`, but faster for UTC.
        started_at.replace(tzinfo=None) if started_at.tzinfo is UTC else to_naive_utc(started_at),
        None if ended_at is None else ended_at.replace(tzinfo=None) if ended_at.tzinfo is UTC else to_naive_utc(ended_at),
        span.input_tokens, span.output_tokens, span.cached_tokens, span.reasoning_tokens, span.cost_usd,
        span.queue_ms, span.rate_limit_ms, span.ttft_ms, _word(span.stop_reason),
        _text(get(Lab.SERVER)), _text(get(Lab.APPROVAL)), _text(get(Lab.TO_AGENT)),
        (INPUT_IS_JSON if input_json else 0) + (OUTPUT_IS_JSON if output_json else 0), None,
        to_json(attributes) if attributes else "{}", input_text, output_text,
    )  # fmt: skip


def open_row(row: Row, process_id: str | None) -> Row:
    """Returns the `open_spans` row of a started span from its span tuple."""
    return (*(row[place] for place in _OPEN_PLACES), process_id)


def trace_row(trace: TraceStart) -> Row:
    return (
        trace.user_id, trace.trace_id, clean(trace.workflow), _text(trace.thread_id), to_naive_utc(trace.started_at),
        to_json(trace.metadata), trace.parent_trace_id, trace.fork_span_id,
    )  # fmt: skip


def payload_text(value: object) -> tuple[str | None, bool]:
    """Returns a payload as stored text, and whether it is JSON (a string is stored unchanged)."""
    if value is None:
        return None, False
    if isinstance(value, str):
        return clean(value), False
    return to_json(value), True


def payload_value(text: str | None, is_json: bool) -> Any:
    """Inverse of `payload_text`."""
    return from_json(text) if is_json and text is not None else text


def span_record(row: NamedRow) -> SpanRecord:
    """Returns the record of a row with the columns of `SPAN_COLUMNS`; payload columns may be missing."""
    io_json = row.get("io_json") or 0
    values: NamedRow = {name: row.get(name) for name in SpanRecord.__dataclass_fields__}
    values["started_at"] = to_aware_utc(row["started_at"])
    values["ended_at"] = _aware(row.get("ended_at"))
    values["attributes"] = from_json(row.get("attributes") or "{}")
    values["input"] = payload_value(row.get("input"), bool(io_json & INPUT_IS_JSON))
    values["output"] = payload_value(row.get("output"), bool(io_json & OUTPUT_IS_JSON))
    return SpanRecord(**values)


class StoredEvent(TypedDict):
    """An event of a span, as it is stored in the span's attributes."""

    name: str
    time_unix_nano: str
    attributes: Mapping[str, object]


class StoredLink(TypedDict):
    """A link of a span to another one, as it is stored in the span's attributes."""

    trace_id: str
    span_id: str
    attributes: Mapping[str, object]


def events_of(attributes: Mapping[str, object]) -> list[StoredEvent]:
    """Returns a span's events from its attributes. Ignores a sender's attribute with the same name and another format."""
    given = attributes.get(Lab.EVENTS)
    return [event for event in given if _is_event(event)] if isinstance(given, list) else []


def _is_event(event: object) -> bool:
    return (
        isinstance(event, dict)
        and isinstance(event.get("name"), str)
        and isinstance(event.get("attributes"), dict)
        and str(event.get("time_unix_nano", "")).isdecimal()
    )


def _aware(moment: datetime | None) -> datetime | None:
    return None if moment is None else to_aware_utc(moment)


def _text(value: object) -> str | None:
    return None if value is None else clean(value if type(value) is str else str(value))


_word = lru_cache(maxsize=4096)(_text)
"""Cached `_text` for repeated values: names of agents, models, tools."""


# --- Reading the spans of a trace: without payloads for lists and drawings, with payloads for the selected ones


_PAYLOAD = ("io_json", "input_refs", "attributes", "input", "output")
LIGHT = tuple(column for column in SPAN_COLUMNS if column not in _PAYLOAD)
_MICROS: dict[Dialect, str] = {
    "duckdb": "epoch_us({0})",
    "postgres": "cast(extract(epoch from {0}) * 1000000 as bigint)",
}
_NUMBERS = ("input_tokens", "output_tokens", "cost_usd", "ttft_ms")
_WORDS = ("kind", "name", "status", "agent", "model")
_SPANS = "select {0} from core.span_rows where user_id = $1 and trace_id = $2{1}"
_STORED: dict[Dialect, str] = {"duckdb": "stored_spans", "postgres": "spans_raw"}
"""Table or view of finished spans, including archived ones."""
_ID_LIST: dict[Dialect, str] = {
    "duckdb": "in (select unnest(string_split($3, ' ')))",
    "postgres": "= any(string_to_array($3, ' '))",
}
_BY_START = " order by started_at, ended_at desc nulls first, parent_id nulls first"
"""For spans that start in the same microsecond, the enclosing one comes first."""

MAX_DEPTH = 100
"""Maximum number of parents searched for an agent; also ends cycles of parents."""


class SpanReader:
    def __init__(self, db: Database, user_id: str) -> None:
        self._db, self._user_id = db, user_id

    def records(self, trace_id: str) -> list[SpanRecord]:
        """Returns spans in order of start, finished and open, without input, output and attributes."""
        rows = [dict(zip(LIGHT, row, strict=True)) for row in self._all(trace_id, ", ".join(LIGHT), _BY_START)]
        agents = _inherited(
            [row["span_id"] for row in rows], [row["parent_id"] for row in rows], [row["agent"] for row in rows]
        )
        return [span_record({**row, "agent": agent}) for row, agent in zip(rows, agents, strict=True)]

    def columns(self, trace_id: str) -> Columns:
        """Returns spans in order of start, by column: `span_id` and `parent_id` as lists, `kind, name, status, agent, model` as
        `CodedText`, and `_NUMBERS`, `started_us` and `ended_us` (microseconds since 1970 UTC) as float64 arrays with NaN for unknown
        values.
        """
        import numpy as np

        bounds, params = self._bounds(trace_id, 3)
        raw, texts = self._coded(trace_id, bounds, params) or self._plain(trace_id, bounds, params)
        numbers = {name: np.asarray(raw[name], dtype="f8") for name in (*_NUMBERS, "started_us", "ended_us")}
        parents = np.asarray(raw["parent_id"], dtype=object)
        # Sorting here takes a tenth of the time of sorting in the database, which would move all columns.
        order = _by_start(numbers["started_us"], numbers["ended_us"], parents)
        columns: dict[str, Any] = {
            "span_id": np.asarray(raw["span_id"], dtype=object)[order].tolist(),
            "parent_id": parents[order].tolist(),
        }
        columns.update((name, CodedText(column.codes[order], column.words)) for name, column in texts.items())
        columns.update((name, values[order]) for name, values in numbers.items())
        columns["agent"] = _inherited_codes(columns["span_id"], columns["parent_id"], columns["agent"])
        return columns

    def _plain(self, trace_id: str, bounds: str, params: list[object]) -> tuple[Columns, dict[str, CodedText]]:
        select = f"{self._numbers()}, {', '.join(_WORDS)}"
        columns = self._db.columns(self._user_id, _SPANS.format(select, bounds), [self._user_id, trace_id, *params])
        return columns, {name: CodedText.of(columns[name]) for name in _WORDS}

    def _coded(self, trace_id: str, bounds: str, params: list[object]) -> tuple[Columns, dict[str, CodedText]] | None:
        """Faster variant for databases that return arrays: reads a hash of each row's text columns, and the text of each hash once.

        Returns None when a span was added between the two queries, or when hashes collide.
        """
        import numpy as np

        if self._db.dialect != "duckdb":
            return None
        given = [self._user_id, trace_id, *params]
        words = ", ".join(_WORDS)
        raw = self._db.columns(self._user_id, _SPANS.format(f"{self._numbers()}, hash({words}) as said", bounds), given)
        meanings = self._db.query(
            self._user_id, _SPANS.format(f"hash({words}), {words}", bounds) + f" group by {words}", given
        ).rows
        hashes, known = np.asarray(raw["said"], dtype="u8"), np.array([row[0] for row in meanings], dtype="u8")
        order = np.argsort(known)
        place = np.searchsorted(known, hashes, sorter=order)
        if len(np.unique(known)) < len(known) or place.max(initial=-1) >= len(known):
            return None
        meaning = order[place]
        if not np.array_equal(known[meaning], hashes):
            return None
        columns = {name: CodedText.of([row[at] for row in meanings]) for at, name in enumerate(_WORDS, start=1)}
        return raw, {name: CodedText(column.codes[meaning], column.words) for name, column in columns.items()}

    def _numbers(self) -> str:
        micros = _MICROS[self._db.dialect]
        times = f"{micros.format('started_at')} as started_us, {micros.format('ended_at')} as ended_us"
        return f"span_id, parent_id, {', '.join(_NUMBERS)}, {times}"

    def whole(self, trace_id: str, span_ids: Sequence[str]) -> list[NamedRow]:
        """Returns complete spans in the order of `span_ids`; unknown ids are omitted.

        `input` and `output` are as recorded (text or JSON values), `attributes` is a dict, and `duration_ms` is added.
        """
        if not span_ids:
            return []
        places = ", ".join(f"${n}" for n in range(3, len(span_ids) + 3))
        where = f"user_id = $1 and trace_id = $2 and span_id in ({places})"
        params = [self._user_id, trace_id, *span_ids]
        rows: dict[str, NamedRow] = {}
        stored = _STORED[self._db.dialect]
        for table, names in (("open_spans", OPEN_COLUMNS[:-1]), (stored, SPAN_COLUMNS)):
            bounds, values = self._bounds(trace_id, len(params) + 1) if table == stored else ("", [])
            if bounds and len(span_ids) > 1 and self._db.dialect == "duckdb":
                # For several ids DuckDB makes a join, which would decompress the payloads of the whole trace.
                sql = f"select min(started_at), max(started_at) from core.{stored} where {where}{bounds}"
                found_between = self._db.query(self._user_id, sql, [*params, *values]).one()
                bounds = f" and started_at between ${len(params) + 1} and ${len(params) + 2}"
                values = list(found_between or (None, None))
            result = self._db.query(
                self._user_id, f"select {', '.join(names)} from core.{table} where {where}{bounds}", [*params, *values]
            )
            rows.update((row["span_id"], row) for row in (aware(row, names) for row in result.rows))
        bodies = self._bodies(row.get("input_refs") for row in rows.values())
        return [_whole(rows[span_id], bodies) for span_id in span_ids if span_id in rows]

    def finished(self, trace_id: str, span_ids: Iterable[str], since: datetime | None) -> dict[str, Row]:
        """Returns finished spans as written, with complete inputs, by id. `since`: start of their trace."""
        places, refs_at = _ID_LIST[self._db.dialect], AT["input_refs"]
        sql = f"select {', '.join(SPAN_COLUMNS)} from core.{_STORED[self._db.dialect]} where user_id = $1 and trace_id = $2 and span_id {places} and started_at >= $4"
        stored = self._db.query(self._user_id, sql, [self._user_id, trace_id, " ".join(span_ids), since]).rows
        bodies = self._bodies(row[refs_at] for row in stored)
        rows: dict[str, Row] = {}
        for given in stored:
            row = list(given)
            if row[refs_at]:
                row[AT["input"]], row[refs_at] = _joined(row[refs_at], bodies), None
            rows[row[AT["span_id"]]] = tuple(row)
        return rows

    def _all(self, trace_id: str, select: str, order: str = "") -> list[Row]:
        bounds, params = self._bounds(trace_id, 3)
        result = self._db.query(
            self._user_id, _SPANS.format(select, bounds) + order, [self._user_id, trace_id, *params]
        )
        return result.rows

    def _bounds(self, trace_id: str, first_param: int) -> tuple[str, list[object]]:
        """Returns a condition on the trace's time range, which avoids reading most of the table. Raises `NotFoundError` for an unknown
        trace."""
        table = "trace_deltas" if self._db.dialect == "duckdb" else "trace_rollups"
        row = self._db.query(
            self._user_id,
            f"select min(started_at), max(ended_at), sum(n_open) from core.{table} where user_id = $1 and trace_id = $2",
            [self._user_id, trace_id],
        ).one()
        if row is None or row[0] is None:
            raise no_trace(trace_id)
        first, last, n_open = row
        if n_open or last is None:
            return f" and started_at >= ${first_param}", [first]
        return f" and started_at between ${first_param} and ${first_param + 1}", [first, last]

    def _bodies(self, all_refs: Iterable[str | None]) -> Mapping[str, str]:
        hashes = list({digest for refs in all_refs if refs for digest in refs.split(" ")})
        if not hashes:
            return {}
        places = ", ".join(f"${n}" for n in range(2, len(hashes) + 2))
        sql = f"select hash, body from core.message_bodies where user_id = $1 and hash in ({places})"
        return dict(self._db.query(self._user_id, sql, [self._user_id, *hashes]).rows)


def _inherited(span_ids: list[str], parent_ids: list[str | None], agents: list[str | None]) -> list[str | None]:
    """Fills in missing agents of foreign spans from the nearest span above that has one."""
    if None not in agents:
        return agents
    agent_of = dict(zip(span_ids, agents, strict=True))
    above = dict(zip(span_ids, parent_ids, strict=True))
    for span_id in span_ids:
        path: list[str] = []
        at: str | None = span_id
        while at in agent_of and agent_of[at] is None and len(path) <= MAX_DEPTH:
            path.append(at)
            at = above[at]
        agent = agent_of.get(at) if at is not None else None
        if agent is not None:
            agent_of.update(dict.fromkeys(path, agent))
    return [agent_of[span_id] for span_id in span_ids]


def _by_start(
    starts: NDArray[numpy.float64], ends: NDArray[numpy.float64], parents: NDArray[numpy.object_]
) -> NDArray[numpy.intp]:
    """Returns the row order of `_BY_START`. Most spans have unique start times, so only ties are compared further."""
    import numpy as np

    order = np.argsort(starts, kind="stable")
    same = np.diff(starts[order]) == 0
    tied = np.append(same, False) | np.append(False, same)
    rows = order[tied]
    latest_first = -np.nan_to_num(ends[rows], nan=np.inf)
    order[tied] = rows[np.lexsort((parents[rows] != None, latest_first, starts[rows]))]  # noqa: E711 - of each
    return order


def _inherited_codes(span_ids: list[str], parent_ids: list[str | None], agents: CodedText) -> CodedText:
    """Same as `_inherited`, for a column."""
    return agents if (agents.codes >= 0).all() else CodedText.of(_inherited(span_ids, parent_ids, agents.tolist()))


def _joined(refs: str, bodies: Mapping[str, str]) -> str:
    return f"[{','.join(bodies[digest] for digest in refs.split(' '))}]"


def _whole(row: NamedRow, bodies: Mapping[str, str]) -> NamedRow:
    io_json = row.pop("io_json")
    refs = row.pop("input_refs", None)
    text = _joined(refs, bodies) if refs else row["input"]
    row["input"] = payload_value(text, bool(io_json & INPUT_IS_JSON))
    row["output"] = payload_value(row.get("output"), bool(io_json & OUTPUT_IS_JSON))
    row["attributes"] = from_json(row["attributes"] or "{}")
    # Columns that only an ended span has.
    for name in SPAN_COLUMNS:
        row.setdefault(name, None)
    del row["io_json"], row["input_refs"]
    row["status"] = row["status"] or "pending"
    ended_at = row["ended_at"]
    row["duration_ms"] = None if ended_at is None else (ended_at - row["started_at"]).total_seconds() * 1000.0
    return row


def no_trace(trace_id: str) -> NotFoundError:
    return NotFoundError(
        f"There is no trace {trace_id!r}.",
        "lab.traces lists the existing traces.",
        command="List them with: timestep-lab traces list",
    )


# --- Deduplication of message histories: each message is stored once, and each generation stores a list of hashes
#
# A generation's input is the whole conversation, so a conversation of n turns would be stored n times. An input that is a long
# list of messages is therefore stored as `input_refs`; joining the bodies restores the same JSON.


BODY_COLUMNS = ("user_id", "hash", "body")
WORTH_SHARING = 2048
"""Length of JSON from which an input is deduplicated; below, a lookup costs more than it saves."""
_KIND = AT["kind"]
REMEMBERED = 50_000
"""Number of hashes that are known to be stored without querying the database."""


class MessageBodies:
    """Deduplicates messages. Not thread-safe: belongs to the writer's thread, or to one import."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._stored: OrderedDict[tuple[str, str], None] = OrderedDict()
        self._unsure = threading.Event()
        """Set when traces were deleted, possibly with their messages: stored hashes must be queried again."""
        self._listens = False

    def share(self, user_id: str, rows: Sequence[Row]) -> tuple[list[Row], list[Row]]:
        """Returns the rows with long histories replaced by hashes, and the rows to append to `message_bodies`."""
        slim: list[Row] = []
        bodies: dict[str, str] = {}
        for row in rows:
            messages = _messages(row) if row[_KIND] == "generation" else None
            if messages is None:
                slim.append(row)
                continue
            hashes = [blake2b(body.encode(), digest_size=16).hexdigest() for body in messages]
            bodies.update(zip(hashes, messages, strict=True))
            slim.append(_with_refs(row, " ".join(hashes)))
        new = self._not_stored(user_id, list(bodies)) if bodies else []
        return slim, [(user_id, digest, bodies[digest]) for digest in new]

    def written(self, rows: Sequence[Row]) -> None:
        """Marks body rows as durable."""
        for user_id, digest, _ in rows:
            self._remember((user_id, digest))

    def _not_stored(self, user_id: str, hashes: list[str]) -> list[str]:
        if self._unsure.is_set():
            self._unsure.clear()
            self._stored.clear()
        unknown = [digest for digest in hashes if (user_id, digest) not in self._stored]
        if not unknown:
            return []
        places = ", ".join(f"${n}" for n in range(2, len(unknown) + 2))
        result = self._db.query(
            user_id,
            f"select hash from core.message_bodies where user_id = $1 and hash in ({places})",
            [user_id, *unknown],
        )
        stored = {row[0] for row in result.rows}
        for digest in stored:
            self._remember((user_id, digest))
        return [digest for digest in unknown if digest not in stored]

    def _listen(self) -> None:
        unsure, self._listens = self._unsure, True
        end = self._db.subscribe(lambda change: unsure.set() if change.topic == "traces" and not change.id else None)
        weakref.finalize(self, end)

    def _remember(self, key: tuple[str, str]) -> None:
        if not self._listens:
            self._listen()
        self._stored[key] = None
        self._stored.move_to_end(key)
        if len(self._stored) > REMEMBERED:
            self._stored.popitem(last=False)


def _messages(row: Row) -> list[str] | None:
    """Returns the messages of a generation's input as JSON texts if it should be deduplicated, or None."""
    text = row[AT["input"]]
    if text is None or len(text) < WORTH_SHARING:
        return None
    if not row[AT["io_json"]] & INPUT_IS_JSON or text[0] != "[":
        return None
    messages = [to_json(message) for message in from_json(text)]
    # Only if joining restores the same text: an importer may have kept the sender's whitespace.
    return messages if len(messages) > 1 and f"[{','.join(messages)}]" == text else None


def _with_refs(row: Row, refs: str) -> Row:
    changed = list(row)
    changed[AT["input"]], changed[AT["input_refs"]] = None, refs
    return tuple(changed)


WRAPPERS = ("messages", "input", "output", "choices", "value", "query", "question", "answer", "content", "text", "raw")


def asked(payload: object) -> str | None:
    """Returns the last user text of an input, or None."""
    return _last_text(payload, "user")


def answered(payload: object) -> str | None:
    """Returns the last assistant text of an output, or None."""
    return _last_text(payload, "assistant")


def _last_text(payload: object, role: str) -> str | None:
    if payload is None or payload == "" or payload == []:
        return None
    if isinstance(payload, str):
        return payload
    turns = list(_turns(payload))
    for speaker, text in reversed(turns):
        if speaker == role and text:
            return text
    for _, text in reversed(turns):
        if text:
            return text
    return to_json(payload)


def _turns(payload: object) -> Iterator[tuple[str, str]]:
    """Yields (role, text) in order. Text without a role counts as the assistant's (Responses output items)."""
    if isinstance(payload, str):
        yield "assistant", payload
    elif isinstance(payload, list):
        if all(isinstance(part, Mapping) and part.keys().isdisjoint(("role", "message", "type")) for part in payload):
            yield "assistant", "\n".join(text for part in payload for _, text in _turns(part) if text)  # Documents.
            return
        for part in payload:
            yield from _turns(part)
    elif isinstance(payload, Mapping):
        if isinstance(payload.get("message"), Mapping):
            yield from _turns(payload["message"])
        elif "role" in payload:
            text = content_text(payload.get("content", payload.get("parts")))
            yield str(payload["role"]), text or content_text(payload.get("refusal"))
        else:
            for key in WRAPPERS:
                if payload.get(key):
                    yield from _turns(payload[key])
                    return


_WITHOUT_TEXT = ("reasoning", "thinking", "blob", "uri", "file", "image", "image_url", "audio", "video")
"""Types of parts of a message that are not its text: thoughts and media, some of them base64. Not a set: a `type` may be a list, as in JSON
Schema, which has no hash."""


def content_text(content: object) -> str:
    """Returns the text of a message's content: a string, or a list of parts."""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return "\n".join(text for part in content if (text := content_text(part)))
    if isinstance(content, Mapping) and content.get("type") not in _WITHOUT_TEXT:
        for key in ("text", "content", "value", "refusal"):
            if key in content:
                return content_text(content[key])
    return ""
