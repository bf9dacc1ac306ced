"""What Shift-Tab and Tab show, and what a mistyped keyword is answered with."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal, get_origin, get_type_hints

import jedi
import numpy
import pandas
import pytest

import timestep_lab
from timestep_lab import Grid, Lab, LabError, Run, UsageError
from timestep_lab.evals.plan import Options
from timestep_lab.lab.remote.lab import RemoteLab
from timestep_lab.lab.views import PLUMBING
from timestep_lab.model import errors

METHODS = ("run", "stream", "compare", "plan", "fork", "prepare_comparison", "start_comparison")


@pytest.fixture
def lab() -> Iterator[Lab]:
    opened = Lab(":memory:")
    yield opened
    opened.store.close()


@pytest.mark.parametrize("kind", [Lab, RemoteLab])
@pytest.mark.parametrize("name", METHODS)
def test_the_signature_names_every_keyword_with_its_type_and_default(kind: type[Lab], name: str) -> None:
    parameters = list(inspect.signature(getattr(kind, name)).parameters.values())
    assert parameters[0].name == "self"
    assert not [p.name for p in parameters if p.kind in (p.VAR_KEYWORD, p.VAR_POSITIONAL)]
    keywords = [p for p in parameters if p.kind is p.KEYWORD_ONLY]
    assert len(keywords) > 5
    assert all(p.annotation is not p.empty and p.default is not p.empty for p in keywords)


@pytest.mark.parametrize("name", METHODS)
def test_a_served_lab_has_the_signatures_of_a_local_one(name: str) -> None:
    assert inspect.signature(getattr(RemoteLab, name)) == inspect.signature(getattr(Lab, name))


@pytest.mark.parametrize("name", ["compare", "plan", "prepare_comparison", "start_comparison"])
def test_the_signature_of_a_comparison_has_all_its_options_with_their_defaults(name: str) -> None:
    parameters = inspect.signature(getattr(Lab, name)).parameters
    assert {option.name: option.default for option in fields(Options)}.items() <= {
        name: parameter.default for name, parameter in parameters.items()
    }.items()


MISTYPED: dict[str, tuple[str, Callable[[Lab], Any]]] = {
    "run": ("model", lambda lab: lab.run("x", modle="demo/echo")),  # type: ignore[call-arg]
    "stream": ("model", lambda lab: lab.stream("x", modle="demo/echo")),  # type: ignore[call-arg]
    "compare": ("models", lambda lab: lab.compare(["x"], modles=["demo/echo"])),  # type: ignore[call-arg]
    "plan": ("models", lambda lab: lab.plan(["x"], modles=["demo/echo"])),  # type: ignore[call-arg]
    "start_comparison": ("scorers", lambda lab: lab.start_comparison(["x"], scorer=[])),  # type: ignore[call-arg]
    "prepare_comparison": ("epochs", lambda lab: lab.prepare_comparison(["x"], epoch=2)),  # type: ignore[call-arg]
    "chat": ("agent", lambda lab: lab.chat(agnt="x")),
    "explorer": ("filter", lambda lab: lab.explorer(filtr="x")),
    "export": ("trace_ids", lambda lab: lab.export("x.json", traces=[])),
    "handoffs": ("traces", lambda lab: lab.handoffs(trace=[])),
    "sql": ("params", lambda lab: lab.sql("select 1", parms=[1])),
    "fork": ("instructions", lambda lab: lab.fork("0" * 32, instruction="x")),  # type: ignore[call-arg]
}


async def answered(call: Callable[..., Any], *given: Any, **named: Any) -> None:
    answer = call(*given, **named)
    if inspect.isawaitable(answer):
        await answer


@pytest.mark.parametrize("method", MISTYPED)
async def test_a_mistyped_keyword_is_answered_with_the_nearest_one_and_the_method(lab: Lab, method: str) -> None:
    meant, call = MISTYPED[method]
    with pytest.raises(UsageError, match=rf"lab\.{method} takes no .*Did you mean '{meant}'\?") as error:
        await answered(call, lab)
    assert meant in error.value.next_step


OF_ANOTHER_TYPE: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = {
    "run": (("Hello",), {"model_settings": 5, "attachments": None, "metadata": "x", "on_miss": 1, "max_turns": "3", "prompt": {"role": "user"}}),
    "stream": (("Hello",), {"metadata": ["x"]}),
    "fork": (("0" * 32,), {"span_id": ["x"], "tools": "refund", "again": "yes", "results": [1]}),
    "replay": (("0" * 32,), {"approve_all": "yes", "keep_traces": 1, "times": "2"}),
    "why": (("0" * 32,), {"on_miss": None, "on_progress": "print", "instructions": {"Front desk": 5}}),
    "compare": ((["x"],), {"settings": "cold", "prompts": [1], "columns": 5, "group": ["topic"], "name": 5, "seed": "x", "timeout_s": "10", "stop": "soon"}),
    "sql": (("select 1",), {"query": 5, "params": 5}),
    "chat": ((), {"agent": 5, "models": 5, "blind": "yes", "height": "tall"}),
    "explorer": ((), {"filter": 5, "search": None}),
    "export": (("x.json",), {"path": 5, "filter": None}),
    "import_traces": ((), {"path": ["x.json"]}),
    "comparison": ((), {"id": 5}),
    "watch": ((), {"sample": "all"}),
    "serve": ((), {"port": "x", "host": 5}),
}  # fmt: skip


@pytest.mark.parametrize("kind", [Lab, RemoteLab])
@pytest.mark.parametrize("method", OF_ANOTHER_TYPE)
async def test_an_argument_of_another_type_is_refused_by_name_before_anything_is_done(
    kind: type[Lab], method: str
) -> None:
    lab = object.__new__(kind)  # Has no store: whatever it did would fail.
    first, wrong = OF_ANOTHER_TYPE[method]
    for name, value in wrong.items():
        names = [one for one in inspect.signature(getattr(kind, method)).parameters if one != "self"]
        given = {**dict(zip(names, first, strict=False)), name: value}
        with pytest.raises(UsageError, match=rf"^lab\.{method} cannot use {name}=.* Pass ") as error:
            await answered(getattr(lab, method), **given)
        assert error.value.param == name


async def test_numbers_of_numpy_and_columns_of_a_frame_are_arguments_like_any_other(lab: Lab) -> None:
    frame = pandas.DataFrame({"input": ["a", "b"], "model": ["demo/echo", "demo/assistant"]})
    grid = await lab.compare(
        frame[["input"]], models=frame.model, alpha=numpy.float64(0.05), open_ended=numpy.bool_(False)
    )
    assert len(grid.df()) == 4
    assert lab.sql("select $1 + $2 as sum", numpy.array([1, 2]).tolist())["sum"].item() == 3


def test_whole_numbers_beside_nulls_are_not_rounded(lab: Lab) -> None:
    for number in (2**53 + 1, 2**63 + 1):
        frame = lab.sql(f"select * from (values ({number}), (null)) t(tokens)")
        assert frame["tokens"][0] == number
        assert frame["tokens"].isna().tolist() == [False, True]


def test_what_cannot_be_a_lab_is_refused_and_makes_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for wrong in (5, b"lab.duckdb", ["lab.duckdb"], True):
        with pytest.raises(UsageError, match="Lab cannot open"):
            Lab(wrong)  # type: ignore[arg-type]
    assert [*tmp_path.iterdir()] == []


async def test_what_no_method_would_use_is_refused_instead_of_ignored(lab: Lab) -> None:
    run = await lab.run("Hello", model="demo/echo")
    for call, said in {
        lambda: lab.run("Hello", on_miss="ask"): "on_miss='ask' needs a tape. Add tools='tape'",
        lambda: lab.fork(run, on_miss="ask"): "on_miss='ask' needs a tape. Add on_tools='tape'",
        lambda: lab.run("Hello", tools=[print]): "is not a tape",
        lambda: lab.run("Hello", tools={"get_weather": "sunny"}): "is not a tape",
        lambda: lab.compare(["x"], models=["demo/echo"], tools=5, scorers=[]): "is not a tape",
        lambda: lab.compare(["x"], models=["demo/echo"], scorers=None): "A NoneType is not a scorer",
        lambda: lab.compare(["x"], models=["demo/echo"], columns={"inputs": "x"}): "Did you mean 'input'",
        lambda: lab.run("Hello", agent=""): "There is no agent ''",
        lambda: lab.handoffs(traces=["0" * 32]): "There is no trace",
        lambda: lab.handoffs(traces=[run], filter="turns > 1"): "Both traces and a filter were given",
        lambda: lab.export("x.json", trace_ids=[run], filter="turns > 1"): "Both traces and a filter were given",
        lambda: lab.handoffs(5): "5 is not an agent",
        lambda: lab.explorer(filter="model = "): "filter",
        lambda: lab.explorer(order="colour"): "cannot be ordered by 'colour'",
        lambda: lab.explorer(last_s=-1): "last_s=-1 is not a time range",
        lambda: lab.explorer(theme="pink"): "Unknown theme 'pink'",
        lambda: setattr(lab, "default_model", "demo/echo"): "set DEFAULT_AGENT_MODEL before opening the lab",
        lambda: lab.chat(height=0): "height=0 is not a height",
    }.items():
        with pytest.raises(LabError, match=re.escape(said)):
            await answered(call)
    assert len(lab.traces) == 1


@pytest.fixture(scope="module", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """jedi writes its cache in place, and would read what another process is just writing."""
    jedi.settings.cache_directory = str(tmp_path_factory.mktemp("jedi"))


def completed(text: str, **names: Any) -> set[str]:
    """As IPython completes it in its default settings."""
    return {found.name for found in jedi.Interpreter(text, [names]).complete()}


async def test_tab_completes_what_people_hold_in_a_notebook(lab: Lab) -> None:
    run: Run = await lab.run("Hello", model="demo/echo")
    grid: Grid = await lab.compare(["Hello"], models=["demo/echo"])
    expected = {
        "lab.": {"run", "compare", "traces", "threads"},
        "run.": {"status", "output", "trace", "thread", "approve"},
        "run.trace.": {"df", "theme", "selection", "sql"},
        "run.thread.": {"items", "transcript"},
        "run.usage.": {"input_tokens"},
        "lab.traces.": {"filter", "search", "df", "sql"},
        "lab.chat().": {"theme"},
        "lab.agents.list()[0].": {"instructions", "tool_ids"},
        "lab.threads.list()[0].": {"items", "transcript"},
        "grid.": {"df", "summary", "cells"},
    }
    for text, names in expected.items():
        assert names <= completed(text, lab=lab, run=run, grid=grid), text


@pytest.mark.parametrize("name", timestep_lab.__all__)
def test_no_property_of_a_public_class_is_a_literal_at_run_time(name: str) -> None:
    """jedi completes nothing of an object that has one."""
    for member, value in inspect.getmembers(getattr(timestep_lab, name), lambda value: isinstance(value, property)):
        try:
            told = get_type_hints(value.fget).get("return")
        except NameError:
            continue  # It names what is imported for type checkers only; jedi looks at the value then.
        assert get_origin(told) is not Literal, f"{name}.{member}"


def test_every_error_is_a_public_name() -> None:
    known = {name for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, LabError)}
    assert known <= set(timestep_lab.__all__)


def test_the_public_names_cost_nothing_before_they_are_used() -> None:
    code = "import sys, timestep_lab; print([m for m in sys.modules if m.startswith('timestep_lab.')])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


def test_what_is_plumbing_is_not_offered(lab: Lab) -> None:
    assert not PLUMBING & set(dir(lab))
    assert not PLUMBING & completed("lab.", lab=lab)


def test_what_a_view_has_for_its_hosts_is_not_offered(lab: Lab) -> None:
    import ipywidgets

    assert ipywidgets.VBox  # With it, a view passes for a widget, whose names are not offered either.
    offered = completed("lab.traces.", lab=lab)
    assert {"filter", "search", "df", "where", "on_change", "panel", "widget"} <= offered
    assert not {"attach", "snapshot", "static_html", "add_traits", "comm", "observe"} & offered


def test_every_member_of_a_lab_can_be_looked_at(lab: Lab) -> None:
    assert {"agents", "threads", "traces", "run", "default_model"} <= dict(inspect.getmembers(lab)).keys()


def test_what_a_lab_holds_lists_itself_in_a_cell(lab: Lab) -> None:
    lab.agents.create(name="Billing", instructions="You handle refunds.")
    lab.datasets.save("smoke", ["2+2?"])
    lab.files.add_bytes("umbrellas.txt", b"Umbrellas")
    lab.mcp.add("time", url="http://user:secret@127.0.0.1:9/mcp")
    shown = {
        name: repr(getattr(lab, name)) for name in ("agents", "datasets", "files", "mcp", "vector_stores", "models")
    }
    for name, held in {
        "agents": "Billing",
        "datasets": "smoke@1  1 case",
        "files": "umbrellas.txt",
        "mcp": "time",
    }.items():
        assert held in shown[name]
    assert "secret" not in shown["mcp"]
    assert "await lab.vector_stores.create" in shown["vector_stores"]
    assert "demo/  ready" in shown["models"]


def test_a_record_shows_what_was_set_on_one_line(lab: Lab) -> None:
    agent = lab.agents.create(name="Billing", instructions="You handle refunds. " * 20, max_tool_calls=3)
    shown = repr(agent)
    assert "name='Billing'" in shown
    assert "max_tool_calls=3" in shown
    assert len(shown) < 300
    for left_out in ("user_id", "handoff_ids", "budget_usd", "datetime"):
        assert left_out not in shown
