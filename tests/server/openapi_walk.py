"""Every operation of the OpenAPI document, called with what Schemathesis makes up: right and wrong bodies, known and unknown ids, and
calls that follow from the answers of others. All calls of a walk go over one connection, which errors do not end."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.errors import FlakyStrategyDefinition, Unsatisfiable
from hypothesis.stateful import run_state_machine_as_test
from requests import Response, Session
from requests.adapters import HTTPAdapter
from schemathesis.checks import FailureGroup, not_a_server_error
from schemathesis.config import SchemathesisConfig
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
    use_after_free,
)

from tests.server.served import serve
from timestep_lab.model.ids import new_uuid
from timestep_lab.server.gate import RateLimits

CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
CALL_S = 60
IDLE_S = 60
"""A server may close a connection that was idle for longer; `timestep-lab serve` does after 120 s."""


class OneConnection:
    """To the server; `faults` names each answer after which the connection was closed and not said to be."""

    def __init__(self, url: str, token: str) -> None:
        self.url, self.headers = url, {"Authorization": f"Bearer {token}"}
        self.session, self.faults = Session(), list[str]()
        self._adapter = HTTPAdapter(pool_maxsize=1)
        self.session.mount("http://", self._adapter)
        self._opened, self._last, self._answered = 0, "", 0.0

    @property
    def arguments(self) -> dict[str, Any]:
        """Of a call of Schemathesis."""
        return {
            "base_url": self.url,
            "headers": self.headers,
            "session": self.session,
            "timeout": CALL_S,
            "allow_redirects": False,
        }

    def heard(self, answer: Any) -> None:
        """`answer` is that of the call just made."""
        opened = self._adapter.poolmanager.connection_from_url(self.url).num_connections
        if opened > self._opened and self._last and time.monotonic() - self._answered < IDLE_S:
            self.faults.append(f"{self._last}: the connection was closed, and not said to be")
        said_closed = "close" in [word.lower() for word in answer.headers.get("connection", [])]
        self._last = "" if said_closed else f"{answer.request.method} {answer.request.url} ({answer.status_code})"
        self._opened, self._answered = opened, time.monotonic()


@contextmanager
def served(store: Path) -> Iterator[tuple[str, str]]:
    """Address and token of a lab that counts no requests, on a thread of its own."""
    started = threading.Event()
    found: dict[str, Any] = {}

    async def run() -> None:
        stop = asyncio.Event()
        async with serve(store, limits=RateLimits(requests_per_second=1e6, request_burst=10**9)) as server:
            found.update(loop=asyncio.get_running_loop(), stop=stop, url=server.url, token=server.token(new_uuid()))
            started.set()
            await stop.wait()

    thread = threading.Thread(target=asyncio.run, args=(run(),))
    thread.start()
    assert started.wait(60)
    try:
        yield found["url"], found["token"]
    finally:
        found["loop"].call_soon_threadsafe(found["stop"].set)
        thread.join(60)


def known_ids(http: httpx.Client) -> dict[str, str]:
    """One of everything that has an id in a path, by the parameter's name."""

    def post(path: str, **body: Any) -> Any:
        answer = http.post(path, json=body)
        assert answer.is_success, answer.text
        return answer.json()

    def upload(path: str, name: str, **fields: str) -> Any:
        answer = http.post(path, files={name: ("note.txt", b"The lighthouse keeper drinks tea.")}, data=fields)
        assert answer.is_success, answer.text
        return answer.json()

    run = post("/api/v1/runs", prompt="Hello")["run"]
    waiting = post("/api/v1/runs", prompt="What's the weather in Berkeley?")
    items = http.get(f"/api/v1/threads/{run['thread_id']}/items").json()["data"]
    said = [{"type": "message", "role": "user", "content": "Hello", "id": "msg_1"}]
    conversation = post("/openai/v1/conversations", items=said)["id"]
    file = upload("/openai/v1/files", "file", purpose="assistants")["id"]
    upload_id = post("/openai/v1/uploads", filename="a.txt", bytes=33, mime_type="text/plain", purpose="assistants")[
        "id"
    ]
    return {
        "agent_id": post("/api/v1/agents", name="Poet", instructions="Rhyme.", model="demo/echo")["id"],
        "thread_id": run["thread_id"], "item_id": items[0]["id"], "run_id": waiting["run"]["id"],
        "call_id": waiting["interruptions"][0]["call_id"], "trace_id": run["trace_id"], "other_id": waiting["run"]["trace_id"],
        "comparison_id": post("/api/v1/compare", cases=["Say tea"], models=["demo/echo", "demo/assistant"])["id"],
        "prefix": "demo", "name": "demo/echo",
        "server_id": post("/api/v1/mcp", name="nowhere", url="http://mcp.invalid/mcp")["id"],
        "response_id": post("/openai/v1/responses", model="demo/echo", input="Hello")["id"],
        "conversation_id": conversation, "file_id": file, "upload_id": upload_id,
        "store_id": post("/openai/v1/vector_stores", name="papers", file_ids=[file])["id"],
    }  # fmt: skip


def walk(url: str, token: str, examples: int) -> list[str]:
    """What Schemathesis finds wrong, with `examples` calls of each operation and kind. What deletes comes last."""
    line = OneConnection(url, token)
    with httpx.Client(base_url=url, headers=line.headers, timeout=CALL_S) as http:
        known = known_ids(http)
        document = http.get("/api/openapi.json").json()
    schema = schemathesis.openapi.from_dict(document, config=SchemathesisConfig(seed=1))
    operations = [result.ok() for result in schema.get_all_operations()]
    operations.sort(key=lambda operation: operation.method.upper() == "DELETE")
    faults: list[str] = []
    with line.session:
        for operation in operations:
            takes_something = bool(operation.body or operation.query)
            for mode in schemathesis.GenerationMode if takes_something else (schemathesis.GenerationMode.POSITIVE,):
                faults += _try(operation, mode, known if mode.is_positive else {}, line, examples)
    return [*faults, *line.faults]


def follow(url: str, token: str, examples: int, steps: int) -> list[str]:
    """What is wrong along `examples` ways of `steps` calls, each of which takes its ids from the answers to those before."""
    line = OneConnection(url, token)
    document = httpx.get(f"{url}/api/openapi.json", headers=line.headers, timeout=CALL_S).json()
    schema = schemathesis.openapi.from_dict(document, config=SchemathesisConfig(seed=1))
    faults: list[str] = []
    begun = 0

    class Way(schema.as_state_machine()):  # type: ignore[misc]
        def setup(self) -> None:
            nonlocal begun
            begun += 1

        def get_call_kwargs(self, case: Any) -> dict[str, Any]:
            return line.arguments

        def validate_response(self, response: Any, case: Any, additional_checks: Any = (), **more: Any) -> None:
            line.heard(response)
            faults.extend(wrong(case, response, [*CHECKS, use_after_free]))

    with line.session:
        while begun < examples:
            # The server answers otherwise than on the way before, which Hypothesis may take for a fault: it goes on with other ways.
            with suppress(FlakyStrategyDefinition):
                run_state_machine_as_test(
                    seed(begun + 1)(Way),
                    settings=settings(
                        max_examples=examples - begun, stateful_step_count=steps, deadline=None, database=None,
                        phases=[Phase.generate], suppress_health_check=list(HealthCheck),
                    ),
                )  # fmt: skip
    return [*faults, *line.faults]


def wrong(case: Any, answer: Response, checks: list[Any]) -> list[str]:
    try:
        case.validate_response(answer, checks=checks)
    except FailureGroup as found:
        operation = case.operation
        return [f"{operation.method.upper()} {operation.path}: {failure}" for failure in found.exceptions]
    return []


def _try(operation: Any, mode: Any, known: dict[str, str], line: OneConnection, examples: int) -> list[str]:
    faults: list[str] = []

    @seed(1)
    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def call(case: Any) -> None:
        case.path_parameters = {name: known.get(name, value) for name, value in (case.path_parameters or {}).items()}
        case.query = {name: known.get(name, value) for name, value in (case.query or {}).items()}
        answer = case.call(**line.arguments)
        line.heard(answer)
        faults.extend(wrong(case, answer, CHECKS))

    with suppress(Unsatisfiable):  # Some operations take nothing that could be wrong.
        call()
    return faults
