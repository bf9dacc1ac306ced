"""`database`: an empty lab in each of the ways a lab can be kept. `FACTORIES` names them; each is a context manager over a path."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from tests.postgres.server import shared_server
from timestep_lab.store.base import Database
from timestep_lab.store.store import open_database

Factory = Callable[[Path, "OwnerProcess"], AbstractContextManager[Database]]


class OwnerProcess:
    """Another process on this machine, started when first needed, that owns the labs it is told to."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None

    def tell(self, verb: str, path: Path) -> None:
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.store.owner_process"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                cwd=Path(__file__).parents[2],
            )
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(f"{verb} {path}\n")
        self._process.stdin.flush()
        assert self._process.stdout.readline() == "done\n"

    @property
    def pid(self) -> int:
        assert self._process
        return self._process.pid

    def kill(self) -> None:
        assert self._process
        self._process.kill()
        self._process.communicate(timeout=10)

    def end(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.communicate(timeout=20)


@contextmanager
def duckdb_owner(folder: Path, other: OwnerProcess) -> Iterator[Database]:
    database = open_database(folder / "lab.duckdb")
    yield database
    database.close()


@contextmanager
def duckdb_client(folder: Path, other: OwnerProcess) -> Iterator[Database]:
    path = folder / "lab.duckdb"
    other.tell("open", path)
    database = open_database(path)
    yield database
    database.close()
    other.tell("close", path)


@contextmanager
def postgres(folder: Path, other: OwnerProcess) -> Iterator[Database]:
    with shared_server().lab_url() as url:
        database = open_database(url)
        yield database
        database.close()


FACTORIES: dict[str, Factory] = {"duckdb": duckdb_owner, "duckdb-client": duckdb_client, "postgres": postgres}


@pytest.fixture(scope="session")
def owner_process() -> Iterator[OwnerProcess]:
    process = OwnerProcess()
    yield process
    process.end()


@pytest.fixture(params=list(FACTORIES))
def database(request: pytest.FixtureRequest, tmp_path: Path, owner_process: OwnerProcess) -> Iterator[Database]:
    with FACTORIES[request.param](tmp_path, owner_process) as opened:
        yield opened
