"""Spans on their way into the store: seen while they run, never lost, never stored twice."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.traces.recorder import NOON, Recorder
from timestep_lab.model.errors import StoreError, StoreUnavailableError
from timestep_lab.model.ids import LOCAL_USER
from timestep_lab.model.spans import Lab
from timestep_lab.store.base import Database
from timestep_lab.store.store import Store, open_store
from timestep_lab.store.trace_writer import TraceWriter


def test_a_span_is_seen_soon_after_it_began_and_completed_when_it_ends(store: Store, recorder: Recorder) -> None:
    seen: list[str] = []
    end = store.subscribe(lambda change: seen.append(change.id))
    waits = []
    for attempt in range(5):  # The best of five: a busy machine proves nothing.
        trace_id = recorder.start()
        began = time.monotonic()
        span = recorder.opened(trace_id, "tool", "get_weather", input={"location": "Oakland"})
        while len(store.sql("select 1 from spans").rows) <= attempt:
            assert time.monotonic() - began < 10
            time.sleep(0.005)
        waits.append(time.monotonic() - began)
    assert min(waits) < 0.25
    [row] = store.sql(f"select status, ended_at, input from spans where trace_id = '{trace_id}'").rows
    assert row == ("pending", None, '{"location":"Oakland"}')
    assert store.traces.get(trace_id)["status"] == "running"
    recorder.writer.span_ended(replace(span, status="ok", ended_at=NOON, output="sunny"))
    recorder.writer.flush()
    assert store.sql(f"select status, output from spans where trace_id = '{trace_id}'").rows == [("ok", "sunny")]
    assert store.traces.get(trace_id) == {**store.traces.get(trace_id), "status": "completed", "n_spans": 1}
    deadline = time.monotonic() + 5
    while trace_id not in seen:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    end()


def test_a_flush_makes_everything_before_it_durable(store: Store, recorder: Recorder) -> None:
    trace_id = recorder.start()
    for number in range(3000):
        recorder.ended(trace_id, "other", f"step {number}")
    recorder.writer.flush()
    assert store.sql("select count(*), count(distinct name) from spans").one() == (3000, 3000)
    assert store.traces.get(trace_id)["n_spans"] == 3000


class Stumbling:
    """A database whose next writes fail, before or after they are done."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self.fail_before = self.fail_after = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._db, name)

    def append(self, *args: Any, **kwargs: Any) -> None:
        if self.fail_before:
            self.fail_before -= 1
            raise StoreUnavailableError("The store is away.", "Wait.")
        self._db.append(*args, **kwargs)
        if self.fail_after:
            self.fail_after -= 1
            raise StoreUnavailableError("The answer got lost.", "Wait.")


def test_a_failing_store_is_tried_again_and_a_lost_answer_writes_nothing_twice(store: Store) -> None:
    stumbling = Stumbling(store.db)
    stumbling.fail_before = stumbling.fail_after = 2
    recorder = Recorder(stumbling)  # type: ignore[arg-type]
    recorder.weather_run()
    recorder.writer.flush()
    assert store.sql("select count(*) from spans").one() == (7,)
    assert store.sql("select n_spans from traces").rows == [(7,)]
    assert recorder.writer.last_error is None
    recorder.writer.close()


def test_spans_of_many_users_that_begin_and_end_together_are_each_users_own(store: Store) -> None:
    stumbling = Stumbling(store.db)
    stumbling.fail_after = 1
    recorder = Recorder(stumbling)  # type: ignore[arg-type]
    users = [f"user {n}" for n in range(20)]
    for user in users:
        recorder.user_id = user
        trace_id = recorder.start()
        spans = [recorder.opened(trace_id, "other", f"{user} {n}") for n in range(2)]
    recorder.writer.flush()
    for user in users:
        mine = store.for_user(user)
        assert mine.sql("select name, status from spans order by name").rows == [
            (f"{user} 0", "pending"),
            (f"{user} 1", "pending"),
        ]
    for user in users:
        trace_id = store.for_user(user).sql("select trace_id from traces").rows[0][0]
        recorder.user_id = user
        for span in spans:
            recorder.writer.span_ended(
                replace(span, user_id=user, trace_id=trace_id, status="ok", ended_at=NOON, name=f"{user} ended")
            )
    recorder.writer.flush()
    for user in users[
        :-1
    ]:  # The last one's are the spans that ended; the others' are of the same ids and others' traces.
        rows = store.for_user(user).sql("select status, count(*) from spans group by 1 order by 1").rows
        assert rows == [("ok", 2), ("pending", 2)]
    assert store.for_user(users[-1]).sql("select status, count(*) from spans group by 1").rows == [("ok", 2)]
    recorder.writer.close()


def test_a_store_that_stays_away_is_reported_and_what_waits_is_kept(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    stumbling = Stumbling(store.db)
    stumbling.fail_before = 10_000
    recorder = Recorder(stumbling)  # type: ignore[arg-type]
    recorder.weather_run()
    with pytest.raises(StoreError, match=r"within 0\.3 s: The store is away"):
        recorder.writer.flush(timeout_s=0.3)
    assert isinstance(recorder.writer.last_error, StoreUnavailableError)
    assert "could not be written and will be retried" in caplog.text
    stumbling.fail_before = 0
    recorder.writer.flush()
    assert store.sql("select count(*) from spans").one() == (7,)
    recorder.writer.close()


async def test_in_a_process_that_ends_nobody_waits_for_a_store_that_is_away_or_takes_lost_spans_for_stored(
    store: Store,
) -> None:
    stumbling = Stumbling(store.db)
    stumbling.fail_before = 1_000_000
    recorder = Recorder(stumbling)  # type: ignore[arg-type]
    writer = recorder.writer
    recorder.ended(recorder.start(), "other", "lost")
    barriers = [writer.barrier() for _ in range(2)]
    began = time.monotonic()
    writer.give_up_in(0.3)
    with pytest.raises(StoreError, match=r"before the process ended: The store is away\."):
        await barriers[0].reached()
    with pytest.raises(StoreError, match="before the process ended"):
        barriers[1].wait()
    stumbling.fail_before = 0
    recorder.ended(recorder.start(), "other", "stored")
    with pytest.raises(StoreError, match="before the process ended"):
        writer.close()
    assert store.sql("select name from spans").rows == [("stored",)]
    assert time.monotonic() - began < 10.0


def test_handing_over_never_waits_and_what_is_too_much_is_counted_as_lost(
    store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("timestep_lab.store.trace_writer.MAX_WAITING", 100)
    stumbling = Stumbling(store.db)
    stumbling.fail_before = 10_000
    recorder = Recorder(stumbling)  # type: ignore[arg-type]
    trace_id = recorder.start()
    recorder.ended(trace_id, "other", "first")
    time.sleep(0.2)  # Taken from the queue, and stuck.
    began = time.monotonic()
    for number in range(500):
        recorder.ended(trace_id, "other", f"step {number}")
    assert time.monotonic() - began < 1
    stumbling.fail_before = 0
    with pytest.raises(StoreError, match="400 spans were lost"):
        recorder.writer.flush()
    assert "further spans are lost" in caplog.text
    assert store.sql("select count(*) from spans").one() == (101,)
    recorder.writer.close()


def test_a_span_that_cannot_be_written_down_takes_no_other_with_it(store: Store, recorder: Recorder) -> None:
    class Broken:
        def __str__(self) -> str:
            raise OSError("gone")

    trace_id = recorder.start()
    recorder.ended(trace_id, "tool", "broken", input=Broken())
    recorder.ended(trace_id, "tool", "whole", input=1)
    with pytest.raises(StoreError, match="1 spans were lost"):
        recorder.writer.flush()
    assert store.sql("select name from spans").rows == [("whole",)]


def test_a_call_that_waits_for_a_person_goes_on_in_another_process(store: Store, recorder: Recorder) -> None:
    trace_id = recorder.start()
    waiting = recorder.opened(trace_id, "tool", "get_weather", attributes={Lab.APPROVAL: "pending"})
    recorder.writer.flush()
    assert store.db.query(
        LOCAL_USER, "select process_id from core.open_spans where user_id = $1", [LOCAL_USER]
    ).rows == [(None,)]
    other = TraceWriter(store.db)
    resumed = replace(waiting, attributes={Lab.APPROVAL: "approved"})
    other.span_started(resumed)
    other.flush()
    assert store.sql("select status, approval from tool_calls").rows == [("pending", "approved")]
    other.span_ended(replace(resumed, status="ok", ended_at=NOON, output="sunny"))
    other.flush()
    other.close()
    assert store.sql("select status, approval, result from tool_calls").rows == [("ok", "approved", "sunny")]
    assert store.traces.get(trace_id) == {**store.traces.get(trace_id), "status": "completed", "n_spans": 1}


def test_users_do_not_see_each_others_traces(store: Store, recorder: Recorder) -> None:
    mine = recorder.weather_run()
    other = Recorder(store.db, user_id="somebody-else")
    theirs = other.weather_run()
    recorder.writer.flush()
    other.writer.close()
    assert [row["trace_id"] for row in store.traces.list().data] == [mine]
    assert [row["trace_id"] for row in store.for_user("somebody-else").traces.list().data] == [theirs]
    assert store.sql("select count(*) from spans").one() == (7,)


VICTIM = """
import sys
from tests.traces.recorder import Recorder
from timestep_lab.store.store import open_store
recorder = Recorder(open_store(sys.argv[1]).db)
trace_id = recorder.weather_run()
recorder.opened(trace_id, "generation", "unfinished", input=[{"role": "user", "content": "still there?"}])
recorder.writer.flush()
print("flushed", flush=True)
input()
"""


def test_what_was_flushed_and_what_was_open_survives_kill_9_and_is_marked_interrupted(tmp_path: Path) -> None:
    path = tmp_path / "lab.duckdb"
    victim = subprocess.Popen(
        [sys.executable, "-c", VICTIM, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    assert victim.stdout
    assert victim.stdout.readline() == "flushed\n"
    victim.send_signal(signal.SIGKILL)
    victim.communicate()
    store = open_store(path)
    assert store.sql("select count(*) from spans").one() == (8,)
    [row] = store.sql("select status, error, input from spans where name = 'unfinished'").rows
    assert row == (
        "error",
        "interrupted: the process that ran this ended",
        '[{"role":"user","content":"still there?"}]',
    )
    assert store.sql("select status, n_spans, n_errors from traces").rows == [("interrupted", 8, 1)]
    store.close()
