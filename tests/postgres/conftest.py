from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.postgres.server import Server, shared_server
from timestep_lab.store.postgres.database import PostgresDatabase


@pytest.fixture(scope="session")
def server() -> Server:
    return shared_server()


@pytest.fixture
def lab_url(server: Server) -> Iterator[str]:
    """Of a new lab: no other test sees it."""
    with server.lab_url() as url:
        yield url


@pytest.fixture
def db(lab_url: str) -> Iterator[PostgresDatabase]:
    database = PostgresDatabase(lab_url)
    yield database
    database.close()


@pytest.fixture
def walkable() -> Iterator[Path]:
    """A folder that every account can walk to, unlike `tmp_path`: servers keep their data in it, not in a stand-in for it."""
    with tempfile.TemporaryDirectory(prefix="lab-", ignore_cleanup_errors=True) as name:
        Path(name).chmod(0o755)
        yield Path(name)
