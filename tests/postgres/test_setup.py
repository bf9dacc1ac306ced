"""Opening a lab: whose URL it may be, who else is made, and what is said when it cannot be."""

from __future__ import annotations

import re
import secrets
import threading
from collections.abc import Iterator

import psycopg
import pytest

from tests.postgres.server import Server
from timestep_lab.model.errors import StoreError, StoreTooNewError, StoreUnavailableError, UsageError
from timestep_lab.model.records import ThreadRecord
from timestep_lab.store import migrate
from timestep_lab.store.postgres import setup
from timestep_lab.store.postgres import setup as roles
from timestep_lab.store.postgres.database import PostgresDatabase
from timestep_lab.store.store import open_database, open_store


class Owner:
    """An ordinary user of the server, and a database of theirs."""

    def __init__(self, server: Server, rights: str) -> None:
        self.name = f"owner_{secrets.token_hex(4)}"
        self.database = f"db_{self.name}"
        server.run(f"create role {self.name} login password 'pw' nosuperuser {rights}")
        server.run(f"create database {self.database} owner {self.name}")
        place = server.url(self.database).split("@")[1]
        self.url = f"postgresql://{self.name}:pw@{place}"

    def remove(self, server: Server) -> None:
        server.run(f"drop database {self.database} with (force)")
        for purpose in roles.PURPOSES:
            server.run(f"drop role if exists {self.database}_{purpose}")
        server.run(f"drop role {self.name}")


@pytest.fixture
def creator(server: Server) -> Iterator[Owner]:
    """May create roles, as most hosted databases let their owner."""
    owner = Owner(server, "createrole")
    yield owner
    owner.remove(server)


@pytest.fixture
def plain(server: Server) -> Iterator[Owner]:
    owner = Owner(server, "nocreaterole")
    yield owner
    owner.remove(server)


def test_an_owner_who_may_create_roles_needs_nobody(creator: Owner) -> None:
    store = open_store(creator.url, "alice")
    store.threads.insert(ThreadRecord(id="t", user_id="alice"))
    assert store.for_user("bob").threads.find() == []
    assert [found.id for found in store.threads.find()] == ["t"]
    assert store.sql("select count(*) from traces").rows == [(0,)]
    store.close()


def test_an_owner_who_may_not_gets_the_statements_for_an_administrator_and_they_suffice(
    server: Server, plain: Owner
) -> None:
    with pytest.raises(StoreError) as refused:
        open_database(plain.url)
    statements = [line for line in refused.value.next_step.splitlines() if line.startswith("create role")]
    assert len(statements) == 3
    assert all("SCRAM-SHA-256$" in statement for statement in statements)  # no password in a message
    with pytest.raises(StoreError) as again:
        open_database(plain.url)
    assert again.value.next_step == refused.value.next_step
    for statement in statements:
        server.run(statement)
    store = open_store(plain.url, "alice")
    store.threads.insert(ThreadRecord(id="t", user_id="alice"))
    store.close()


def test_the_owners_own_functions_work_without_a_superuser(creator: Owner) -> None:
    """Word search and moving rows out of the default partition have to pass forced row-level security."""
    from datetime import date, datetime

    database = PostgresDatabase(creator.url)
    columns = ("user_id", "trace_id", "span_id", "kind", "name", "status", "started_at", "io_json", "output")
    rows = [
        ("alice", "t1", "s1", "tool", "n", "ok", datetime(2031, 5, 1), 0, "an umbrella, please"),
        ("bob", "t2", "s2", "tool", "n", "ok", datetime(2031, 5, 1), 0, "his umbrella"),
    ]
    for row in rows:
        database.append(row[0], {"spans_raw": (columns, [row])})
    search = "select trace_id from core.search_spans('umbrella', '{umbrella}', '{}', 10)"
    assert database.query("alice", search).rows == [("t1",)]
    with psycopg.connect(creator.url, autocommit=True) as owner:
        assert (
            owner.execute("select tableoid::regclass::text from core.spans_raw").fetchall()
            == [("core.spans_raw_rest",)] * 2
        )
        owner.execute("select core.ensure_partitions(%s, %s)", [date(2031, 5, 1), date(2031, 5, 1)])
        moved = owner.execute("select distinct tableoid::regclass::text from core.spans_raw").fetchall()
    assert moved == [("core.spans_raw_20310501",)]
    assert database.query("bob", search).rows == [("t2",)]
    database.close()


def test_a_login_that_could_see_everything_is_refused(server: Server, creator: Owner) -> None:
    open_database(creator.url).close()
    server.run(f"alter role {creator.database}_app bypassrls")
    with pytest.raises(StoreError, match="can read every user's rows"):
        open_database(creator.url)
    server.run(f"alter role {creator.database}_app nobypassrls")
    server.run(f"grant pg_read_all_data to {creator.database}_sql")
    with pytest.raises(StoreError, match="can read every user's rows"):
        open_database(creator.url)
    server.run(f"revoke pg_read_all_data from {creator.database}_sql")
    open_database(creator.url).close()


def test_a_password_that_somebody_changed_is_set_anew(server: Server, creator: Owner) -> None:
    open_database(creator.url).close()
    server.run(f"alter role {creator.database}_app password 'something else'")
    open_database(creator.url).close()


def test_no_password_appears_in_the_name_of_a_lab(db: PostgresDatabase, lab_url: str) -> None:
    password = lab_url.split(":")[2].split("@")[0]
    assert password not in db.url
    assert password not in repr(vars(db))


def test_two_servers_that_start_at_once_migrate_once(server: Server) -> None:
    with server.lab_url(empty=True) as url:
        opened: list[PostgresDatabase] = []
        failed: list[BaseException] = []

        def start() -> None:
            try:
                opened.append(PostgresDatabase(url))
            except BaseException as error:  # noqa: BLE001 - asserted below
                failed.append(error)

        starts = [threading.Thread(target=start) for _ in range(4)]
        for thread in starts:
            thread.start()
        for thread in starts:
            thread.join()
        assert failed == []
        assert [step.applied_at is not None for step in migrate.status(opened[0])] == [True] * len(
            migrate.known_migrations("postgres")
        )
        for database in opened:
            database.close()


@pytest.mark.parametrize("done", range(1, len(migrate.known_migrations("postgres"))))
def test_a_lab_of_any_earlier_version_is_brought_up_to_date_and_keeps_its_rows(
    server: Server, monkeypatch: pytest.MonkeyPatch, done: int
) -> None:
    with server.lab_url(empty=True) as url:
        known = migrate.known_migrations("postgres")
        with psycopg.connect(url, autocommit=True, cursor_factory=psycopg.RawCursor) as owner:
            roles.ensure_roles(owner)
            migrate.migrate(setup._Session(owner), known[:done])
            owner.execute("insert into core.threads values ('old', 'alice', null, '{}', '{}', now(), now())")
        store = open_store(url, "alice")
        assert [found.id for found in store.threads.find()] == ["old"]
        assert all(step.applied_at for step in migrate.status(store.db))
        store.close()


def test_a_lab_of_a_later_version_is_refused(server: Server, lab_url: str) -> None:
    database = lab_url.rsplit("/", 1)[1]
    server.run("insert into core.schema_migrations values (9999, '9999_future', '', now())", database=database)
    with pytest.raises(StoreTooNewError, match="newer version"):
        open_database(lab_url)


@pytest.mark.parametrize(
    ("change", "error", "says", "next_step"),
    [
        (
            lambda url: re.sub(r":[^:@]+@", ":wrong@", url),
            StoreError,
            "rejected the user name or password",
            "Correct the URL",
        ),
        (lambda url: url.rsplit("/", 1)[0] + "/no_such_lab", StoreError, "does not exist", "createdb"),
        (lambda url: re.sub(r"@.*/", "@127.0.0.1:1/", url), StoreUnavailableError, "127.0.0.1:1", "Try again"),
        (lambda url: url + "?nonsense=1", UsageError, "not a Postgres URL", "postgresql://user"),
    ],
)
def test_a_lab_that_cannot_be_opened_says_why_and_what_to_do(
    lab_url: str, change: object, error: type[Exception], says: str, next_step: str
) -> None:
    assert callable(change)
    with pytest.raises(error) as refused:
        open_database(change(lab_url))
    assert says in str(refused.value)
    assert next_step in str(refused.value)


def test_an_owner_who_may_create_nothing_gets_the_grant_they_need(server: Server) -> None:
    owner = Owner(server, "createrole")
    server.run(f"alter database {owner.database} owner to {server.run('select current_user')[0][0]}")
    with pytest.raises(StoreError, match="may not set up a lab") as refused:
        open_database(owner.url)
    server.run(refused.value.next_step.removeprefix("Ask an administrator to run: "))
    open_database(owner.url).close()
    server.run(f"alter database {owner.database} owner to {owner.name}")
    owner.remove(server)


def test_a_server_that_is_too_old_is_refused(monkeypatch: pytest.MonkeyPatch, lab_url: str) -> None:
    monkeypatch.setattr(setup, "OLDEST", 99)
    with pytest.raises(StoreError, match="needs 99 or later"):
        open_database(lab_url)
