"""Setup by the owner when a lab opens: roles, migrations, row-level security, partitions of the next days. Then the owner logs out.

Serialized by an advisory lock: of two servers that start together, one migrates and the other finds it done.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING, Literal

import psycopg
from psycopg import RawCursor, RawServerCursor, sql
from psycopg import errors as pg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from timestep_lab.model.display import without_credentials
from timestep_lab.model.errors import QueryError, StoreError, UsageError
from timestep_lab.store.base import Dialect, Row, Rows
from timestep_lab.store.memory import TOO_BIG, Watch
from timestep_lab.store.migrate import migrate
from timestep_lab.store.postgres.sessions import WRONG_PASSWORD, Conn, explain, unreachable

if TYPE_CHECKING:
    from psycopg.abc import ConnDict

# --- The three roles that the lab logs in as, created by its owner
#
# The user of the lab's URL owns the lab: it creates and migrates schemas and tables. No request is served as that user, and no
# `SET ROLE` leads back to it: application, user-written SQL and maintenance each *log in* as a role of their own, with a generated password
# in `secret.logins`, which only the owner can read. An owner with CREATEROLE (or a superuser) creates the roles at the first start.
# Otherwise the error has the exact statements for an administrator, which contain SCRAM verifiers instead of passwords.


Purpose = Literal["app", "sql", "system"]
PURPOSES: tuple[Purpose, ...] = ("app", "sql", "system")

_TABLES = """
create schema if not exists core;
create schema if not exists secret;
revoke all on schema secret from public;
create table if not exists secret.logins (
    purpose text primary key, role text not null unique, password text not null, verifier text not null
);
create table if not exists secret.facts (name text primary key, value text not null);
"""


@dataclass(frozen=True, slots=True)
class Login:
    role: str
    password: str
    verifier: str

    def __repr__(self) -> str:
        return f"Login({self.role!r})"

    @property
    def create_sql(self) -> str:
        return (
            f"create role {_quoted(self.role)} login noinherit nosuperuser nobypassrls nocreatedb nocreaterole "
            f"noreplication password '{self.verifier}';"
        )

    @property
    def alter_sql(self) -> str:
        return f"alter role {_quoted(self.role)} login noinherit password '{self.verifier}';"


def ensure_roles(owner: Conn) -> dict[Purpose, Login]:
    """Creates missing roles and checks existing ones. Raises `StoreError` with the statements that an administrator has to run."""
    owner.execute(_TABLES.encode())
    logins = {purpose: _ensure_login(owner, purpose) for purpose in PURPOSES}
    missing = [login for login in logins.values() if not _try_create(owner, login)]
    if missing:
        raise _ask_administrator(owner, [login.create_sql for login in missing])
    for login in logins.values():
        _check_harmless(owner, login)
    return logins


def renew_password(owner: Conn, login: Login) -> None:
    """Resets the password of a role that rejected it: a lab with the same name existed before, or an administrator changed it."""
    try:
        owner.execute(login.alter_sql.encode())
    except pg.InsufficientPrivilege:
        raise _ask_administrator(owner, [login.alter_sql]) from None


def _ensure_login(owner: Conn, purpose: Purpose) -> Login:
    row = owner.execute(b"select role, password, verifier from secret.logins where purpose = $1", [purpose]).fetchone()
    if row is None:
        role, password = _role_name(owner.info.dbname, purpose), secrets.token_hex(24)
        verifier = owner.pgconn.encrypt_password(password.encode(), role.encode(), b"scram-sha-256").decode()
        row = (role, password, verifier)
        owner.execute(b"insert into secret.logins values ($1, $2, $3, $4)", [purpose, *row])
    return Login(*row)


def _role_name(database: str, purpose: str) -> str:
    """Returns the role name. Roles belong to the whole server, so they include the database name; at most 63 bytes."""
    name = f"{database}_{purpose}"
    if len(name.encode()) > 63:
        name = f"lab_{hashlib.sha256(database.encode()).hexdigest()[:16]}_{purpose}"
    return name


def _try_create(owner: Conn, login: Login) -> bool:
    if owner.execute(b"select 1 from pg_roles where rolname = $1", [login.role]).fetchone():
        return True
    try:
        owner.execute(login.create_sql.encode())
    except pg.InsufficientPrivilege:
        return False
    except pg.DuplicateObject:  # created by another process meanwhile
        return True
    return True


def _check_harmless(owner: Conn, login: Login) -> None:
    row = owner.execute(
        b"select rolsuper or rolbypassrls, exists (select 1 from pg_auth_members m where m.member = r.oid) "
        b"from pg_roles r where rolname = $1",
        [login.role],
    ).fetchone()
    assert row is not None
    if row[0] or row[1]:
        raise StoreError(
            f"The role {login.role} can read every user's rows: it is a superuser, bypasses row-level security or is a member of another role.",
            f"Run as an administrator: alter role {_quoted(login.role)} nosuperuser nobypassrls; and revoke its memberships.",
        )


def _ask_administrator(owner: Conn, statements: list[str]) -> StoreError:
    return StoreError(
        f"The user {owner.info.user} may not create the roles that separate users in {owner.info.dbname}.",
        "Ask an administrator of the server to run this once, then start again:\n" + "\n".join(statements),
    )


def _quoted(name: str) -> str:
    return sql.Identifier(name).as_string(None)


# --- User-written SQL: four layers of protection
#
# The text must not name anything outside the views (system catalogues, settings), and may only call functions that compute from their
# arguments, as determined from Postgres's catalogue; all other known functions are rejected. It runs as `declare … cursor for <text>`,
# which accepts a single SELECT, in a READ ONLY transaction that is always rolled back. It runs as a role that can read the views and
# their tables and, where the lab's owner may revoke it, cannot execute anything that affects other sessions, waits, locks, or
# runs SQL given as text (`sql/4_apply.sql`). And row-level security shows that role the rows of one user, identified by a token that
# it cannot forge. Only the last two are security boundaries; the first also hides users' query texts from each other.


_FORBIDDEN = re.compile(
    r"""\b(pg_\w*|information_schema|set_config|current_setting|lo_\w+|dblink\w*|txid_\w*
        |(query|table|cursor|schema|database)_to_xml\w*|ts_stat)\b|u&["']""",
    re.IGNORECASE | re.VERBOSE,
)


_TOKEN = re.compile(
    r"""(?P<comment>--[^\n]*|/\*.*?\*/)
        |(?P<text>e'(?:[^'\\]|\\.|'')*'|'(?:[^']|'')*'|\$(?P<tag>(?:[^\W\d]\w*)?)\$.*?\$(?P=tag)\$)
        |(?P<name>"(?:[^"]|"")*"|[^\W\d][\w$]*)|(?P<space>\s+)|(?P<other>.)""",
    re.IGNORECASE | re.VERBOSE | re.DOTALL,
)
_CHANCE_AND_TIME = frozenset(
    {"random", "random_normal", "gen_random_uuid", "uuidv4", "uuidv7", "clock_timestamp", "timeofday"}
)
"""Volatile functions without risk."""
_TELL = re.compile(
    r"(pg_|has_|txid_|lo_|inet_client|inet_server|currtid|to_reg|current_setting|set_config|row_security|binary_upgrade)\w*"
    r"|\w+_description|\w+_to_xml\w*|ts_stat|ts_rewrite"
)
"""Non-volatile functions that reveal information about the server."""
_FUNCTIONS = b"""
select p.proname::text, bool_and(case when p.pronamespace = 'pg_catalog'::regnamespace then p.provolatile <> 'v'
    else p.provolatile = 'i' and l.lanname in ('c', 'internal') end)  -- As pgvector's sum of vectors.
from pg_catalog.pg_proc p join pg_catalog.pg_language l on l.oid = p.prolang group by 1
"""


def refused_functions(connection: Conn) -> frozenset[str]:
    """Returns the names of this database's functions that a query may not call: all that do more than compute."""
    return frozenset(
        name
        for name, only_computes in connection.execute(_FUNCTIONS).fetchall()
        if name not in _CHANCE_AND_TIME and (not only_computes or _TELL.fullmatch(name))
    )


def check_calls(text: str, refused: frozenset[str]) -> None:
    """Raises `QueryError` when the text, outside strings and comments, names a function of `refused` before a parenthesis or after
    a dot."""
    before, name = "", ""
    for token in _TOKEN.finditer(text):
        if token["comment"] or token["space"]:
            if token["comment"] and "/*" in token["comment"][2:]:
                raise QueryError("A comment in the query contains another comment.", "Remove the inner one.")
            continue
        if token["other"] == "(" and name:
            _refuse(name, refused)
        name = ""
        if token["name"]:
            name = token["name"]
            name = name[1:-1].replace('""', '"') if name.startswith('"') else name.lower()
            if before == ".":
                _refuse(name, refused)
        before = token["other"] or ""


def _refuse(name: str, refused: frozenset[str]) -> None:
    if name in refused:
        raise QueryError(
            f"A query may not call the function {name!r}.",
            "Use functions that compute from the columns of a view.",
        )


def check(text: str) -> None:
    """Checks the names in a query. Raises `QueryError`."""
    if not text.strip().strip(";"):
        raise QueryError("The query is empty.", "Try: select * from traces limit 10")
    match = _FORBIDDEN.search(text)
    if match:
        raise QueryError(
            f"A query may not mention {match.group(0)!r}.",
            "Query the views only, such as traces; to search for this word, pass it as a parameter ($1).",
        )


def fetch(connection: Conn, text: str, params: Sequence[object], *, limit: int | None, timeout_s: float | None) -> Rows:
    """Runs a query in a transaction bound to its user. Uses one FETCH, so that no function in the text can lift the time limit."""
    connection.execute(b"select set_config('statement_timeout', $1, true)", [str(int((timeout_s or 0) * 1000))])

    def cancel() -> None:
        with suppress(psycopg.Error):  # It is tried again.
            connection.cancel_safe(timeout=5.0)

    watch = Watch(cancel, (pg.QueryCanceled,), None)
    try:
        with watch(), RawServerCursor(connection, "typed") as cursor:
            cursor.execute(text.encode(), list(params))
            rows = cursor.fetchmany(limit + 1) if limit is not None else cursor.fetchall()
            columns = tuple(column.name for column in cursor.description or ())
        watch.check()
    except psycopg.OperationalError as error:
        watch.check()
        # libpq has no error code for it.
        if error.sqlstate is None and "memory" in str(error):
            raise QueryError(*TOO_BIG) from error
        raise
    return Rows(columns, rows[:limit], limit is not None and len(rows) > limit)


# -- The signed token that identifies the transaction's user; verified by `core.current_user_id()` in security.sql

LIFE_S = 120
"""Token lifetime in seconds, longer than any statement may wait before it starts."""
BLOCK = 64
"""Block size of SHA-256 in bytes."""


def pads(key: bytes) -> tuple[bytes, bytes]:
    """Returns HMAC's inner and outer key blocks (RFC 2104), because SQL has sha256() but no hmac()."""
    block = key.ljust(BLOCK, b"\0")
    return bytes(byte ^ 0x36 for byte in block), bytes(byte ^ 0x5C for byte in block)


class Signer:
    """Signs user tokens. `ahead_s`: how far the server's clock is ahead of ours, in seconds."""

    def __init__(self, key: bytes, ahead_s: float) -> None:
        self._key, self._ahead_s = key, ahead_s

    def token(self, user_id: str) -> str:
        signed = f"{int(time.time() + self._ahead_s + LIFE_S)}.{user_id}"
        return hmac.new(self._key, signed.encode(), hashlib.sha256).hexdigest() + signed


# --

OLDEST = 15
"""Oldest supported PostgreSQL version, the first with security_invoker views."""
LOCK = 7305440
"""Advisory lock of the setup. An arbitrary number, the same in every release."""
DAYS_AHEAD = 7
_KEEPALIVE: dict[str, int] = {
    "connect_timeout": 5, "keepalives_idle": 30, "keepalives_interval": 5, "keepalives_count": 4,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Access:
    """Credentials for the lab after setup."""

    logins: Mapping[Purpose, Login]
    signer: Signer
    channel: str
    """Name of the NOTIFY channel, known only to servers of this lab."""
    day_columns: Mapping[str, str]
    """Maps tables with daily partitions to their partition column."""


def parameters(url: str) -> ConnDict:
    """Returns connection parameters from a URL or `key=value` text. Raises `UsageError`."""
    try:
        return {**_KEEPALIVE, **conninfo_to_dict(url)}
    except psycopg.ProgrammingError as error:
        raise UsageError(
            f"This is not a Postgres URL: {without_credentials(str(error))}",
            "Expected: postgresql://user:password@host:5432/database",
        ) from None


def place(url: str) -> str:
    """Returns the URL without its password, for messages."""
    options = parameters(url)
    user = f"{options['user']}@" if options.get("user") else ""
    port = f":{options['port']}" if options.get("port") else ""
    return f"postgresql://{user}{options.get('host', 'localhost')}{port}/{options.get('dbname', '')}"


def login_parameters(url: str, login: Login) -> str:
    """Returns parameters for the same server and database with another role."""
    options = {key: value for key, value in parameters(url).items() if key not in ("passfile", "service", "options")}
    return make_conninfo("", **{**options, "user": login.role, "password": login.password})


def set_up(url: str) -> Access:
    """Sets up the lab. Raises `StoreError` when that is not possible."""
    where = place(url)
    with _owner(url) as owner:
        if owner.info.server_version < OLDEST * 10000:
            version = owner.info.server_version // 10000
            raise StoreError(
                f"Postgres at {where} has version {version}; the lab needs {OLDEST} or later.", "Upgrade the server."
            )
        _alone(owner)
        try:
            return _prepare(owner, url)
        except psycopg.errors.InsufficientPrivilege as error:
            raise StoreError(
                f"The user {owner.info.user} may not set up a lab in {where}: {error.diag.message_primary}.",
                f'Ask an administrator to run: grant create on database "{owner.info.dbname}" to "{owner.info.user}";',
            ) from error
        except psycopg.Error as error:
            raise explain(error, where) from error


def _prepare(owner: Conn, url: str) -> Access:
    logins = ensure_roles(owner)
    session = _Session(owner)
    applied = migrate(session)
    folder = resources.files("timestep_lab.store.postgres") / "sql"
    scripts = [file.read_text(encoding="utf-8") for file in sorted(folder.iterdir(), key=lambda file: file.name)]
    digest = hashlib.sha256("".join(scripts).encode()).hexdigest()
    if applied or _fact(owner, "rules", "") != digest:
        with session.transaction():
            for script in scripts:
                session.run(script)
            session.run("update secret.facts set value = $1 where name = 'rules'", [digest])
    key = _token_key(owner)
    channel = _fact(owner, "channel", f"lab_{secrets.token_hex(16)}")
    session.run(
        f"select core.ensure_partitions((now() at time zone 'UTC')::date - 1, (now() at time zone 'UTC')::date + {DAYS_AHEAD})"
    )
    days: dict[str, str] = dict(owner.execute(b"select name, col from core.day_partitioned").fetchall())
    for login in logins.values():
        _try_login(owner, url, login)
    before = time.time()
    [server_time] = owner.execute(b"select extract(epoch from clock_timestamp())::float8").fetchone() or (before,)
    return Access(logins, Signer(key, server_time - (before + time.time()) / 2), channel, days)


def _fact(owner: Conn, name: str, otherwise: str) -> str:
    """Returns a stored fact; stores and returns `otherwise` if there is none."""
    owner.execute(b"insert into secret.facts values ($1, $2) on conflict do nothing", [name, otherwise])
    [value] = owner.execute(b"select value from secret.facts where name = $1", [name]).fetchone() or (otherwise,)
    return str(value)


def _token_key(owner: Conn) -> bytes:
    row = owner.execute(b"select key from secret.token_key").fetchone()
    if row is None:
        row = (secrets.token_bytes(32),)
        owner.execute(
            b"insert into secret.token_key (inner_pad, outer_pad, key) values ($1, $2, $3)", [*pads(row[0]), row[0]]
        )
    return bytes(row[0])


def _try_login(owner: Conn, url: str, login: Login) -> None:
    for last_try in (False, True):
        try:
            psycopg.connect(login_parameters(url, login)).close()
            return
        except psycopg.OperationalError as error:
            refused = isinstance(error, WRONG_PASSWORD) or "authentication failed" in str(error)
            if last_try or not refused:
                raise unreachable(error, place(url)) from error
            renew_password(owner, login)


@contextmanager
def _owner(url: str) -> Iterator[Conn]:
    try:
        connection = psycopg.connect(make_conninfo("", **parameters(url)), autocommit=True, cursor_factory=RawCursor)
    except psycopg.OperationalError as error:
        raise unreachable(error, place(url)) from error
    with connection:
        connection.execute(b"set client_min_messages = warning")
        connection.execute(b"set timezone = 'UTC'")
        connection.execute(b"set search_path = core, main")
        yield connection


def _alone(owner: Conn) -> None:
    owner.execute(b"select pg_advisory_lock($1)", [LOCK])  # released when the connection closes


class _Session:
    """Adapter for `migrate`."""

    dialect: Dialect = "postgres"

    def __init__(self, connection: Conn) -> None:
        self._connection = connection
        self.transaction = connection.transaction

    def run(self, sql: str, params: Sequence[object] = ()) -> list[Row]:
        cursor = self._connection.execute(sql.encode(), list(params) or None)
        return cursor.fetchall() if cursor.description else []
