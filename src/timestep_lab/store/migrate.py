"""Schema migrations: numbered SQL files, each run in one transaction and recorded with its hash.

    migrations/<dialect>/0001_control.sql

A lab migrated by a newer version is rejected, as is one whose recorded hash differs from the shipped file.
The caller of `migrate` must prevent concurrent migrations (DuckDB: by owning the file; Postgres: with an advisory lock).
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Protocol

from timestep_lab.model.clock import to_aware_utc, to_naive_utc, utc_now
from timestep_lab.model.errors import StoreError, StoreTooNewError
from timestep_lab.store.base import SYSTEM_USER, Database, Dialect, Row

# --- File permissions: a lab's files are private to their user, unless the user changes their mode
#
# A lab contains the key that signs tokens, credentials of MCP servers, and all conversations.


@contextlib.contextmanager
def private_if_new(path: Path | None) -> Iterator[None]:
    """Context manager in which a new lab is created with private permissions. The mode of an existing one is unchanged."""
    if path is None or path.exists():
        yield
        return
    before = os.umask(0o077)
    try:
        yield
    finally:
        os.umask(before)


def keep_beside(path: Path | None, ending: str) -> None:
    """Creates the file `path` + `ending`, empty and with the mode of the lab, if it does not exist, before something writes it."""
    if path is None:
        return
    with contextlib.suppress(OSError):  # It exists, or the code that writes it will report the error.
        mode = stat.S_IMODE(path.stat().st_mode) & 0o666
        handle = os.open(path.with_name(path.name + ending), os.O_CREAT | os.O_EXCL | os.O_WRONLY, mode)
        os.close(handle)


LEDGER = """
create schema if not exists core;
create table if not exists core.schema_migrations (
    number int primary key,
    name varchar not null,
    sha256 varchar not null,
    applied_at timestamp not null
)
"""


@dataclass(frozen=True, slots=True)
class Migration:
    number: int
    name: str
    sql: str
    sha256: str


@dataclass(frozen=True, slots=True)
class MigrationStatus:
    """State of one migration. `applied_at` is None for a pending one."""

    number: int
    name: str
    applied_at: datetime | None


class MigrationSession(Protocol):
    """Connection for migrations: it may create tables, and nobody else migrates concurrently."""

    dialect: Dialect

    def run(self, sql: str, params: Sequence[object] = ()) -> list[Row]:
        """Runs one statement with `$1, $2, …` or, without parameters, a script."""
        ...

    def transaction(self) -> AbstractContextManager[object]:
        """Context manager that commits at the end and rolls back on an exception."""
        ...


@cache
def known_migrations(dialect: Dialect) -> tuple[Migration, ...]:
    folder = resources.files("timestep_lab.store.migrations") / dialect
    return tuple(
        _migration(entry.name, entry.read_text(encoding="utf-8"))
        for entry in sorted(folder.iterdir(), key=lambda entry: entry.name)
        if entry.name.endswith(".sql")
    )


def latest(dialect: Dialect) -> int:
    """Returns the number of the latest known migration."""
    return known_migrations(dialect)[-1].number


def _migration(file_name: str, sql: str) -> Migration:
    name = file_name.removesuffix(".sql")
    return Migration(int(name.split("_", 1)[0]), name, sql, hashlib.sha256(sql.encode()).hexdigest())


def migrate(session: MigrationSession, migrations: Sequence[Migration] | None = None) -> list[Migration]:
    """Runs the missing migrations in order and returns them.

    Raises `StoreTooNewError` when the lab has migrations that this version does not know, `StoreError` when a file
    fails (its transaction is rolled back) or differs from the one the lab was created with.
    """
    known = known_migrations(session.dialect) if migrations is None else migrations
    with session.transaction():
        session.run(LEDGER)
    recorded = {
        row[0]: (row[1], row[2]) for row in session.run("select number, name, sha256 from core.schema_migrations")
    }
    _check(recorded, known)
    missing = [migration for migration in known if migration.number not in recorded]
    for migration in missing:
        with session.transaction():
            session.run(migration.sql)
            session.run(
                "insert into core.schema_migrations (number, name, sha256, applied_at) values ($1, $2, $3, $4)",
                [migration.number, migration.name, migration.sha256, to_naive_utc(utc_now())],
            )
    return missing


def _check(recorded: dict[int, tuple[str, str]], known: Sequence[Migration]) -> None:
    by_number = {migration.number: migration for migration in known}
    unknown = sorted(set(recorded) - set(by_number))
    if unknown:
        raise StoreTooNewError(
            f"This lab was written by a newer version of timestep-lab (it has migration {recorded[unknown[-1]][0]}).",
            "Upgrade with: pip install --upgrade timestep-lab",
        )
    for number, (name, digest) in sorted(recorded.items()):
        if by_number[number].sha256 != digest:
            raise StoreError(
                f"Migration {name} of this lab differs from the one this version of timestep-lab ships.",
                "Open the lab with the version that created it, or create a new lab at another path.",
            )


def status(db: Database) -> list[MigrationStatus]:
    """Returns every known migration and when it was applied."""
    rows = db.query(SYSTEM_USER, "select number, applied_at from core.schema_migrations").rows
    applied = {number: to_aware_utc(moment) for number, moment in rows}
    return [MigrationStatus(m.number, m.name, applied.get(m.number)) for m in known_migrations(db.dialect)]
