"""What the newest versions of other programs sent, byte for byte, and what the lab shows of it: see `tests.traces.senders.record`."""

from __future__ import annotations

import json
import random
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.json_format import MessageToDict
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.traces.senders import RECORDED, SENDERS
from tests.traces.senders.record import ROWS, VERSIONS, rows_of, table
from tests.traces.test_interchange import request, span
from timestep_lab.runtime.interchange import attribute_map, attribute_readers, read_otlp
from timestep_lab.runtime.interchange.conventions import span_row
from timestep_lab.runtime.interchange.export import Decoded
from timestep_lab.store.store import Store, open_store

NAMES = [sender.name for sender in SENDERS]
README = Path(__file__).parents[2] / "README.md"


@pytest.mark.parametrize("name", NAMES)
def test_what_a_sender_sends_shows_as_what_it_did(name: str) -> None:
    assert rows_of(RECORDED / f"{name}.pb") == json.loads(ROWS.read_text())[name]


def test_a_recording_as_json_shows_the_same(tmp_path: Path) -> None:
    wanted = json.loads(ROWS.read_text())
    for name in ("strands", "langgraph_openinference", "vercel_ai"):
        message = ExportTraceServiceRequest.FromString((RECORDED / f"{name}.pb").read_bytes())
        (tmp_path / f"{name}.json").write_text(json.dumps(MessageToDict(message)))
        assert rows_of(tmp_path / f"{name}.json") == wanted[name]


def test_the_readme_names_each_sender_with_its_version_and_what_is_read_of_it() -> None:
    assert table() in README.read_text()


def test_each_recording_is_small_and_has_its_versions() -> None:
    versions = json.loads(VERSIONS.read_text())
    assert set(versions) == set(NAMES) == set(json.loads(ROWS.read_text()))
    assert all((RECORDED / f"{name}.pb").stat().st_size < 64 * 1024 for name in NAMES)


def test_each_line_of_the_map_names_its_convention_and_version_and_says_something_of_its_own() -> None:
    lines = attribute_map.ATTRIBUTES
    assert all(line.convention.name and line.convention.version for line in lines)
    plain = [(line.field, line.name, line.scope) for line in lines if line.read is None]
    assert len(plain) == len(set(plain))


ODD: tuple[Any, ...] = (
    None, "", "x", "null", "{}", "[]", "{", "[1,", '"q"', True, 0, -1, 2.5, 10**18, [], ["a"], [None], {}, {"a": 1}, "\ud800", "[" * 2000,
    '{"a":"\\u0000\\ud800"}', '[{"role":"user"}]', '[{"role":"user","content":[{"type":"tool-call"}]}]', '[{"role":"assistant","parts":5}]',
    '{"lc":1,"kwargs":{"content":[1]},"id":["AIMessage"]}', '{"type":"human","data":{"content":null,"tool_calls":[1,{"args":2}]}}',
    '[{"event.name":"gen_ai.choice","message":3}]', '{"messages":[{"source":"a","content":[{"arguments":1}],"models_usage":null}]}',
    '{"role":"user","blocks":[1,{"text":3}]}', '{"contents":[{"role":"model","parts":[{"functionCall":3},{"text":1}]}],"config":3}',
    '{"choices":[{"message":{"role":"assistant"}}]}', '{"args":[1],"kwargs":{"a":1}}', '{"output":{"lc":1,"kwargs":{},"id":["ToolMessage"]}}',
    '{"input_tokens_details":3}', "{'prompt_tokens_details': {'cached_tokens': 4}}", '[["stop"]]', '[{"page_content":1,"metadata":3}]',
)  # fmt: skip
SPREAD = (
    "llm.input_messages.0.message.content", "llm.output_messages.0.message.contents.0", "llm.output_messages.0.message.tool_calls.0.tool_call",
    "gen_ai.completion.0.function_call", "gen_ai.prompt.0.content.0", "retrieval.documents.0.document", "retrieval.documents.0.document.score",
    "langfuse.observation.cost_details", "input.mime_type",
)  # fmt: skip


def test_whatever_an_attribute_holds_no_span_is_lost_and_every_view_is_read(store: Store) -> None:
    rng = random.Random(7)
    names = [*SPREAD, *(line.name for line in attribute_map.ATTRIBUTES)]
    scopes = ["", *(line.scope for line in attribute_map.ATTRIBUTES)]
    rows = []
    for number in range(1, 601):
        said = {rng.choice(names): rng.choice(ODD) for _ in range(rng.randint(1, 14))}
        if rng.random() < 0.7:
            said["gen_ai.operation.name"] = rng.choice(
                ["chat", "invoke_agent", "execute_tool", "embeddings", "retrieval"]
            )
        ids = (store.user_id, f"{number:032x}", f"{number:016x}", None, "it")
        rows.append(span_row(*ids, datetime(2026, 1, 1), datetime(2026, 1, 1, 1), None, said, rng.choice(scopes)))
    assert Decoded(store.user_id, spans=rows).store(store.db) == 600
    for view in ("traces", "spans", "generations", "tool_calls", "handoffs", "messages", "usage"):
        assert len(store.sql(f"select * from {view}").rows) > 0 or view == "handoffs"


def test_to_read_another_sender_is_to_add_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    acme = attribute_readers.Convention("Acme", "1.0")
    added = [
        attribute_readers.Line("kind", "acme.step", acme, attribute_readers.words({"ask": "generation"})),
        attribute_readers.Line("model", "acme.model", acme),
        attribute_readers.Line("input_tokens", "acme.usage", acme, attribute_readers.part("in")),
        attribute_readers.Line("answered", "acme.answer", acme),
    ]
    monkeypatch.setattr(attribute_map, "ATTRIBUTES", (*attribute_map.ATTRIBUTES, *added))
    attribute_map.meaning_of.cache_clear()
    said: dict[str, Any] = {"acme.step": "ASK", "acme.model": "a-1", "acme.usage": '{"in": 7}', "acme.answer": "yes"}
    store = open_store(":memory:")
    read_otlp(json.dumps(request(span(1, "it", said))).encode(), "application/json", None, store.user_id).store(
        store.db
    )
    assert store.sql("select model, input_tokens, output from generations").rows == [("a-1", 7, "yes")]
    store.close()
    monkeypatch.undo()
    attribute_map.meaning_of.cache_clear()
