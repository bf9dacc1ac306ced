"""Generic access to any table of records, restricted to one user's rows.

The record class is the schema: a dataclass field is a column, fields of mapping or tuple type are JSON columns, a datetime is
a TIMESTAMP in UTC, a `Usage` is a JSON column. Every statement of this module filters by `user_id = $1`.
"""

from __future__ import annotations

import json
import json.encoder
import math
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, fields, is_dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast, overload

from timestep_lab.model.clock import to_aware_utc, to_naive_utc
from timestep_lab.model.errors import ConflictError, NotFoundError
from timestep_lab.model.records import Page
from timestep_lab.store.base import Change, Database, Row, Statement, Topic

if TYPE_CHECKING:
    import numpy
    from _typeshed import DataclassInstance
    from numpy.typing import NDArray


# --- Dictionary-encoded text columns


class CodedText(Sequence[str | None]):
    """A dictionary-encoded column that behaves like a list of `str | None`. `codes[row]` is the index of the text in `words`, -1 for None.

    For a hundred thousand rows, a list of strings takes tens of milliseconds to build and to iterate, codes take one.
    """

    __slots__ = ("codes", "words")

    def __init__(self, codes: NDArray[numpy.int32], words: Sequence[str]) -> None:
        self.codes, self.words = codes, list(words)

    @classmethod
    def of(cls, values: Sequence[object]) -> CodedText:
        """Encodes a column; values other than None become text."""
        import numpy as np

        if isinstance(values, CodedText):
            return values
        met = [value for value in dict.fromkeys(values) if value is not None]
        place: dict[object, int] = {value: code for code, value in enumerate(met)}
        place[None] = -1
        codes = np.fromiter(map(place.__getitem__, values), dtype="<i4", count=len(values))
        return cls(codes, [str(value) for value in met])

    def where(self, *texts: str) -> NDArray[numpy.bool_]:
        """Returns a boolean array: whether each row is one of `texts`."""
        import numpy as np

        return np.isin(self.codes, [code for code, word in enumerate(self.words) if word in texts])

    def tolist(self) -> list[str | None]:
        by_code: list[str | None] = [*self.words, None]
        return [by_code[code] for code in self.codes.tolist()]

    def __len__(self) -> int:
        return len(self.codes)

    @overload
    def __getitem__(self, row: int) -> str | None: ...

    @overload
    def __getitem__(self, row: slice) -> CodedText: ...

    def __getitem__(self, row: int | slice) -> str | CodedText | None:
        if isinstance(row, slice):
            return CodedText(self.codes[row], self.words)
        code = int(self.codes[row])
        return self.words[code] if code >= 0 else None

    def __iter__(self) -> Iterator[str | None]:
        return iter(self.tolist())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and self.tolist() == list(other)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return repr(self.tolist())


# --- Conversion of any value to text that both databases accept; never fails
#
# Neither database accepts lone surrogates, Postgres no NUL, JSON no NaN: these become U+FFFD or a word, everything else is unchanged.


MAX_DEPTH = 200
REPLACEMENT = "\ufffd"


def clean(text: str) -> str:
    """Returns `text` without NUL and lone surrogates; surrogate pairs become the character that they encode."""
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text.replace("\0", REPLACEMENT) if "\0" in text else text


def to_json(value: object) -> str:
    """Returns compact JSON with unescaped non-ASCII characters, so that it can be searched.

    Values without a JSON form become their `str`; NaN and the infinities become the strings `NaN`, `Infinity`, `-Infinity`.
    """
    try:
        text = _dump(value)
    except (ValueError, TypeError, RecursionError):
        return _dump(_plain(value, 0))
    return _dump(_plain(value, 0)) if "\\u0000" in text or (not text.isascii() and clean(text) != text) else text


def from_json(text: str) -> Any:
    return json.loads(text)


def stored_json(stored: object) -> Any:
    """Returns the value of a JSON column: DuckDB returns it as text, psycopg as value."""
    return json.loads(stored) if isinstance(stored, str | bytes) else stored


def _foreign(value: object) -> object:
    if isinstance(value, Mapping):
        return dict(value)
    if hasattr(value, "model_dump"):  # A pydantic model, such as the SDK's and the providers' objects.
        return value.model_dump(mode="json", exclude_unset=True)
    if isinstance(value, bytes | bytearray):
        return value.decode("utf-8", "replace")
    if isinstance(value, set | frozenset):
        return sorted(value, key=str)
    return str(value)


def _dumper() -> Callable[[object], str]:
    """Returns a fast encoder: `JSONEncoder.encode` creates its C encoder on every call, which takes longer than most values.

    A reference cycle raises `RecursionError`, like excessive nesting.
    """
    plain = json.JSONEncoder(
        ensure_ascii=False, check_circular=False, allow_nan=False, separators=(",", ":"), default=_foreign
    )
    make = getattr(json.encoder, "c_make_encoder", None)
    if make is None:  # A Python without the C extension.
        return plain.encode
    chunks = make(None, _foreign, json.encoder.encode_basestring, None, ":", ",", False, False, False)
    return lambda value: "".join(chunks(value, 0))


_dump = _dumper()


def _plain(value: object, depth: int) -> object:
    """Returns `value` as plain JSON. Values nested deeper than MAX_DEPTH (or in a cycle) are replaced by a note."""
    if depth > MAX_DEPTH:
        return "(nested too deep)"
    match value:
        case None | bool() | int():
            return value
        case str():
            return clean(value)
        case float():
            return value if math.isfinite(value) else {math.inf: "Infinity", -math.inf: "-Infinity"}.get(value, "NaN")
        case Mapping():
            return {clean(str(key)): _plain(inner, depth + 1) for key, inner in value.items()}
        case list() | tuple():
            return [_plain(inner, depth + 1) for inner in value]
    return _plain(_foreign(value), depth + 1)


R = TypeVar("R", bound="DataclassInstance")
Codec = tuple[Callable[..., object], Callable[..., object]]


_LISTED_BY = {
    "thread": ("lab.threads.list()", "threads list"), "agent": ("lab.agents.list()", "agents list"),
    "MCP server": ("lab.mcp.list()", "mcp list"), "file": ("lab.files.list()", "files list"),
    "paused run": ("lab.approvals.list()", "approve"),
    "comparison": ("lab.comparisons()", "compare list"),
}  # fmt: skip
"""Maps a noun to what lists such rows: in Python, and on the command line."""


MOST_KEPT = 100
"""Maximum number of queries whose rows a table caches."""


class Table(Generic[R]):
    """Records of one table. `noun` is the row's name in messages ("agent"); listings are ordered by column `order`, newest last."""

    def __init__(
        self, db: Database, user_id: str, name: str, record: type[R], *, noun: str, topic: Topic | None = None,
        key: str = "id", order: str = "created_at", kept: bool = False,
    ) -> None:  # fmt: skip
        """`kept`: caches rows until the table changes; for small tables that are read much more often than written."""
        self._kept: dict[tuple[object, ...], tuple[object, list[Row]]] | None = {} if kept else None
        self.db, self.user_id, self.name, self.record = db, user_id, name, record
        self.noun, self.topic, self.key, self.order = noun, topic, key, order
        self.columns = tuple(f.name for f in fields(record))
        self._codecs = _codecs(record)
        self._columns_sql = ", ".join(self.columns)

    # -- reading

    def find(self, limit: int | None = None, *, newest_first: bool = False, **where: object) -> list[R]:
        """Returns records whose columns equal `where`, in listing order."""
        return self._find(where, limit=limit, newest_first=newest_first)

    def _find(self, where: Mapping[str, object], *, limit: int | None = None, newest_first: bool = False) -> list[R]:
        conditions, params = self._where(where)
        direction = "desc" if newest_first else "asc"
        order = f"{self.order} {direction}, {self.key} {direction}"
        tail = f" limit {int(limit)}" if limit is not None else ""
        sql = f"select {self._columns_sql} from {self.name} where {conditions} order by {order}{tail}"
        return [self.from_row(row) for row in self._rows(sql, params)]

    def _rows(self, sql: str, params: Sequence[object]) -> list[Row]:
        state = self.db.state_of(self.user_id, self.topic) if self._kept is not None and self.topic else None
        if self._kept is None or state is None:
            return self.db.query(self.user_id, sql, params).rows
        key = (sql, *params)
        known = self._kept.get(key)
        if known is None or known[0] != state:
            if len(self._kept) >= MOST_KEPT:
                self._kept.clear()
            known = self._kept[key] = (state, self.db.query(self.user_id, sql, params).rows)
        return known[1]

    def newest_of_each(self, column: str, values: Sequence[str]) -> list[R]:
        """Returns the newest record, in listing order, for each value of `column`; none for a value that no record has."""
        if not values:
            return []
        marks = ", ".join(f"${n}" for n in range(2, len(values) + 2))
        rows = self.db.query(
            self.user_id,
            f"select distinct on ({column}) {self._columns_sql} from {self.name} where user_id = $1 and {column} in ({marks}) "
            f"order by {column}, {self.order} desc, {self.key} desc",
            [self.user_id, *values],
        )
        return [self.from_row(row) for row in rows.rows]

    def get(self, id: str) -> R:
        """Returns one record. Raises `NotFoundError`."""
        record = self.try_get(id)
        if record is None:
            raise self.missing(id)
        return record

    def try_get(self, id: str) -> R | None:
        records = self._find({self.key: id}, limit=1)
        return records[0] if records else None

    def page(self, *, after: str | None = None, limit: int = 20, newest_first: bool = True, **where: object) -> Page[R]:
        """Returns one page in listing order. `after` is the key of the previous page's last record; raises `NotFoundError` if unknown."""
        conditions, params = self._where(where)
        sign, direction = ("<", "desc") if newest_first else (">", "asc")
        if after is not None:
            cursor = self._encode(self.order, getattr(self.get(after), self.order))
            params += [cursor, after]
            at, key = len(params) - 1, len(params)
            conditions += f" and ({self.order} {sign} ${at} or ({self.order} = ${at} and {self.key} {sign} ${key}))"
        rows = self.db.query(
            self.user_id,
            f"select {self._columns_sql} from {self.name} where {conditions} "
            f"order by {self.order} {direction}, {self.key} {direction} limit {int(limit) + 1}",
            params,
        ).rows
        data = tuple(self.from_row(row) for row in rows[:limit])
        has_more = len(rows) > limit
        return Page(data=data, has_more=has_more, after=getattr(data[-1], self.key) if data and has_more else None)

    def count(self, **where: object) -> int:
        conditions, params = self._where(where)
        row = self.db.query(self.user_id, f"select count(*) from {self.name} where {conditions}", params).one()
        return int(row[0]) if row else 0

    # -- writing

    def insert(self, record: R) -> R:
        """Inserts a record. Raises `ConflictError` when the key exists."""
        self.db.write(self.user_id, [self.insert_statement(record)], changes=self.changes(getattr(record, self.key)))
        return record

    def upsert(self, record: R) -> R:
        self.db.write(self.user_id, [self.upsert_statement(record)], changes=self.changes(getattr(record, self.key)))
        return record

    def update(self, id: str, *, expect: Mapping[str, object] | None = None, **changes: Any) -> R:
        """Updates columns. With `expect`, only if those columns have those values (compare-and-set).

        Raises `NotFoundError` when the record does not exist, `ConflictError` when `expect` is not met.
        """
        try:
            [rows] = self.db.write(
                self.user_id, [self.update_statement(id, expect=expect, **changes)], changes=self.changes(id)
            )
        except ConflictError:
            if self.try_get(id) is None:
                raise self.missing(id) from None
            raise
        return self.from_row(rows.rows[0])

    def delete(self, id: str) -> None:
        """Deletes a record. Raises `NotFoundError`."""
        statement = Statement(
            f"delete from {self.name} where user_id = $1 and {self.key} = $2 returning {self.key}",
            [self.user_id, id],
            expect=1,
        )
        try:
            self.db.write(self.user_id, [statement], changes=self.changes(id))
        except ConflictError:
            raise self.missing(id) from None

    # -- statements, for transactions over several tables

    def insert_statement(self, record: R) -> Statement:
        places = ", ".join(f"${n}" for n in range(1, len(self.columns) + 1))
        sql = f"insert into {self.name} ({self._columns_sql}) values ({places})"
        return Statement(sql, self.to_row(record))

    def upsert_statement(self, record: R) -> Statement:
        insert = self.insert_statement(record)
        sets = ", ".join(f"{c} = excluded.{c}" for c in self.columns if c not in ("user_id", self.key))
        return Statement(f"{insert.sql} on conflict (user_id, {self.key}) do update set {sets}", insert.params)

    def update_statement(
        self, id: str, *, expect: Mapping[str, object] | None = None, answers: bool = True, **changes: object
    ) -> Statement:
        """Returns an update statement; with `answers`, it returns the whole row."""
        params: list[object] = [self.user_id, id]
        sets = []
        for column, value in changes.items():
            params.append(self._encode(column, value))
            sets.append(f"{column} = ${len(params)}")
        conditions = f"user_id = $1 and {self.key} = $2"
        for column, value in (expect or {}).items():
            params.append(self._encode(column, value))
            conditions += f" and {column} = ${len(params)}"
        returning = f" returning {self._columns_sql}" if answers else ""
        sql = f"update {self.name} set {', '.join(sets)} where {conditions}{returning}"
        return Statement(sql, params, expect=1)

    def changes(self, id: str) -> list[Change]:
        return [Change(self.topic, self.user_id, id)] if self.topic else []

    # -- rows

    def to_row(self, record: R) -> list[object]:
        if getattr(record, "user_id", self.user_id) != self.user_id:
            raise ConflictError(f"This {self.noun} belongs to another user.", "Write it through that user's store.")
        return [self._encode(column, getattr(record, column)) for column in self.columns]

    def from_row(self, row: Sequence[object]) -> R:
        values = {c: self._codecs[c][1](v) if v is not None else None for c, v in zip(self.columns, row, strict=True)}
        return self.record(**values)

    def missing(self, id: str) -> NotFoundError:
        message = f"There is no {self.noun} {id!r}."
        if self.noun not in _LISTED_BY:
            return NotFoundError(message, "It may have been deleted, or belong to another user.")
        python, command = _LISTED_BY[self.noun]
        return NotFoundError(
            message, f"{python} lists the existing ones.", command=f"List them with: timestep-lab {command}"
        )

    def _encode(self, column: str, value: object) -> object:
        return None if value is None else self._codecs[column][0](value)

    def _where(self, where: Mapping[str, object]) -> tuple[str, list[object]]:
        conditions = "user_id = $1"
        params: list[object] = [self.user_id]
        for column, value in where.items():
            if column not in self.columns:
                raise TypeError(f"{self.name} has no column {column!r}")
            if value is None:
                conditions += f" and {column} is null"
                continue
            params.append(self._encode(column, value))
            conditions += f" and {column} = ${len(params)}"
        return conditions, params


def _codecs(record: type[object]) -> dict[str, Codec]:
    return {name: _codec(hint) for name, hint in typing.get_type_hints(record).items()}


def _codec(hint: object) -> Codec:
    """Returns the encoder and decoder of a field of this type."""
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
        (hint,) = [part for part in typing.get_args(hint) if part is not type(None)] or [Any]
    origin = typing.get_origin(hint) or hint
    if origin is datetime:
        return to_naive_utc, to_aware_utc
    if origin is tuple:
        return _to_json, lambda stored: tuple(stored_json(stored))
    if is_dataclass(origin):
        return (lambda value: _to_json(asdict(value))), (
            lambda stored: cast(Callable[..., object], origin)(**stored_json(stored))
        )
    if origin in (Mapping, dict) or hint is Any or getattr(origin, "__name__", "") in ("Mapping", "dict"):
        return _to_json, stored_json
    if origin is bytes:
        return bytes, bytes
    return _same, _same


def _same(value: object) -> object:
    return value


def _to_json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
