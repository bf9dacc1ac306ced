"""A search as a condition on traces: by the index where there is one, by reading the spans where there is none."""

from __future__ import annotations

import contextlib
import logging
import re
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from hashlib import blake2b
from pathlib import Path
from typing import Any, NamedTuple

from timestep_lab.model.errors import LabError
from timestep_lab.store.archive import newest_archived
from timestep_lab.store.base import SYSTEM_USER, Database, Dialect
from timestep_lab.store.filters import CompiledFilter
from timestep_lab.store.migrate import keep_beside
from timestep_lab.store.table import clean

# --- What a search means, in every store alike
#
#     oakland umbrella          spans in which both words occur; the last may be half typed, from its second letter on
#     umbr* oakland             … a word that begins so
#     "umbrella in oakland"     … this phrase, as it stands, its last word whole
#
# Upper and lower case are alike; letters and digits make words, all else stands between them. Of a search without any word (an emoji,
# `!!!`) what stands there must occur.
#
# All of a search must be in one span: in its name, error, input, output or events. A trace is found when one of its spans is.


MOST_WORDS = 16
LEAST_BEGUN = 2
"""Letters of a last word that may go on. A single letter begins too many words to be of use."""
_PIECE = re.compile(r'"([^"]*)"?|(\S+)')
_WORD = re.compile(r"([^\W_]+)(\*?)")


@dataclass(frozen=True, slots=True)
class Word:
    text: str
    """In lower case."""
    is_beginning: bool = False


@dataclass(frozen=True, slots=True)
class Search:
    words: tuple[Word, ...]
    """Those of the phrases too. None: the phrases are signs, which no index knows."""
    phrases: tuple[str, ...]
    """In lower case."""

    def __bool__(self) -> bool:
        return bool(self.words or self.phrases)


def read_search(text: str) -> Search:
    """Never fails: beside words, what is not a word is left out."""
    words: list[Word] = []
    phrases: list[str] = []
    signs: list[str] = []
    is_phrase = False
    for piece in _PIECE.finditer(clean(text)):
        phrase = piece[1]
        piece_words = [
            Word(word.lower(), bool(star)) for word, star in _WORD.findall(phrase if phrase is not None else piece[2])
        ]
        words += piece_words
        is_phrase = phrase is not None
        if phrase is not None and piece_words:
            phrases.append(phrase.strip().lower())
        elif not piece_words:
            signs.append((phrase if phrase is not None else piece[2]).strip().lower())
    if not words:
        phrases = [sign for sign in signs if sign]
    if words and not is_phrase and len(words[-1].text) >= LEAST_BEGUN:
        words[-1] = Word(words[-1].text, is_beginning=True)
    return Search(tuple(dict.fromkeys(words))[:MOST_WORDS], tuple(dict.fromkeys(phrases))[:MOST_WORDS])


# --- The words of a DuckDB lab: an SQLite FTS5 file beside it, which can be deleted at any time and is then built anew
#
# DuckDB has no full-text index that grows with its table; SQLite's does, at 20,000 spans a second, and answers in under a millisecond.
# The index knows spans up to a number, `indexed_to`; whoever searches reads the rest from the lab itself, so nothing is missed meanwhile.
# One process fills the index, any number read it. A table of words for each user; the row id is the span's number.
#
# Such a table forgets a span only when told its text again, and keeps its words until it is merged. So when traces are deleted the whole
# table of their user goes at once, and is filled anew from the first span on; meanwhile that user's spans are read.


FORMAT = 3
ENDING = ".search"
MOST_ENDINGS = 1000
"""Words that one beginning is looked up as."""
_SUFFIXES = ("", "-wal", "-shm")


@dataclass(frozen=True, slots=True)
class Hits:
    """Numbers of spans, newest first; `more` when there are others. Spans after `indexed_to` were not looked at."""

    span_numbers: list[int]
    more: bool
    indexed_to: int


class Position(NamedTuple):
    indexed_to: int
    """The last span that is indexed: its number and id. 0 and "" for a new index."""
    span_id: str
    forgotten: int
    """Another number whenever spans were deleted from it."""


class Again(NamedTuple):
    """Of a table that is filled anew: up to which span it is, and up to which it is to be."""

    user_id: str
    filled_to: int
    up_to: int


class SearchIndex:
    """Each method opens the file for itself, so that any thread may call it."""

    def __init__(self, lab: Path) -> None:
        self._lab, self.path = lab, lab.with_name(f"{lab.name}{ENDING}")

    def find(self, user_id: str, words: Sequence[Word], most: int) -> Hits:
        """Spans that hold every word. Without a usable index there are no hits, up to 0."""
        try:
            with closing(self._open(read_only=True)) as file:
                again = file.execute("select filled_to from again where user_id = ?", (user_id,)).fetchone()
                indexed_to = again[0] if again else self._state(file).indexed_to
                if not self._tables(file, {user_id}):
                    return Hits([], False, indexed_to)
                query = " AND ".join(self._term(file, user_id, word) for word in words)
                rows = file.execute(
                    f"select rowid from {_table(user_id)} where {_table(user_id)} match ? order by rowid desc limit ?",
                    (query, most + 1),
                ).fetchall()
        except sqlite3.Error:
            return Hits([], False, 0)  # Missing, being rebuilt, or damaged: the lab itself is read instead.
        return Hits([number for (number,) in rows[:most]], len(rows) > most, indexed_to)

    def _term(self, file: sqlite3.Connection, user_id: str, word: Word) -> str:
        """A word as a part of the query. For a beginning SQLite would merge the lists of all words that begin so before it gives the
        first hit, a tenth of a second per million hits; those words named one by one are read from their newest hit on."""
        if not word.is_beginning:
            return f'"{word.text}"'
        endings = _words_beginning(file, user_id, word.text)
        if not 0 < len(endings) <= MOST_ENDINGS:
            return f'"{word.text}"*'
        return f"({' OR '.join(f'{chr(34)}{ending}{chr(34)}' for ending in endings)})"

    def position(self) -> Position:
        with closing(self._open(read_only=False)) as file:
            return self._state(file)

    def again(self) -> Again | None:
        """A user whose table is to be filled anew; None when there is none."""
        with closing(self._open(read_only=True)) as file:
            row = file.execute("select user_id, filled_to, up_to from again limit 1").fetchone()
        return None if row is None else Again(*row)

    def forget(self, user_id: str) -> None:
        """Nothing of this user's spans is in the file afterwards, until those that are still there are indexed anew."""
        if not self.path.exists():
            return
        with closing(self._open(read_only=False)) as file:
            file.execute("pragma secure_delete = on")
            with file:
                file.execute("begin immediate")
                up_to = self._state(file).indexed_to
                file.execute(f"drop table if exists {_table(user_id)}")
                file.execute("insert or replace into again values (?, 0, ?)", (user_id, up_to))
                file.execute("update state set forgotten = forgotten + 1")
            file.execute("pragma wal_checkpoint(truncate)")

    def add(
        self, spans: Iterable[tuple[int, str, str]], last: tuple[int, str], forgotten: int, again: Again | None = None
    ) -> bool:
        """Index (number, user id, text) and remember the last span's number and id, in one transaction. `again`: of a table filled anew.

        False, and nothing is indexed, when spans were deleted since `forgotten` was read: these may be among them.
        """
        with closing(self._open(read_only=False)) as file, file:
            file.execute("begin immediate")
            if self._state(file).forgotten != forgotten:
                return False
            by_user: dict[str, list[tuple[int, str]]] = {}
            for number, user_id, text in spans:
                by_user.setdefault(user_id, []).append((number, text))
            known = self._tables(file, set(by_user))
            for user_id, rows in by_user.items():
                if _table(user_id) not in known:
                    # Only which span holds a word is kept: no texts, no places in them, no lengths.
                    file.execute(
                        f"create virtual table {_table(user_id)} using fts5(text, content='', detail=none, columnsize=0, "
                        'tokenize="unicode61 remove_diacritics 0")'
                    )
                file.executemany(f"insert into {_table(user_id)} (rowid, text) values (?, ?)", rows)
            if again is None:
                file.execute("update state set indexed_to = ?, span_id = ?", last)
            elif last[0] < again.up_to:
                file.execute("update again set filled_to = ? where user_id = ?", (last[0], again.user_id))
            else:
                file.execute("delete from again where user_id = ?", (again.user_id,))
            return True

    def delete(self) -> None:
        for suffix in _SUFFIXES:
            self.path.with_name(self.path.name + suffix).unlink(missing_ok=True)

    def _open(self, *, read_only: bool) -> sqlite3.Connection:
        if read_only:
            return sqlite3.connect(f"{self.path.absolute().as_uri()}?mode=ro", uri=True, timeout=2.0)
        keep_beside(self._lab, ENDING)  # SQLite gives its own log the mode of its file.
        file = sqlite3.connect(self.path, timeout=10.0)
        file.execute("pragma journal_mode = wal")
        file.execute("pragma synchronous = off")  # What a crash damages is built anew.
        file.execute("create table if not exists state (format int, indexed_to int, span_id text, forgotten int)")
        file.execute("create table if not exists again (user_id text primary key, filled_to int, up_to int)")
        if file.execute("select count(*) from state").fetchone()[0] == 0:
            file.execute("insert into state values (?, 0, '', random())", (FORMAT,))
            file.commit()
        return file

    def _state(self, file: sqlite3.Connection) -> Position:
        row = file.execute("select * from state").fetchone()
        if row is None or row[0] != FORMAT:
            raise sqlite3.DatabaseError("an index of another version, or one that is just being made")
        return Position(*row[1:])

    def _tables(self, file: sqlite3.Connection, user_ids: set[str]) -> set[str]:
        names = [_table(user_id) for user_id in user_ids]
        places = ", ".join("?" for _ in names)
        return {name for (name,) in file.execute(f"select name from sqlite_master where name in ({places})", names)}


def _words_beginning(file: sqlite3.Connection, user_id: str, beginning: str) -> list[str]:
    """Words of the index, up to one more than `MOST_ENDINGS`. Each is found by leaping over all places of the one before it."""
    file.execute(
        f"create virtual table if not exists temp.places using fts5vocab('main', '{_table(user_id)}', 'instance')"
    )
    words: list[str] = []
    at = beginning
    while len(words) <= MOST_ENDINGS:
        row = file.execute("select term from temp.places where term >= ? limit 1", (at,)).fetchone()
        if row is None or not row[0].startswith(beginning):
            break
        words.append(row[0])
        at = f"{row[0]} "  # Before every longer word, behind this one.
    return words


def _table(user_id: str) -> str:
    return f"words_{blake2b(user_id.encode(), digest_size=8).hexdigest()}"


# --- Filling the search index of a DuckDB lab in the background, in the process that owns the lab's file


log = logging.getLogger(__name__)

BATCH = 4000
"""How many spans at once, by number: a range of numbers is read without looking at the others."""
MOST_TEXT = 200_000
"""Characters of a payload that are indexed."""
LINGER_S = 2.0
"""How long the thread waits for more before it ends."""
PAUSE_S = 0.005
"""Between batches, so that whoever waits for Python's lock gets it."""
QUIET_S, WAIT_AT_MOST_S = 0.25, 4.0
"""A burst of spans has the machine to itself: indexing begins when none came for a while, or when they do not end."""

_lock = threading.Lock()
_filling: dict[str, SearchFiller] = {}
"""By path of the lab: the one that is at work."""


def lab_path(db: Database) -> Path | None:
    """Where the lab's file is; None for one without, which has no index."""
    return None if db.dialect != "duckdb" or db.url == ":memory:" else Path(db.url)


def keep_filled(db: Database, *, somebody_waits: bool = False) -> None:
    """New spans are there: see that they get indexed. Returns at once; does nothing where the lab's file is another process's.

    `somebody_waits`, as who searches: it begins now, not when a burst of spans is over.
    """
    path = lab_path(db)
    if path is None or not getattr(db, "is_owner", False):
        return
    with _lock:
        filler = _filling.get(str(path))
        if filler is None or not filler.wake(somebody_waits=somebody_waits):
            _filling[str(path)] = SearchFiller(db, path, somebody_waits=somebody_waits)


def forget_words(db: Database, user_id: str | None) -> None:
    """After traces of this user, or of many, were deleted: their words go, too."""
    path = lab_path(db)
    if path is None:
        return
    index = SearchIndex(path)
    try:
        index.delete() if user_id is None else index.forget(user_id)
    except sqlite3.DatabaseError as error:
        log.warning("The search index %s is built anew: %s", index.path, error)
        index.delete()
    keep_filled(db)


def stop_filling(db: Database) -> None:
    """Before the lab is closed. Waits for the batch at hand."""
    with _lock:
        filler = _filling.pop(db.url, None)
    if filler is not None:
        filler.stop()


class SearchFiller:
    """A thread that works until everything is indexed, lingers for a moment, and ends."""

    def __init__(self, db: Database, path: Path, *, somebody_waits: bool = False) -> None:
        self._db, self._index = db, SearchIndex(path)
        self._more = threading.Event()
        self._hurry = threading.Event()
        self._woken_at = time.monotonic()
        if somebody_waits:
            self._hurry.set()
        self._stopped = False
        self._ended = False
        self._state = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="timestep-lab search", daemon=True)
        self._thread.start()

    def wake(self, *, somebody_waits: bool = False) -> bool:
        """False when it has ended already."""
        with self._state:
            if somebody_waits:
                self._hurry.set()
            else:
                self._woken_at = time.monotonic()
            self._more.set()
            return not self._ended

    def stop(self) -> None:
        self._stopped = True
        self._hurry.set()
        self._more.set()
        self._thread.join()

    def _run(self) -> None:
        try:
            self._work()
        except LabError as error:
            log.debug(
                "indexing stopped: %s", error
            )  # The lab was closed, or is another's now; searches read the lab itself.
        except (sqlite3.Error, OSError) as error:
            log.warning("The search index %s is built anew: %s", self._index.path, error)
            with contextlib.suppress(OSError):
                self._index.delete()
        finally:
            with self._state:
                self._ended = True

    def _work(self) -> None:
        at = self._index.position()
        if at.indexed_to and self._is_of_another_lab(at):
            self._index.delete()
        is_more = False
        while not self._stopped:
            if not is_more:
                self._wait_for_quiet()
            self._more.clear()
            if is_more := self._fill_next():
                time.sleep(PAUSE_S)
            elif not self._more.wait(LINGER_S):
                with self._state:
                    if not self._more.is_set():
                        self._ended = True
                        return

    def _wait_for_quiet(self) -> None:
        deadline = time.monotonic() + WAIT_AT_MOST_S
        while (now := time.monotonic()) < deadline and now < self._woken_at + QUIET_S:
            if self._hurry.wait(min(deadline, self._woken_at + QUIET_S) - now):
                break
        if not self._stopped:
            self._hurry.clear()

    def _fill_next(self) -> bool:
        """Index the next spans: new ones first, then those of tables that are filled anew. False when there are none."""
        at = self._index.position()
        if rows := self._rows(at.indexed_to):
            self._index.add(self._texts(rows), (rows[-1][0], rows[-1][2]), at.forgotten)
            return True
        again = self._index.again()
        if again is None:
            return False
        rows = [row for row in self._rows(again.filled_to) if row[0] <= again.up_to]
        last = (rows[-1][0], rows[-1][2]) if rows else (again.up_to, "")
        texts = self._texts([row for row in rows if row[1] == again.user_id])
        self._index.add(texts, last, at.forgotten, again)
        return True

    def _is_of_another_lab(self, at: Position) -> bool:
        """The lab's file may have been replaced, by an older copy say. A span that was deleted tells nothing."""
        of_span = "select span_id from core.spans_raw where span_no = $1"
        row = self._db.query(SYSTEM_USER, of_span, [at.indexed_to]).one()
        if row is not None:
            return bool(row[0] != at.span_id)
        given = "select last_value from duckdb_sequences() where sequence_name = 'span_numbers'"
        newest = self._db.query(SYSTEM_USER, given).one()
        return newest is None or (newest[0] or 0) < at.indexed_to

    def _rows(self, after: int) -> list[tuple[Any, ...]]:
        """The next spans by number. Numbers may have gaps, as of a transaction that failed."""
        columns = "span_no, user_id, span_id, name, error, input, output, input_refs, core.event_text(attributes)"
        table = "core.spans_raw" if after >= newest_archived(self._db) else "core.stored_spans"
        sql = f"select {columns} from {table} where span_no > $1 and span_no <= $2 order by span_no"
        while True:
            rows = self._db.query(SYSTEM_USER, sql, [after, after + BATCH]).rows
            if rows:
                return rows
            row = self._db.query(SYSTEM_USER, f"select min(span_no) from {table} where span_no > $1", [after]).one()
            if row is None or row[0] is None:
                return []
            after = row[0] - 1

    def _texts(self, rows: Sequence[tuple[Any, ...]]) -> list[tuple[int, str, str]]:
        hashes = list({digest for row in rows if row[7] for digest in row[7].split(" ")})
        bodies: dict[str, str] = {}
        if hashes:
            places = ", ".join(f"${n}" for n in range(1, len(hashes) + 1))
            sql = f"select hash, body from core.message_bodies where hash in ({places})"
            bodies = dict(self._db.query(SYSTEM_USER, sql, hashes).rows)
        texts = []
        for number, user_id, _, name, error, text_in, text_out, refs, events in rows:
            shared = [bodies.get(digest, "") for digest in refs.split(" ")] if refs else []
            parts = [name, error, text_in, text_out, events, *shared]
            texts.append((number, user_id, "\n".join(part[:MOST_TEXT] for part in parts if part)))
        return texts


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
    "core.event_text(r.attributes) as events from core.stored_spans r "
    "left join core.span_histories h on h.user_id = r.user_id and h.trace_id = r.trace_id and h.span_id = r.span_id)"
)
_SPANS = "(select *, core.event_text(attributes) as events from core.stored_spans)"


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
    trace_ids: dict[str, None] = {}

    def look(source: str, condition: Callable[[_Params], str]) -> None:
        # Each place by a query of its own: together they would take thrice as long.
        params = _Params(1)
        sql = f"select distinct s.trace_id from {source} s where s.user_id = {params.add(user_id)} and {condition(params)}"
        trace_ids.update((row[0], None) for row in db.query(user_id, sql, params.values).rows)

    def among_hits(params: _Params) -> str:
        # The bounds spare reading most of the table when the hits are recent. Shared histories are joined only where they are read.
        first, last = params.add(min(hits.span_numbers)), params.add(max(hits.span_numbers))
        indexed = f"s.span_no between {first} and {last} and {_in('s.span_no', hits.span_numbers, params, 'bigint')}"
        return f"{indexed} and {_reads(Search((), search.phrases), 'duckdb', params)}" if search.phrases else indexed

    if hits.span_numbers:
        look(_WHOLE_SPANS if search.phrases else "core.stored_spans", among_hits)
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
        sql = "select max(started_at) from core.stored_spans where user_id = $1 and span_no < $2"
        [rest_before] = db.query(user_id, sql, [user_id, min(hits.span_numbers)]).one() or (None,)
    return FoundTraces(_among(list(trace_ids), first_param), hits.more, rest_before)


def _among(ids: Sequence[str], first_param: int) -> CompiledFilter:
    params = _Params(first_param)
    return CompiledFilter(_in("t.trace_id", ids, params, "varchar") if ids else "false", params.values)


def _in(column: str, values: Sequence[object], params: _Params, type: str) -> str:
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
    template = "select f.trace_id from core.search_spans({}, cast({} as text[]), cast({} as text[]), {}) f"
    more = False
    if most >= ALL:
        ended = template.format(*map(params.add, arguments))
    else:
        hits = [row[0] for row in db.query(user_id, template.format("$1", "$2", "$3", "$4"), arguments).rows]
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

    def add(self, value: object) -> str:
        self.values.append(value)
        return f"${self._first + len(self.values) - 1}"
