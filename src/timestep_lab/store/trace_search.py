"""A search as a condition on traces: by the index where there is one, by reading the spans where there is none."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from timestep_lab.store.base import Database, Dialect
from timestep_lab.store.filters import CompiledFilter
from timestep_lab.store.search_filling import keep_filled, lab_path
from timestep_lab.store.search_index import SearchIndex
from timestep_lab.store.search_words import Search, Word, read_search

FEW = 600
"""Hits taken at first: the newest, which is what a first page needs."""
ALL = 10_000_000
MANY = 100

_TEXT = "concat_ws(chr(10), s.name, s.error, s.input, s.output, s.events)"
_HOLDS_WORD: dict[Dialect, str] = {"duckdb": "regexp_matches({0}, {1}, 'i')", "postgres": "{0} ~* {1}"}
_BETWEEN: dict[Dialect, str] = {"duckdb": r"[^\pL\pN]", "postgres": "[^[:alnum:]]"}
"""What stands between words, as a regular expression."""
_WHOLE_SPANS = (
    "(select r.span_no, r.user_id, r.trace_id, r.name, r.error, coalesce(r.input, h.input) as input, r.output, "
    "core.event_text(r.attributes) as events from core.spans_raw r "
    "left join core.span_histories h on h.user_id = r.user_id and h.trace_id = r.trace_id and h.span_id = r.span_id)"
)
_SPANS = "(select *, core.event_text(attributes) as events from core.spans_raw)"


@dataclass(frozen=True, slots=True)
class FoundTraces:
    """`more`: only the newest hits are in it. Those left out started before `rest_before`, as far as that is known."""

    condition: CompiledFilter
    more: bool = False
    rest_before: datetime | None = None


def find_traces(db: Database, user_id: str, text: str, first_param: int, *, most: int = FEW) -> FoundTraces | None:
    """None when the search says nothing. The condition is for a query over `traces t`."""
    search = read_search(text)
    if not search:
        return None
    if not search.words:
        return FoundTraces(by_reading(search, db.dialect, first_param))
    if db.dialect == "postgres":
        return _by_postgres(db, user_id, search, first_param, most)
    path = lab_path(db)
    if path is None:
        return FoundTraces(by_reading(search, "duckdb", first_param))
    return _by_index(db, user_id, search, SearchIndex(path), first_param, most)


def by_reading(search: Search, dialect: Dialect, first_param: int) -> CompiledFilter:
    """Over the documented view `spans`; reads all of it."""
    params = _Params(first_param)
    return CompiledFilter(
        f"t.trace_id in (select s.trace_id from spans s where {_reads(search, dialect, params)})", params.values
    )


def _by_index(
    db: Database, user_id: str, search: Search, index: SearchIndex, first_param: int, most: int
) -> FoundTraces:
    hits = index.find(user_id, search.words, most)
    found: dict[str, None] = {}

    def look(source: str, condition: Callable[[_Params], str]) -> None:
        # Each place by a query of its own: together they would take thrice as long.
        params = _Params(1)
        sql = f"select distinct s.trace_id from {source} s where s.user_id = {params.add(user_id)} and {condition(params)}"
        found.update((row[0], None) for row in db.query(user_id, sql, params.values).rows)

    def among_hits(params: _Params) -> str:
        # The bounds spare reading most of the table when the hits are recent. Shared histories are joined only where they are read.
        first, last = params.add(min(hits.span_numbers)), params.add(max(hits.span_numbers))
        indexed = f"s.span_no between {first} and {last} and {_in('s.span_no', hits.span_numbers, params, 'bigint')}"
        return f"{indexed} and {_reads(Search((), search.phrases), 'duckdb', params)}" if search.phrases else indexed

    if hits.span_numbers:
        look(_WHOLE_SPANS if search.phrases else "core.spans_raw", among_hits)
    # What came after the index, and what is still open, is read. Setting up the patterns takes longer than seeing that there is neither.
    [unread, sharing, n_open] = db.query(
        user_id,
        "select count(*), count(input_refs), (select count(*) from core.open_spans where user_id = $2) "
        "from core.spans_raw where span_no > $1",
        [hits.indexed_to, user_id],
    ).one() or (0, 0, 0)
    if n_open:
        look(
            "(select *, null as error, null as output, core.event_text(attributes) as events from core.open_spans)",
            lambda params: _reads(search, "duckdb", params),
        )
    if unread:
        keep_filled(db, somebody_waits=True)
        look(
            _WHOLE_SPANS if sharing else _SPANS,
            lambda params: f"s.span_no > {params.add(hits.indexed_to)} and {_reads(search, 'duckdb', params)}",
        )
    rest_before = None
    if hits.more:
        sql = "select max(started_at) from core.spans_raw where user_id = $1 and span_no < $2"
        [rest_before] = db.query(user_id, sql, [user_id, min(hits.span_numbers)]).one() or (None,)
    return FoundTraces(_among(list(found), first_param), hits.more, rest_before)


def _among(ids: Sequence[str], first_param: int) -> CompiledFilter:
    params = _Params(first_param)
    return CompiledFilter(_in("t.trace_id", ids, params, "varchar") if ids else "false", params.values)


def _in(column: str, values: Sequence[Any], params: _Params, type: str) -> str:
    """Few values one by one, which DuckDB can look for as it reads; many as one list."""
    if len(values) > MANY:
        return f"{column} in (select unnest(cast({params.add(list(values))} as {type}[])))"
    return f"{column} in ({', '.join(map(params.add, values))})"


def _by_postgres(db: Database, user_id: str, search: Search, first_param: int, most: int) -> FoundTraces:
    """By a function of the database's, because a word index is of no use to a query under row-level security."""
    params = _Params(first_param)
    arguments = [
        " & ".join(f"'{word.text}'{':*' if word.is_beginning else ''}" for word in search.words),
        [_pattern(word, "postgres") for word in search.words], list(search.phrases), min(most, ALL),
    ]  # fmt: skip
    found = "select f.trace_id from core.search_spans({}, cast({} as text[]), cast({} as text[]), {}) f"
    more = False
    if most >= ALL:
        ended = found.format(*map(params.add, arguments))
    else:
        hits = [row[0] for row in db.query(user_id, found.format("$1", "$2", "$3", "$4"), arguments).rows]
        more = len(hits) >= most
        ended = f"select unnest(cast({params.add(list(dict.fromkeys(hits)))} as text[]))"
    still_open = _reads(search, "postgres", params).replace("s.error, ", "").replace(", s.output, s.events", "")
    sql = f"t.trace_id in ({ended} union all select s.trace_id from core.open_spans s where {still_open})"
    return FoundTraces(CompiledFilter(sql, params.values), more)


def _reads(search: Search, dialect: Dialect, params: _Params) -> str:
    tests = [_HOLDS_WORD[dialect].format(_TEXT, params.add(_pattern(word, dialect))) for word in search.words]
    find = "contains" if dialect == "duckdb" else "0 < strpos"
    tests += [f"{find}(lower({_TEXT}), {params.add(phrase)})" for phrase in search.phrases]
    return "(" + " and ".join(tests) + ")"


def _pattern(word: Word, dialect: Dialect) -> str:
    between = _BETWEEN[dialect]
    return f"(^|{between}){re.escape(word.text)}" + ("" if word.is_beginning else f"($|{between})")


class _Params:
    def __init__(self, first: int) -> None:
        self._first = first
        self.values: list[Any] = []

    def add(self, value: Any) -> str:
        self.values.append(value)
        return f"${self._first + len(self.values) - 1}"
