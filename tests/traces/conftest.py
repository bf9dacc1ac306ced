"""`store`: an empty lab in each of the ways a lab can be kept. `recorder`: writes spans of made-up runs into it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.store.conftest import database, owner_process  # noqa: F401 - fixtures
from tests.traces.recorder import Recorder
from timestep_lab.model.ids import LOCAL_USER
from timestep_lab.store.base import Database
from timestep_lab.store.store import Store


@pytest.fixture
def store(database: Database) -> Store:  # noqa: F811
    return Store(database, LOCAL_USER)


@pytest.fixture
def recorder(store: Store) -> Iterator[Recorder]:
    made = Recorder(store.db)
    yield made
    made.writer.close()
