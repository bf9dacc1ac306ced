"""Payloads come back as they were recorded, however long, repeated or odd they are."""

from __future__ import annotations

from typing import Any

import pytest

from tests.traces.recorder import NOON, Recorder
from timestep_lab.model.errors import NotFoundError
from timestep_lab.store.store import Store


def conversation(turns: int) -> list[dict[str, Any]]:
    return [
        {"role": "user" if n % 2 == 0 else "assistant", "content": f"turn {n}: " + "wörd “x” " * 40}
        for n in range(turns)
    ]


def test_a_history_that_repeats_is_stored_once_and_read_back_exactly(store: Store, recorder: Recorder) -> None:
    trace_id = recorder.start()
    whole = conversation(60)
    spans = [
        recorder.ended(trace_id, "generation", "m", input=whole[: n + 1], output=whole[n]) for n in range(0, 60, 2)
    ]
    recorder.writer.flush()
    for n, span in zip(range(0, 60, 2), spans, strict=True):
        assert store.traces.payload(trace_id, span.span_id)["input"] == whole[: n + 1]
    [last] = store.sql("select input from generations order by length(input) desc limit 1").rows
    assert last[0].count("wörd") == 59 * 40
    texts = store.db.query(
        store.user_id, "select coalesce(sum(length(input)), 0) from core.spans_raw where user_id = $1", [store.user_id]
    ).one()
    bodies = store.db.query(
        store.user_id, "select sum(length(body)), count(*) from core.message_bodies where user_id = $1", [store.user_id]
    ).one()
    assert texts
    assert bodies
    assert bodies[1] == 59
    assert texts[0] + bodies[0] < 1.2 * sum(len(str(message)) for message in whole)


def test_another_writer_does_not_store_the_same_messages_again(store: Store, recorder: Recorder) -> None:
    for writer in (recorder, Recorder(store.db)):
        writer.ended(writer.start(), "generation", "m", input=conversation(20))
        writer.writer.flush()
        if writer is not recorder:
            writer.writer.close()
    count = store.db.query(
        store.user_id, "select count(*) from core.message_bodies where user_id = $1", [store.user_id]
    ).one()
    assert count == (20,)


PAYLOADS: list[Any] = [
    "", "text", '{"looks": "like JSON"}', "[]", 0, 1.5, True, [], {}, [None], {"a": {"b": [1, "x"]}}, "‮right to left",
    "<img src=x onerror=alert(1)></script>",
]  # fmt: skip


def test_any_json_value_comes_back_as_it_was(store: Store, recorder: Recorder) -> None:
    trace_id = recorder.start()
    spans = [
        recorder.ended(trace_id, "tool", "t", input=payload, output=payload, attributes={"key": payload})
        for payload in PAYLOADS
    ]
    recorder.writer.flush()
    for span, found in zip(spans, store.traces.payloads(trace_id, [span.span_id for span in spans]), strict=True):
        assert (found["input"], found["output"], found["attributes"]) == (span.input, span.output, span.attributes)
        assert type(found["input"]) is type(span.input)


def test_what_no_database_can_hold_is_replaced_and_the_rest_kept(store: Store, recorder: Recorder) -> None:
    trace_id = recorder.start(workflow="nul\0 half \ud83d")
    odd = {
        "nul": "a\0b",
        "half \udc00": "\ud800",
        "pair": "\ud83d\ude00",
        "nan": float("nan"),
        "circle": None,
        "object": NOON,
    }
    odd["circle"] = {"deep": [odd]}
    big = "x" * 1_000_000
    span = recorder.ended(
        trace_id,
        "tool",
        "n\0ame\ud800",
        input=odd,
        output=big,
        error="e\0",
        status="error",
        attributes={"k\0": "\udfff"},
    )
    recorder.writer.flush()
    found = store.traces.payload(trace_id, span.span_id)
    assert (found["name"], found["error"], found["output"]) == ("n\ufffdame\ufffd", "e\ufffd", big)
    assert found["attributes"] == {"k\ufffd": "\ufffd"}
    assert {key: found["input"][key] for key in ("nul", "half \ufffd", "pair", "nan")} == {
        "nul": "a\ufffdb", "half \ufffd": "\ufffd", "pair": "😀", "nan": "NaN",
    }  # fmt: skip
    assert "nested too deep" in str(found["input"]["circle"])
    assert store.sql("select name from spans where attributes->>'k\ufffd' is not null").rows == [("n\ufffdame\ufffd",)]


def test_a_span_that_is_not_there_is_named(store: Store, recorder: Recorder) -> None:
    trace_id = recorder.weather_run()
    recorder.writer.flush()
    with pytest.raises(NotFoundError, match="no span 'nope'"):
        store.traces.payload(trace_id, "nope")
    with pytest.raises(NotFoundError, match="no trace 'nope'"):
        store.traces.spans("nope")
    assert store.traces.payloads(trace_id, ["nope"]) == []
