"""A lab that cannot be opened says why, and what to do; and what is in its place stays as it was."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import duckdb
import pytest

from timestep_lab.store.base import Statement
from timestep_lab.store.migrate import known_migrations
from timestep_lab.store.open import open_database, open_store
from timestep_lab.types.errors import (
    LabError,
    StoreCorruptError,
    StoreError,
    StoreTooNewError,
    UsageError,
)

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
    refused(theirs, StoreError, "something else: it holds sales")
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


def test_a_damaged_log_can_be_moved_aside_and_the_lab_opens_as_it_was(lab: Path) -> None:
    log = lab.with_name("lab.duckdb.wal")
    kill_while_writing(lab)
    assert log.exists()
    content = bytearray(log.read_bytes())
    content[len(content) // 2] ^= 0xFF
    log.write_bytes(content)
    refused(lab, StoreCorruptError, f"the log of its last changes.*mv {log} {log}.aside")
    log.rename(f"{log}.aside")
    database = open_database(lab)
    assert database.query("u", "select id from users order by id").rows == [("u",)]
    database.close()


def kill_while_writing(lab: Path) -> None:
    script = (
        "import os, sys\n"
        "from timestep_lab.store.base import Statement\n"
        "from timestep_lab.store.open import open_database\n"
        "lab = open_database(sys.argv[1])\n"
        "for n in range(30):\n"
        "    lab.write('u', [Statement(\"insert into users values ($1, 'k', null, now()::timestamp)\", [str(n) * 99])])\n"
        "os.kill(os.getpid(), 9)\n"
    )
    assert subprocess.run([sys.executable, "-c", script, str(lab)], check=False).returncode == -9


def test_what_a_killed_process_wrote_is_there_at_the_next_start(lab: Path) -> None:
    kill_while_writing(lab)
    database = open_database(lab)
    assert database.query("u", "select count(*) from users").rows == [(31,)]
    database.close()


def test_a_lab_of_a_later_version_is_refused_and_not_touched(lab: Path) -> None:
    change(lab, "insert into core.schema_migrations values (9999, '9999_flying_cars', 'x', now()::timestamp)")
    before = lab.read_bytes()
    refused(lab, StoreTooNewError, "later version.*9999_flying_cars.*pip install --upgrade timestep-lab")
    assert lab.read_bytes() == before


def test_a_lab_made_by_other_migrations_is_refused(lab: Path) -> None:
    change(lab, "update core.schema_migrations set sha256 = 'x' where number = 1")
    refused(lab, StoreError, f"{known_migrations('duckdb')[0].name}.*differs")


def test_a_folder_in_the_place_of_a_lab_is_named(tmp_path: Path) -> None:
    refused(tmp_path, StoreError, "is a folder.*lab.duckdb")


def test_a_lab_in_a_folder_that_does_not_exist_is_not_created(tmp_path: Path) -> None:
    refused(tmp_path / "new" / "lab.duckdb", StoreError, "does not exist.*mkdir -p")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(("url", "match"), [("mysql://host/lab", "mysql"), ("", "empty"), ("  ", "empty")])
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
        "from timestep_lab.store.open import open_database\n"
        "from timestep_lab.types.errors import StoreReadOnlyError\n"
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
    with pytest.raises(StoreError, match=r"was closed.*Open it again"):
        store.threads.find()
