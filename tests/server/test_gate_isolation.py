"""User A has B's ids and tries every route of the OpenAPI document with them; A sees nothing of B in any list or query."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from tests.server.lab_process import LabProcess

MARK = "zebra-4711"
"""Stands in everything that B makes."""


@dataclass(frozen=True, slots=True)
class Two:
    a: httpx.Client
    b: httpx.Client
    ids: dict[str, str]
    """Name of a path parameter to an id of B's."""


@pytest.fixture(scope="module")
def two(lab: LabProcess) -> Iterator[Two]:
    with lab.anonymous() as a, lab.anonymous() as b:
        agent = made(b, "/api/v1/agents", {"name": MARK, "instructions": MARK})
        run = made(b, "/api/v1/runs", {"prompt": f"What's the weather in Berkeley? {MARK}"})["run"]
        assert run["status"] == "needs_approval"
        server = made(b, "/api/v1/mcp", {"name": MARK, "url": "http://mcp.invalid/mcp"})
        comparison = made(b, "/api/v1/compare", {"cases": [MARK], "models": ["demo/echo"], "name": MARK})
        made(b, "/api/v1/scores", {"target": "trace", "target_id": run["trace_id"], "name": MARK, "value": 1.0})
        ids = {
            "agent_id": agent["id"], "thread_id": run["thread_id"], "run_id": run["id"], "trace_id": run["trace_id"],
            "server_id": server["id"], "comparison_id": comparison["id"],
        }  # fmt: skip
        ids["share_id"] = made(b, f"/api/v1/traces/{run['trace_id']}/shares", {})["id"]
        ids |= openai_objects(b)
        spans = b.get(f"/api/v1/traces/{run['trace_id']}/columns").json()
        ids["span_id"] = spans["span_id"][0]
        items = b.get(f"/api/v1/threads/{run['thread_id']}/items").json()
        ids["item_id"] = (items["data"] if isinstance(items, dict) else items)[0]["id"]
        yield Two(a, b, ids)


def openai_objects(client: httpx.Client) -> dict[str, str]:
    """One of each kind that the OpenAI-compatible layer keeps."""
    root = "/openai/v1"
    answer = client.post(f"{root}/files", files={"file": ("b.txt", MARK.encode())}, data={"purpose": "assistants"})
    assert answer.status_code < 300, answer.text
    conversation = made(client, f"{root}/conversations", {"metadata": {"about": MARK}})
    upload = {"filename": "b.txt", "bytes": 3, "mime_type": "text/plain", "purpose": "assistants"}
    return {
        "file_id": answer.json()["id"],
        "conversation_id": conversation["id"],
        "upload_id": made(client, f"{root}/uploads", upload)["id"],
        "store_id": made(client, f"{root}/vector_stores", {"name": MARK})["id"],
        "response_id": made(client, f"{root}/responses", {"model": "demo/echo", "input": MARK})["id"],
    }


def made(client: httpx.Client, path: str, body: Any) -> Any:
    answer = client.post(path, json=body)
    assert answer.status_code < 300, answer.text
    return answer.json()


BODIES: dict[str, Any] = {
    "POST /api/v1/traces/{trace_id}/keep-as-test": {"name": "mine", "wrong": "contains:x"},
    "POST /api/v1/vector-stores/{store_id}/files": {"file_id": "file_none"},
    "POST /api/v1/vector-stores/{store_id}/search": {"query": "mine"},
    "PUT /api/v1/agents/{agent_id}": {"name": "mine now"},
    "POST /api/v1/compare/{comparison_id}/rescore": {"scorers": ["exact"]},
    "POST /api/v1/compare/{comparison_id}/votes": {
        "case_id": "x",
        "left_candidate": "a",
        "right_candidate": "b",
        "outcome": "tie",
    },
    "PUT /api/v1/threads/{thread_id}": {"title": "mine now"},
    "PUT /api/v1/mcp/{server}/headers": {"headers": {"x": "mine now"}},
    "POST /api/v1/traces/{trace_id}/decisions": {"call_id": "call_none", "decision": "approved"},
    "POST /openai/v1/vector_stores/{store_id}/file_batches": {"file_ids": ["file_none"]},
    "POST /openai/v1/conversations/{conversation_id}": {"metadata": {"mine": "now"}},
    "POST /openai/v1/conversations/{conversation_id}/items": {"items": [{"role": "user", "content": "mine now"}]},
    "POST /openai/v1/uploads/{upload_id}/complete": {"part_ids": ["part_none"]},
    "POST /openai/v1/vector_stores/{store_id}/files": {"file_id": "file_none"},
    "POST /openai/v1/vector_stores/{store_id}/files/{file_id}": {"attributes": {"mine": "now"}},
    "POST /openai/v1/vector_stores/{store_id}/search": {"query": "mine"},
}
"""A right body where an empty object is none, so that nothing but the id can be the reason for refusing."""
NOBODYS = {"prefix", "name", "kind"}
"""Path parameters that name something of the lab, not of a user."""


def test_no_route_of_the_document_answers_to_the_ids_of_another_user(two: Two) -> None:
    before = all_of(two.b, two.ids)
    paths = two.a.get("/api/openapi.json").json()["paths"]
    walked = [
        (f"{method.upper()} {path}", two.a.request(method, address, json=BODIES.get(f"{method.upper()} {path}", {})))
        for path, methods in paths.items()
        for method in methods
        for address in addresses(path, two.ids)
    ]
    assert len(walked) > 15
    assert [(name, answer.status_code) for name, answer in walked if answer.status_code != 404] == []
    assert all(MARK not in answer.text for _, answer in walked)
    assert all_of(two.b, two.ids) == before


def addresses(path: str, ids: dict[str, str]) -> list[str]:
    """The path with B's ids in it; a parameter that is not known here is tried with every id there is."""
    names = [name for name in re.findall(r"{(\w+)}", path) if name not in NOBODYS]
    if not names or len(names) != path.count("{"):
        return []
    tries = [{name: ids.get(name, other) for name in names} for other in ids.values()]
    return sorted({path.format(**chosen) for chosen in tries})


def all_of(client: httpx.Client, ids: dict[str, str]) -> list[Any]:
    """What a user sees of what is named by `ids`."""
    places = [
        f"/api/v1/agents/{ids['agent_id']}", f"/api/v1/threads/{ids['thread_id']}", f"/api/v1/runs/{ids['run_id']}",
        f"/api/v1/threads/{ids['thread_id']}/items", f"/api/v1/traces/{ids['trace_id']}", "/api/v1/mcp",
        f"/api/v1/compare/{ids['comparison_id']}", f"/api/v1/scores?trace_id={ids['trace_id']}",
        f"/openai/v1/files/{ids['file_id']}", f"/openai/v1/conversations/{ids['conversation_id']}/items",
        f"/openai/v1/conversations/{ids['conversation_id']}", f"/openai/v1/vector_stores/{ids['store_id']}/files",
        f"/openai/v1/responses/{ids['response_id']}",
    ]  # fmt: skip
    answers = [client.get(place) for place in places]
    assert [answer.status_code for answer in answers] == [200] * len(places)
    return [answer.json() for answer in answers]


def test_ids_of_another_user_are_refused_in_bodies_and_queries(two: Two) -> None:
    ids = two.ids
    for answer in (
        two.a.post("/api/v1/runs", json={"prompt": "hello", "thread_id": ids["thread_id"]}),
        two.a.post("/api/v1/runs", json={"prompt": "hello", "agent": ids["agent_id"]}),
        two.a.post("/api/v1/agents", json={"name": "spy", "handoffs": [ids["agent_id"]]}),
        two.a.post("/api/v1/agents", json={"name": "spy", "tools": [f"{ids['server_id']}.*"]}),
        two.a.post("/api/v1/scores", json={"target": "trace", "target_id": ids["trace_id"], "name": "x", "value": 0.0}),
        two.a.get("/api/v1/spans", params={"trace_id": ids["trace_id"], "span_id": ids["span_id"]}),
    ):
        assert answer.status_code == 404, f"{answer.request.method} {answer.request.url}: {answer.text}"
    scores = two.a.get("/api/v1/scores", params={"trace_id": ids["trace_id"]})
    assert scores.status_code == 404 or scores.json() == []


def test_no_list_shows_what_another_user_made(two: Two) -> None:
    paths = two.a.get("/api/openapi.json").json()["paths"]
    lists = [path for path, methods in paths.items() if "get" in methods and "{" not in path]
    assert len(lists) > 8
    for path in lists:
        shown = two.a.get(path).text
        assert MARK not in shown, path
        assert [name for name, value in two.ids.items() if value in shown] == [], path
    assert MARK in two.b.get("/api/v1/agents").text


def test_sql_sees_the_rows_of_who_asks(two: Two) -> None:
    views = ("traces", "spans", "generations", "tool_calls", "handoffs", "messages", "usage", "scores", "comparisons")
    for view in views:
        answer = two.a.post("/api/v1/sql", json={"query": f"select * from {view}"})
        assert answer.status_code == 200, answer.text
        assert answer.json()["rows"] == [], view
    assert two.b.post("/api/v1/sql", json={"query": "select * from traces"}).json()["rows"]


@pytest.mark.parametrize(
    "query",
    [
        "select * from core.spans_raw", "select * from core.agents", "set variable tl_user = 'local'",
        "select * from duckdb_secrets()", "select * from read_text('/etc/passwd')", "select 1; drop table core.agents",
        "select * from (set variable tl_user = 'x')", "attach '/tmp/x.duckdb'", "copy (select 1) to '/tmp/x.csv'",
    ],
)  # fmt: skip
def test_sql_reaches_no_table_setting_or_file_behind_the_views(two: Two, query: str) -> None:
    answer = two.a.post("/api/v1/sql", json={"query": query})
    assert answer.status_code == 400
    assert MARK not in answer.text


def test_a_page_for_the_thing_of_another_user_shows_nothing_of_it(two: Two) -> None:
    for path in ("/chat", "/traces", "/compare", "/agents"):
        for value in two.ids.values():
            answer = two.a.get(f"{path}/{value}", follow_redirects=True)
            assert answer.status_code < 500, f"{path}/{value}"
            assert MARK not in answer.text
