"""The server of the lab's own: starts by itself, needs no administrator, and comes back."""

from __future__ import annotations

import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from timestep_lab.model.ids import LOCAL_USER
from timestep_lab.model.records import ThreadRecord
from timestep_lab.store.postgres import embedded as binaries
from timestep_lab.store.postgres.embedded import Account, EmbeddedPostgres
from timestep_lab.store.store import open_store

# As the lab runs it, but without waiting for the disk.
QUICK = "\nfsync = off\nshared_buffers = 16MB\n"


def thread(id: str) -> ThreadRecord:
    return ThreadRecord(id=id, user_id=LOCAL_USER)


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """Below a folder that is closed to every other account, as root's home is."""
    closed = tmp_path / "home"
    closed.mkdir(mode=0o700)
    yield closed / "lab.postgres"
    shutil.rmtree(EmbeddedPostgres(closed / "lab.postgres").folder)


def test_a_lab_keeps_what_it_was_told_from_one_start_to_the_next_and_closes_no_folder_that_was_open(
    folder: Path,
) -> None:
    url = f"embedded-postgres:{folder}"
    store = open_store(url)
    store.threads.insert(thread("t1"))
    assert store.db.url == url
    server = EmbeddedPostgres(folder)
    assert server.is_running()
    store.close()
    assert not server.is_running()

    store = open_store(url)
    assert [found.id for found in store.threads.find()] == ["t1"]
    store.close()
    assert stat.S_IMODE(folder.parent.stat().st_mode) == 0o700


def test_a_killed_server_comes_back_under_the_lab_that_uses_it(folder: Path) -> None:
    store = open_store(f"embedded-postgres:{folder}")
    store.threads.insert(thread("before"))
    os.kill(EmbeddedPostgres(folder).pid, signal.SIGKILL)
    store.threads.insert(thread("after"))
    assert {found.id for found in store.threads.find()} == {"before", "after"}
    store.close()


def test_only_a_password_lets_anybody_in_and_only_this_machine_can_ask(walkable: Path) -> None:
    server = EmbeddedPostgres(walkable / "pg", configuration=QUICK).start()
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(make_conninfo(server.url, password="wrong"))
    with psycopg.connect(server.url) as connection:
        rules = connection.execute(
            "select distinct auth_method from pg_hba_file_rules where type <> 'local'"
        ).fetchall()
        listening = connection.execute("show listen_addresses").fetchone()
    assert rules == [("scram-sha-256",)]
    assert listening == ("127.0.0.1",)
    assert stat.S_IMODE((server.folder / "password").stat().st_mode) == 0o600
    assert stat.S_IMODE(server.folder.stat().st_mode) == 0o700
    server.close()


def test_the_last_user_stops_the_server_and_one_that_died_does_not_count(walkable: Path) -> None:
    server = EmbeddedPostgres(walkable / "pg", configuration=QUICK).start()
    other = subprocess.Popen(
        [
            sys.executable, "-c",
            "import sys, time; from timestep_lab.store.postgres.embedded import EmbeddedPostgres; "
            "server = EmbeddedPostgres(sys.argv[1]).start(); print('started', flush=True); time.sleep(60)",
            str(walkable / "pg"),
        ],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert other.stdout
    assert other.stdout.readline() == "started\n"
    server.close()
    assert server.is_running()
    other.kill()
    other.wait()
    other.stdout.close()
    assert server.is_running()
    server.start().close()
    assert not server.is_running()


def test_two_that_start_at_once_share_one_server(walkable: Path) -> None:
    program = (
        "import sys; from timestep_lab.store.postgres.embedded import EmbeddedPostgres; "
        "server = EmbeddedPostgres(sys.argv[1]).start(); print(server.pid, flush=True); sys.stdin.read(); server.close()"
    )
    both = [
        subprocess.Popen(
            [sys.executable, "-c", program, str(walkable / "pg")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    pids = {process.stdout.readline() for process in both if process.stdout}
    assert len(pids) == 1
    for process in both:
        process.communicate(timeout=20)
    assert not EmbeddedPostgres(walkable / "pg").is_running()


def test_a_set_up_that_was_cut_short_is_begun_again(walkable: Path) -> None:
    server = EmbeddedPostgres(walkable / "pg", configuration=QUICK)
    (walkable / "pg").mkdir(mode=0o700)
    server.account.own(walkable / "pg")
    (walkable / "pg" / "password").write_text("half")
    (walkable / "pg" / "data.unfinished" / "base").mkdir(parents=True)
    (walkable / "pg" / "data.unfinished" / "PG_VERSION").write_text("18")
    began = time.monotonic()
    server.start()
    assert server.is_running()
    assert time.monotonic() - began < 20
    server.close()


def test_a_folder_counts_as_reachable_only_if_every_parent_lets_the_account_through(tmp_path: Path) -> None:
    stranger = Account(uid=12345, gid=12345)
    path = tmp_path / "open" / "closed" / "data"
    path.mkdir(parents=True)
    for parent in (path, *path.parents):
        if parent.is_relative_to(tmp_path):
            parent.chmod(0o755)
    below = [parent for parent in tmp_path.parents if parent.stat().st_mode & stat.S_IXOTH == 0]
    assert stranger.can_reach(path) == (not below)
    path.parent.chmod(0o700)
    assert not stranger.can_reach(path)
    assert Account().can_reach(path)


class ShutOut(Account):
    """An account that may not walk to where the package is installed."""

    def can_reach(self, path: Path) -> bool:
        return False


def test_programs_that_the_account_cannot_reach_are_copied_and_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(binaries, "SYSTEM_FOLDER", tmp_path)
    found = binaries.programs(ShutOut())
    assert found.is_relative_to(tmp_path)
    said = subprocess.run([found / "initdb", "--version"], capture_output=True, text=True, check=True).stdout
    assert "PostgreSQL" in said
