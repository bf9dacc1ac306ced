"""A lab that cannot be opened says why, and what to do; and what is in its place stays as it was."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import pytest

from timestep_lab.model.errors import (
    LabError,
    StoreCorruptError,
    StoreError,
    StoreTooNewError,
    StoreUnavailableError,
    UsageError,
)
from timestep_lab.store.base import Statement
from timestep_lab.store.duckdb.connect import LogCheck, repair, verify
from timestep_lab.store.migrate import known_migrations
from timestep_lab.store.store import open_database, open_store

NOBODY = 65534


@pytest.fixture
def lab(tmp_path: Path) -> Path:
    """A lab with one user in it, closed."""
    path = tmp_path / "lab.duckdb"
    database = open_database(path)
    database.write("u", [Statement("insert into users (id, kind, created_at) values ('u', 'k', now()::timestamp)")])
    database.close()
    return path


def change(lab: Path, sql: str) -> None:
    with duckdb.connect(str(lab)) as connection:
        connection.execute(sql)


def refused(path: str | Path, kind: type[LabError], match: str) -> None:
    with pytest.raises(kind, match=match) as caught:
        open_database(path)
    assert type(caught.value) is kind
    assert "\n" not in str(caught.value)
    assert caught.value.next_step


def test_a_file_that_is_something_else_is_left_alone(tmp_path: Path) -> None:
    notes = tmp_path / "notes.txt"
    notes.write_text("dear diary\n" * 1000)
    refused(notes, StoreCorruptError, "not a DuckDB file.*--store PATH")
    assert notes.read_text() == "dear diary\n" * 1000
    assert list(tmp_path.iterdir()) == [notes]


@pytest.mark.parametrize("name", ["cases.csv", "spans.jsonl", "table.parquet", "plain"])
def test_a_file_that_duckdb_would_read_as_a_table_is_no_lab(tmp_path: Path, name: str) -> None:
    table = tmp_path / name
    table.write_text('{"a": 1}\n' if name.endswith("jsonl") else "a,b\n1,2\n")
    refused(table, StoreCorruptError, "not a DuckDB file")
    assert list(tmp_path.iterdir()) == [table]


def test_a_database_of_something_else_gets_no_tables_of_ours(tmp_path: Path) -> None:
    theirs = tmp_path / "sales.duckdb"
    change(theirs, "create table sales (amount int)")
    refused(theirs, StoreError, "another program: it has the tables sales")
    with duckdb.connect(str(theirs)) as connection:
        assert connection.execute("select table_name from duckdb_tables()").fetchall() == [("sales",)]


def test_an_empty_file_is_named_as_such(tmp_path: Path) -> None:
    (tmp_path / "lab.duckdb").touch()
    refused(tmp_path / "lab.duckdb", StoreCorruptError, "is empty.*rm ")


def test_a_damaged_file_is_reported_when_it_is_opened(lab: Path) -> None:
    content = bytearray(lab.read_bytes())
    content[4096:] = os.urandom(len(content) - 4096)
    lab.write_bytes(content)
    refused(lab, StoreCorruptError, "damaged.*Restore a copy")
    assert lab.read_bytes() == bytes(content)


@pytest.fixture
def killed(lab: Path) -> Path:
    """A lab whose process was killed: 30 of its 31 users, all acknowledged, are in the log only."""
    kill_while_writing(lab)
    assert lab.with_name("lab.duckdb.wal").stat().st_size > 1000
    return lab


Damage = Callable[[bytes, random.Random], bytes | None]
DAMAGES: dict[str, Damage] = {
    "head zeroed": lambda log, _: bytes(64) + log[64:],
    "first page zeroed": lambda log, _: bytes(4096) + log[4096:],
    "head is garbage": lambda log, chance: chance.randbytes(64) + log[64:],
    "all is garbage": lambda log, chance: chance.randbytes(len(log)),
    "a byte is flipped": lambda log, chance: flipped(log, chance.randrange(len(log))),
    "the end is cut off": lambda log, chance: log[: -chance.randrange(1, len(log))],
    "the tail is zeroed": lambda log, chance: log[: -(n := chance.randrange(100, len(log)))] + bytes(n),
    "empty": lambda _log, _chance: b"",
    "deleted": lambda _log, _chance: None,
}


def flipped(log: bytes, at: int) -> bytes:
    return log[:at] + bytes([log[at] ^ 0xFF]) + log[at + 1 :]


def files_of(lab: Path) -> dict[str, bytes]:
    return {
        name: path.read_bytes()
        for name in ("lab.duckdb", "lab.duckdb.wal", "lab.duckdb.wal.check")
        if (path := lab.with_name(name)).exists()
    }


@pytest.mark.parametrize("damage", list(DAMAGES))
def test_a_lab_whose_log_lost_what_was_acknowledged_does_not_open_and_nothing_is_moved(
    killed: Path, damage: str
) -> None:
    log = killed.with_name("lab.duckdb.wal")
    whole, chance = log.read_bytes(), random.Random(7)
    for _ in range(8):
        found = DAMAGES[damage](whole, chance)
        log.unlink(missing_ok=True)
        if found is not None:
            log.write_bytes(found)
        before = files_of(killed)
        refused(killed, StoreCorruptError, "log of the last changes.*timestep-lab db repair --store")
        assert files_of(killed) == before
    log.write_bytes(whole)
    with contextlib.closing(open_database(killed)) as database:
        assert database.query("u", "select count(*) from users").rows == [(31,)]


def damaged(log: bytes, chance: random.Random) -> bytes | None:
    """One to three damages, anywhere."""
    found: bytes | None = log
    for _ in range(chance.randint(1, 3)):
        if not found:
            return found
        start, length = chance.randrange(len(found)), chance.randint(1, 4096)
        after = found[start + length :]
        found = chance.choice([
            DAMAGES[chance.choice(list(DAMAGES))](found, chance),
            found[:start] + bytes(len(found) - start - len(after)) + after,
            found[:start] + chance.randbytes(length) + after,
            found[:start] + after,
            found[:start] + found[start : start + length] * 2 + after,
            after + found[: start + length],
        ])  # fmt: skip
    return found


def test_after_any_of_200_random_damages_no_acknowledged_row_is_missing_without_an_error(killed: Path) -> None:
    whole, chance = files_of(killed), random.Random(int(os.environ.get("RANDOM_SEED", "11")))
    refusals = 0
    for n in range(200):
        for name, content in whole.items():
            killed.with_name(name).write_bytes(content)
        log = killed.with_name("lab.duckdb.wal")
        found = damaged(whole[log.name], chance)
        log.unlink()
        if found is not None:
            log.write_bytes(found)
        try:
            with contextlib.closing(open_database(killed)) as database:
                assert database.query("u", "select count(*) from users").rows == [(31,)], f"damage {n}"
        except StoreCorruptError:
            refusals += 1
    assert refusals > 190  # A few repeat or zero what was so already.


def test_the_log_of_an_earlier_time_is_not_taken_for_the_last_one(lab: Path) -> None:
    log = lab.with_name("lab.duckdb.wal")
    kill_while_writing(lab)
    earlier = log.read_bytes()
    kill_while_writing(lab, "more")
    log.write_bytes(earlier)
    refused(lab, StoreCorruptError, "log of the last changes")


def test_a_log_without_its_check_must_at_least_begin_as_one(killed: Path) -> None:
    """As one of an earlier version of the lab, which wrote no check."""
    log = killed.with_name("lab.duckdb.wal")
    killed.with_name("lab.duckdb.wal.check").unlink()
    whole = log.read_bytes()
    log.write_bytes(bytes(64) + whole[64:])
    refused(killed, StoreCorruptError, "its start is invalid")
    assert log.read_bytes() == bytes(64) + whole[64:]


def test_a_log_that_another_process_folds_in_while_it_is_looked_at_is_no_damage(
    killed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = killed.with_name(killed.name + ".wal")
    killed.with_name(killed.name + ".wal.check").unlink()
    look = Path.open

    def gone_at_the_second_look(path: Path, *args: Any, **options: Any) -> Any:
        if path == log:
            log.unlink(missing_ok=True)
        return look(path, *args, **options)

    monkeypatch.setattr(Path, "open", gone_at_the_second_look)
    verify(killed)
    assert not log.exists()


def test_a_log_whose_lab_is_gone_is_kept(killed: Path) -> None:
    log = killed.with_name("lab.duckdb.wal")
    content = log.read_bytes()
    killed.unlink()
    refused(killed, StoreCorruptError, "the log of a lab that does not exist")
    assert log.read_bytes() == content
    assert not killed.exists()


@pytest.mark.parametrize(("damage", "at_least"), [("head zeroed", 1), ("a byte is flipped", 2), ("deleted", 1)])
def test_a_repaired_lab_has_what_could_be_had_and_the_damaged_files_beside_it(
    killed: Path, damage: str, at_least: int
) -> None:
    log = killed.with_name("lab.duckdb.wal")
    whole = log.read_bytes()
    found = flipped(whole, len(whole) * 9 // 10) if "flipped" in damage else DAMAGES[damage](whole, random.Random(7))
    log.unlink()
    if found is not None:
        log.write_bytes(found)
    before = sorted(files_of(killed).values())
    done = repair(killed)
    assert done is not None
    assert sorted(path.read_bytes() for path in done.aside) == before
    with contextlib.closing(open_database(killed)) as database:
        assert at_least <= len(database.query("u", "select id from users").rows) < 31
    assert repair(killed) is None


def test_a_repair_that_is_killed_at_any_moment_leaves_a_lab_that_does_not_open_until_it_is_repaired(
    killed: Path,
) -> None:
    script = (
        "import os, sys; from pathlib import Path; rename, calls = Path.rename, iter(range(99))\n"
        "def killed(*args):\n"
        "    os._exit(9) if next(calls) == int(sys.argv[2]) else None\n"
        "    return rename(*args)\n"
        "Path.rename = killed\n"
        "from timestep_lab.store.duckdb.connect import repair; repair(Path(sys.argv[1]))\n"
    )
    log = killed.with_name("lab.duckdb.wal")
    log.write_bytes(flipped(log.read_bytes(), log.stat().st_size * 9 // 10))
    whole = shutil.copytree(killed.parent, killed.parent.with_name("whole"))
    for moment in itertools.count():
        lab = shutil.copytree(whole, killed.parent.with_name(f"killed at {moment}")) / killed.name
        ended = subprocess.run([sys.executable, "-c", script, str(lab), str(moment)], check=False).returncode
        if ended == 0:
            break
        assert ended == 9
        refused(lab, StoreCorruptError, "timestep-lab db repair --store")
        assert repair(lab) is not None
        with contextlib.closing(open_database(lab)) as database:
            assert 2 <= len(database.query("u", "select id from users").rows) < 31
        assert repair(lab) is None
    assert moment > 4


def test_a_lab_that_is_closed_leaves_no_check_and_one_that_is_whole_needs_no_repair(lab: Path) -> None:
    assert [path.name for path in lab.parent.iterdir()] == ["lab.duckdb"]
    assert repair(lab) is None
    kill_while_writing(lab)
    assert repair(lab) is None
    with contextlib.closing(open_database(lab)) as database:
        assert database.query("u", "select count(*) from users").rows == [(31,)]


def kill_while_writing(lab: Path, name: str = "") -> None:
    script = (
        "import os, sys\n"
        "from timestep_lab.store.base import Statement\n"
        "from timestep_lab.store.store import open_database\n"
        "lab = open_database(sys.argv[1])\n"
        "for n in range(30):\n"
        "    lab.write('u', [Statement(\"insert into users values ($1, 'k', null, now()::timestamp)\", [sys.argv[2] + str(n) * 99])])\n"
        "os.kill(os.getpid(), 9)\n"
    )
    assert subprocess.run([sys.executable, "-c", script, str(lab), name], check=False).returncode == -9


def test_what_a_killed_process_wrote_is_there_at_the_next_start(lab: Path) -> None:
    kill_while_writing(lab)
    database = open_database(lab)
    assert database.query("u", "select count(*) from users").rows == [(31,)]
    database.close()


def test_a_lab_of_a_later_version_is_refused_and_not_touched(lab: Path) -> None:
    change(lab, "insert into core.schema_migrations values (9999, '9999_flying_cars', 'x', now()::timestamp)")
    before = lab.read_bytes()
    refused(lab, StoreTooNewError, "newer version.*9999_flying_cars.*pip install --upgrade timestep-lab")
    assert lab.read_bytes() == before


def test_a_lab_made_by_other_migrations_is_refused(lab: Path) -> None:
    change(lab, "update core.schema_migrations set sha256 = 'x' where number = 1")
    refused(lab, StoreError, f"{known_migrations('duckdb')[0].name}.*differs")


def test_a_folder_in_the_place_of_a_lab_is_named(tmp_path: Path) -> None:
    refused(tmp_path, StoreError, "is a folder.*lab.duckdb")


def test_a_lab_in_a_folder_that_does_not_exist_is_not_created(tmp_path: Path) -> None:
    refused(tmp_path / "new" / "lab.duckdb", StoreError, "does not exist.*mkdir -p")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("url", "match"),
    [("mysql://host/lab", "mysql"), ("", "empty"), ("  ", "empty"), ("host=db dbname=lab", "Write it as a URL")],
)
def test_a_name_that_can_be_no_lab_is_wrong_use(url: str, match: str) -> None:
    refused(url, UsageError, match)


@pytest.mark.parametrize(
    ("what", "mode", "says"),
    [
        ("file", 0o444, "cannot be written by this user.*chmod u\\+rw"),
        ("folder", 0o555, "The folder .* cannot be written.*--store"),
    ],
)
def test_a_place_that_cannot_be_written_is_named(what: str, mode: int, says: str) -> None:
    script = (
        "import encodings.ascii, os\n"
        "from timestep_lab.store.duckdb import database\n"  # Before it may no longer be read where it is installed.
        "from timestep_lab.store.store import open_database\n"
        "from timestep_lab.model.errors import StoreReadOnlyError\n"
        f"os.getuid() or os.setuid({NOBODY})\n"  # Root may write anywhere.
        "try:\n"
        "    open_database('lab.duckdb')\n"
        "except StoreReadOnlyError as error:\n"
        "    print(error)\n"
    )
    with tempfile.TemporaryDirectory() as folder:  # Not tmp_path: its parents are closed to others.
        lab = Path(folder) / "lab.duckdb"
        open_database(lab).close()
        if os.getuid() == 0:
            os.chown(lab, NOBODY, -1)
            os.chown(folder, NOBODY, -1)
        place = lab if what == "file" else lab.parent
        place.chmod(mode)
        done = subprocess.run([sys.executable, "-c", script], cwd=folder, capture_output=True, text=True, check=False)
        lab.parent.chmod(0o755)
    assert done.stderr == ""
    assert re.search(says, done.stdout)


def test_a_path_may_be_relative_or_begin_with_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for url in ("a.duckdb", "~/b.duckdb", f"duckdb://{tmp_path}/c.duckdb"):
        open_store(url).close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.duckdb", "b.duckdb", "c.duckdb"]


def test_a_lab_in_memory_is_alone_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    first, second = open_database(":memory:"), open_database(":memory:")
    first.write("u", [Statement("insert into users (id, kind, created_at) values ('u', 'k', now()::timestamp)")])
    assert second.query("u", "select * from users").rows == []
    first.close()
    second.close()
    assert list(tmp_path.iterdir()) == []


def test_a_closed_lab_says_so(lab: Path) -> None:
    store = open_store(lab)
    store.close()
    with pytest.raises(StoreError, match=r"is closed.*Open it again"):
        store.threads.find()


def test_a_disk_that_has_no_room_for_the_owners_address_is_told_in_words_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, replace = tmp_path / "lab.duckdb", Path.replace
    open_store(path).close()

    def full(self: Path, target: Path) -> Path:
        if "owner.json" in self.name:
            raise OSError(errno.ENOSPC, "No space left on device")
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(StoreUnavailableError, match=r"The disk of the lab is full: .*owner\.json cannot be written"):
        open_store(path)
    assert [one.name for one in tmp_path.iterdir() if one.stat().st_size] == ["lab.duckdb"]
    monkeypatch.undo()
    open_store(path).close()


def test_a_log_whose_end_is_overwritten_as_duckdb_does_after_a_failure_is_not_damaged(tmp_path: Path) -> None:
    path, log = tmp_path / "lab.duckdb", tmp_path / "lab.duckdb.wal"
    open_store(path).close()
    log.write_bytes(b"the log" * 100 + b"half of a commit")
    check = LogCheck(path)
    log.write_bytes(b"the log" * 100 + b"a whole commit, which takes more than that")
    check.record()
    verify(path)
    log.write_bytes(b"another" * 100 + b"a whole commit, which takes more than that")
    with pytest.raises(StoreCorruptError, match="is damaged"):
        verify(path)
    log.write_bytes(b"")
    check.record()
    check.close()
