from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session", autouse=True)
def _postgres_stops_with_the_tests() -> Iterator[None]:
    yield
    from tests.postgres.server import stop_shared_server

    stop_shared_server()
