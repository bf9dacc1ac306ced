"""Days that are over in Parquet beside the lab's file: read as before, by their owners alone, whatever breaks off in between."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pytest

from tests.traces.recorder import Recorder
from timestep_lab.model.errors import QueryError, UsageError
from timestep_lab.model.spans import SpanRecord, TraceStart
from timestep_lab.service.my_data import MyData
from timestep_lab.store import archive as archiving
from timestep_lab.store.archive import archive, folder_of
from timestep_lab.store.copy import fingerprint
from timestep_lab.store.search import SearchIndex, keep_filled
from timestep_lab.store.store import Store, open_store
from timestep_lab.store.trace_import import TraceImport

ALICE, BOB = "alice", "bob"
DAY = datetime(2026, 11, 20, 12, tzinfo=UTC)
END = DAY.replace(hour=0) + timedelta(days=3)
READS = (
    "select * exclude (duration_ms) from spans order by span_id", "select * from traces order by trace_id",
    "select * from generations order by span_id", "select * from tool_calls order by span_id", "select * from usage order by all",
    "select * from messages order by all",
)  # fmt: skip


def record(store: Store, users: tuple[str, ...] = (ALICE, BOB), days: int = 4) -> dict[str, list[str]]:
    """A trace a user and day, with a long history; the last day is younger than `END`."""
    recorder = Recorder(store.db)
    traces: dict[str, list[str]] = {user: [] for user in users}
    for user in users:
        recorder.user_id = user
        for n in range(days):
            trace_id = recorder.weather_run(at=DAY + timedelta(days=n), question=f"Umbrella {n} for {user}?")
            history = [{"role": "user", "content": "long " * 300}, {"role": "user", "content": f"{user} {n} " * 300}]
            recorder.ended(
                trace_id, "generation", "chat", at=DAY + timedelta(days=n, seconds=3), input=history, model="m"
            )
            traces[user].append(trace_id)
    recorder.writer.flush()
    recorder.writer.close()
    return traces


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Store]:
    store = open_store(tmp_path / "lab.duckdb", ALICE)
    yield store
    store.close()


def told_in_two_parts() -> tuple[tuple[list[TraceStart], list[SpanRecord]], tuple[list[TraceStart], list[SpanRecord]]]:
    """What another program's trace says at first, and what it says after: a root around the rest, more of a span, and another."""

    def span(name: str, second: int, parent: str | None, **fields: Any) -> SpanRecord:
        at = DAY + timedelta(seconds=second)
        return SpanRecord(
            trace_id="0" * 31 + "1", span_id=name.rjust(16, "0"), parent_id=parent and parent.rjust(16, "0"), user_id=ALICE,
            kind=fields.pop("kind", "generation"), name=name, started_at=at, ended_at=at + timedelta(seconds=1), status="ok", **fields,
        )  # fmt: skip

    first = span("a", 1, "c", model="gpt-4o", input_tokens=10, output_tokens=5, input="What is left of umbrellas?")
    early = [first, span("b", 2, "c", kind="tool", output={"left": 3})]
    late = [
        replace(first, output="Three."), span("c", 0, None, kind="agent", input="umbrellas?", output="Three."),
        span("d", 3, "c", model="gpt-4o", input_tokens=20, output_tokens=7),
    ]  # fmt: skip
    return ([], early), ([], late)


def seen(store: Store) -> dict[str, Any]:
    return {sql: store.sql(sql).rows for sql in READS}


def files(lab: Store) -> list[Path]:
    return sorted(folder_of(Path(lab.db.url)).glob("*.parquet"))


def left(lab: Store) -> int:
    return int(lab.db.query(ALICE, "select count(*) from core.spans_raw").rows[0][0])


def test_what_was_archived_reads_as_before_and_what_goes_on_stays(lab: Store) -> None:
    traces = record(lab)
    recorder = Recorder(lab.db, ALICE)
    unfinished = recorder.start(at=DAY)
    recorder.opened(unfinished, "tool", "waits", at=DAY)
    recorder.ended(unfinished, "tool", "done", at=DAY)
    recorder.writer.flush()
    both = [lab, lab.for_user(BOB)]
    before = [seen(store) for store in both]
    whole = [store.traces.spans(traces[user][0]) for store, user in zip(both, (ALICE, BOB), strict=True)]
    found = lab.traces.list()
    spans = [span.span_id for span in whole[0]]
    payloads = lab.traces.payloads(traces[ALICE][0], spans)
    done = archive(lab.db, END)
    assert (done.days, done.spans) == (3, 2 * 3 * 8)
    assert left(lab) == 2 * 8 + 1
    assert [seen(store) for store in both] == before
    assert [store.traces.spans(traces[user][0]) for store, user in zip(both, (ALICE, BOB), strict=True)] == whole
    assert lab.traces.list() == found
    assert lab.traces.payloads(traces[ALICE][0], spans) == payloads
    assert archive(lab.db, END).days == 0
    recorder.writer.close()


@pytest.mark.parametrize("same_process", [True, False])
def test_what_is_told_later_of_an_archived_trace_is_added_to_what_was_told(tmp_path: Path, same_process: bool) -> None:
    path = tmp_path / "lab.duckdb"
    early, late = told_in_two_parts()
    with contextlib.closing(open_store(tmp_path / "whole.duckdb", ALICE)) as whole:
        TraceImport(whole.db).records(*early)
        TraceImport(whole.db).records(*late)
        expected = seen(whole)
    store = open_store(path, ALICE)
    TraceImport(store.db).records(*early)
    archive(store.db, END)
    assert left(store) == 0
    if not same_process:
        store.close()
        store = open_store(path, ALICE)
    with contextlib.closing(store):
        assert TraceImport(store.db).records(*early) == 0
        TraceImport(store.db).records(*late)
        assert seen(store) == expected
        archive(store.db, END)
        assert left(store) == 0
        assert seen(store) == expected
        assert len(files(store)) == 1


def test_a_search_index_that_is_built_anew_has_the_words_of_archived_traces(lab: Store) -> None:
    traces = record(lab)
    archive(lab.db, END)
    SearchIndex(Path(lab.db.url)).delete()
    keep_filled(lab.db, somebody_waits=True)
    deadline = time.monotonic() + 20
    found: set[str] = set()
    while found != set(traces[ALICE]) and time.monotonic() < deadline:
        time.sleep(0.02)
        found = {trace["trace_id"] for trace in lab.traces.list(search="Umbrella").data}
    assert found == set(traces[ALICE])


def test_any_duckdb_reads_the_files_and_only_the_labs_user_may(lab: Store) -> None:
    record(lab)
    archive(lab.db, END)
    rows = duckdb.sql(f"select user_id, count(*) from '{folder_of(Path(lab.db.url))}/*.parquet' group by 1 order by 1")
    assert rows.fetchall() == [(ALICE, 24), (BOB, 24)]
    assert {file.stat().st_mode & 0o077 for file in [*files(lab), folder_of(Path(lab.db.url))]} == {0}


@pytest.mark.parametrize(
    "query",
    [
        "select * from read_parquet('{file}')", "select * from '{file}'", "from '{file}'", "select * from parquet_metadata('{file}')",
        "select * from read_text('{file}')", "select * from glob('{folder}/*')", "select * from core.archived_spans",
        "copy (select 1) to '{folder}/x.parquet'", "select * from read_blob('{file}')", "select * from parquet_scan('{file}')",
    ],
)  # fmt: skip
def test_typed_sql_does_not_reach_the_files(lab: Store, query: str) -> None:
    record(lab, days=1)
    archive(lab.db, END)
    with pytest.raises(QueryError):
        lab.sql(query.format(file=files(lab)[0], folder=folder_of(Path(lab.db.url))))


def test_a_deleted_trace_is_gone_at_once_and_from_the_files_with_the_next_archiving(lab: Store) -> None:
    traces = record(lab)
    archive(lab.db, END)
    lab.traces.delete([traces[ALICE][0]])
    assert lab.sql("select count(*) from spans where trace_id = ?", [traces[ALICE][0]]).rows == [(0,)]
    assert lab.for_user(BOB).sql("select count(*) from spans").rows == [(4 * 8,)]
    archive(lab.db, END)
    kept = duckdb.sql(f"select distinct trace_id from '{folder_of(Path(lab.db.url))}/*.parquet'").fetchall()
    assert sorted(kept) == sorted((trace,) for trace in [*traces[ALICE][1:3], *traces[BOB][:3]])


def test_all_of_a_users_data_leaves_the_files_and_anothers_stays(lab: Store) -> None:
    record(lab)
    archive(lab.db, END)

    class Mine:
        store = lab

        def flush(self) -> None: ...

    MyData(Mine()).delete("traces")  # type: ignore[arg-type]
    rows = duckdb.sql(f"select distinct user_id from '{folder_of(Path(lab.db.url))}/*.parquet'").fetchall()
    assert rows == [(BOB,)]
    assert lab.for_user(BOB).sql("select count(*) from spans").rows == [(4 * 8,)]
    assert lab.sql("select count(*) from spans").rows == [(0,)]


KILLED = """
import os, sys
from datetime import UTC, datetime
from pathlib import Path
from timestep_lab.store import archive
from timestep_lab.store.store import open_store
store = open_store(sys.argv[1], "alice")
place, calls = sys.argv[2], [0]
named = getattr(archive, place, None)
if named is None:
    write = store.db.write
    def killed(*args, **kwargs):
        if any("archive_files" in statement.sql for statement in args[1]):
            if place == "after": write(*args, **kwargs)
            os.kill(os.getpid(), 9)
        return write(*args, **kwargs)
    store.db.write = killed
else:
    def killed(*args):
        calls[0] += 1
        if calls[0] == 3: os.kill(os.getpid(), 9)
        return named(*args)
    setattr(archive, place, killed)
archive.archive(store.db, datetime(2026, 11, 23, tzinfo=UTC))
"""


@pytest.mark.parametrize("place", ["_durable", "before", "after"])
def test_an_archiving_that_is_killed_loses_nothing_and_can_be_begun_again(
    tmp_path: Path, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "lab.duckdb"
    with contextlib.closing(open_store(path, ALICE)) as store:
        record(store)
        before = [seen(store), seen(store.for_user(BOB))]
    killed = subprocess.run([sys.executable, "-c", KILLED, str(path), place], check=False)
    assert killed.returncode == -9
    monkeypatch.setattr(archiving, "ORPHAN_AGE_S", -1.0)
    with contextlib.closing(open_store(path, ALICE)) as store:
        assert [seen(store), seen(store.for_user(BOB))] == before
        archive(store.db, END)
        assert left(store) == 2 * 8
        assert [seen(store), seen(store.for_user(BOB))] == before
        known = {name for (name,) in store.db.query(ALICE, "select name from core.archive_files").rows}
        assert {file.name for file in folder_of(path).iterdir()} == known


def test_a_lab_is_moved_and_copied_with_its_archive(tmp_path: Path) -> None:
    with contextlib.closing(open_store(tmp_path / "lab.duckdb", ALICE)) as store:
        record(store)
        before, whole = seen(store), fingerprint(store.db)
        archive(store.db, END)
        assert {name: table.rows for name, table in fingerprint(store.db).items()} == {
            name: table.rows for name, table in whole.items()
        }
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for file in list(tmp_path.glob("lab.duckdb*")):
        shutil.move(file, elsewhere / file.name)
    with contextlib.closing(open_store(elsewhere / "lab.duckdb", ALICE)) as store:
        assert seen(store) == before


def test_a_lab_without_a_file_says_that_nothing_has_to_move() -> None:
    with contextlib.closing(open_store(":memory:", ALICE)) as store, pytest.raises(UsageError, match="no file"):
        archive(store.db, END)
