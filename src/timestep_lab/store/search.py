"""Full-text search of traces, compiled to a condition: with an index where there is one, otherwise by scanning the spans."""

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
from typing import NamedTuple

from timestep_lab.model.errors import LabError
from timestep_lab.store.archive import newest_archived
from timestep_lab.store.base import SYSTEM_USER, Database, Dialect, Row
from timestep_lab.store.filters import CompiledFilter
from timestep_lab.store.migrate import keep_beside
from timestep_lab.store.table import clean

# --- Search syntax, the same in every store
#
#     oakland umbrella          spans with both words; the last one is matched as a prefix from two letters on
#     umbr* oakland             … with a word that starts so
#     "umbrella in oakland"     … with this exact phrase, whose last word is complete
#
# Case-insensitive. Words consist of letters and digits; everything else separates them. A search without any word (an emoji,
# `!!!`) matches those characters literally.
#
# The whole search must match in one span: in its name, error, input, output or events. A trace matches if one of its spans does.


MOST_WORDS = 16
LEAST_BEGUN = 2
"""Minimum length of a last word that is matched as a prefix. A single letter would match too many words."""
_PIECE = re.compile(r'"([^"]*)"?|(\S+)')
_WORD = re.compile(r"([^\W_]+)(\*?)")


@dataclass(frozen=True, slots=True)
class Word:
    text: str
    """Lower case."""
    is_beginning: bool = False


@dataclass(frozen=True, slots=True)
class Search:
    words: tuple[Word, ...]
    """Words, including those of the phrases. Empty: the phrases are symbols, which no index contains."""
    phrases: tuple[str, ...]
    """Lower case."""

    def __bool__(self) -> bool:
        return bool(self.words or self.phrases)


def read_search(text: str) -> Search:
    """Parses a search. Never fails: symbols are ignored if there are words."""
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


# --- The search index of a DuckDB lab: an SQLite FTS5 file beside it, which can be deleted at any time and is then rebuilt
#
# DuckDB has no incremental full-text index; SQLite's indexes 20,000 spans per second and answers in under a millisecond.
# The index covers spans up to a number, `indexed_to`; a search reads later ones from the lab itself, so it never misses any.
# One process fills the index, any number read it. Each user has a table of words; the row id is the span's number.
#
# FTS5 needs the text of a row to delete it, and keeps its words until a merge. Deleting traces therefore drops the user's whole table,
# which is then rebuilt from the first span on; until then that user's spans are scanned.

FORMAT = 3
ENDING = ".search"
MOST_ENDINGS = 1000
"""Maximum number of words that a prefix is expanded to."""
_SUFFIXES = ("", "-wal", "-shm")


@dataclass(frozen=True, slots=True)
class Hits:
    """Numbers of matching spans, newest first; `more` if there are others. Spans after `indexed_to` were not searched."""

    span_numbers: list[int]
    more: bool
    indexed_to: int


class Position(NamedTuple):
    indexed_to: int
    """Number of the last indexed span, followed by its id. 0 and "" for a new index."""
    span_id: str
    forgotten: int
    """Changes whenever spans are deleted from the index."""


class Again(NamedTuple):
    """Progress of a table that is rebuilt: the last span filled in, and the last one to fill in."""

    user_id: str
    filled_to: int
    up_to: int


class SearchIndex:
    """The index file of a lab. Each method opens the file itself, so that it can be called on any thread."""

    def __init__(self, lab: Path) -> None:
        self._lab, self.path = lab, lab.with_name(f"{lab.name}{ENDING}")

    def find(self, user_id: str, words: Sequence[Word], most: int) -> Hits:
        """Returns the spans that contain every word. Without a usable index: no hits, with `indexed_to` 0."""
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
            return Hits([], False, 0)  # Missing, being rebuilt, or damaged: the lab itself is scanned instead.
        return Hits([number for (number,) in rows[:most]], len(rows) > most, indexed_to)

    def _term(self, file: sqlite3.Connection, user_id: str, word: Word) -> str:
        """Returns a word as an FTS5 term. For a prefix, SQLite would merge the lists of all matching words before the first hit (a tenth of
        a second per million hits); expanded to single words, each list is read from its newest hit on."""
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
        """Returns a user whose table must be rebuilt; None when there is none."""
        with closing(self._open(read_only=True)) as file:
            row = file.execute("select user_id, filled_to, up_to from again limit 1").fetchone()
        return None if row is None else Again(*row)

    def forget(self, user_id: str) -> None:
        """Removes all of a user's spans from the file, and schedules a rebuild of those that still exist."""
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
        """Indexes (number, user id, text) and stores the last span's number and id, in one transaction. `again`: the table being rebuilt.

        Returns False, without indexing anything, when spans were deleted since `forgotten` was read: they may be among these.
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
                    # Only which spans contain a word is stored: no texts, positions or lengths.
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
        keep_beside(self._lab, ENDING)  # SQLite creates its journal with the mode of the file.
        file = sqlite3.connect(self.path, timeout=10.0)
        file.execute("pragma journal_mode = wal")
        file.execute("pragma synchronous = off")  # The index is rebuilt if a crash damages it.
        file.execute("create table if not exists state (format int, indexed_to int, span_id text, forgotten int)")
        file.execute("create table if not exists again (user_id text primary key, filled_to int, up_to int)")
        if file.execute("select count(*) from state").fetchone()[0] == 0:
            file.execute("insert into state values (?, 0, '', random())", (FORMAT,))
            file.commit()
        return file

    def _state(self, file: sqlite3.Connection) -> Position:
        row = file.execute("select * from state").fetchone()
        if row is None or row[0] != FORMAT:
            raise sqlite3.DatabaseError("an index of another version, or one being created")
        return Position(*row[1:])

    def _tables(self, file: sqlite3.Connection, user_ids: set[str]) -> set[str]:
        names = [_table(user_id) for user_id in user_ids]
        places = ", ".join("?" for _ in names)
        return {name for (name,) in file.execute(f"select name from sqlite_master where name in ({places})", names)}


def _words_beginning(file: sqlite3.Connection, user_id: str, beginning: str) -> list[str]:
    """Returns up to `MOST_ENDINGS` + 1 indexed words with a prefix. Each is found by skipping all occurrences of the previous one."""
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
        at = f"{row[0]} "  # Sorts after this word and before any longer one.
    return words


def _table(user_id: str) -> str:
    return f"words_{blake2b(user_id.encode(), digest_size=8).hexdigest()}"


# --- Background indexing of a DuckDB lab, in the process that owns the lab's file


log = logging.getLogger(__name__)

BATCH = 4000
"""Number of spans per batch; a range of span numbers can be read without scanning the others."""
MOST_TEXT = 200_000
"""Maximum number of characters of a payload that are indexed."""
LINGER_S = 2.0
"""Seconds that the thread waits for more spans before it ends."""
PAUSE_S = 0.005
"""Seconds between batches, to release the GIL for other threads."""
QUIET_S, WAIT_AT_MOST_S = 0.25, 4.0
"""Indexing starts after a burst of spans: when none arrived for `QUIET_S`, or after `WAIT_AT_MOST_S`."""

_lock = threading.Lock()
_filling: dict[str, SearchFiller] = {}
"""Active fillers by lab path."""


def lab_path(db: Database) -> Path | None:
    """Returns the path of the lab's file; None for a lab without a file, which has no index."""
    return None if db.dialect != "duckdb" or db.url == ":memory:" else Path(db.url)


def keep_filled(db: Database, *, somebody_waits: bool = False) -> None:
    """Starts indexing new spans. Returns at once; does nothing if another process owns the lab's file.

    `somebody_waits`: start immediately, because a search is waiting, instead of after a burst of spans.
    """
    path = lab_path(db)
    if path is None or not getattr(db, "is_owner", False):
        return
    with _lock:
        filler = _filling.get(str(path))
        if filler is None or not filler.wake(somebody_waits=somebody_waits):
            _filling[str(path)] = SearchFiller(db, path, somebody_waits=somebody_waits)


def forget_words(db: Database, user_id: str | None) -> None:
    """Removes the words of deleted traces of a user, or (None) of all users."""
    path = lab_path(db)
    if path is None:
        return
    index = SearchIndex(path)
    try:
        index.delete() if user_id is None else index.forget(user_id)
    except sqlite3.DatabaseError as error:
        log.warning("The search index %s is being rebuilt: %s", index.path, error)
        index.delete()
    keep_filled(db)


def stop_filling(db: Database) -> None:
    """Stops indexing before the lab is closed. Waits for the current batch."""
    with _lock:
        filler = _filling.pop(db.url, None)
    if filler is not None:
        filler.stop()


class SearchFiller:
    """A thread that indexes everything, waits briefly for more, and ends."""

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
        """Wakes the thread. Returns False when it has already ended."""
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
            )  # The lab was closed, or has another owner; searches scan the lab itself.
        except (sqlite3.Error, OSError) as error:
            log.warning("The search index %s is being rebuilt: %s", self._index.path, error)
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
        """Indexes the next spans: new ones first, then those of tables being rebuilt. Returns False when there are none."""
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
        """Returns whether the lab's file was replaced, for example by an older copy. A deleted span is no evidence."""
        of_span = "select span_id from core.spans_raw where span_no = $1"
        row = self._db.query(SYSTEM_USER, of_span, [at.indexed_to]).one()
        if row is not None:
            return bool(row[0] != at.span_id)
        given = "select last_value from duckdb_sequences() where sequence_name = 'span_numbers'"
        newest = self._db.query(SYSTEM_USER, given).one()
        return newest is None or (newest[0] or 0) < at.indexed_to

    def _rows(self, after: int) -> list[Row]:
        """Returns the next spans by number. Numbers may have gaps, for example after a failed transaction."""
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

    def _texts(self, rows: Sequence[Row]) -> list[tuple[int, str, str]]:
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
"""Number of hits fetched first: the newest, which a first page needs."""
ALL = 10_000_000
MANY = 100

_TEXT = "concat_ws(chr(10), s.name, s.error, s.input, s.output, s.events)"
_HOLDS_WORD: dict[Dialect, str] = {"duckdb": "regexp_matches({0}, {1}, 'i')", "postgres": "{0} ~* {1}"}
_BETWEEN: dict[Dialect, str] = {"duckdb": r"[^\pL\pN]", "postgres": "[^[:alnum:]]"}
"""Regular expression for what separates words."""
_WHOLE_SPANS = (
    "(select r.span_no, r.user_id, r.trace_id, r.name, r.error, coalesce(r.input, h.input) as input, r.output, "
    "core.event_text(r.attributes) as events from core.stored_spans r "
    "left join core.span_histories h on h.user_id = r.user_id and h.trace_id = r.trace_id and h.span_id = r.span_id)"
)
_SPANS = "(select *, core.event_text(attributes) as events from core.stored_spans)"


@dataclass(frozen=True, slots=True)
class FoundTraces:
    """Traces found by a search. `more`: only the newest hits are included; the others started before `rest_before`, if known."""

    condition: CompiledFilter
    more: bool = False
    rest_before: datetime | None = None


def find_traces(db: Database, user_id: str, text: str, first_param: int, *, most: int = FEW) -> FoundTraces | None:
    """Returns the condition of a search for a query over `traces t`; None for an empty search."""
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
    """Returns a condition that scans the documented view `spans`."""
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
        # A query per source: a combined one would take three times as long.
        params = _Params(1)
        sql = f"select distinct s.trace_id from {source} s where s.user_id = {params.add(user_id)} and {condition(params)}"
        trace_ids.update((row[0], None) for row in db.query(user_id, sql, params.values).rows)

    def among_hits(params: _Params) -> str:
        # The bounds avoid reading most of the table when the hits are recent. Shared histories are joined only if needed.
        first, last = params.add(min(hits.span_numbers)), params.add(max(hits.span_numbers))
        indexed = f"s.span_no between {first} and {last} and {_in('s.span_no', hits.span_numbers, params, 'bigint')}"
        return f"{indexed} and {_reads(Search((), search.phrases), 'duckdb', params)}" if search.phrases else indexed

    if hits.span_numbers:
        look(_WHOLE_SPANS if search.phrases else "core.stored_spans", among_hits)
    # Spans after the index and open spans are scanned. Compiling the patterns takes longer than checking that there are none.
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
    """Returns a condition: few values one by one, which DuckDB can push into the scan; many as a list."""
    if len(values) > MANY:
        return f"{column} in (select unnest(cast({params.add(list(values))} as {type}[])))"
    return f"{column} in ({', '.join(map(params.add, values))})"


def _by_postgres(db: Database, user_id: str, search: Search, first_param: int, most: int) -> FoundTraces:
    """Searches with a database function, because a word index cannot be used by a query under row-level security."""
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
        self.values: list[object] = []

    def add(self, value: object) -> str:
        self.values.append(value)
        return f"${self._first + len(self.values) - 1}"
