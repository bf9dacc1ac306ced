from __future__ import annotations

import contextlib
import shutil
import signal
import types
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb
import hypothesis
import pytest

from timestep_lab.store.duckdb import connect as connecting
from timestep_lab.store.duckdb.engine import Engine

if TYPE_CHECKING:
    from tests.server.lab_process import LabProcess

# How long an example takes to make or to run says nothing on a machine that does other things as well.
hypothesis.settings.register_profile("lab", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("lab")


@pytest.fixture(scope="session", autouse=True)
def _postgres_stops_with_the_tests() -> Iterator[None]:
    yield
    from tests.postgres.server import stop_shared_server

    stop_shared_server()


@pytest.fixture(scope="session", autouse=True)
def _new_labs_are_copies_of_a_migrated_one(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Thousands of tests begin with a new DuckDB lab, and migrating it takes longer than most of them. `tests/store/test_migrate.py` holds that
    a copy has the schema that the migrations make; processes that tests start do migrate theirs.
    """
    template = tmp_path_factory.mktemp("template") / "lab.duckdb"
    Engine(template, lambda *_: None).close()

    def connect(database: str, *args: Any, **options: Any) -> duckdb.DuckDBPyConnection:
        if database != ":memory:":
            if not Path(database).exists() and Path(database).parent.is_dir():
                with contextlib.suppress(OSError):  # DuckDB says what is wrong with the place.
                    shutil.copyfile(template, database)
            return duckdb.connect(database, *args, **options)
        connection = duckdb.connect(database, *args, **options)
        connection.execute(f"attach '{template}' as template (read_only)")
        connection.execute("copy from database template to memory")
        connection.execute("detach template")
        return connection

    stand_in = types.SimpleNamespace(**{**vars(duckdb), "connect": connect})
    connecting.duckdb = stand_in  # type: ignore[assignment, attr-defined]
    yield
    connecting.duckdb = duckdb  # type: ignore[attr-defined]


@pytest.fixture(scope="session")
def served_lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LabProcess]:
    """A really served lab, one for all tests of a worker, for a start takes seconds. Every test is a new user of it, or two."""
    from tests.server.lab_process import start, stop

    served = start(tmp_path_factory.mktemp("lab") / "lab.duckdb")
    yield served
    stop(served)


@pytest.fixture
def new_labs_are_migrated(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests of what DuckDB does to the file of a lab that is made."""
    monkeypatch.setattr(connecting, "duckdb", duckdb)


@pytest.fixture(autouse=True)
def _ctrl_c_is_as_it_was() -> Iterator[None]:
    """A handler that a test leaves behind would make a later one fail that presses Ctrl-C."""
    before = signal.getsignal(signal.SIGINT)
    yield
    if (left := signal.getsignal(signal.SIGINT)) is not before:
        signal.signal(signal.SIGINT, before)
        pytest.fail(f"This test leaves its own handler of Ctrl-C behind: {left}")
