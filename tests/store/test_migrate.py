"""The runner of numbered SQL files."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb
import pytest

from timestep_lab.model.errors import StoreError, StoreTooNewError
from timestep_lab.store.base import Dialect
from timestep_lab.store.duckdb.engine import Engine
from timestep_lab.store.migrate import Migration, known_migrations, migrate, status
from timestep_lab.store.store import open_database, open_store


class Session:
    dialect: Dialect = "duckdb"

    def __init__(self, path: Path | str = ":memory:") -> None:
        self.connection = duckdb.connect(str(path))

    def run(self, sql: str, params: Any = ()) -> list[tuple[Any, ...]]:
        return self.connection.execute(sql, list(params) or None).fetchall()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        self.connection.begin()
        try:
            yield
        except BaseException:
            self.connection.rollback()
            raise
        self.connection.commit()


@pytest.fixture
def session() -> Iterator[Session]:
    opened = Session()
    yield opened
    opened.connection.close()


def migration(number: int, sql: str) -> Migration:
    return Migration(number, f"{number:04}_test", sql, f"digest of {sql}")


ONE = migration(1, "create table core.a (x int); insert into core.a values (1);")
TWO = migration(2, "alter table core.a add column y int default 7; create view main.v as select x, y from core.a")


def test_what_is_missing_runs_once_in_order(session: Session) -> None:
    assert migrate(session, [ONE]) == [ONE]
    assert migrate(session, [ONE, TWO]) == [TWO]
    assert migrate(session, [ONE, TWO]) == []
    assert session.run("select * from v") == [(1, 7)]


def test_a_file_that_fails_leaves_nothing_of_itself_and_all_before_it(session: Session) -> None:
    bad = migration(2, "create table core.b (x int); insert into core.a values (2); select * from no_such_table")
    with pytest.raises(duckdb.CatalogException):
        migrate(session, [ONE, bad])
    assert session.run("select x from core.a") == [(1,)]
    with pytest.raises(duckdb.CatalogException):
        session.run("select * from core.b")
    assert migrate(session, [ONE, TWO]) == [TWO]


def test_a_file_that_was_added_between_others_later_still_runs(session: Session) -> None:
    migrate(session, [ONE])
    three = migration(3, "create table core.c (x int)")
    migrate(session, [ONE, three])
    assert migrate(session, [ONE, TWO, three]) == [TWO]


def test_a_lab_that_knows_more_than_the_program_is_refused(session: Session) -> None:
    migrate(session, [ONE, TWO])
    with pytest.raises(StoreTooNewError, match="0002_test"):
        migrate(session, [ONE])


def test_a_released_file_that_was_edited_is_refused(session: Session) -> None:
    migrate(session, [ONE])
    with pytest.raises(StoreError, match="0001_test of this lab differs"):
        migrate(session, [Migration(1, ONE.name, ONE.sql + " ", "another digest")])


@pytest.mark.parametrize("dialect", ["duckdb", "postgres"])
def test_the_shipped_files_are_numbered_without_gaps_and_alike_in_both_dialects(dialect: Dialect) -> None:
    shipped = known_migrations(dialect)
    assert [found.number for found in shipped] == list(range(1, len(shipped) + 1))
    assert [found.name for found in shipped] == [found.name for found in known_migrations("duckdb")]


@pytest.mark.parametrize("done", range(1, len(known_migrations("duckdb"))))
def test_a_lab_of_any_earlier_version_is_brought_up_to_date_and_keeps_its_rows(tmp_path: Path, done: int) -> None:
    session = Session(tmp_path / "lab.duckdb")
    migrate(session, known_migrations("duckdb")[:done])
    session.run(
        "insert into core.threads values ('old', 'alice', null, '{}', '{}', now()::timestamp, now()::timestamp, 0, 0)"
    )
    session.connection.close()
    store = open_store(tmp_path / "lab.duckdb", "alice")
    assert [found.id for found in store.threads.find()] == ["old"]
    assert all(step.applied_at for step in status(store.db))
    store.close()


def test_status_lists_every_migration_and_when_it_ran() -> None:
    database = open_database(":memory:")
    listed = status(database)
    assert [found.name for found in listed] == [found.name for found in known_migrations("duckdb")]
    assert all(found.applied_at and found.applied_at.tzinfo for found in listed)
    database.close()


def test_two_processes_that_start_at_once_migrate_once(tmp_path: Path) -> None:
    script = (
        "import sys\n"
        "from timestep_lab.store.store import open_database\n"
        "lab = open_database(sys.argv[1])\n"
        "print(lab.query('u', 'select count(*) from schema_migrations').rows[0][0])\n"
        "lab.close()\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "lab.duckdb")]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    outcomes = [process.communicate(timeout=60) for process in processes]
    assert outcomes == [(f"{len(known_migrations('duckdb'))}\n", "")] * 3


def schema(connection: duckdb.DuckDBPyConnection) -> list[list[tuple[Any, ...]]]:
    here = "database_name = current_database()"
    queries = [
        f"select schema_name, table_name, sql from duckdb_tables() where {here} order by all",
        f"select schema_name, view_name, sql from duckdb_views() where not internal and {here} order by all",
        f"select schema_name, table_name, constraint_type, constraint_text from duckdb_constraints() where {here} order by all",
        f"select schema_name, index_name, sql from duckdb_indexes() where {here} order by all",
        f"select schema_name, sequence_name, sql, last_value from duckdb_sequences() where {here} order by all",
        f"select schema_name, function_name, parameters, macro_definition from duckdb_functions() where not internal and {here} order by all",
        "select number, name, sha256 from core.schema_migrations order by number",
    ]
    return [connection.execute(query).fetchall() for query in queries]


def test_the_labs_of_the_tests_have_the_schema_that_the_migrations_make(session: Session, tmp_path: Path) -> None:
    migrate(session)
    migrated = schema(session.connection)
    assert all(migrated[:3])
    in_memory = Engine(None, lambda *_: None)
    assert schema(in_memory._connection) == migrated
    in_memory.close()
    Engine(tmp_path / "lab.duckdb", lambda *_: None).close()
    with duckdb.connect(str(tmp_path / "lab.duckdb")) as connection:
        assert schema(connection) == migrated
