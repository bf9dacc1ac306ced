"""Whether DuckDB's log still holds all that was acknowledged, looked at before DuckDB does; and what can be had of a lab where not.

DuckDB takes a log that does not begin as one for an empty log, and one that ends early for one that was being written: it opens the lab
without those changes, and deletes the log. So after each commit, before anybody is told of it, `<lab>.wal.check` is given the length and
checksum of the log, and which state of the lab's file it continues. Written without waiting for the disk: after a power failure it may be
older than the log, whose beginning it then still describes; it is never newer.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import struct
import zlib
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import duckdb

from timestep_lab.model.clock import utc_now
from timestep_lab.model.errors import StoreCorruptError, StoreReadOnlyError, StoreUnavailableError
from timestep_lab.store.duckdb.connect import SETTINGS, LockedError, is_locked
from timestep_lab.store.migrate import keep_beside

log = logging.getLogger(__name__)

LOG = ".wal"
"""DuckDB makes it anew after each checkpoint, readable by everybody unless it is there."""
CHECK = ".wal.check"
HEADERS = 3 * 4096
"""Bytes of the lab's file that every checkpoint changes, and nothing else does."""
LOG_BEGINS = b"\x64\x00\x62"
"""The entry that says the log's version."""
SLOT = struct.Struct("<4sQQII")
SLOT_BYTES, MAGIC = 64, b"TLWC"
AT_ONCE = 1 << 20
POSITION = re.compile(r"entry at byte position (\d+)")
"""Of DuckDB's message about a log whose middle is damaged."""


@dataclass(frozen=True, slots=True)
class _Known:
    """What was acknowledged: the first `size` bytes of the log have the checksum `crc`, and continue the file with these `headers`."""

    number: int
    size: int
    headers: int
    crc: int

    def packed(self) -> bytes:
        slot = SLOT.pack(MAGIC, self.number, self.size, self.headers, self.crc)
        return slot + struct.pack("<I", zlib.crc32(slot))


class LogCheck:
    """Kept by the process that owns the file. Made once DuckDB has opened it, closed once DuckDB has closed it: closing a handle
    on the lab's file earlier would end DuckDB's lock on it."""

    def __init__(self, path: Path) -> None:
        self._path, self._log = path, path.with_name(path.name + LOG)
        keep_beside(path, CHECK)
        self._lab = os.open(path, os.O_RDONLY)
        self._file = os.open(path.with_name(path.name + CHECK), os.O_RDWR | os.O_CREAT, 0o600)
        known = _read(path)
        self._known = _Known(known.number if known else 0, 0, 0, 0)
        self._failed = False
        self.record()

    def record(self) -> None:
        """After a commit. A place that cannot be written does not undo the commit: the log is then checked up to an earlier one."""
        try:
            headers = zlib.crc32(os.pread(self._lab, HEADERS, 0))
            size = self._log.stat().st_size if self._log.exists() else 0
            known = self._known
            start, crc = (known.size, known.crc) if headers == known.headers and size >= known.size else (0, 0)
            self._known = _Known(known.number + 1, size, headers, _checksum(self._log, start, size, crc))
            os.pwrite(self._file, self._known.packed(), self._known.number % 2 * SLOT_BYTES)
            self._failed = False
        except OSError as error:
            if not self._failed:
                log.warning("The check of %s cannot be written: %s", self._log, error.strerror)
            self._failed = True

    def close(self) -> None:
        os.close(self._file)
        os.close(self._lab)
        if not self._log.exists() or not self._log.stat().st_size:  # Folded into the file: nothing is left to check.
            self._path.with_name(self._path.name + CHECK).unlink(missing_ok=True)


def verify(path: Path) -> None:
    """Before DuckDB opens `path`. Changes nothing. Raises `StoreCorruptError` when the log is not what was acknowledged, `LockedError`
    when another process has the file, and so the log changes while it is looked at."""
    for last_try in (False, True):
        try:
            problem = _problem(path)
        except FileNotFoundError as error:  # Another process folded the log into the file between two looks.
            problem = f"{error.filename} was there and is gone again."
        except OSError as error:
            raise StoreReadOnlyError(
                f"The log of {path} cannot be read: {error.strerror}.", f"Look at: ls -l {path}*"
            ) from error
        if problem is None:
            return
        if path.is_file() and is_locked(path):
            raise LockedError(f"Another process has {path}.")
        if last_try:  # Else its owner may have closed it between the two looks.
            raise StoreCorruptError(problem, go_on(path))


def go_on(path: Path) -> str:
    """The next step for a lab whose log is damaged."""
    return f"Nothing was changed or moved. Restore a copy of the log, or open the lab with what can be had of it: timestep-lab db repair --store {path}"


def _problem(path: Path) -> str | None:
    journal = path.with_name(path.name + LOG)
    size = journal.stat().st_size if journal.is_file() else 0
    if not path.is_file():
        return f"{journal} is the log of a lab that is not there: {path.name} is missing." if size else None
    known = _read(path)
    if known is not None and known.size and _headers(path) == known.headers:
        lost = f"so changes that were acknowledged are missing from the lab {path}."
        if size == 0:
            return f"The log of the last changes, {journal}, is gone or empty, {lost}"
        if size < known.size:
            return f"The log of the last changes, {journal}, has {size:,} of {known.size:,} bytes, {lost}"
        if _checksum(journal, 0, known.size, 0) != known.crc:
            return f"The log of the last changes, {journal}, is damaged, {lost}"
        return None
    if size:
        with journal.open("rb") as file:
            if file.read(len(LOG_BEGINS)) != LOG_BEGINS:
                return f"The log of the last changes of the lab, {journal}, is damaged: it does not begin as one."
    return None


def _read(path: Path) -> _Known | None:
    """What was written last; None where nothing was, or nothing can be read: then the log is held against nothing."""
    try:
        content = path.with_name(path.name + CHECK).read_bytes()
    except FileNotFoundError:
        return None
    found = []
    for start in (0, SLOT_BYTES):
        slot, own = content[start : start + SLOT.size], content[start + SLOT.size : start + SLOT.size + 4]
        if len(own) == 4 and struct.pack("<I", zlib.crc32(slot)) == own and slot.startswith(MAGIC):
            _, number, size, headers, crc = SLOT.unpack(slot)
            found.append(_Known(number, size, headers, crc))
    return max(found, key=lambda known: known.number, default=None)


def _headers(path: Path) -> int:
    with path.open("rb") as file:
        return zlib.crc32(file.read(HEADERS))


def _checksum(journal: Path, start: int, end: int, crc: int) -> int:
    if start == end:
        return crc
    with journal.open("rb") as file:
        file.seek(start)
        while start < end and (data := file.read(min(AT_ONCE, end - start))):
            crc, start = zlib.crc32(data, crc), start + len(data)
    return crc


# -- repair


@dataclass(frozen=True, slots=True)
class Repaired:
    aside: tuple[Path, ...]
    """The damaged files, under their new names."""
    kept: int
    """Bytes of the log whose changes could be had."""
    size: int
    """Bytes the log had."""


def repair(path: Path, *, now: datetime | None = None) -> Repaired | None:
    """Put in the lab's place a lab with every change that can be had, the old files beside it. None when it needs none.

    Raises `StoreUnavailableError` while a process has it open, `StoreCorruptError` when more than its log is damaged, and `OSError` when
    there is no room for a copy: then everything is as it was.
    """
    if not path.is_file():
        raise StoreCorruptError(f"There is no lab at {path}.", "Name one with: --store PATH, or restore a copy.")
    if is_locked(path):
        raise StoreUnavailableError(f"The lab {path} is open.", "Close what has it open, then try again.")
    journal = path.with_name(path.name + LOG)
    folder = path.with_name(f"{path.name}.repair-{os.getpid()}")
    folder.mkdir(mode=0o700)
    try:
        copy = folder / path.name
        shutil.copy2(path, copy)
        size = kept = journal.stat().st_size if journal.is_file() else 0
        if size:
            shutil.copy2(journal, folder / journal.name)
            kept = _opened(copy, size)
        if kept == size and _problem(path) is None:
            return None
        stamp = f"{now or utc_now():%Y%m%d-%H%M%S}"
        aside = []
        for ending in (CHECK, LOG, ""):
            damaged = path.with_name(path.name + ending)
            if damaged.exists():
                aside.append(damaged.rename(path.with_name(f"{path.name}.damaged-{stamp}{ending}")))
        copy.rename(path)
        return Repaired(tuple(reversed(aside)), kept, size)
    finally:
        shutil.rmtree(folder)


def _opened(copy: Path, size: int) -> int:
    """Fold into the copy what its log holds up to the first damage; how many bytes that is."""
    journal = copy.with_name(copy.name + LOG)
    with journal.open("rb") as file:
        if file.read(len(LOG_BEGINS)) != LOG_BEGINS:
            return 0
    while True:
        try:
            with duckdb.connect(str(copy), config=SETTINGS) as connection:
                connection.execute("checkpoint")
            return size
        except duckdb.Error as error:
            found = POSITION.search(str(error))
            if found is None or int(found[1]) >= size:
                raise StoreCorruptError(
                    f"More than the log of {copy.name} is damaged: {str(error).splitlines()[0]}", "Restore a copy."
                ) from error
            size = int(found[1])
            os.truncate(journal, size)
