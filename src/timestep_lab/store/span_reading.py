"""Reading the spans of one trace: without payloads for lists and drawings, with them for the few that are opened."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from timestep_lab.model.errors import NotFoundError
from timestep_lab.model.spans import SpanRecord
from timestep_lab.store.base import Columns, Database, Dialect
from timestep_lab.store.coded_text import CodedText
from timestep_lab.store.json_text import from_json
from timestep_lab.store.span_rows import (
    AT,
    INPUT_IS_JSON,
    OPEN_COLUMNS,
    OUTPUT_IS_JSON,
    SPAN_COLUMNS,
    Row,
    payload_value,
    span_record,
)
from timestep_lab.store.trace_selection import aware

if TYPE_CHECKING:
    import numpy

_PAYLOAD = ("io_json", "input_refs", "attributes", "input", "output")
LIGHT = tuple(column for column in SPAN_COLUMNS if column not in _PAYLOAD)
_MICROS: dict[Dialect, str] = {
    "duckdb": "epoch_us({0})",
    "postgres": "cast(extract(epoch from {0}) * 1000000 as bigint)",
}
_NUMBERS = ("input_tokens", "output_tokens", "cost_usd", "ttft_ms")
_WORDS = ("kind", "name", "status", "agent", "model")
_SPANS = "select {0} from core.span_rows where user_id = $1 and trace_id = $2{1}"
_BY_START = " order by started_at, ended_at desc nulls first, parent_id nulls first"
"""Of spans that begin in the same microsecond, the one around the others comes first."""

MAX_DEPTH = 100
"""How far up an agent is looked for; also what ends a circle of parents."""


class SpanReader:
    def __init__(self, db: Database, user_id: str) -> None:
        self._db, self._user_id = db, user_id

    def records(self, trace_id: str) -> list[SpanRecord]:
        """In order of start, finished and open, without input, output and attributes."""
        rows = [dict(zip(LIGHT, row, strict=True)) for row in self._all(trace_id, ", ".join(LIGHT), _BY_START)]
        agents = _inherited(
            [row["span_id"] for row in rows], [row["parent_id"] for row in rows], [row["agent"] for row in rows]
        )
        return [span_record({**row, "agent": agent}) for row, agent in zip(rows, agents, strict=True)]

    def columns(self, trace_id: str) -> dict[str, Any]:
        """In order of start. Column name to values: `span_id`, `parent_id` as lists, `kind, name, status, agent, model` as `CodedText`, and as
        arrays of float64, NaN for the unknown, `_NUMBERS` and `started_us`, `ended_us` in microseconds since 1970 UTC.
        """
        import numpy as np

        bounds, params = self._bounds(trace_id, 3)
        found, texts = self._coded(trace_id, bounds, params) or self._plain(trace_id, bounds, params)
        numbers = {name: np.asarray(found[name], dtype="f8") for name in (*_NUMBERS, "started_us", "ended_us")}
        parents = np.asarray(found["parent_id"], dtype=object)
        # Sorting here costs a tenth of sorting in the database, which would carry all columns along.
        order = _by_start(numbers["started_us"], numbers["ended_us"], parents)
        columns: dict[str, Any] = {
            "span_id": np.asarray(found["span_id"], dtype=object)[order].tolist(),
            "parent_id": parents[order].tolist(),
        }
        columns.update((name, CodedText(column.codes[order], column.words)) for name, column in texts.items())
        columns.update((name, values[order]) for name, values in numbers.items())
        columns["agent"] = _inherited_codes(columns["span_id"], columns["parent_id"], columns["agent"])
        return columns

    def _plain(self, trace_id: str, bounds: str, params: list[Any]) -> tuple[Columns, dict[str, CodedText]]:
        select = f"{self._numbers()}, {', '.join(_WORDS)}"
        found = self._db.columns(self._user_id, _SPANS.format(select, bounds), [self._user_id, trace_id, *params])
        return found, {name: CodedText.of(found[name]) for name in _WORDS}

    def _coded(self, trace_id: str, bounds: str, params: list[Any]) -> tuple[Columns, dict[str, CodedText]] | None:
        """The same sooner, where the database hands over numbers as arrays: of each row a hash of its words, and once what the hashes say.

        None when that does not tell: a span came in between the two queries, or two meanings have one hash.
        """
        import numpy as np

        if self._db.dialect != "duckdb":
            return None
        given = [self._user_id, trace_id, *params]
        words = ", ".join(_WORDS)
        found = self._db.columns(
            self._user_id, _SPANS.format(f"{self._numbers()}, hash({words}) as said", bounds), given
        )
        meanings = self._db.query(
            self._user_id, _SPANS.format(f"hash({words}), {words}", bounds) + f" group by {words}", given
        ).rows
        said, known = np.asarray(found["said"], dtype="u8"), np.array([row[0] for row in meanings], dtype="u8")
        order = np.argsort(known)
        place = np.searchsorted(known, said, sorter=order)
        if len(np.unique(known)) < len(known) or place.max(initial=-1) >= len(known):
            return None
        meaning = order[place]
        if not np.array_equal(known[meaning], said):
            return None
        columns = {name: CodedText.of([row[at] for row in meanings]) for at, name in enumerate(_WORDS, start=1)}
        return found, {name: CodedText(column.codes[meaning], column.words) for name, column in columns.items()}

    def _numbers(self) -> str:
        micros = _MICROS[self._db.dialect]
        times = f"{micros.format('started_at')} as started_us, {micros.format('ended_at')} as ended_us"
        return f"span_id, parent_id, {', '.join(_NUMBERS)}, {times}"

    def whole(self, trace_id: str, span_ids: Sequence[str]) -> list[dict[str, Any]]:
        """Spans with everything, in the order asked for; ids that are not there are left out.

        `input` and `output` are as they were recorded (text, or JSON values), `attributes` is a dict, `duration_ms` is added.
        """
        if not span_ids:
            return []
        places = ", ".join(f"${n}" for n in range(3, len(span_ids) + 3))
        where = f"user_id = $1 and trace_id = $2 and span_id in ({places})"
        params = [self._user_id, trace_id, *span_ids]
        rows: dict[str, dict[str, Any]] = {}
        for table, names in (("open_spans", OPEN_COLUMNS[:-1]), ("spans_raw", SPAN_COLUMNS)):
            bounds, values = self._bounds(trace_id, len(params) + 1) if table == "spans_raw" else ("", [])
            if bounds and len(span_ids) > 1 and self._db.dialect == "duckdb":
                # Of several ids DuckDB makes a join, for which it would unpack the payloads of the whole trace.
                sql = f"select min(started_at), max(started_at) from core.spans_raw where {where}{bounds}"
                found_between = self._db.query(self._user_id, sql, [*params, *values]).one()
                bounds = f" and started_at between ${len(params) + 1} and ${len(params) + 2}"
                values = list(found_between or (None, None))
            found = self._db.query(
                self._user_id, f"select {', '.join(names)} from core.{table} where {where}{bounds}", [*params, *values]
            )
            rows.update((row["span_id"], row) for row in (aware(row, names) for row in found.rows))
        bodies = self._bodies(row.get("input_refs") for row in rows.values())
        return [_whole(rows[span_id], bodies) for span_id in span_ids if span_id in rows]

    def row(self, trace_id: str, span_id: str) -> Row | None:
        """A finished span as it was written, its input whole."""
        sql = f"select {', '.join(SPAN_COLUMNS)} from core.spans_raw where user_id = $1 and trace_id = $2 and span_id = $3"
        found = self._db.query(self._user_id, sql, [self._user_id, trace_id, span_id]).one()
        if found is None:
            return None
        row = list(found)
        refs = row[AT["input_refs"]]
        if refs:
            bodies = self._bodies([refs])
            row[AT["input"]], row[AT["input_refs"]] = _joined(refs, bodies), None
        return tuple(row)

    def _all(self, trace_id: str, select: str, order: str = "") -> list[tuple[Any, ...]]:
        bounds, params = self._bounds(trace_id, 3)
        found = self._db.query(self._user_id, _SPANS.format(select, bounds) + order, [self._user_id, trace_id, *params])
        return found.rows

    def _bounds(self, trace_id: str, first_param: int) -> tuple[str, list[Any]]:
        """The time the trace took, which spares reading most of the table. Raises `NotFoundError` when there is no such trace."""
        table = "trace_deltas" if self._db.dialect == "duckdb" else "trace_rollups"
        found = self._db.query(
            self._user_id,
            f"select min(started_at), max(ended_at), sum(n_open) from core.{table} where user_id = $1 and trace_id = $2",
            [self._user_id, trace_id],
        ).one()
        if found is None or found[0] is None:
            raise no_trace(trace_id)
        first, last, n_open = found
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
    """A span sent by others may not say its agent: it works for that of the nearest span above it that does."""
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
    starts: numpy.ndarray[Any, Any], ends: numpy.ndarray[Any, Any], parents: numpy.ndarray[Any, Any]
) -> numpy.ndarray[Any, Any]:
    """Rows as `_BY_START` orders them. Most begin at a moment of their own: only the others are compared by more than that."""
    import numpy as np

    order = np.argsort(starts, kind="stable")
    same = np.diff(starts[order]) == 0
    tied = np.append(same, False) | np.append(False, same)
    rows = order[tied]
    latest_first = -np.nan_to_num(ends[rows], nan=np.inf)
    order[tied] = rows[np.lexsort((parents[rows] != None, latest_first, starts[rows]))]  # noqa: E711 - of each
    return order


def _inherited_codes(span_ids: list[str], parent_ids: list[str | None], agents: CodedText) -> CodedText:
    """`_inherited`, of a column."""
    return agents if (agents.codes >= 0).all() else CodedText.of(_inherited(span_ids, parent_ids, agents.tolist()))


def _joined(refs: str, bodies: Mapping[str, str]) -> str:
    return f"[{','.join(bodies[digest] for digest in refs.split(' '))}]"


def _whole(row: dict[str, Any], bodies: Mapping[str, str]) -> dict[str, Any]:
    io_json = row.pop("io_json")
    refs = row.pop("input_refs", None)
    text = _joined(refs, bodies) if refs else row["input"]
    row["input"] = payload_value(text, bool(io_json & INPUT_IS_JSON))
    row["output"] = payload_value(row.get("output"), bool(io_json & OUTPUT_IS_JSON))
    row["attributes"] = from_json(row["attributes"] or "{}")
    # An open span knows nothing yet of what only its end tells.
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
        "lab.traces shows those there are.",
        command="List them with: timestep-lab traces list",
    )
