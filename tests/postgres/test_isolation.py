"""An adversary holds the application's own connection, and a valid token of one user. Nothing of another user's appears or changes.

Every table of the lab is found in the catalogue, so that a new one is attacked without being named here.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any

import psycopg
import pytest

from tests.postgres.server import Server
from timestep_lab.model.errors import BusyError, LabError, QueryError
from timestep_lab.model.ids import new_uuid
from timestep_lab.runtime.files.files import Files
from timestep_lab.store.memory import own_memory
from timestep_lab.store.postgres.database import PostgresDatabase
from timestep_lab.store.postgres.setup import Signer, login_parameters, set_up
from timestep_lab.store.quota import GuestLimits, Quota
from timestep_lab.store.store import Store

ALICE, BOB = "alice", "bob"
SECRET = "bobs-secret-word"
WORD_SEARCH = "select * from core.search_spans('bobs & secret', '{bobs,secret}', '{bobs-secret}', 100)"
OF_THE_MACHINE = {"core.schema_migrations", "core.processes"}
"""Tables that hold nothing of any user's."""
EMPTY = ["core.trace_deltas"]
"""A trigger moves its rows on."""

VALUES: dict[str, Any] = {
    "text": SECRET, "character varying": SECRET, "json": f'{{"text": "{SECRET}"}}', "jsonb": f'{{"text": "{SECRET}"}}', "bigint": 7, "integer": 7, "smallint": 1,
    "double precision": 0.5, "real": 0.5, "boolean": True, "bytea": SECRET.encode(), "timestamp without time zone": datetime(2026, 11, 22, 12),
    "date": datetime(2026, 11, 22), "tsvector": SECRET, "text[]": [SECRET], "real[]": [0.5, 0.25],
}  # fmt: skip


class Table:
    """One table, as the catalogue describes it."""

    def __init__(self, name: str, owner: str, columns: dict[str, str]) -> None:
        self.name, self.owner, self.columns = name, owner, columns

    def row(self, user: str) -> list[Any]:
        """The same for all users but for whose it is; so its keys are the same, too."""
        return [
            user if column == self.owner else _value(kind, self.name, column) for column, kind in self.columns.items()
        ]

    @property
    def insert(self) -> str:
        places = ", ".join(["%s"] * len(self.columns))
        return f"insert into {self.name} ({', '.join(self.columns)}) values ({places})"

    @property
    def other_column(self) -> str:
        return next(column for column in self.columns if column != self.owner)


def _value(kind: str, table: str, column: str) -> Any:
    if kind.startswith(("vector", "halfvec")):
        size = int(kind.split("(")[1].rstrip(")")) if "(" in kind else 3
        return str([0.5] * size)
    assert kind in VALUES, f"say in VALUES what to put into {table}.{column}, of type {kind}"
    return VALUES[kind]


def tables_of(connection: psycopg.Connection[Any]) -> list[Table]:
    found: dict[str, dict[str, str]] = {}
    for name, column, kind in connection.execute(
        "select c.oid::regclass::text, a.attname, format_type(a.atttypid, a.atttypmod) from pg_class c "
        "join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped and a.attidentity = '' and a.attgenerated = '' "
        "where c.relnamespace = 'core'::regnamespace and c.relkind in ('r', 'p') and not c.relispartition order by 1, a.attnum"
    ):
        found.setdefault(name, {})[column] = kind
    return [
        Table(name, "id" if name == "core.users" else "user_id", columns)
        for name, columns in found.items()
        if name not in OF_THE_MACHINE
    ]


class Adversary:
    """`connection` is one the application itself would use; each attack runs in a transaction with alice's token, and is undone."""

    def __init__(self, url: str) -> None:
        access = set_up(url)
        self.signer = access.signer
        self.roles = {purpose: login.role for purpose, login in access.logins.items()}
        self.connection = psycopg.connect(login_parameters(url, access.logins["app"]), autocommit=True)

    def attack(self, statement: str, *params: Any, token: str | None = None) -> tuple[int, list[tuple[Any, ...]]]:
        """Rows touched and rows seen."""
        with self.connection.transaction(force_rollback=True):
            self.act_as_alice(token)
            cursor = self.connection.execute(statement.encode(), params or None)
            return cursor.rowcount, cursor.fetchall() if cursor.description else []

    def act_as_alice(self, token: str | None = None) -> None:
        token = self.signer.token(ALICE) if token is None else token
        self.connection.execute("select set_config('lab.token', %s, true)", [token])

    def is_refused(self, statement: str, *params: Any, token: str | None = None) -> None:
        with pytest.raises((psycopg.errors.InsufficientPrivilege, psycopg.errors.FeatureNotSupported)):
            self.attack(statement, *params, token=token)


@pytest.fixture(scope="module")
def lab(server: Server) -> Iterator[tuple[str, psycopg.Connection[Any], list[Table]]]:
    """A lab in which every table has a row of alice's and one of bob's; with a superuser's connection."""
    with server.lab_url() as url:
        PostgresDatabase(url).close()
        with psycopg.connect(url, autocommit=True) as root:
            root.execute("select core.ensure_partitions('2026-11-22', '2026-11-22')")
            tables = tables_of(root)
            for table in tables:
                for user in (ALICE, BOB):
                    root.execute(f"{table.insert} on conflict do nothing".encode(), table.row(user))
            # One span each that has no namesake, so that an answer tells whose it is.
            spans = next(table for table in tables if table.name == "core.spans_raw")
            for user in (ALICE, BOB):
                row = dict(zip(spans.columns, spans.row(user), strict=True)) | {"span_id": f"{user}s-own"}
                root.execute(spans.insert.encode(), list(row.values()))
            # The process that the rows name lives, so nobody tidies up after it.
            root.execute(
                "insert into core.processes values (%s, 'elsewhere', 1, '', now(), now(), '2100-01-01')", [SECRET]
            )
            root.execute("analyze")
            yield url, root, tables


@pytest.fixture(scope="module")
def adversary(lab: tuple[str, psycopg.Connection[Any], list[Table]]) -> Iterator[Adversary]:
    found = Adversary(lab[0])
    yield found
    found.connection.close()


@pytest.fixture(autouse=True)
def bobs_rows_stay_as_they_were(lab: tuple[str, psycopg.Connection[Any], list[Table]]) -> Iterator[None]:
    def bobs_rows() -> list[Any]:
        _, root, tables = lab
        return [
            root.execute(f"select t::text from {t.name} t where {t.owner} = %s".encode(), [BOB]).fetchall()
            for t in tables
        ]

    before = bobs_rows()
    assert [table.name for table, rows in zip(lab[2], before, strict=True) if not rows] == EMPTY
    yield
    assert bobs_rows() == before


@pytest.fixture
def tables(lab: tuple[str, psycopg.Connection[Any], list[Table]]) -> list[Table]:
    return lab[2]


# -- every table has its fence


def test_every_table_has_forced_row_level_security_and_nothing_is_readable_without_a_user(
    lab: tuple[str, psycopg.Connection[Any], list[Table]], adversary: Adversary
) -> None:
    _, root, tables = lab
    assert unprotected(root) == []
    for table in tables:
        assert adversary.attack(f"select * from {table.name}", token="")[1] == []


def test_a_table_without_a_policy_is_found(lab: tuple[str, psycopg.Connection[Any], list[Table]]) -> None:
    _, root, _ = lab
    with root.transaction(force_rollback=True):
        root.execute("create table core.sneaked_in (user_id text)")
        assert unprotected(root) == ["core.sneaked_in"]
        root.execute("alter table core.sneaked_in enable row level security, force row level security")
        assert unprotected(root) == ["core.sneaked_in"]


def test_a_table_whose_rows_belong_to_nobody_is_refused_by_the_setup(
    lab: tuple[str, psycopg.Connection[Any], list[Table]],
) -> None:
    _, root, _ = lab
    with root.transaction(force_rollback=True):
        root.execute("create table core.nobodys (id text)")
        with pytest.raises(psycopg.errors.RaiseException, match=r"core\.nobodys has no user_id"), root.transaction():
            root.execute("select core.protect_all()")


def test_user_id_is_part_of_every_key_so_that_no_error_tells_of_anothers_row(
    lab: tuple[str, psycopg.Connection[Any], list[Table]], adversary: Adversary
) -> None:
    _, root, tables = lab
    keys = root.execute(
        "select i.indrelid::regclass::text, array_agg(a.attname::text) from pg_index i "
        "join pg_attribute a on a.attrelid = i.indrelid and a.attnum = any(i.indkey) "
        "where i.indisunique and i.indrelid in (select oid from pg_class where relnamespace = 'core'::regnamespace) group by i.indexrelid, 1"
    ).fetchall()
    owners = {table.name: table.owner for table in tables}
    assert all(owners[table] in columns for table, columns in keys if table in owners)
    foreign = root.execute(
        "select conname from pg_constraint c where contype = 'f' and connamespace = 'core'::regnamespace and not exists "
        "(select 1 from pg_attribute a where a.attrelid = c.conrelid and a.attnum = any(c.conkey) and a.attname = 'user_id')"
    ).fetchall()
    assert foreign == []


def unprotected(root: psycopg.Connection[Any]) -> list[str]:
    """Tables, anywhere in the database, that are neither fenced nor known to hold nothing of a user's."""
    rows = root.execute(
        "select c.oid::regclass::text from pg_class c join pg_namespace n on n.oid = c.relnamespace "
        "where c.relkind in ('r', 'p', 'm', 'f') and n.nspname not in ('pg_catalog', 'information_schema', 'pg_toast', 'secret') "
        "and n.nspname !~ '^pg_(toast_)?temp' and not (c.relrowsecurity and c.relforcerowsecurity and exists "
        "(select 1 from pg_policy p where p.polrelid = c.oid and p.polname = 'own_rows' and 0 = any(p.polroles) and p.polcmd = '*'))"
    ).fetchall()
    return sorted(name for (name,) in rows if name not in OF_THE_MACHINE)


# -- each table in turn


def test_select_shows_own_rows_alone_however_it_asks(tables: list[Table], adversary: Adversary) -> None:
    for table in tables:
        for statement in (
            f"select {table.owner} from {table.name}",
            f"select {table.owner} from {table.name} where {table.owner} = '{BOB}' or true",
            f"select {table.owner} from {table.name} where 1 / (case when {table.owner} = '{BOB}' then 0 else 1 end) = 1",
            f"select t.{table.owner} from {table.name} t full join {table.name} o on true",
            f"select {table.owner} from {table.name} for update",
        ):
            seen = set(adversary.attack(statement)[1])
            assert seen == (set() if table.name in EMPTY else {(ALICE,)}), statement


def test_a_cheap_leaking_function_is_called_on_own_rows_alone(tables: list[Table], adversary: Adversary) -> None:
    connection, heard = adversary.connection, list[str]()
    connection.add_notice_handler(lambda diagnostic: heard.append(str(diagnostic.message_primary)))
    with connection.transaction(force_rollback=True):
        connection.execute(
            "create function pg_temp.leak(text) returns boolean language plpgsql cost 0.0000001 "
            "as $$ begin raise notice 'saw %', $1; return true; end $$"
        )
        adversary.act_as_alice()
        for table in tables:
            connection.execute(f"select count(*) from {table.name} where pg_temp.leak({table.owner})".encode())
    assert heard
    assert not any(BOB in text for text in heard)


def test_update_delete_and_merge_reach_own_rows_alone(tables: list[Table], adversary: Adversary) -> None:
    for table in tables:
        column = table.other_column
        value = table.row(BOB)[list(table.columns).index(column)]
        assert adversary.attack(f"update {table.name} set {column} = %s where {table.owner} = '{BOB}'", value)[0] == 0
        assert adversary.attack(f"delete from {table.name} where {table.owner} = '{BOB}'")[0] == 0
        assert adversary.attack(
            f"merge into {table.name} t using (select '{BOB}' as u) s on t.{table.owner} = s.u when matched then delete"
        )[0] == 0  # fmt: skip


def test_nothing_can_be_given_to_or_taken_over_from_another(tables: list[Table], adversary: Adversary) -> None:
    for table in tables:
        adversary.is_refused(table.insert, *table.row(BOB))
        adversary.is_refused(f"{table.insert} on conflict do nothing", *table.row(BOB))
        if table.name not in EMPTY:
            adversary.is_refused(f"update {table.name} set {table.owner} = '{BOB}'")


def test_copy_takes_own_rows_alone_and_brings_none_in(tables: list[Table], adversary: Adversary) -> None:
    connection = adversary.connection
    for table in tables:
        with connection.transaction(force_rollback=True):
            adversary.act_as_alice()
            with connection.cursor().copy(f"copy (select {table.owner} from {table.name}) to stdout".encode()) as copy:
                assert {bytes(line) for line in copy} == (set() if table.name in EMPTY else {b"alice\n"})
        for statement in (
            f"copy {table.name} from stdin",
            f"copy {table.name} to program 'cat'",
            f"copy {table.name} to '/tmp/x'",
        ):
            adversary.is_refused(statement)


def test_tables_cannot_be_emptied_altered_or_their_fence_taken_down(tables: list[Table], adversary: Adversary) -> None:
    for table in tables:
        for statement in (
            f"truncate {table.name}",
            f"drop table {table.name}",
            f"alter table {table.name} disable row level security",
            f"alter table {table.name} no force row level security",
            f"drop policy own_rows on {table.name}",
            f"create policy mine on {table.name} using (true)",
            f"create trigger t after insert on {table.name} execute function core.add_to_rollup()",
            f"grant select on {table.name} to public",
            f"set local row_security = off; select * from {table.name}",
        ):
            try:
                adversary.is_refused(statement)
            except pytest.fail.Exception:
                # `grant` without the right to is a warning, and does nothing.
                assert statement.startswith("grant"), statement


def test_partitions_and_what_is_not_the_applications_cannot_be_reached_directly(
    lab: tuple[str, psycopg.Connection[Any], list[Table]], adversary: Adversary
) -> None:
    _, root, _ = lab
    partitions = [
        name
        for (name,) in root.execute("select oid::regclass::text from pg_class where relispartition and relkind = 'r'")
    ]
    assert partitions
    for name in [*partitions, "secret.token_key", "secret.logins", "secret.facts"]:
        for statement in (f"select * from {name}", f"copy {name} to stdout", f"delete from {name}"):
            adversary.is_refused(statement)
    for name in partitions:
        adversary.is_refused(f"update {name} set user_id = '{ALICE}'")
        adversary.is_refused(f"insert into {name} (user_id) values ('{BOB}')")
    for name in ("pg_authid", "pg_shadow"):
        adversary.is_refused(f"select * from {name}")


# -- becoming somebody else


def test_a_token_that_is_not_signed_is_refused(tables: list[Table], adversary: Adversary) -> None:
    good = adversary.signer.token(ALICE)
    mac, expiry = good[:64], good[64:].split(".")[0]
    forged = {
        "a name": BOB,
        "no signature": f"{expiry}.{BOB}",
        "zeros": f"{'0' * 64}{expiry}.{BOB}",
        "another's name under one's own signature": f"{mac}{expiry}.{BOB}",
        "more after one's own name": f"{good}.{BOB}",
        "a later expiry": f"{mac}{int(expiry) + 1}.{ALICE}",
        "no expiry": f"{mac}.{BOB}",
        "half a signature": good[32:],
        "a key of one's own": Signer(b"guess", 0.0).token(BOB),
        "an expired one": _token_of(adversary, age_s=1000.0),
    }
    for how, token in forged.items():
        for asked in ("select core.current_user_id()", *(f"select * from {table.name}" for table in tables[:3])):
            try:
                adversary.attack(asked, token=token)
            except psycopg.Error:
                continue
            pytest.fail(f"accepted: {how}")


def _token_of(adversary: Adversary, age_s: float) -> str:
    key = adversary.signer._key
    return Signer(key, -age_s).token(BOB)


def test_changing_the_setting_midway_does_not_change_the_user(tables: list[Table], adversary: Adversary) -> None:
    for table in tables:
        statement = f"select {table.owner} from {table.name}, (select set_config('lab.token', '{BOB}', true)) s"
        try:
            seen = adversary.attack(statement)[1]
        except psycopg.Error:
            continue
        assert set(seen) <= {(ALICE,)}


def test_no_other_role_can_be_taken_on(
    adversary: Adversary, lab: tuple[str, psycopg.Connection[Any], list[Table]]
) -> None:
    _, root, _ = lab
    [(owner,)] = root.execute("select current_user").fetchall()
    for role in (owner, adversary.roles["system"], adversary.roles["sql"], "pg_read_all_data"):
        adversary.is_refused(f'set role "{role}"')
        adversary.is_refused(f'set session authorization "{role}"')
        adversary.is_refused("select set_config('role', %s, true)", role)
        adversary.is_refused(f'create role eve in role "{role}"')


def test_a_token_does_not_outlive_its_transaction(adversary: Adversary, tables: list[Table]) -> None:
    adversary.attack("select 1")
    with pytest.raises(psycopg.errors.DivisionByZero):
        adversary.attack("select 1 / 0")
    assert adversary.connection.execute(f"select count(*) from {tables[0].name}".encode()).fetchone() == (0,)


# -- functions, views, statistics


def test_no_function_the_application_may_call_tells_of_another(
    adversary: Adversary, lab: tuple[str, psycopg.Connection[Any], list[Table]]
) -> None:
    _, root, _ = lab
    callable_ones = {
        name
        for (name,) in root.execute(
            "select p.proname from pg_proc p where p.prosecdef and p.pronamespace in ('core'::regnamespace, 'main'::regnamespace) "
            "and has_function_privilege(%s, p.oid, 'execute')",
            [adversary.roles["app"]],
        )
    }
    assert callable_ones == {"current_user_id", "search_spans", "ensure_partitions"}
    _, found = adversary.attack(WORD_SEARCH)
    assert {span_id for _, span_id, _ in found} == {SECRET, "alices-own"}
    assert adversary.attack(WORD_SEARCH, token="")[1] == []


def test_views_show_own_rows_alone(adversary: Adversary, lab: tuple[str, psycopg.Connection[Any], list[Table]]) -> None:
    _, root, _ = lab
    views = [
        name
        for (name,) in root.execute(
            "select oid::regclass::text from pg_class where relkind = 'v' and relnamespace in ('main'::regnamespace, 'core'::regnamespace)"
        )
    ]
    assert len(views) >= 9
    for view in views:
        own = adversary.attack(f"select count(*) from {view}")[1][0][0]
        nobodys = adversary.attack(f"select count(*) from {view}", token="")[1][0][0]
        with root.transaction(force_rollback=True):
            everybodys = root.execute(f"select count(*) from {view}".encode()).fetchone()
        if view != "core.day_partitioned":
            assert nobodys == 0
            assert everybodys is not None
            assert own * 2 == everybodys[0], view


def test_the_planners_statistics_hold_nothing_to_be_read(adversary: Adversary) -> None:
    _, rows = adversary.attack(
        "select most_common_vals::text, histogram_bounds::text from pg_stats where schemaname = 'core'"
    )
    assert not any(BOB in str(row) or SECRET in str(row) for row in rows)


# -- SQL that a user types


@pytest.fixture(scope="module")
def typed(lab: tuple[str, psycopg.Connection[Any], list[Table]]) -> Iterator[Callable[..., list[tuple[Any, ...]]]]:
    database = PostgresDatabase(lab[0])
    yield lambda statement, *params: database.select(ALICE, statement, params).rows
    database.close()


def test_typed_sql_sees_own_rows_alone(typed: Callable[..., list[tuple[Any, ...]]], tables: list[Table]) -> None:
    assert typed("select count(*) from spans where name = $1", SECRET) == [(3,)]  # two finished, one open
    for table in tables:
        try:
            rows = typed(f"select {table.owner} from {table.name}")
        except QueryError:
            continue  # most tables are not readable at all
        assert set(rows) == {(ALICE,)}, table.name


@pytest.mark.parametrize(
    "statement",
    [
        "select 1; select 2",
        "commit; select * from traces",
        "delete from score_rows",
        "with gone as (delete from core.score_rows returning *) select * from gone",
        "insert into core.score_rows select * from core.score_rows",
        "create table t as select 1",
        "select * into t from traces",
        "select * from scores for update",
        "copy traces to stdout",
        "listen lab",
        "set role postgres",
        "reset all",
        "do $$ begin end $$",
        "explain analyze delete from core.score_rows",
        "select set_config('lab.token', 'bob', false)",
        "select current_setting('lab.token')",
        "select * from pg_stat_activity",
        "select * from pg_catalog.pg_authid",
        "select pg_read_file('/etc/passwd')",
        "select pg_sleep(60)",
        "select pg_advisory_lock(1)",
        "select pg_notify('lab', 'x')",
        "select lo_create(0)",
        "select query_to_xml('select 1', true, true, '')",
        "select ts_rewrite('a'::tsquery, 'select ''a''::tsquery, ''b''::tsquery')",
        "select TS_Rewrite /* -- */ ('a'::tsquery, $1::text)",
        "select \"ts_rewrite\"('a'::tsquery, 'select 1')",
        "select 'a' as e, $x$ ' $x$, ts_rewrite('a'::tsquery, 'select 1')",
        "select e'\\'', nextval('x'), ''",
        "select * from ts_stat('select to_tsvector(''a'')')",
        "select xmin, txid_current()",
        "select has_table_privilege('core.users', 'select')",
        'select * from U&"\\0070g_stat_activity"',
        "select * from secret.token_key",
        "select * from core.run_states",
        "select * from core.mcp_servers",
        WORD_SEARCH,
        "select core.ensure_partitions('2000-01-01', '2000-01-02')",
        "select * from information_schema.tables",
        "",
        ";",
    ],
)
def test_typed_sql_that_is_more_than_one_query_over_the_views_is_refused(
    typed: Callable[..., list[tuple[Any, ...]]], statement: str
) -> None:
    with pytest.raises(QueryError) as refused:
        typed(statement)
    assert refused.value.next_step


@pytest.mark.parametrize(
    "statement",
    [
        "select pg_sleep(30)",
        "select pg_advisory_lock(7305440)",
        "select ts_rewrite('a'::tsquery, 'select ''a''::tsquery, ''b''::tsquery')",
        "select pg_cancel_backend(pg_backend_pid())",
        "select query_to_xml('select 1', true, true, '')",
        "select query from pg_stat_activity",
        "select pg_stat_get_activity(null)",
        "select lo_create(0)",
    ],
)
def test_the_role_of_typed_sql_may_not_execute_it_even_when_the_text_is_not_checked(
    lab: tuple[str, psycopg.Connection[Any], list[Table]], statement: str
) -> None:
    access = set_up(lab[0])
    with (
        psycopg.connect(login_parameters(lab[0], access.logins["sql"])) as connection,
        pytest.raises(psycopg.errors.InsufficientPrivilege),
    ):
        connection.execute(statement.encode())


def test_typed_sql_may_compute(typed: Callable[..., list[tuple[Any, ...]]]) -> None:
    assert typed(
        "with recursive n(i) as (select 1 union all select i + 1 from n where i < 3) select sum(i)::numeric(10, 2), "
        "string_agg(i::varchar(5), ',' order by i), count(*) filter (where i in (1, 2)), coalesce(max(i), 0), "
        "lower('A') || left('bc', 1) || substring('def' from 1 for 1), extract(year from timestamp '2026-01-01')::int, "
        "round(avg(i), 1), 'ts_rewrite(', random() < 2, now() > timestamptz '2020-01-01', 5 = any(array[5]) from n"
    ) == [(6, "1,2,3", 2, 3, "abd", 2026, 2, "ts_rewrite(", True, True, True)]
    assert typed("select v from (values (1), (2)) u(v) join generate_series(2, 3) g(v) using (v)") == [(2,)]


def test_typed_sql_leaves_nothing_behind_in_its_connection(typed: Callable[..., list[tuple[Any, ...]]]) -> None:
    for _ in range(6):
        with pytest.raises(LabError):
            typed("select 1 / 0")
    assert typed("select count(*) from scores") == [(1,)]


def test_typed_sql_that_takes_too_long_is_stopped(lab: tuple[str, psycopg.Connection[Any], list[Table]]) -> None:
    database = PostgresDatabase(lab[0])
    began = time.monotonic()
    with pytest.raises(QueryError, match=r"exceeded its time limit of 0\.2 s"):
        database.select(ALICE, "select count(*) from generate_series(1, 1000000000)", timeout_s=0.2)
    assert time.monotonic() - began < 5
    database.close()


@pytest.mark.parametrize(
    ("sql", "says"),
    [
        ("select repeat('a', 1000000) from generate_series(1, 10000)", "exceeds the memory limit"),
        ("select repeat('a', 900000000)", "exceeds the memory limit"),
        ("select " + "1 + " * 40_000 + "1", "is too large: stack depth limit exceeded"),
    ],
)
def test_typed_sql_with_too_large_a_result_fails_and_the_lab_goes_on(db: PostgresDatabase, sql: str, says: str) -> None:
    before, most, over = own_memory(), [0], threading.Event()

    def look() -> None:
        while not over.wait(0.01):
            most.append(own_memory())

    looking = threading.Thread(target=look)
    looking.start()
    with pytest.raises(QueryError, match=says):
        db.select("alice", sql, limit=10_000, timeout_s=60)
    over.set()
    looking.join()
    assert max(most) - before < 3 * 2**30
    assert own_memory() - before < 2**28
    assert db.select("alice", "select 1").rows == [(1,)]


def test_what_a_guest_keeps_is_counted_on_postgres_too(db: PostgresDatabase) -> None:
    store = Store(db, new_uuid())
    store.quota = Quota(db, store.user_id, GuestLimits(files=1))
    Files(store).add_bytes("a.txt", b"words")
    with pytest.raises(BusyError, match="may keep 1 files"):
        Files(store).add_bytes("b.txt", b"words")
    nothing_of = ("threads", "traces", "comparisons", "agents", "tool_servers", "vector_stores")
    assert store.quota.kept() == {"files": 1, "megabytes": 1, **dict.fromkeys(nothing_of, 0)}
