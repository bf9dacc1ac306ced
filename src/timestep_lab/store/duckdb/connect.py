"""Opening the DuckDB file of a lab, with every setting the lab relies on, and saying in words why it cannot be opened."""

from __future__ import annotations

import errno
import logging
import os
import re
import shutil
import struct
import zlib
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import duckdb

from timestep_lab.model.clock import utc_now
from timestep_lab.model.errors import (
    ConflictError,
    LabError,
    StoreCorruptError,
    StoreError,
    StoreReadOnlyError,
    StoreUnavailableError,
)
from timestep_lab.store.migrate import keep_beside, private_if_new

SETTINGS: dict[str, str | bool | int | float | list[str]] = {
    # Nothing is fetched, and SQL reaches no file but the lab's own.
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
    "allow_community_extensions": "false",
    # A table name never means a Python variable of the caller.
    "python_enable_replacements": "false",
    # Fewer, later checkpoints: a write never waits for one of 16 MB, and a lab reopens after a kill in about a second.
    "checkpoint_threshold": "128MB",
    # The default is 80 % of the machine, which a notebook's kernel must share.
    "memory_limit": "2GB",
}
MAGIC = b"DUCK"
MAGIC_AT = 8
ENDINGS = (".duckdb", ".ddb", ".db")
"""Of files that DuckDB takes for nothing else."""


class LockedError(Exception):
    """Another process holds DuckDB's lock on the file; the text is DuckDB's, and names that process."""


def connect(path: Path | None) -> duckdb.DuckDBPyConnection:
    """The one connection of this process to the file (None: in memory). Times are UTC, whatever the machine's zone.

    Raises `LockedError` when another process has it, and a `StoreError` with a next step for everything else.
    """
    if path is not None:
        try:
            _check_place(path)
        except OSError as error:
            raise StoreReadOnlyError(
                f"The place {path} cannot be reached: {error.strerror}.",
                "Put the lab elsewhere, for example with: --store ~/lab.duckdb",
            ) from error
    for last_try in (False, True):
        try:
            with private_if_new(path):
                connection = duckdb.connect(":memory:" if path is None else str(path), config=SETTINGS)
            break
        except duckdb.ConnectionException as error:
            raise StoreUnavailableError(
                f"{path} is already open in this process, by a connection that is not the lab's.",
                "Close that connection, or query the lab with lab.sql(…).",
            ) from error
        except duckdb.Error as error:
            assert path is not None
            if is_locked(path):
                raise LockedError(str(error)) from error
            if last_try:  # Else the lock may have been let go between the two looks.
                raise explain_open_failure(path, error) from error
    connection.execute("set global TimeZone = 'UTC'")
    if path is not None:  # Files of the archive, and no others.
        folder = str(path.with_name(path.name + ARCHIVE)).replace("'", "''")
        connection.execute(f"set allowed_directories = ['{folder}/']")
    connection.execute("set enable_external_access = false")
    return connection


def _check_place(path: Path) -> None:
    """Where a lab cannot be, said before DuckDB would say it less well."""
    folder = path.parent
    if not folder.is_dir():
        raise StoreError(f"The folder {folder} does not exist.", f"Create it with: mkdir -p {folder}")
    if path.is_dir():
        raise StoreError(f"{path} is a folder, not a lab.", f"Name a file in it, such as: {path / 'lab.duckdb'}")
    if path.suffix.lower() not in ENDINGS and path.is_file() and not _begins_as_duckdb(path):
        # DuckDB would open a CSV or JSON file as a table, and forget what is written to it.
        raise _no_lab(path)
    if path.exists() and not os.access(path, os.R_OK | os.W_OK):
        raise StoreReadOnlyError(
            f"The lab {path} cannot be written by this user.",
            f"Allow it with: chmod u+rw {path}, or copy the file and open the copy.",
        )
    if not os.access(folder, os.W_OK | os.X_OK):
        raise StoreReadOnlyError(
            f"The folder {folder} cannot be written by this user, and a lab keeps its log beside it.",
            "Put the lab elsewhere, for example with: --store ~/lab.duckdb",
        )


def _begins_as_duckdb(path: Path) -> bool:
    try:
        with path.open("rb") as handle:
            head = handle.read(MAGIC_AT + len(MAGIC))
    except PermissionError:  # Said below, in words of its own.
        return True
    return not head or head[MAGIC_AT:] == MAGIC


def is_locked(path: Path) -> bool:
    """Whether another process holds the file. Never called by a process that may hold it itself: closing any handle on a
    file ends all of a process's POSIX locks on it."""
    try:
        import fcntl
    except ImportError:  # Windows: an open file cannot be opened again for writing.
        try:
            with path.open("r+b"):
                return False
        except PermissionError:
            return True
    try:
        with path.open("r+b") as handle:
            fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno in (errno.EACCES, errno.EAGAIN)
    return False


def explain_open_failure(path: Path, error: duckdb.Error) -> StoreError:
    """Why the file, which nobody holds, did not open."""
    try:
        with path.open("rb") as handle:
            head = handle.read(MAGIC_AT + len(MAGIC))
    except FileNotFoundError:
        return StoreError(
            f"The lab {path} could not be created: {_first_line(error)}", "Put it elsewhere with: --store PATH"
        )
    except OSError as failed:
        return StoreReadOnlyError(f"The lab {path} cannot be read: {failed.strerror}.", f"Look at: ls -l {path}")
    if not head:
        return StoreCorruptError(
            f"{path} is empty, so it is not a lab.", f"Remove it to start a new lab there: rm {path}"
        )
    if head[MAGIC_AT:] != MAGIC:
        return _no_lab(path)
    log = path.with_name(path.name + ".wal")
    if log.exists():
        return StoreCorruptError(
            f"The lab {path} did not open with the log of its last changes: {_first_line(error)}",
            f"Nothing was moved. Open it with what can be had of them: timestep-lab db repair --store {path}",
        )
    return StoreCorruptError(
        f"The lab {path} is damaged: {_first_line(error)}", "Restore a copy, or start a new lab with: --store PATH"
    )


def _no_lab(path: Path) -> StoreCorruptError:
    return StoreCorruptError(
        f"{path} is not a DuckDB file, so it is not a lab.", "Name another file with: --store PATH"
    )


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


FATAL = (duckdb.FatalException, duckdb.InternalException)
"""After these, a connection does no more work: the file must be opened anew."""


def translate(error: BaseException) -> BaseException:
    """A DuckDB error as one of ours; any other unchanged."""
    match error:
        case LabError():
            return error
        case duckdb.ConstraintException():
            return ConflictError(f"A row like this exists already: {_first_line(error)}", "Choose another name or id.")
        case duckdb.Error() if "No space left on device" in str(error):
            return StoreUnavailableError(
                f"The disk of the lab is full: {_first_line(error)}", "Free space there, then try again."
            )
        case duckdb.FatalException() | duckdb.InternalException():
            return StoreUnavailableError(
                f"DuckDB stopped working on the lab: {_first_line(error)}", "Try again; it is opened anew."
            )
        case duckdb.OutOfMemoryException():
            return StoreError(
                f"The store ran out of memory: {_first_line(error)}", "Ask for fewer rows or columns at once."
            )
        case duckdb.Error():
            return StoreError(f"The store failed: {_first_line(error)}", "See `timestep-lab doctor`.")
    return error


def quoted(name: str) -> str:
    """An identifier for SQL."""
    return '"' + name.replace('"', '""') + '"'


Cursor = Any
"""A `duckdb.DuckDBPyConnection` made by `.cursor()`: for one thread and one operation at a time."""


# --- Whether DuckDB's log still holds all that was acknowledged, looked at before DuckDB does; and what can be had of a lab where not
#
# DuckDB takes a log that does not begin as one for an empty log, and one that ends early for one that was being written: it opens the lab
# without those changes, and deletes the log. So after each commit, before anybody is told of it, `<lab>.wal.check` is given the length and
# checksum of the log, and which state of the lab's file it continues. Written without waiting for the disk: after a power failure it may be
# older than the log, whose beginning it then still describes; it is never newer.


log = logging.getLogger(__name__)

ARCHIVE = ".archive"
"""Ends the name of the folder beside a lab that holds its archived days (`store.archive`)."""
LOG = ".wal"
"""DuckDB makes it anew after each checkpoint, readable by everybody unless it is there."""
CHECK = ".wal.check"
HEADERS = 3 * 4096
"""Bytes of the lab's file that every checkpoint changes, and nothing else does."""
LOG_BEGINS = b"\x64\x00\x62"
"""The entry that says the log's version."""
SLOT = struct.Struct("<4sQQII")
SLOT_BYTES, SLOT_MAGIC = 64, b"TLWC"
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
        slot = SLOT.pack(SLOT_MAGIC, self.number, self.size, self.headers, self.crc)
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
    slots = []
    for start in (0, SLOT_BYTES):
        slot, own = content[start : start + SLOT.size], content[start + SLOT.size : start + SLOT.size + 4]
        if len(own) == 4 and struct.pack("<I", zlib.crc32(slot)) == own and slot.startswith(SLOT_MAGIC):
            _, number, size, headers, crc = SLOT.unpack(slot)
            slots.append(_Known(number, size, headers, crc))
    return max(slots, key=lambda known: known.number, default=None)


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
        size = bytes_kept = journal.stat().st_size if journal.is_file() else 0
        if size:
            shutil.copy2(journal, folder / journal.name)
            bytes_kept = _opened(copy, size)
        if bytes_kept == size and _problem(path) is None:
            return None
        stamp = f"{now or utc_now():%Y%m%d-%H%M%S}"
        aside = []
        for ending in (CHECK, LOG, ""):
            damaged = path.with_name(path.name + ending)
            if damaged.exists():
                aside.append(damaged.rename(path.with_name(f"{path.name}.damaged-{stamp}{ending}")))
        copy.rename(path)
        return Repaired(tuple(reversed(aside)), bytes_kept, size)
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
            match = POSITION.search(str(error))
            if match is None or int(match[1]) >= size:
                raise StoreCorruptError(
                    f"More than the log of {copy.name} is damaged: {str(error).splitlines()[0]}", "Restore a copy."
                ) from error
            size = int(match[1])
            os.truncate(journal, size)
