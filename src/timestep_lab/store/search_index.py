"""The words of a DuckDB lab: an SQLite FTS5 file beside it, which can be deleted at any time and is then built anew.

DuckDB has no full-text index that grows with its table; SQLite's does, at 20,000 spans a second, and answers in under a millisecond.
The index knows spans up to a number, `indexed_to`; whoever searches reads the rest from the lab itself, so nothing is missed meanwhile.
One process fills the index, any number read it. A table of words for each user; the row id is the span's number.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

from timestep_lab.store.file_modes import keep_beside
from timestep_lab.store.search_words import Word

FORMAT = 2
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


class SearchIndex:
    """Each method opens the file for itself, so that any thread may call it."""

    def __init__(self, lab: Path) -> None:
        self._lab, self.path = lab, lab.with_name(f"{lab.name}{ENDING}")

    def find(self, user_id: str, words: Sequence[Word], most: int) -> Hits:
        """Spans that hold every word. Without a usable index there are no hits, up to 0."""
        try:
            with closing(self._open(read_only=True)) as file:
                indexed_to, _ = self._state(file)
                if not self._tables(file, {user_id}):
                    return Hits([], False, indexed_to)
                query = " AND ".join(self._term(file, user_id, word) for word in words)
                found = file.execute(
                    f"select rowid from {_table(user_id)} where {_table(user_id)} match ? order by rowid desc limit ?",
                    (query, most + 1),
                ).fetchall()
        except sqlite3.Error:
            return Hits([], False, 0)  # Missing, being rebuilt, or damaged: the lab itself is read instead.
        return Hits([number for (number,) in found[:most]], len(found) > most, indexed_to)

    def _term(self, file: sqlite3.Connection, user_id: str, word: Word) -> str:
        """A word as a part of the query. For a beginning SQLite would merge the lists of all words that begin so before it gives the
        first hit, a tenth of a second per million hits; those words named one by one are read from their newest hit on."""
        if not word.is_beginning:
            return f'"{word.text}"'
        endings = _words_beginning(file, user_id, word.text)
        if not 0 < len(endings) <= MOST_ENDINGS:
            return f'"{word.text}"*'
        return f"({' OR '.join(f'{chr(34)}{ending}{chr(34)}' for ending in endings)})"

    def position(self) -> tuple[int, str]:
        """The last span that is indexed: its number and id. (0, "") for a new index."""
        with closing(self._open(read_only=False)) as file:
            return self._state(file)

    def add(self, spans: Iterable[tuple[int, str, str]], last: tuple[int, str]) -> None:
        """Index (number, user id, text) and remember the last span's number and id, in one transaction."""
        with closing(self._open(read_only=False)) as file, file:
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
            file.execute("update state set indexed_to = ?, span_id = ?", last)

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
        file.execute("create table if not exists state (format int, indexed_to int, span_id text)")
        if file.execute("select count(*) from state").fetchone()[0] == 0:
            file.execute("insert into state values (?, 0, '')", (FORMAT,))
            file.commit()
        return file

    def _state(self, file: sqlite3.Connection) -> tuple[int, str]:
        row = file.execute("select format, indexed_to, span_id from state").fetchone()
        if row is None or row[0] != FORMAT:
            raise sqlite3.DatabaseError("an index of another version, or one that is just being made")
        return row[1], row[2]

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
