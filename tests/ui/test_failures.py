"""Why a trace failed, as its header and its conversation tell it."""

from __future__ import annotations

from typing import Any

from tests.ui.sample_traces import SampleSource, weather_run
from timestep_lab.model.clock import utc_now
from timestep_lab.ui.trace_reader import read_conversation, read_trace
from timestep_lab.ui.trace_view import trace_html

REFUSED = {"status": "error", "output": None, "error": "401: the key was refused."}


def failing(status: str = "failed", **errors: Any) -> tuple[SampleSource, str]:
    """The weather run with some of its steps failed: number of the step to what became of it."""
    row, spans = weather_run(1, utc_now(), approval_ms=20_000)
    for step, facts in errors.items():
        spans[int(step.removeprefix("step_"))].update(facts)
    return SampleSource([({**row, "status": status}, spans)]), row["trace_id"]


def told(source: SampleSource, trace_id: str) -> list[str]:
    return [entry["error"] for entry in read_conversation(source, trace_id)["entries"] if entry.get("error")]


def test_the_innermost_step_says_it_when_those_around_it_say_the_same() -> None:
    source, trace_id = failing(
        step_4={"status": "error", "error": "Error in agent run: 401: the key was refused."}, step_9=REFUSED
    )
    failure = read_trace(source, trace_id).value["failure"]
    assert (failure["name"], failure["error"]) == ("openai/gpt-4.1", REFUSED["error"])
    assert told(source, trace_id) == [REFUSED["error"]]


def test_a_run_that_got_over_a_failed_tool_says_what_it_failed_of_later() -> None:
    source, trace_id = failing(
        step_4={"status": "error", "error": "The run took more than 10 turns."},
        step_7={"status": "error", "error": "ConnectTimeout"},
    )
    assert read_trace(source, trace_id).value["failure"]["error"] == "The run took more than 10 turns."
    assert told(source, trace_id) == ["ConnectTimeout", "The run took more than 10 turns."]


def test_a_trace_that_did_not_fail_or_does_not_say_why_tells_no_reason() -> None:
    source, trace_id = failing("completed", step_7={"status": "error", "error": "ConnectTimeout"})
    assert read_trace(source, trace_id).value["failure"] is None
    source, trace_id = failing(step_9={"status": "error"})
    assert read_trace(source, trace_id).value["failure"] is None
    assert told(source, trace_id) == []


def test_the_static_copy_tells_the_error_and_what_a_person_decided() -> None:
    source, trace_id = failing(step_9=REFUSED)
    page = trace_html(source, trace_id)
    assert "failed:</strong>" in page
    assert REFUSED["error"] in page
    assert "</code> (approved) →" in page
