from __future__ import annotations

from collections.abc import Iterator

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
