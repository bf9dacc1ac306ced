"""What the owner does when a lab opens: roles, migrations, row-level security, the next days' partitions. Then it logs out.

One process at a time, by an advisory lock: of two servers that start together, one migrates and the other finds it done.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import resources
from typing import Any

import psycopg
from psycopg import Connection, RawCursor
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from timestep_lab.model.errors import StoreError, UsageError
from timestep_lab.model.shown_url import without_credentials
from timestep_lab.store.base import Dialect
from timestep_lab.store.migrate import migrate
from timestep_lab.store.postgres.failures import WRONG_PASSWORD, explain, unreachable
from timestep_lab.store.postgres.roles import Login, Purpose, ensure_roles, renew_password

# -- The signed token that tells Postgres for whom a transaction runs; `core.current_user_id()` in security.sql checks it

LIFE_S = 120
"""Longer than any statement may wait before it begins."""
BLOCK = 64
"""Bytes in a block of SHA-256."""


def pads(key: bytes) -> tuple[bytes, bytes]:
    """HMAC's inner and outer key blocks (RFC 2104), so that SQL, which has sha256() but no hmac(), need not compute them."""
    block = key.ljust(BLOCK, b"\0")
    return bytes(byte ^ 0x36 for byte in block), bytes(byte ^ 0x5C for byte in block)


class Signer:
    """`ahead_s`: how far the server's clock is ahead of ours, seconds."""

    def __init__(self, key: bytes, ahead_s: float) -> None:
        self._key, self._ahead_s = key, ahead_s

    def token(self, user_id: str) -> str:
        signed = f"{int(time.time() + self._ahead_s + LIFE_S)}.{user_id}"
        return hmac.new(self._key, signed.encode(), hashlib.sha256).hexdigest() + signed


# --

OLDEST = 15
"""The first PostgreSQL whose views can run with the rights of who reads them (security_invoker)."""
LOCK = 7305440
"""Advisory lock of whoever sets up this database. An arbitrary number, the same in every release."""
DAYS_AHEAD = 7
_KEEPALIVE: dict[str, int] = {
    "connect_timeout": 5, "keepalives_idle": 30, "keepalives_interval": 5, "keepalives_count": 4,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Access:
    """How to log in, once the owner has set things up."""

    logins: Mapping[Purpose, Login]
    signer: Signer
    channel: str
    """Name of the NOTIFY channel, known to servers of this lab only."""
    day_columns: Mapping[str, str]
    """Tables with a partition a day, and the column that decides which."""


def parameters(url: str) -> dict[str, Any]:
    """Connection parameters from a URL or `key=value` text. Raises `UsageError`."""
    try:
        return {**_KEEPALIVE, **conninfo_to_dict(url)}
    except psycopg.ProgrammingError as error:
        raise UsageError(
            f"This is no Postgres URL: {without_credentials(str(error))}",
            "It looks like postgresql://user:password@host:5432/database",
        ) from None


def place(url: str) -> str:
    """The URL without its password, for people."""
    found = parameters(url)
    user = f"{found['user']}@" if found.get("user") else ""
    port = f":{found['port']}" if found.get("port") else ""
    return f"postgresql://{user}{found.get('host', 'localhost')}{port}/{found.get('dbname', '')}"


def login_parameters(url: str, login: Login) -> str:
    """The same server and database, as another role."""
    found = {key: value for key, value in parameters(url).items() if key not in ("passfile", "service", "options")}
    return make_conninfo(**{**found, "user": login.role, "password": login.password})


def set_up(url: str) -> Access:
    """Raises `StoreError` for whatever stands in the way."""
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
                f'Let an administrator run: grant create on database "{owner.info.dbname}" to "{owner.info.user}";',
            ) from error
        except psycopg.Error as error:
            raise explain(error, where) from error


def _prepare(owner: Connection[Any], url: str) -> Access:
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
    days = dict(owner.execute(b"select name, col from core.day_partitioned").fetchall())
    for login in logins.values():
        _try_login(owner, url, login)
    before = time.time()
    [server_time] = owner.execute(b"select extract(epoch from clock_timestamp())::float8").fetchone() or (before,)
    return Access(logins, Signer(key, server_time - (before + time.time()) / 2), channel, days)


def _fact(owner: Connection[Any], name: str, otherwise: str) -> str:
    """What is known by this name; `otherwise` becomes known if nothing was."""
    owner.execute(b"insert into secret.facts values ($1, $2) on conflict do nothing", [name, otherwise])
    [value] = owner.execute(b"select value from secret.facts where name = $1", [name]).fetchone() or (otherwise,)
    return str(value)


def _token_key(owner: Connection[Any]) -> bytes:
    row = owner.execute(b"select key from secret.token_key").fetchone()
    if row is None:
        row = (secrets.token_bytes(32),)
        owner.execute(
            b"insert into secret.token_key (inner_pad, outer_pad, key) values ($1, $2, $3)", [*pads(row[0]), row[0]]
        )
    return bytes(row[0])


def _try_login(owner: Connection[Any], url: str, login: Login) -> None:
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
def _owner(url: str) -> Iterator[Connection[Any]]:
    try:
        connection = psycopg.connect(make_conninfo(**parameters(url)), autocommit=True, cursor_factory=RawCursor)
    except psycopg.OperationalError as error:
        raise unreachable(error, place(url)) from error
    with connection:
        connection.execute(b"set client_min_messages = warning")
        connection.execute(b"set timezone = 'UTC'")
        connection.execute(b"set search_path = core, main")
        yield connection


def _alone(owner: Connection[Any]) -> None:
    owner.execute(b"select pg_advisory_lock($1)", [LOCK])  # let go when the connection closes


class _Session:
    """What `migrate` needs."""

    dialect: Dialect = "postgres"

    def __init__(self, connection: Connection[Any]) -> None:
        self._connection = connection
        self.transaction = connection.transaction

    def run(self, sql: str, params: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        cursor = self._connection.execute(sql.encode(), list(params) or None)
        return cursor.fetchall() if cursor.description else []
