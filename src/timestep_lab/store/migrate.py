"""Numbered SQL files bring a lab to the form this program knows: one transaction a file, each recorded with its digest.

    migrations/<dialect>/0001_control.sql

A lab that a later program has migrated is refused; so is one whose recorded digest differs from the file shipped here.
Whoever calls `migrate` keeps others out meanwhile (DuckDB: it owns the file; Postgres: an advisory lock).
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
from typing import Any, Protocol

from timestep_lab.model.clock import to_aware_utc, to_naive_utc, utc_now
from timestep_lab.model.errors import StoreError, StoreTooNewError
from timestep_lab.store.base import SYSTEM_USER, Database, Dialect

# --- Who may read a lab's files: its user alone, unless he opens them up himself
#
# A lab holds the key that signs tokens, the credentials of MCP servers, and everything that was said.


@contextlib.contextmanager
def private_if_new(path: Path | None) -> Iterator[None]:
    """A lab that is made inside is its user's alone. The mode of one that is there stays as it is."""
    if path is None or path.exists():
        yield
        return
    before = os.umask(0o077)
    try:
        yield
    finally:
        os.umask(before)


def keep_beside(path: Path | None, ending: str) -> None:
    """Before something writes the file `path` + `ending`: if it is not there, it is made, empty, with the mode of the lab."""
    if path is None:
        return
    with contextlib.suppress(OSError):  # It is there, or whoever writes it will say why it cannot be.
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
    """`applied_at` is None for a migration that is still to run."""

    number: int
    name: str
    applied_at: datetime | None


class MigrationSession(Protocol):
    """What the runner needs of a connection: it may create tables, and nobody else migrates while it is used."""

    dialect: Dialect

    def run(self, sql: str, params: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        """One statement with `$1, $2, …`, or, without parameters, a script of several."""
        ...

    def transaction(self) -> AbstractContextManager[Any]:
        """Commits at the end, rolls back on an exception."""
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
    """The number of the last migration this program knows."""
    return known_migrations(dialect)[-1].number


def _migration(file_name: str, sql: str) -> Migration:
    name = file_name.removesuffix(".sql")
    return Migration(int(name.split("_", 1)[0]), name, sql, hashlib.sha256(sql.encode()).hexdigest())


def migrate(session: MigrationSession, migrations: Sequence[Migration] | None = None) -> list[Migration]:
    """Run what is missing, in order, and return it.

    Raises `StoreTooNewError` when the lab knows migrations that this program does not, `StoreError` when a file
    fails (its transaction is rolled back whole) or differs from the one the lab was made with.
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
            f"This lab was written by a later version of timestep-lab (it has migration {recorded[unknown[-1]][0]}).",
            "Upgrade with: pip install --upgrade timestep-lab",
        )
    for number, (name, digest) in sorted(recorded.items()):
        if by_number[number].sha256 != digest:
            raise StoreError(
                f"Migration {name} of this lab differs from the one this version of timestep-lab ships.",
                "Open the lab with the version that made it, or start a new lab at another path.",
            )


def status(db: Database) -> list[MigrationStatus]:
    """Every known migration of an open lab and when it was applied."""
    rows = db.query(SYSTEM_USER, "select number, applied_at from core.schema_migrations").rows
    applied = {number: to_aware_utc(moment) for number, moment in rows}
    return [MigrationStatus(m.number, m.name, applied.get(m.number)) for m in known_migrations(db.dialect)]
