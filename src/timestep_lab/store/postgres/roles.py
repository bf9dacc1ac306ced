"""The three roles the lab logs in as, made by its owner.

The user of the lab's URL owns the lab: it creates schemas and tables, and migrates them. No request is ever served as that user, and no
`SET ROLE` leads back to it: application, typed SQL and housekeeping each *log in* as a role of their own, with a password that was generated here
and lies in `secret.logins`, which only the owner can read. An owner who may create roles (CREATEROLE, or a superuser) has them made at
the first start. One who may not gets the exact statements for an administrator; they hold SCRAM verifiers, not passwords.
"""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass
from typing import Any, Literal

from psycopg import Connection, sql
from psycopg import errors as pg

from timestep_lab.model.errors import StoreError

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


def ensure_roles(owner: Connection[Any]) -> dict[Purpose, Login]:
    """Make what is missing, check what is there. Raises `StoreError` with the statements an administrator has to run."""
    owner.execute(_TABLES.encode())
    logins = {purpose: _ensure_login(owner, purpose) for purpose in PURPOSES}
    missing = [login for login in logins.values() if not _try_create(owner, login)]
    if missing:
        raise _ask_administrator(owner, [login.create_sql for login in missing])
    for login in logins.values():
        _check_harmless(owner, login)
    return logins


def renew_password(owner: Connection[Any], login: Login) -> None:
    """The role refused its password: a lab of the same name was here before, or an administrator changed it."""
    try:
        owner.execute(login.alter_sql.encode())
    except pg.InsufficientPrivilege:
        raise _ask_administrator(owner, [login.alter_sql]) from None


def _ensure_login(owner: Connection[Any], purpose: Purpose) -> Login:
    row = owner.execute(b"select role, password, verifier from secret.logins where purpose = $1", [purpose]).fetchone()
    if row is None:
        role, password = _role_name(owner.info.dbname, purpose), secrets.token_hex(24)
        verifier = owner.pgconn.encrypt_password(password.encode(), role.encode(), b"scram-sha-256").decode()
        row = (role, password, verifier)
        owner.execute(b"insert into secret.logins values ($1, $2, $3, $4)", [purpose, *row])
    return Login(*row)


def _role_name(database: str, purpose: str) -> str:
    """Roles belong to the whole server, so they are named after the database; at most 63 bytes."""
    name = f"{database}_{purpose}"
    if len(name.encode()) > 63:
        name = f"lab_{hashlib.sha256(database.encode()).hexdigest()[:16]}_{purpose}"
    return name


def _try_create(owner: Connection[Any], login: Login) -> bool:
    if owner.execute(b"select 1 from pg_roles where rolname = $1", [login.role]).fetchone():
        return True
    try:
        owner.execute(login.create_sql.encode())
    except pg.InsufficientPrivilege:
        return False
    except pg.DuplicateObject:  # another lab's start was faster
        return True
    return True


def _check_harmless(owner: Connection[Any], login: Login) -> None:
    row = owner.execute(
        b"select rolsuper or rolbypassrls, exists (select 1 from pg_auth_members m where m.member = r.oid) "
        b"from pg_roles r where rolname = $1",
        [login.role],
    ).fetchone()
    assert row is not None
    if row[0] or row[1]:
        raise StoreError(
            f"The role {login.role} could read every user's rows: it is a superuser, bypasses row-level security or is a member of another role.",
            f"Run as an administrator: alter role {_quoted(login.role)} nosuperuser nobypassrls; and revoke its memberships.",
        )


def _ask_administrator(owner: Connection[Any], statements: list[str]) -> StoreError:
    return StoreError(
        f"The user {owner.info.user} may not create the roles that keep users apart in {owner.info.dbname}.",
        "Let an administrator of the server run this once, then start again:\n" + "\n".join(statements),
    )


def _quoted(name: str) -> str:
    return sql.Identifier(name).as_string(None)
