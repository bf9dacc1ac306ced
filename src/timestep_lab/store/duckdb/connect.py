"""Opening the DuckDB file of a lab, with every setting the lab relies on, and saying in words why it cannot be opened."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import duckdb

from timestep_lab.model.errors import (
    ConflictError,
    LabError,
    StoreCorruptError,
    StoreError,
    StoreReadOnlyError,
    StoreUnavailableError,
)
from timestep_lab.store.migrate import private_if_new

SETTINGS: dict[str, str | bool | int | float | list[str]] = {
    # Nothing is fetched, and SQL reaches no file but the lab's own.
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
    "allow_community_extensions": "false",
    "enable_external_access": "false",
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
        return StoreCorruptError(f"{path} is empty, so it is no lab.", f"Remove it to start a new lab there: rm {path}")
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
    return StoreCorruptError(f"{path} is not a DuckDB file, so it is no lab.", "Name another file with: --store PATH")


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
