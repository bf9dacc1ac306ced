"""A lab's files are its user's alone, unless he opens them up himself."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from timestep_lab.model.ids import LOCAL_USER
from timestep_lab.model.records import ThreadRecord
from timestep_lab.store.base import Statement
from timestep_lab.store.duckdb.engine import Engine
from timestep_lab.store.liveness import Publisher
from timestep_lab.store.search import SearchIndex
from timestep_lab.store.store import open_store

pytestmark = [
    pytest.mark.skipif(os.name == "nt", reason="Windows has no such modes"),
    pytest.mark.usefixtures("new_labs_are_migrated"),
]


@pytest.fixture(autouse=True)
def usual_umask() -> Iterator[None]:
    before = os.umask(0o022)
    yield
    assert os.umask(before) == 0o022


def modes(folder: Path) -> dict[str, str]:
    return {path.name: oct(stat.S_IMODE(path.stat().st_mode)) for path in folder.iterdir()}


def test_a_new_lab_and_all_beside_it_are_its_user_s_alone(tmp_path: Path) -> None:
    path = tmp_path / "lab.duckdb"
    with open_store(path) as store:
        store.threads.insert(ThreadRecord(id="thread_1", user_id=LOCAL_USER))
        index = SearchIndex(path)
        index.add([(1, LOCAL_USER, "tea")], (1, "span"), index.position().forgotten)
        found = modes(tmp_path)
    assert {"lab.duckdb", "lab.duckdb.wal", "lab.duckdb.owner.json", "lab.duckdb.search"} <= set(found)
    assert set(found.values()) == {"0o600"}


def test_the_log_stays_so_after_it_was_folded_into_the_file(tmp_path: Path) -> None:
    path = tmp_path / "lab.duckdb"
    engine = Engine(path, Publisher())
    for n in range(3):
        engine._connection.execute("checkpoint")
        assert not (tmp_path / "lab.duckdb.wal").exists()
        engine.write("u", [Statement("insert into core.users (id, created_at) values ($1, now())", [f"user {n}"])])
        assert modes(tmp_path)["lab.duckdb.wal"] == "0o600"
    engine.close()
    again = Engine(path, Publisher())
    assert again.query("u", "select count(*) from core.users where id like 'user %'").rows == [(3,)]
    again.close()


def test_a_lab_that_was_opened_up_stays_open(tmp_path: Path) -> None:
    path = tmp_path / "lab.duckdb"
    open_store(path).close()
    path.chmod(0o640)
    with open_store(path) as store:
        store.threads.insert(ThreadRecord(id="thread_1", user_id=LOCAL_USER))
        found = modes(tmp_path)
    assert found["lab.duckdb"] == found["lab.duckdb.wal"] == "0o640"
    assert found["lab.duckdb.owner.json"] == "0o600"
