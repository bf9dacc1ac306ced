"""Opens the DuckDB file of a lab with the required settings, and explains why it cannot be opened."""

from __future__ import annotations

import errno
import json
import logging
import os
import re
import secrets
import shutil
import struct
import tempfile
import zlib
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TypeAlias

import duckdb

from timestep_lab.model.clock import utc_now
from timestep_lab.model.errors import (
    ConflictError,
    DataError,
    LabError,
    StoreCorruptError,
    StoreError,
    StoreReadOnlyError,
    StoreUnavailableError,
)
from timestep_lab.store.duckdb.journal import RECEIVED, contents, damage, salvage
from timestep_lab.store.migrate import keep_beside, private_if_new

MEMORY_LIMIT = "2GB"
SETTINGS: dict[str, str | bool | int | float | list[str]] = {
    # Nothing is downloaded, and SQL cannot access any file but the lab's own.
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
    "allow_community_extensions": "false",
    # A table name never refers to a Python variable of the caller.
    "python_enable_replacements": "false",
    # Fewer, later checkpoints: a write never waits for one of 16 MB, and a lab reopens after a kill in about a second. Twice the log is
    # in memory until then.
    "checkpoint_threshold": "64MB",
    # Freed memory goes back to the operating system soon: DuckDB's own allocator would keep up to 128 MB for each thread.
    "allocator_background_threads": "true",
    "allocator_flush_threshold": "16MB",
    # The default is 80 % of the machine's memory, which a notebook's kernel must share.
    "memory_limit": MEMORY_LIMIT,
}
SCRATCH = Path(tempfile.gettempdir()) / f"timestep-lab-{secrets.token_hex(16)}"
"""The only place besides the archive where DuckDB may read and write files. It is created when it is needed."""
MAGIC = b"DUCK"
MAGIC_AT = 8
ENDINGS = (".duckdb", ".ddb", ".db")
"""File extensions reserved for DuckDB."""


class LockedError(Exception):
    """Another process holds DuckDB's lock on the file; the text is DuckDB's and names that process."""


def connect(path: Path | None) -> duckdb.DuckDBPyConnection:
    """Opens this process's only connection to the file (None: in memory). Times are UTC, independent of the local time zone.

    Raises `LockedError` when another process has it, and a `StoreError` with a next step in all other cases.
    """
    if path is not None:
        try:
            _check_place(path)
        except OSError as error:
            raise StoreReadOnlyError(
                f"The location {path} is not accessible: {error.strerror}.",
                "Put the lab elsewhere, for example with: --store ~/lab.duckdb",
            ) from error
    for last_try in (False, True):
        try:
            with private_if_new(path):
                connection = duckdb.connect(":memory:" if path is None else str(path), config=SETTINGS)
            break
        except duckdb.ConnectionException as error:
            raise StoreUnavailableError(
                f"{path} is already open in this process, by a connection outside the lab.",
                "Close that connection, or query the lab with lab.sql(…).",
            ) from error
        except duckdb.Error as error:
            assert path is not None
            if is_locked(path):
                raise LockedError(str(error)) from error
            if last_try:  # Otherwise the lock may have been released between the two checks.
                raise explain_open_failure(path, error) from error
    connection.execute("set global TimeZone = 'UTC'")
    folders = [SCRATCH] if path is None else [SCRATCH, path.with_name(path.name + ARCHIVE)]
    listed = ", ".join(quoted_text(f"{folder}/") for folder in folders)
    connection.execute(f"set allowed_directories = [{listed}]")
    connection.execute("set enable_external_access = false")
    return connection


def _check_place(path: Path) -> None:
    """Checks the location of a lab, with clearer errors than DuckDB's."""
    folder = path.parent
    if not folder.is_dir():
        raise StoreError(f"The folder {folder} does not exist.", f"Create it with: mkdir -p {folder}")
    if path.is_dir():
        raise StoreError(f"{path} is a folder, not a lab.", f"Use a file in it, such as: {path / 'lab.duckdb'}")
    if path.suffix.lower() not in ENDINGS and path.is_file() and not _begins_as_duckdb(path):
        # DuckDB would open a CSV or JSON file as a table, and lose what is written to it.
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
    except PermissionError:  # Reported below.
        return True
    return not head or head[MAGIC_AT:] == MAGIC


def is_locked(path: Path) -> bool:
    """Returns whether another process holds the file. Must not be called by a process that may hold it itself: closing any handle on a
    file releases all of a process's POSIX locks on it."""
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
    """Returns why an unlocked file did not open."""
    try:
        with path.open("rb") as handle:
            head = handle.read(MAGIC_AT + len(MAGIC))
    except FileNotFoundError:
        return StoreError(
            f"The lab {path} could not be created: {_first_line(error)}", "Put it elsewhere with: --store PATH"
        )
    except OSError as failed:
        return StoreReadOnlyError(f"The lab {path} cannot be read: {failed.strerror}.", f"Check: ls -l {path}")
    if not head:
        return StoreCorruptError(
            f"{path} is empty, so it is not a lab.", f"Remove it to create a new lab there: rm {path}"
        )
    if head[MAGIC_AT:] != MAGIC:
        return _no_lab(path)
    log = path.with_name(path.name + ".wal")
    if log.exists():
        return StoreCorruptError(
            f"The lab {path} did not open with the log of its last changes: {_first_line(error)}",
            f"Nothing was moved. Recover what is possible with: timestep-lab db repair --store {path}",
        )
    return StoreCorruptError(
        f"The lab {path} is damaged: {_first_line(error)}", "Restore a copy, or create a new lab with: --store PATH"
    )


def _no_lab(path: Path) -> StoreCorruptError:
    return StoreCorruptError(f"{path} is not a DuckDB file, so it is not a lab.", "Use another file with: --store PATH")


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


FATAL = (duckdb.FatalException, duckdb.InternalException)
"""After these errors a connection is unusable: the file must be reopened."""


def translate(error: BaseException) -> BaseException:
    """Converts a DuckDB error to an error of the lab; others are returned unchanged."""
    match error:
        case LabError():
            return error
        case duckdb.ConstraintException():
            return ConflictError(f"A row like this exists already: {_first_line(error)}", "Use another name or id.")
        case duckdb.Error() if "No space left on device" in str(error):
            return StoreUnavailableError(
                f"The disk of the lab is full: {_first_line(error)}", "Free space there, then try again."
            )
        case duckdb.FatalException() | duckdb.InternalException():
            return StoreUnavailableError(
                f"DuckDB stopped working on the lab: {_first_line(error)}", "Try again; it will be reopened."
            )
        case duckdb.InvalidInputException() if "Python Conversion Failure" in str(error):
            return DataError(
                f"The store cannot store this value: {_first_line(error)}", "Text must not contain unpaired surrogates."
            )
        case duckdb.OutOfMemoryException():
            return StoreError(
                f"The store ran out of memory: {_first_line(error)}", "Request fewer rows or columns at once."
            )
        case duckdb.Error():
            return StoreError(f"The store failed: {_first_line(error)}", "See `timestep-lab doctor`.")
    return error


def quoted(name: str) -> str:
    """Quotes an SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def quoted_text(value: str) -> str:
    """Quotes a text as an SQL literal."""
    return "'" + value.replace("'", "''") + "'"


Cursor: TypeAlias = duckdb.DuckDBPyConnection
"""A `duckdb.DuckDBPyConnection` from `.cursor()`, used by one thread and one operation at a time."""


# --- Verification of DuckDB's log before DuckDB opens it, and recovery of a damaged lab
#
# DuckDB treats a log with an invalid start as empty, and one that ends early as interrupted while writing: it opens the lab
# without those changes, and deletes the log. After each commit, before it is acknowledged, `<lab>.wal.check` therefore stores the length
# and checksum of the log, and the state of the lab's file that it continues. It is written without fsync: after a power failure it may
# be older than the log and then describes its beginning; it is never newer. The same holds for the journal of received traces.


log = logging.getLogger(__name__)

ARCHIVE = ".archive"
"""Suffix of the folder beside a lab with its archived days (`store.archive`)."""
LOG = ".wal"
"""Suffix of DuckDB's log, which DuckDB recreates after each checkpoint, world-readable unless it exists."""
CHECK = ".wal.check"
HEADERS = 3 * 4096
"""Size in bytes of the start of the lab's file, which is changed by every checkpoint and nothing else."""
REPAIRED = ".repaired"
"""Suffix of the folder beside a lab with its repaired files, until they are in their place."""
LOG_BEGINS = b"\x64\x00\x62"
"""The log's version entry."""
SLOT = struct.Struct("<4sQQII")
SLOT_BYTES, SLOT_MAGIC = 64, b"TLWC"
OF_LOG, OF_JOURNAL = 0, 2 * SLOT_BYTES
"""Where in the check file what is acknowledged of the log and of the journal of received traces begins, in two slots each."""
AT_ONCE, TAIL_BYTES = 1 << 20, 4096
POSITION = re.compile(r"entry at byte position (\d+)")
"""Matches DuckDB's message about a log that is damaged in the middle."""


@dataclass(frozen=True, slots=True)
class _Known:
    """Acknowledged state: the first `size` bytes of the log have the checksum `crc`, and continue the file with these `headers`."""

    number: int
    size: int
    headers: int
    crc: int

    def packed(self) -> bytes:
        slot = SLOT.pack(SLOT_MAGIC, self.number, self.size, self.headers, self.crc)
        return slot + struct.pack("<I", zlib.crc32(slot))


class LogCheck:
    """Thread-safe for one caller of `record` and one of `record_journal`. Maintains the check file in the process that owns the lab. Created after DuckDB has opened the file and closed after DuckDB has
    closed it: closing a handle on the lab's file earlier would release DuckDB's lock."""

    def __init__(self, path: Path) -> None:
        self._path, self._log = path, path.with_name(path.name + LOG)
        keep_beside(path, CHECK)
        self._lab = os.open(path, os.O_RDONLY)
        self._file = os.open(path.with_name(path.name + CHECK), os.O_RDWR | os.O_CREAT, 0o600)
        known = _read(path)
        self._known = _Known(known.number if known else 0, 0, 0, 0)
        self._journal = _read(path, OF_JOURNAL) or _Known(0, 0, 0, 0)
        self._failed = False
        self._tail = b""
        """The end of the known part of the log. DuckDB overwrites what a failed commit, a failed checkpoint or a killed process left there."""
        self.record()

    def record(self) -> None:
        """Updates the check file after a commit. A write error does not undo the commit: the log is then checked up to an earlier one."""
        try:
            headers = zlib.crc32(os.pread(self._lab, HEADERS, 0))
            size = self._log.stat().st_size if self._log.exists() else 0
            known = self._known
            goes_on = headers == known.headers and size >= known.size and self._tail == _tail(self._log, known.size)
            start, crc = (known.size, known.crc) if goes_on else (0, 0)
            self._known = _Known(known.number + 1, size, headers, _checksum(self._log, start, size, crc))
            self._tail = _tail(self._log, size)
            self._write(OF_LOG, self._known)
            self._failed = False
        except OSError as error:
            if not self._failed:
                log.warning("The check file of %s cannot be written: %s", self._log, error.strerror)
            self._failed = True

    def record_journal(self, size: int, chain: int, durably: bool = False) -> None:
        """Stores what is acknowledged of the journal of received traces. Raises `OSError`, if `durably`."""
        self._journal = _Known(self._journal.number + 1, size, 0, chain)
        try:
            self._write(OF_JOURNAL, self._journal)
            if durably:
                os.fsync(self._file)
        except OSError as error:
            if durably:
                raise
            log.warning("The check file of %s cannot be written: %s", self._log, error.strerror)

    def _write(self, place: int, known: _Known) -> None:
        os.pwrite(self._file, known.packed(), place + known.number % 2 * SLOT_BYTES)

    def close(self) -> None:
        os.close(self._file)
        os.close(self._lab)
        is_checkpointed = not self._log.exists() or not self._log.stat().st_size
        if is_checkpointed and not self._journal.size:  # Nothing is left to check.
            self._path.with_name(self._path.name + CHECK).unlink(missing_ok=True)


def verify(path: Path) -> None:
    """Verifies the log before DuckDB opens `path`, without changing anything. Raises `StoreCorruptError` when the log differs from what was
    acknowledged, `LockedError` when another process has the file, and so may be changing the log."""
    for last_try in (False, True):
        try:
            problem = _problem(path)
        except FileNotFoundError as error:  # Another process checkpointed between two checks.
            problem = f"{error.filename} disappeared."
        except OSError as error:
            raise StoreReadOnlyError(
                f"The log of {path} cannot be read: {error.strerror}.", f"Check: ls -l {path}*"
            ) from error
        if problem is None:
            return
        if path.is_file() and is_locked(path):
            raise LockedError(f"Another process has {path}.")
        if last_try:  # Otherwise its owner may have closed it between the two checks.
            raise StoreCorruptError(problem, go_on(path))


def go_on(path: Path) -> str:
    """Returns the next step for a lab with a damaged log."""
    return f"Nothing was changed or moved. Restore a copy of the log, or recover what is possible with: timestep-lab db repair --store {path}"


def _problem(path: Path) -> str | None:
    if path.with_name(path.name + REPAIRED).is_dir():
        return f"The repair of the lab {path} was interrupted."
    journal = path.with_name(path.name + LOG)
    size = journal.stat().st_size if journal.is_file() else 0
    if not path.is_file():
        if size:
            return f"{journal} is the log of a lab that does not exist: {path.name} is missing."
        if contents(path).waiting:
            return f"{path}{RECEIVED} has traces for a lab that does not exist: {path.name} is missing."
        return None
    received = _read(path, OF_JOURNAL) or _Known(0, 0, 0, 0)
    if lost_requests := damage(path, received.size, received.crc):
        return lost_requests
    known = _read(path)
    if known is not None and known.size and _headers(path) == known.headers:
        lost = f"so changes that were acknowledged are missing from the lab {path}."
        if size == 0:
            return f"The log of the last changes, {journal}, is missing or empty, {lost}"
        if size < known.size:
            return f"The log of the last changes, {journal}, has {size:,} of {known.size:,} bytes, {lost}"
        if _checksum(journal, 0, known.size, 0) != known.crc:
            return f"The log of the last changes, {journal}, is damaged, {lost}"
        return None
    if size:
        with journal.open("rb") as file:
            if file.read(len(LOG_BEGINS)) != LOG_BEGINS:
                return f"The log of the last changes of the lab, {journal}, is damaged: its start is invalid."
    return None


def _read(path: Path, place: int = OF_LOG) -> _Known | None:
    """Returns the latest acknowledged state of the log or the journal; None when there is none or it cannot be read, which disables the check."""
    try:
        content = path.with_name(path.name + CHECK).read_bytes()
    except FileNotFoundError:
        return None
    slots = []
    for start in (place, place + SLOT_BYTES):
        slot, own = content[start : start + SLOT.size], content[start + SLOT.size : start + SLOT.size + 4]
        if len(own) == 4 and struct.pack("<I", zlib.crc32(slot)) == own and slot.startswith(SLOT_MAGIC):
            _, number, size, headers, crc = SLOT.unpack(slot)
            slots.append(_Known(number, size, headers, crc))
    return max(slots, key=lambda known: known.number, default=None)


def _headers(path: Path) -> int:
    with path.open("rb") as file:
        return zlib.crc32(file.read(HEADERS))


def _tail(log: Path, end: int) -> bytes:
    if not end:
        return b""
    with log.open("rb") as file:
        file.seek(max(0, end - TAIL_BYTES))
        return file.read(min(end, TAIL_BYTES))


def _checksum(journal: Path, start: int, end: int, crc: int) -> int:
    if start == end:
        return crc
    with journal.open("rb") as file:
        file.seek(start)
        while start < end and (data := file.read(min(AT_ONCE, end - start))):
            crc, start = zlib.crc32(data, crc), start + len(data)
    return crc


# -- repair

FACTS = "repaired.json"
"""File with what `Repaired` says of bytes and requests."""


@dataclass(frozen=True, slots=True)
class Repaired:
    aside: tuple[Path, ...]
    """The damaged files, under their new names."""
    kept: int
    """Bytes of the log whose changes were recovered."""
    size: int
    """Size of the log in bytes."""
    requests: int | None = None
    """Number of received requests of traces that were recovered, if their journal was damaged."""


def repair(path: Path, *, now: datetime | None = None) -> Repaired | None:
    """Replaces the lab by one with all recoverable changes, and keeps the old files beside it. None when no repair is needed.

    Raises `StoreUnavailableError` while a process has it open, `StoreCorruptError` when more than its log is damaged, and `OSError` when
    there is no space for a copy; nothing is changed then. An interrupted repair is completed.
    """
    ready = path.with_name(path.name + REPAIRED)
    if not ready.is_dir() and not path.is_file():
        raise StoreCorruptError(f"There is no lab at {path}.", "Set one with: --store PATH, or restore a copy.")
    if path.is_file() and is_locked(path):
        raise StoreUnavailableError(f"The lab {path} is in use.", "Close the program that uses it, then try again.")
    if not ready.is_dir() and not _prepare(path, ready):
        return None
    return _put_in_place(path, ready, now or utc_now())


def _prepare(path: Path, ready: Path) -> bool:
    """Creates the folder `ready` with the repaired files, all at once. Returns False when no repair is needed."""
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
            return False
        received, n_requests = path.name + RECEIVED, None
        known = _read(path, OF_JOURNAL) or _Known(0, 0, 0, 0)
        if damage(path, known.size, known.crc):
            n_requests = salvage(path, folder / received)
        (folder / FACTS).write_text(json.dumps([bytes_kept, size, n_requests]))
        folder.rename(ready)
        return True
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _put_in_place(path: Path, ready: Path, now: datetime) -> Repaired:
    """Moves the damaged files aside and the repaired ones to their place, or the rest of them after an interruption. While the folder
    exists, the lab does not open."""
    bytes_kept, size, n_requests = json.loads((ready / FACTS).read_text())
    aside, copy, received = [], ready / path.name, path.name + RECEIVED
    if copy.exists():
        for ending in (CHECK, LOG, *([RECEIVED] if n_requests is not None else []), ""):
            damaged = path.with_name(path.name + ending)
            if damaged.exists():
                aside.append(damaged.rename(path.with_name(f"{path.name}.damaged-{now:%Y%m%d-%H%M%S}{ending}")))
        copy.rename(path)
    if (ready / received).exists():
        (ready / received).rename(path.with_name(received))
    ready.rename(ready.with_name(f"{ready.name}-{os.getpid()}"))  # All of it ends at once.
    shutil.rmtree(ready.with_name(f"{ready.name}-{os.getpid()}"))
    return Repaired(tuple(reversed(aside)), bytes_kept, size, n_requests)


def _opened(copy: Path, size: int) -> int:
    """Checkpoints the copy with its log up to the first damage; returns the number of bytes recovered."""
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
