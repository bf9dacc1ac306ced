"""A real PostgreSQL for tests: the embedded server, shared by all test workers, or the one that TIMESTEP_LAB_TEST_POSTGRES names.

Each test gets a database of its own, copied from one that was set up once; its roles are the copied one's.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from timestep_lab.store.postgres.database import PostgresDatabase
from timestep_lab.store.postgres.embedded import EmbeddedPostgres

# Nothing here outlives the tests, so nothing has to reach the disk.
CONFIGURATION = (
    "\nfsync = off\nsynchronous_commit = off\nfull_page_writes = off\nmax_connections = 300\nshared_buffers = 64MB\n"
)
RUN = os.environ.get("PYTEST_XDIST_TESTRUNUID", str(os.getpid()))[:12]
"""The same in all workers of one test run."""
FOLDER = Path(tempfile.gettempdir()) / f"timestep-lab-postgres-{RUN}"
TEMPLATE = f"lab_template_{RUN}"


class Server:
    """`admin_url` is a superuser's."""

    def __init__(self, admin_url: str) -> None:
        self.admin_url = admin_url

    def url(self, database: str) -> str:
        found = conninfo_to_dict(self.admin_url)
        return f"postgresql://{found['user']}:{found['password']}@{found['host']}:{found['port']}/{database}"

    def run(self, statement: str, *params: object, database: str | None = None) -> list[tuple[object, ...]]:
        url = self.url(database) if database else self.admin_url
        with psycopg.connect(url, autocommit=True) as connection:
            cursor = connection.execute(statement.encode(), params or None)
            return cursor.fetchall() if cursor.description else []

    @contextlib.contextmanager
    def lab_url(self, *, empty: bool = False) -> Iterator[str]:
        """The URL of a new database, gone afterwards: a lab ready to open, or empty."""
        name = f"lab_{secrets.token_hex(6)}"
        template = "template1" if empty else self._template()
        with psycopg.connect(self.admin_url, autocommit=True) as connection:
            connection.execute(
                sql.SQL("create database {} template {}").format(sql.Identifier(name), sql.Identifier(template))
            )
        try:
            yield self.url(name)
        finally:
            self.run(f"drop database {name} with (force)")

    def _template(self) -> str:
        with FOLDER.with_suffix(".lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not self.run("select 1 from pg_database where datname = %s", TEMPLATE):
                self.run(f"create database {TEMPLATE}_unfinished")
                PostgresDatabase(self.url(f"{TEMPLATE}_unfinished")).close()
                self.run(f"alter database {TEMPLATE}_unfinished rename to {TEMPLATE}")
        return TEMPLATE


_embedded: list[EmbeddedPostgres] = []


@cache
def shared_server() -> Server:
    """Started by the first test worker that asks; `stop_shared_server` in the last one stops it."""
    url = os.environ.get("TIMESTEP_LAB_TEST_POSTGRES")
    if url:
        return Server(url)
    _embedded.append(EmbeddedPostgres(FOLDER, configuration=CONFIGURATION).start())
    return Server(_embedded[0].url)


def stop_shared_server() -> None:
    for embedded in _embedded:
        embedded.close()
        if not embedded.is_running():
            shutil.rmtree(FOLDER, ignore_errors=True)
            FOLDER.with_suffix(".lock").unlink(missing_ok=True)
