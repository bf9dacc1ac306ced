"""Filling the search index of a DuckDB lab in the background, in the process that owns the lab's file."""

from __future__ import annotations

import contextlib
import logging
import sqlite3
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from timestep_lab.model.errors import LabError
from timestep_lab.store.base import SYSTEM_USER, Database
from timestep_lab.store.search_index import SearchIndex

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
        indexed_to, span_id = self._index.position()
        if indexed_to and not self._is_of_this_lab(indexed_to, span_id):
            self._index.delete()
            indexed_to = 0
        waits = True
        while not self._stopped:
            if waits:
                self._wait_for_quiet()
            self._more.clear()
            rows = self._rows(indexed_to)
            waits = not rows
            if rows:
                texts = self._texts(rows)
                indexed_to = rows[-1][0]
                self._index.add(texts, (indexed_to, rows[-1][2]))
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

    def _is_of_this_lab(self, number: int, span_id: str) -> bool:
        """The lab's file may have been replaced, by an older copy say."""
        found = self._db.query(SYSTEM_USER, "select span_id from core.spans_raw where span_no = $1", [number]).one()
        return found is not None and found[0] == span_id

    def _rows(self, after: int) -> list[tuple[Any, ...]]:
        """The next spans by number. Numbers may have gaps, as of a transaction that failed."""
        columns = "span_no, user_id, span_id, name, error, input, output, input_refs, core.event_text(attributes)"
        sql = f"select {columns} from core.spans_raw where span_no > $1 and span_no <= $2 order by span_no"
        while True:
            rows = self._db.query(SYSTEM_USER, sql, [after, after + BATCH]).rows
            if rows:
                return rows
            found = self._db.query(
                SYSTEM_USER, "select min(span_no) from core.spans_raw where span_no > $1", [after]
            ).one()
            if found is None or found[0] is None:
                return []
            after = found[0] - 1

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
