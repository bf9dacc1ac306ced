"""Talking to agents from the command line."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Done

Cli = Callable[..., Done]
ASKS_FIRST = "What's the weather in Berkeley?"


def test_the_demo_tells_a_whole_run_and_can_be_told_again(cli: Cli) -> None:
    for _ in range(2):
        done = cli("demo")
        assert done.code == 0, done.err
        for said in (
            "handed off to Weather Assistant",
            "think(",
            "get_weather(",
            "approved",
            "Where to look next",
            "beats",
        ):
            assert said in done.out
    statuses = cli(
        "sql", "select status, count(*) as n from traces where workflow = 'Personal Assistant' group by 1", "--json"
    )
    assert {row["status"] for row in statuses.json} == {"completed"}


def test_run_prints_one_json_object_with_everything_a_script_needs(cli: Cli) -> None:
    done = cli("run", "What's the weather in Oakland?", "--json")
    assert done.code == 0
    assert {
        "output", "status", "thread_id", "trace_id", "run_id", "agent", "model", "usage", "cost_usd", "ttft_ms", "duration_ms", "interruptions",
    } <= set(done.json)  # fmt: skip
    assert "Oakland" in done.json["output"]
    assert done.json["agent"] == "Weather Assistant"
    assert done.json["usage"]["requests"] == 4
    assert done.json["usage"]["input_tokens"] > 0


def test_a_run_that_waits_ends_with_3_and_is_approved_by_another_call(cli: Cli) -> None:
    waiting = cli("run", ASKS_FIRST, "--json")
    assert waiting.code == 3
    assert [i["name"] for i in waiting.json["interruptions"]] == ["get_weather"]
    approved = cli("approve", waiting.json["run_id"], "--json")
    assert approved.code == 0
    assert approved.json["status"] == "completed"
    assert approved.json["trace_id"] == waiting.json["trace_id"]
    assert "Berkeley" in approved.json["output"]


def test_approve_alone_lists_what_waits(cli: Cli) -> None:
    assert cli("approve").out.startswith("run_id\t")
    run = cli("run", "What's the weather in Berkeley?", "--json").json
    [waiting] = cli("approve", "--json").json
    assert (waiting["run_id"], waiting["tool"]) == (run["run_id"], "get_weather")
    assert cli("approve", waiting["run_id"]).code == 0
    assert cli("approve", "--json").json == []


def test_a_rejected_call_is_not_made_and_the_run_goes_on_without_it(cli: Cli) -> None:
    waiting = cli("run", ASKS_FIRST, "--json")
    rejected = cli("approve", waiting.json["run_id"], "--reject", "--message", "Not today.", "--json")
    assert rejected.json["status"] == "completed"
    calls = cli("sql", "select approval, status from tool_calls where tool = 'get_weather'", "--json").json
    assert [call["approval"] for call in calls] == ["rejected"]


def test_what_is_decided_cannot_be_decided_again(cli: Cli) -> None:
    waiting = cli("run", ASKS_FIRST, "--json")
    assert cli("approve", waiting.json["run_id"]).code == 0
    again = cli("approve", waiting.json["run_id"])
    assert again.code == 1
    assert "is not waiting for approval" in again.err


def test_a_thread_goes_on_where_it_was(cli: Cli) -> None:
    first = cli("run", "What's the weather in Oakland?", "--json").json
    second = cli("run", "And in Tokyo, what's the weather?", "--thread", first["thread_id"], "--json").json
    assert second["thread_id"] == first["thread_id"]
    shown = cli("threads", "show", first["thread_id"]).out
    assert shown.index("Oakland") < shown.index("Tokyo")


def test_a_trace_is_found_by_the_first_letters_of_its_id(cli: Cli) -> None:
    trace_id = cli("run", "What's the weather in Oakland?", "--json").json["trace_id"]
    shown = cli("traces", "show", trace_id[:8])
    assert shown.code == 0
    assert "get_weather" in shown.out
    listed = cli("traces", "list", "--filter", "turns > 2", "--json").json
    assert [row["trace_id"] for row in listed] == [trace_id]


def test_traces_travel_to_another_lab_and_twice_adds_nothing(cli: Cli) -> None:
    cli("run", "What's the weather in Oakland?")
    for name in ("traces.jsonl", "traces.json", "traces.parquet", "traces.duckdb"):
        assert cli("traces", "export", name).code == 0
        other = name.replace(".", "_") + ".lab"
        for _ in range(2):
            assert cli("--store", other, "traces", "import", name).code == 0
        count = "select count(*) as n from spans"
        assert cli("--store", other, "sql", count, "--json").json == cli("sql", count, "--json").json


def test_a_trace_whose_parents_form_a_ring_is_shown(cli: Cli, folder: Path) -> None:
    span = {"traceId": "a" * 32, "name": "alone", "startTimeUnixNano": "1", "endTimeUnixNano": "2000000"}
    ring = [
        {**span, "spanId": "1" * 16, "parentSpanId": "2" * 16},
        {**span, "spanId": "2" * 16, "parentSpanId": "1" * 16},
    ]
    itself = {**span, "spanId": "3" * 16, "parentSpanId": "3" * 16}
    request = {"resourceSpans": [{"scopeSpans": [{"spans": [*ring, itself]}]}]}
    (folder / "ring.json").write_text(json.dumps(request))
    assert "3 new spans in 1 traces" in cli("traces", "import", "ring.json").out
    assert "3 already existed" in cli("traces", "import", "ring.json").out
    done = cli("traces", "show", "a" * 32)
    assert done.code == 0, done.err
    assert sum("alone" in line and "█" in line for line in done.out.splitlines()) == 3


def test_a_column_named_twice_is_two_in_json(cli: Cli) -> None:
    assert cli("sql", "select 1 as a, 2 as a", "--json").json == [{"a": 1, "a_1": 2}]


def test_agents_are_stored_and_used(cli: Cli) -> None:
    added = cli(
        "agents", "add", "Guide", "--instructions", "Help.", "--tool", "get_weather", "--model", "demo/assistant",
        "--max-tool-calls", "1", "--timeout", "60",
    )  # fmt: skip
    assert added.code == 0
    shown = cli("agents", "show", "Guide").json
    assert (shown["max_tool_calls"], shown["timeout_s"], shown["budget_usd"]) == (1, 60.0, None)
    assert "Guide" in cli("agents", "list").out
    assert cli("run", "What's the weather in Paris?", "--agent", "guide", "--json").json["agent"] == "Guide"
    assert cli("agents", "remove", "Guide").code == 0
    assert cli("agents", "show", "Guide").code == 1


def test_a_comparison_that_is_not_good_enough_ends_with_100(cli: Cli, folder: object) -> None:
    from pathlib import Path

    Path("cases.jsonl").write_text(
        '{"input": "say yes", "expected": "yes"}\n{"input": "say no", "expected": "maybe"}\n'
    )
    command = ("compare", "cases.jsonl", "--models", "demo/echo", "--scorers", "contains")
    done = cli(*command, "--json", "--out", "grid.csv")
    assert done.code == 0
    assert done.json["candidates"][0]["scores"]["contains"]["mean"] == 0.5
    assert Path("grid.csv").exists()
    assert cli(*command, "--fail-under", "contains>=0.5").code == 0
    assert cli(*command, "--fail-under", "contains>=0.9").code == 100


def test_doctor_finds_a_new_lab_in_order(cli: Cli) -> None:
    done = cli("doctor", "--json")
    states = {finding["what"]: finding["state"] for finding in done.json}
    assert done.code == 0
    assert states["store"] == states["browser parts"] == states["demo/"] == "ready"
    assert states["openai/"] == "missing"


def test_the_notebooks_are_copied_once_and_never_over_a_users_own(cli: Cli, folder: object) -> None:
    from pathlib import Path

    assert cli("lab", "--no-open", "--folder", "mine").code == 0
    notebook = next(Path("mine").glob("*.ipynb"))
    notebook.write_text("changed")
    assert cli("lab", "--no-open", "--folder", "mine").code == 0
    assert notebook.read_text() == "changed"


def test_a_run_on_tape_asks_no_tool_and_fails_where_nothing_was_recorded(cli: Cli) -> None:
    assert cli("run", 'call think {"thought": "once"}').code == 0
    again = cli("run", 'call think {"thought": "once"}', "--tools", "tape", "--json")
    assert (again.code, again.json["status"]) == (0, "completed")
    other = cli("run", 'call think {"thought": "never"}', "--tools", "tape")
    assert other.code == 1
    assert "The tape has no recorded result of think" in other.err


def test_why_says_what_it_found_and_pays_nothing_twice(cli: Cli) -> None:
    assert cli("run", 'call think {"thought": "once"}').code == 0
    trace = cli("sql", "select trace_id from traces", "--json").json[0]["trace_id"]
    options = "--wrong", "regex:.+", "-k", "2", "--replays", "4"
    assert "at most" in cli("why", trace, *options, "--plan").out
    found = cli("why", trace[:12], *options, "--json")
    assert (found.code, found.json["verdict"]) == (0, "No step was found that decides it alone.")
    assert found.json["replays"] > 0
    assert cli("why", trace, *options, "--json").json["replays"] == 0
    shown = cli("why", trace, *options)
    assert shown.out.startswith("No step was found")
    assert re.fullmatch(r"\d+ of at most \d+ replays, free\n", shown.err), "without a terminal, one line at the end"
    assert "criterion for wrong answers" in cli("why", trace).err


def test_ctrl_c_ends_a_search_with_what_is_known(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    from timestep_lab.evals.cause.replays import Replays

    assert cli("run", 'call think {"thought": "once"}').code == 0
    trace = cli("sql", "select trace_id from traces", "--json").json[0]["trace_id"]
    options = "why", trace, "--wrong", "regex:.+", "-k", "6", "--replays", "4"
    told = Replays.tell

    def presses_it(self: Any) -> None:
        told(self)
        if self.done == 3:
            signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(Replays, "tell", presses_it)
        patch.setenv("TIMESTEP_LAB_DEMO_DELAY_MS", "20")
        done = cli(*options)
    assert done.code == 130, done.err
    assert "Stopped early. Finished replays are kept; run it again to continue." in done.out
    assert "3 of at most" in done.err
    again = cli(*options)
    assert again.code == 0
    assert "Stopped" not in again.out
