from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.store.conftest import FACTORIES, owner_process  # noqa: F401 - a fixture
from timestep_lab.store.store import Store


@pytest.fixture(params=["duckdb", "postgres"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    """An empty lab in each kind of store."""
    with FACTORIES[request.param](tmp_path, None) as database:  # type: ignore[arg-type]
        yield Store(database)


@pytest.fixture
def duckdb_store(tmp_path: Path) -> Iterator[Store]:
    with FACTORIES["duckdb"](tmp_path, None) as database:  # type: ignore[arg-type]
        yield Store(database)
