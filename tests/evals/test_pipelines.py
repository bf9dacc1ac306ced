"""Candidates of one's own: functions and services, compared with models as they are."""

from __future__ import annotations

import asyncio
import json
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import agents as sdk
import pytest
from agents.testing import ScriptedModel, assistant_message
from openai.types.chat import ChatCompletion
from pydantic import BaseModel

from tests.evals.benches import opened
from timestep_lab import Lab
from timestep_lab.evals.compare import new_comparison, resume_comparison
from timestep_lab.evals.pipelines import Endpoint
from timestep_lab.model.errors import UsageError

CASES = [{"input": f"Say word{n}.", "expected": f"word{n}"} for n in range(3)]


async def rag(question: str) -> dict[str, Any]:
    return {
        "output": f"It is {question}", "input_tokens": 12, "output_tokens": 3, "cost_usd": 0.5,
        "steps": [{"name": "search", "arguments": {"q": question}, "output": "found"}, {"type": "handoff", "from": "A", "to": "B"}],
    }  # fmt: skip


def plain(question: str) -> str:
    time.sleep(0.05)
    return question


async def in_pieces(question: str) -> AsyncIterator[str]:
    yield "It "
    await asyncio.sleep(0.05)
    yield question


async def test_functions_of_every_kind_are_compared_beside_a_model(tmp_path: Path) -> None:
    async with opened(tmp_path / "lab.duckdb") as bench:
        comparison = await new_comparison(
            bench, CASES, models="demo/echo", agents=[rag, plain, in_pieces], scorers=["contains", "tool_used:search"]
        )
        grid = await comparison.run()
        bench.writer.flush()
        traces = bench.store.sql("select trace_id, workflow, status, input, output from traces").dicts()
        spans = bench.store.sql(
            "select trace_id, kind, name, input, output from spans where kind in ('tool', 'handoff')"
        ).dicts()
    assert grid.candidates == ["demo/echo", "rag", "plain", "in_pieces"]
    rows = {row.name: row for row in grid.candidate_rows}
    assert [rows[name].scores["contains"]["mean"] for name in grid.candidates] == [1.0] * 4
    assert (rows["rag"].cost_usd, rows["rag"].input_tokens, rows["rag"].output_tokens) == (1.5, 36, 9)
    assert rows["plain"].cost_usd is None
    assert rows["rag"].scores["tool_used:search"]["mean"] == 1.0
    cell = next(cell for cell in grid.cells if cell.candidate == "rag")
    assert [(s["type"], s.get("name") or s.get("to")) for s in cell.steps] == [("tool", "search"), ("handoff", "B")]
    assert next(c for c in grid.cells if c.candidate == "plain").latency_ms >= 50  # type: ignore[operator]
    piecewise = next(c for c in grid.cells if c.candidate == "in_pieces")
    assert piecewise.ttft_ms < piecewise.latency_ms - 40  # type: ignore[operator]
    [trace] = [t for t in traces if t["trace_id"] == cell.trace_id]
    assert (trace["workflow"], trace["status"], trace["input"], trace["output"]) == (
        "rag", "completed", "Say word0.", "It is Say word0.",
    )  # fmt: skip
    [tool] = [s for s in spans if s["trace_id"] == cell.trace_id and s["kind"] == "tool"]
    assert (tool["name"], json.loads(tool["input"]), tool["output"]) == ("search", {"q": "Say word0."}, "found")


async def test_a_function_may_return_what_a_library_gave_it(tmp_path: Path) -> None:
    class Cited(BaseModel):
        answer: str
        input_tokens: int

    @dataclass
    class Found:
        text: str

    async def run_of_the_sdk(question: str) -> object:
        model = ScriptedModel([[assistant_message(f"run: {question}")]])
        return await sdk.Runner.run(sdk.Agent(name="A", model=model), question)

    def completion(question: str) -> object:
        message = {"role": "assistant", "content": f"completion: {question}"}
        choice = {"index": 0, "finish_reason": "stop", "message": message}
        usage = {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7}
        return ChatCompletion(id="c", created=1, model="m", object="chat.completion", choices=[choice], usage=usage)  # type: ignore[list-item,arg-type]

    def pydantic_model(question: str) -> object:
        return Cited(answer=f"model: {question}", input_tokens=4)

    def of_dataclass(question: str) -> object:
        return Found(f"dataclass: {question}")

    async with opened(tmp_path / "lab.duckdb") as bench:
        functions = [run_of_the_sdk, completion, pydantic_model, of_dataclass]
        grid = await (await new_comparison(bench, ["hi"], agents=functions)).run()
        assert [(cell.output, cell.input_tokens) for cell in grid.cells][1:] == [
            ("completion: hi", 5), ("model: hi", 4), ("dataclass: hi", None),
        ]  # fmt: skip
        assert grid.cells[0].output == "run: hi"


async def test_half_a_character_in_an_answer_or_a_note_ends_no_comparison(tmp_path: Path) -> None:
    """Neither store can hold one: it is told as what it is, and every other case is kept."""

    async def cut(question: str) -> dict[str, Any]:
        return {"output": f"{question} \ud83d", "steps": [{"name": "search", "arguments": {"q": "\ud800"}}]}

    def noted(output: str) -> float:
        raise ValueError("why \ud800")

    async with Lab(str(tmp_path / "lab.duckdb")) as lab:
        grid = await lab.compare([*CASES, {"input": "odd \ud83d"}], agents=[cut], scorers=[noted])
        again = lab.comparison(grid.id)
        outputs = [f"Say word{n}. \ufffd" for n in range(3)] + ["odd \ufffd \ufffd"]
        assert [cell.output for cell in grid.cells] == [cell.output for cell in again.cells] == outputs
        assert [cell.scores[0].note for cell in again.cells] == ["ValueError: why \ufffd"] * 4
        assert again.cells[0].steps[0]["arguments"] == {"q": "\ufffd"}


async def test_what_a_function_does_with_the_sdk_is_in_its_trace(tmp_path: Path) -> None:
    async with Lab(str(tmp_path / "lab.duckdb")) as lab:
        inner = sdk.Agent(name="Inner", model=lab.router.get_model("demo/echo"))

        async def two_steps(question: str) -> str:
            first = await sdk.Runner.run(inner, question)
            return str((await sdk.Runner.run(inner, f"Again: {first.final_output}")).final_output)

        grid = await lab.compare(["Say lamp."], agents=two_steps, scorers="contains:lamp")
        [cell] = grid.cells
        assert cell.status == "done", cell.error
        found = lab.sql("select agent, input_tokens from generations where trace_id = $1", [cell.trace_id])
        assert list(found["agent"]) == ["Inner", "Inner"]
        assert cell.input_tokens == found["input_tokens"].sum()
        assert lab.sql("select count(distinct trace_id) as n from spans")["n"][0] == 1


async def test_a_function_that_fails_is_a_cell_with_its_error(tmp_path: Path) -> None:
    def broken(question: str) -> Any:
        if "0" in question:
            raise KeyError("no index")
        return None if "1" in question else {"steps": []}

    async with opened(tmp_path / "lab.duckdb") as bench:
        grid = await (await new_comparison(bench, CASES, agents=broken)).run()
    assert [cell.error.split(" The")[0] for cell in grid.cells if cell.error] == [
        "KeyError: 'no index'",
        "broken returned no answer. Return a text, or an object with output.",
        "broken returned an object without output. Use the key output for the answer.",
    ]


async def test_a_function_or_a_scorer_that_exits_ends_only_its_own_call(tmp_path: Path) -> None:
    def leaves(question: str) -> str:
        sys.exit(2)

    def gives_up(output: str) -> float:
        raise SystemExit("no")

    lab = Lab(tmp_path / "lab.duckdb")
    grid = await lab.compare(["a"], models=["demo/echo"], agents=[leaves], scorers=[gives_up])
    answered = {cell.candidate: cell for cell in grid.cells}
    assert answered["leaves"].error == "leaves called sys.exit(2). Raise an exception instead."
    assert [(score.value, score.note) for score in answered["demo/echo"].scores] == [(None, "SystemExit: no")]
    await lab.aclose()


async def test_a_function_is_asked_for_again_when_a_comparison_goes_on(tmp_path: Path) -> None:
    async with opened(tmp_path / "lab.duckdb") as bench:
        grid = await (await new_comparison(bench, CASES, agents=plain, scorers="contains")).run()
        with pytest.raises(UsageError, match="a function or a service"):
            await resume_comparison(bench, grid.id)
        assert (await (await resume_comparison(bench, grid.id, agents=plain)).run()).status == "completed"
        with pytest.raises(UsageError, match="Two candidates are the same: plain"):
            await new_comparison(bench, CASES, agents=[plain, plain])
        with pytest.raises(UsageError, match="cannot be called with one text"):
            await new_comparison(bench, CASES, agents=lambda: "x")


class Service(BaseHTTPRequestHandler):
    seen: list[dict[str, Any]]

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.seen.append({"body": body, "traceparent": self.headers["traceparent"], "key": self.headers["x-key"]})
        said = {"/text": f"text {body.get('input')}", "/chat": {"choices": [{"message": {"content": f"chat {body.get('input')}"}}], "usage": {"prompt_tokens": 4, "completion_tokens": 2}}}  # fmt: skip
        answer = said.get(self.path, {"output": f"object {body.get('input')}", "steps": ["search"]})
        status = 401 if self.path == "/refused" else 200
        content = (answer if isinstance(answer, str) else json.dumps(answer)).encode()
        self.send_response(status)
        self.send_header("content-type", "text/plain" if isinstance(answer, str) else "application/json")
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: Any) -> None: ...


@pytest.fixture
def service() -> Iterator[str]:
    Service.seen = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Service)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


async def test_a_service_is_a_candidate(tmp_path: Path, service: str) -> None:
    async with Lab(str(tmp_path / "lab.duckdb")) as lab:
        grid = await lab.compare(
            CASES[:1], scorers=["contains", "tool_used:search"],
            agents=[f"{service}/text", Endpoint(f"{service}/answer", name="object", headers={"x-key": "k"}), f"{service}/chat", f"{service}/refused"],
        )  # fmt: skip
        text, answer, chat, refused = grid.cells
        assert (text.output, answer.output, chat.output) == ("text Say word0.", "object Say word0.", "chat Say word0.")
        assert (grid.candidates[1], chat.input_tokens, chat.output_tokens) == ("object", 4, 2)
        assert refused.error is not None
        assert "answered 401" in refused.error
        assert "headers={…}" in refused.error
        assert [s["name"] for s in answer.steps] == ["search"]
    seen = next(one for one in Service.seen if one["key"] == "k")
    assert seen["body"] == {"input": "Say word0."}
    assert seen["traceparent"].split("-")[1] == answer.trace_id
