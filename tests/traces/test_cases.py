"""Recorded and made-up traces of many senders, by every way in: as files and over HTTP, whole and span by span in any order, show the same."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.json_format import MessageToDict, ParseDict
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from timestep_lab.runtime.interchange import import_file, read_otlp
from timestep_lab.runtime.interchange.otlp_in import PROTOBUF
from timestep_lab.store.store import Store, open_store

CASES = Path(__file__).parent / "cases"
FILES = sorted(CASES.glob("*.*"))
ONE_SPAN_TWO_STARTS = "c13"
"""Of a finished span that comes twice and differs, the one that came first stays."""
VIEWS = {
    "traces": "trace_id, thread_id, workflow, agent_path, model, status, started_at, ended_at, n_spans, n_errors, turns, input_tokens, "
    "output_tokens, cost_usd, n_unpriced, input, output",
    "spans": "trace_id, span_id, parent_id, kind, name, agent, status, error, model, provider, started_at, ended_at, input_tokens, "
    "output_tokens, cached_tokens, reasoning_tokens, cost_usd, ttft_ms, stop_reason, input, output",
    "usage": "day, provider, model, calls, input_tokens, output_tokens, cost_usd",
}
Request = dict[str, Any]


def test_the_cases_are_here() -> None:
    assert len(FILES) == 26


def request_of(path: Path) -> Request:
    """In the JSON form, ids in hex."""
    if path.suffix == ".json":
        found: Request = json.loads(path.read_text("utf-8"))
        return found
    message = ExportTraceServiceRequest.FromString(path.read_bytes())
    found = MessageToDict(message, use_integers_for_enums=True)
    ids = [one for resource in message.resource_spans for scope in resource.scope_spans for one in scope.spans]
    for told, one in zip(spans_of(found), ids, strict=True):
        told |= {"traceId": one.trace_id.hex(), "spanId": one.span_id.hex()}
        if one.parent_span_id:
            told["parentSpanId"] = one.parent_span_id.hex()
        for link, linked in zip(told.get("links", []), one.links, strict=True):
            link |= {"traceId": linked.trace_id.hex(), "spanId": linked.span_id.hex()}
    return found


def spans_of(found: Request) -> Iterator[dict[str, Any]]:
    for resource in found["resourceSpans"]:
        for scope in resource["scopeSpans"]:
            yield from scope["spans"]


def as_protobuf(found: Request) -> bytes:
    plain = copy.deepcopy(found)
    ids = []
    for one in spans_of(plain):
        one.pop("flags", None)
        links = [[bytes.fromhex(link.pop(key)) for key in ("traceId", "spanId")] for link in one.get("links", [])]
        ids.append(([bytes.fromhex(one.pop(key, "")) for key in ("traceId", "spanId", "parentSpanId")], links))
    message = ParseDict(plain, ExportTraceServiceRequest())
    every = [one for resource in message.resource_spans for scope in resource.scope_spans for one in scope.spans]
    for one, (told, links) in zip(every, ids, strict=True):
        one.trace_id, one.span_id, one.parent_span_id = told
        for link, linked in zip(one.links, links, strict=True):
            link.trace_id, link.span_id = linked
    return bytes(message.SerializeToString())


def span_by_span(found: Request) -> Iterator[Request]:
    for resource in found["resourceSpans"]:
        for scope in resource["scopeSpans"]:
            for one in scope["spans"]:
                yield {"resourceSpans": [{**resource, "scopeSpans": [{**scope, "spans": [one]}]}]}


def take(store: Store, body: bytes, kind: str) -> None:
    decoded = read_otlp(body, kind, None, store.user_id)
    assert (decoded.rejected, decoded.problem) == (0, "")
    decoded.store(store.db)


def in_json(store: Store, requests: list[Request]) -> None:
    for found in requests:
        take(store, json.dumps(found).encode(), "application/json")


def in_files(store: Store) -> None:
    for path in FILES:
        import_file(path, store)


def over_protobuf(store: Store) -> None:
    for path in FILES:
        take(store, as_protobuf(request_of(path)), PROTOBUF)


def over_json(store: Store) -> None:
    in_json(store, [request_of(path) for path in FILES])


def _parts() -> list[Request]:
    found = [(path, part) for path in FILES for part in span_by_span(request_of(path))]
    found.sort(key=lambda one: not one[0].name.startswith(ONE_SPAN_TWO_STARTS))
    return [part for _, part in found]


def forwards(store: Store) -> None:
    in_json(store, _parts())


def backwards(store: Store) -> None:
    parts = _parts()
    in_json(store, [*parts[:2], *reversed(parts[2:])])


def shuffled(store: Store) -> None:
    parts = _parts()
    rest = parts[2:]
    random.Random(5).shuffle(rest)
    in_json(store, [*parts[:2], *rest])


WAYS: list[Callable[[Store], None]] = [over_protobuf, over_json, forwards, backwards, shuffled]


def rows(store: Store) -> dict[str, list[tuple[Any, ...]]]:
    return {
        view: [tuple(round(value, 12) if isinstance(value, float) else value for value in row) for row in
               store.sql(f"select {columns} from {view} order by 1, 2, 3").rows]
        for view, columns in VIEWS.items()
    }  # fmt: skip


@pytest.fixture(scope="module")
def right() -> Iterator[dict[str, list[tuple[Any, ...]]]]:
    store = open_store(":memory:")
    in_files(store)
    yield rows(store)
    store.close()


@pytest.mark.parametrize("way", WAYS, ids=[way.__name__ for way in WAYS])
def test_every_case_shows_the_same_by_every_way_in(way: Callable[[Store], None], right: Any) -> None:
    store = open_store(":memory:")
    way(store)
    found = rows(store)
    store.close()
    for view in VIEWS:
        assert found[view] == right[view]


@pytest.mark.parametrize("way", [in_files, shuffled], ids=["in_files", "shuffled"])
def test_every_case_shows_the_same_in_every_store(store: Store, way: Callable[[Store], None], right: Any) -> None:
    way(store)
    found = rows(store)
    for view in VIEWS:
        assert sorted(found[view], key=repr) == sorted(right[view], key=repr)


TRACE = "workflow, thread_id, status, turns, input_tokens, output_tokens, cost_usd, input, output"
ANY = object()


@pytest.mark.parametrize(
    ("files", "right_trace"),
    [
        ("c06", ("agent.run", "s6", "completed", 1, 10, 5, ANY, "q?", "a!")),
        ("c11", ("POST /chat", "conv-12", "completed", 1, 10, 5, ANY, ANY, ANY)),
        ("c44", ("POST /chat", None, "completed", 0, None, None, None, ANY, ANY)),
        ("pydanticai-anthropic", (ANY, ANY, "completed", 2, 4220, 66, 0.003, ANY, ANY)),
        ("ollmetry-anthropic", (ANY, ANY, "completed", 1, 2110, 33, 0.0015, ANY, ANY)),
        ("strands", (ANY, "sess-9", "completed", 2, 200, 40, 0.000048, ANY, ANY)),
        ("oagents-logfire", (ANY, ANY, "completed", 2, 200, 40, 0.000048, ANY, ANY)),
    ],
)
def test_a_case_shows_what_its_sender_meant(files: str, right_trace: tuple[Any, ...]) -> None:
    for order in (1, -1):
        store = open_store(":memory:")
        parts = [part for path in sorted(CASES.glob(f"{files}*")) for part in span_by_span(request_of(path))]
        in_json(store, parts[::order])
        [found] = store.sql(f"select {TRACE} from traces").rows
        for value, wanted in zip(found, right_trace, strict=True):
            assert wanted is ANY or value == (pytest.approx(wanted) if isinstance(wanted, float) else wanted), found
        store.close()


def test_the_price_table_has_a_price_for_each_provider_however_it_is_spelled() -> None:
    store = open_store(":memory:")
    import_file(CASES / "c02-providers.json", store)
    assert store.sql("select count(*), count(cost_usd), min(cost_usd) > 0 from generations").rows == [(26, 26, True)]
    store.close()
