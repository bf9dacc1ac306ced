"""`%load_ext timestep_lab` in a real kernel: what a cell ran appears below it as a trace."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from jupyter_client.manager import KernelManager

SETUP = """
import os; os.environ["TIMESTEP_LAB_DEMO_DELAY_MS"] = "0"
%load_ext timestep_lab
import sys
print("agents" in sys.modules)
from timestep_lab import Lab
lab = Lab("lab.duckdb")
"""
BARE = """
from agents import Agent, Runner, custom_span
from agents.testing import ScriptedModel, assistant_message
def helper(name="Helper"):
    return Agent(name=name, model=ScriptedModel([[assistant_message("Bring one.")]], emit_traces=True))
"""


@dataclass
class Cell:
    """What running a cell gave."""

    printed: str = ""
    errors: list[str] = field(default_factory=list)
    html: list[str] = field(default_factory=list)
    widgets: int = 0
    result: str | None = None


class Kernel:
    def __init__(self, folder: Path) -> None:
        self._manager = KernelManager(kernel_name="python3")
        self._manager.start_kernel(cwd=str(folder))
        self._client = self._manager.client()
        self._client.start_channels()
        self._client.wait_for_ready(timeout=60)

    def run(self, code: str) -> Cell:
        asked = self._client.execute(code)
        cell = Cell()
        while True:
            message = self._client.get_iopub_msg(timeout=60)
            if message["parent_header"].get("msg_id") != asked:
                continue
            kind, content = message["msg_type"], message["content"]
            if kind == "stream":
                cell.printed += content["text"]
            elif kind == "error":
                cell.errors.append(f"{content['ename']}: {content['evalue']}")
            elif kind in ("display_data", "execute_result"):
                data: dict[str, Any] = content["data"]
                cell.widgets += "application/vnd.jupyter.widget-view+json" in data
                if "text/html" in data:
                    cell.html.append(data["text/html"])
                if kind == "execute_result":
                    cell.result = data["text/plain"]
            elif kind == "status" and content["execution_state"] == "idle":
                return cell

    def rows(self, query: str) -> Any:
        """What a query over the lab gives, as lists."""
        found = self.run(f"lab.flush()\nimport json\nprint(json.dumps(lab.store.sql({query!r}).rows))")
        assert not found.errors
        return json.loads(found.printed)

    def close(self) -> None:
        self._client.stop_channels()
        self._manager.shutdown_kernel(now=True)


@pytest.fixture(scope="module")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kernel]:
    started = Kernel(tmp_path_factory.mktemp("notebook"))
    try:
        ready = started.run(SETUP)
        assert (ready.printed, ready.errors) == ("False\n", []), "loading the extension imports nothing heavy"
        assert not started.run(BARE).errors
        yield started
    finally:
        started.close()


def test_a_cell_of_the_bare_sdk_is_one_trace_with_the_cell_as_its_root(kernel: Kernel) -> None:
    cell = kernel.run(
        "%%trace Rain check\n"
        "with custom_span('look outside'):\n    pass\n"
        "first = await Runner.run(helper(), 'Umbrella?')\n"
        "second = await Runner.run(helper('Second'), 'Sure?')\n"
        "first.final_output"
    )
    assert (cell.errors, cell.result, cell.widgets) == ([], "'Bring one.'", 1)
    [static_copy] = cell.html
    for word in ("Rain check", "look outside", "Helper", "Second"):
        assert word in static_copy
    [[trace_id, workflow, status]] = kernel.rows("select trace_id, workflow, status from traces")
    assert (workflow, status) == ("Rain check", "completed")
    roots = kernel.rows(f"select kind, name from spans where trace_id = '{trace_id}' and parent_id is null")
    assert roots == [["task", "Rain check"]]
    assert [row[0] for row in kernel.rows("select agent from generations order by started_at")] == ["Helper", "Second"]


def test_own_code_that_fails_is_a_failed_trace_and_the_error_is_the_cells_own(kernel: Kernel) -> None:
    cell = kernel.run("%%trace\ntotal = 3\ntotal / 0")
    assert cell.errors == ["ZeroDivisionError: division by zero"]
    assert "line 3" not in cell.printed
    assert cell.widgets == 1
    [[name, status, error, source]] = kernel.rows(
        "select name, status, error, input from spans where name like 'total%'"
    )
    assert (name, status, error) == ("total = 3", "error", "ZeroDivisionError: division by zero")
    assert source == "total = 3\ntotal / 0"


def test_a_run_of_the_lab_is_shown_and_the_cell_adds_no_trace_of_its_own(kernel: Kernel) -> None:
    before = kernel.rows("select count(*) from traces")
    cell = kernel.run("%%trace\nrun = await lab.run('Hello there', model='demo/echo')")
    assert (cell.errors, cell.widgets) == ([], 1)
    assert kernel.rows("select count(*) from traces") == [[before[0][0] + 1]]
    assert kernel.run("print(run.trace_id in lab.store.traces.list().data[0].values(), run.status)").printed == (
        "True completed\n"
    )


def test_the_hook_is_off_until_it_is_asked_for_and_off_again_after(kernel: Kernel) -> None:
    bare = "done = await Runner.run(helper('Hooked'), 'Umbrella?')"
    assert kernel.run(bare).widgets == 0
    assert kernel.run("%trace on").printed == "Show a trace below each cell that runs an agent: on.\n"
    ran = kernel.run(bare)
    assert (ran.widgets, ran.errors) == (1, [])
    assert "Hooked" in ran.html[0]
    assert kernel.run("1 + 1").widgets == 0
    assert kernel.run("many = [await Runner.run(helper(f'Number {n}'), 'go') for n in range(4)]").widgets == 1, "a list"
    in_thread = "import threading\nt = threading.Thread(target=Runner.run_sync, args=(helper('Threaded'), 'go'))\nt.start(); t.join()"
    threaded = kernel.run(in_thread)
    assert (threaded.widgets, threaded.errors) == (1, [])
    kernel.run("%trace off")
    assert kernel.run(bare).widgets == 0


def test_spans_of_the_notebooks_own_opentelemetry_provider_are_a_trace_too(kernel: Kernel) -> None:
    kernel.run(
        "from opentelemetry import trace as otel\nfrom opentelemetry.sdk.trace import TracerProvider\n"
        "otel.set_tracer_provider(TracerProvider())\ntracer = otel.get_tracer('mine')"
    )
    cell = kernel.run(
        "%%trace\nwith tracer.start_as_current_span('outer'):\n"
        "    with tracer.start_as_current_span('chat', attributes={'gen_ai.operation.name': 'chat', "
        "'gen_ai.request.model': 'gpt-4.1', 'gen_ai.usage.input_tokens': 7}):\n        pass"
    )
    assert (cell.errors, cell.widgets) == ([], 1)
    assert kernel.rows("select kind, name, input_tokens from spans where name in ('outer', 'chat') order by started_at") == [
        ["other", "outer", None], ["generation", "chat", 7],
    ]  # fmt: skip
    assert kernel.run("with tracer.start_as_current_span('unasked'):\n    pass").widgets == 0
    assert kernel.rows("select count(*) from spans where name = 'unasked'") == [[0]]


def test_what_cannot_be_traced_runs_untraced_and_says_so(kernel: Kernel) -> None:
    cell = kernel.run("%%trace --lab nothing\n40 + 2")
    assert (cell.result, cell.widgets) == ("42", 0)
    assert "The variable 'nothing' is not a lab." in cell.printed
    assert "is not a known option" in kernel.run("%trace maybe").errors[0]
    assert kernel.run("%%trace timed\n%%capture said\nprint(6 * 7)").widgets == 1
    assert kernel.run("print(said.stdout)").printed == "42\n\n"


def test_after_unloading_the_magic_is_gone(kernel: Kernel) -> None:
    assert not kernel.run("%unload_ext timestep_lab").errors
    assert kernel.run("%%trace\n1").errors or "not found" in kernel.run("%%trace\n1").printed
    assert kernel.run("%load_ext timestep_lab").errors == []
