"""What the newest versions of other programs sent, byte for byte, and what the lab shows of it: see `tests.traces.senders.record`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.json_format import MessageToDict
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.traces.senders import RECORDED, SENDERS
from tests.traces.senders.record import ROWS, VERSIONS, rows_of, table
from tests.traces.test_interchange import request, span
from timestep_lab.runtime.interchange import attribute_map, read_otlp
from timestep_lab.store.open import open_store

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


def test_to_read_another_sender_is_to_add_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    acme = attribute_map.Convention("Acme", "1.0")
    added = [
        attribute_map.Line("kind", "acme.step", acme, attribute_map.words({"ask": "generation"})),
        attribute_map.Line("model", "acme.model", acme),
        attribute_map.Line("input_tokens", "acme.usage", acme, attribute_map.part("in")),
        attribute_map.Line("answered", "acme.answer", acme),
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
