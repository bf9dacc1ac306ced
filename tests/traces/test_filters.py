"""The filter language: what can be said, what is refused and how, and that SQL and plain Python agree on every filter."""

from __future__ import annotations

import gc
import random
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.store.conftest import FACTORIES, OwnerProcess
from tests.traces.recorder import NOON, Recorder
from timestep_lab.model.errors import FilterError
from timestep_lab.model.ids import LOCAL_USER
from timestep_lab.model.spans import SPAN_KINDS
from timestep_lab.store.filters import compile_filter, evaluate
from timestep_lab.store.filters.read import read_filter
from timestep_lab.store.store import Store

AGENTS, MODELS, WORDS = ("Ann", "Bob", None), ("gpt-4.1", "qwen3", None), ("Berkeley", "berkeley", "50%_\\'x", "", None)


def fill(store: Store) -> list[dict[str, Any]]:
    """Random small traces, returned as the plain dicts that `evaluate` takes."""
    draw = random.Random(11)
    recorder = Recorder(store.db)
    for number in range(25):
        trace_id = recorder.start(at=NOON + timedelta(minutes=number), thread_id=draw.choice(("thr_1", "thr_2", None)))
        ids: list[str] = []
        for step in range(draw.randrange(1, 7)):
            kind = draw.choice(SPAN_KINDS)
            generation = kind == "generation"
            span = recorder.span(
                trace_id, kind, draw.choice(("get_weather", "think", "Ann")), at=NOON + timedelta(minutes=number, milliseconds=step),
                ms=draw.choice((1, 500, 2000)), parent=draw.choice(ids) if ids and draw.random() < 0.8 else None,
                agent=draw.choice(AGENTS), status=draw.choice(("ok", "error")), error=draw.choice((None, "it broke")),
                model=draw.choice(MODELS) if generation else None, input_tokens=draw.choice((None, 0, 100)) if generation else None,
                output_tokens=draw.choice((None, 7)) if generation else None, cost_usd=draw.choice((None, 0.25)) if generation else None,
                ttft_ms=draw.choice((None, 12.5)), input=draw.choice(WORDS), output=draw.choice(WORDS),
                attributes=draw.choice(({}, {"key": "text"}, {"key": 7}, {"key": None, "a/b~c": "x"}, {"key": [1]}, {"key": 1.5})),
            )  # fmt: skip
            ids.append(span.span_id)
            recorder.writer.span_ended(span)
        if draw.random() < 0.4:
            recorder.writer.flush()
            store.traces.score("trace", trace_id, "quality", draw.choice((0.2, 0.9)), label=draw.choice(("good", None)))
    recorder.writer.close()
    found = []
    for row in store.traces.list(limit=100).data:
        spans = store.traces.payloads(row["trace_id"], store.traces.columns(row["trace_id"])["span_id"])
        scores = store.traces.scores(row["trace_id"])
        found.append({
            **row, "spans": spans, "scores": {score.name: score.value for score in scores},
            "labels": {score.name: score.label for score in scores},
        })  # fmt: skip
    return found


@pytest.fixture(scope="module", params=["duckdb", "postgres"])
def filled(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Store, list[dict[str, Any]]]]:
    with ExitStack() as stack:
        folder: Path = tmp_path_factory.mktemp("filters")
        store = Store(stack.enter_context(FACTORIES[request.param](folder, OwnerProcess())), LOCAL_USER)
        yield store, fill(store)


# -- random filters

TEXT = st.sampled_from(
    [
        "Berkeley",
        "berk",
        "gpt-4.1",
        "Ann",
        "get_weather",
        "",
        "50%_\\'x",
        "it broke",
        "o'; drop table core.spans_raw; --",
    ]
)
ORDER = st.sampled_from(["==", "!=", "<", "<=", ">", ">="])
NUMBER = st.sampled_from(["0", "7", "100", "0.25", "12.5", "2000", "-1", "1e3"])


def quoted(text: str) -> str:
    return repr(text)


def text_field(row: str) -> st.SearchStrategy[str]:
    names = (
        ["thread_id", "workflow", "agent_path", "model", "input", "output"]
        if not row
        else ["name", "agent", "error", "model", "input", "output"]
    )
    fields = st.sampled_from([f"{row}.{name}" if row else name for name in names])
    return fields | fields.map(lambda field: f"{field}.lower()")


def number_field(row: str) -> st.SearchStrategy[str]:
    names = (
        ["duration_ms", "n_spans", "n_errors", "turns", "input_tokens", "cost"]
        if not row
        else ["duration_ms", "input_tokens", "cost_usd", "ttft_ms"]
    )
    fields = st.sampled_from([f"{row}.{name}" if row else name for name in names])
    sums = st.tuples(fields, st.sampled_from("+-*/"), NUMBER).map(" ".join)
    return fields | sums | st.just(f'{row}.scores["none"]' if row else 'scores["quality"]')


def simple(row: str) -> st.SearchStrategy[str]:
    prefix = f"{row}." if row else ""
    choices = st.sampled_from(["completed", "failed", "running"] if not row else ["ok", "error", "pending"])
    tests = [
        st.tuples(text_field(row), ORDER, TEXT.map(quoted)).map(" ".join),
        st.tuples(TEXT.map(quoted), st.sampled_from(["in", "not in"]), text_field(row)).map(" ".join),
        st.tuples(text_field(row), st.sampled_from(["startswith", "endswith", "contains"]), TEXT.map(quoted)).map(
            lambda t: f"{t[0]}.{t[1]}({t[2]})"
        ),
        st.tuples(number_field(row), ORDER, NUMBER).map(" ".join),
        st.tuples(NUMBER, ORDER, number_field(row), ORDER, NUMBER).map(" ".join),
        st.tuples(text_field(row), st.sampled_from(["is None", "is not None"])).map(" ".join),
        st.tuples(
            text_field(row), st.sampled_from(["in", "not in"]), st.lists(TEXT.map(quoted) | st.just("None"), max_size=3)
        ).map(lambda t: f"{t[0]} {t[1]} ({', '.join(t[2])}{',' if len(t[2]) == 1 else ''})"),
        st.tuples(ORDER, choices).map(lambda t: f"{prefix}status {'!=' if t[0] == '!=' else '=='} {t[1]!r}"),
        st.sampled_from([f"{prefix}started_at {symbol} '2026-11-22T12:07:00'" for symbol in ("<", ">=", "==", "!=")]),
        st.tuples(text_field(row), ORDER, text_field(row)).map(" ".join),
    ]
    if row:
        keys = st.sampled_from(["key", "a/b~c", "none"])
        tests += [
            st.tuples(keys, ORDER, TEXT.map(quoted) | NUMBER).map(
                lambda t: f"{row}.attributes[{t[0]!r}] {t[1]} {t[2]}"
            ),
            keys.map(lambda key: f"{row}.attributes[{key!r}] is None"),
            st.sampled_from(SPAN_KINDS).map(lambda kind: f"{row}.kind == {kind!r}"),
            st.sampled_from(SPAN_KINDS).map(lambda kind: f"{row}.parent.kind != {kind!r}"),
            st.just(f"{row}.parent.parent.agent is None"),
            st.just(f"{row}.agent == {row}.parent.agent"),
            st.just(f"{row}.model == model"),
        ]
    return st.one_of(tests)


def joined(row: str, inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    depth = "sc"[["", "s"].index(row)] if row in ("", "s") else None
    tests = [
        st.tuples(inner, st.sampled_from(["and", "or"]), inner).map(lambda t: f"({t[0]} {t[1]} {t[2]})"),
        inner.map(lambda test: f"not ({test})"),
    ]
    if depth:
        spans = "spans" if not row else f"{row}.children"
        below = conditions(depth)
        tests += [
            st.tuples(st.sampled_from(["any", "all"]), below).map(lambda t: f"{t[0]}({t[1]} for {depth} in {spans})"),
            st.tuples(below, ORDER, st.sampled_from("0123")).map(
                lambda t: f"len([{depth} for {depth} in {spans} if {t[0]}]) {t[1]} {t[2]}"
            ),
            st.tuples(st.sampled_from(["sum", "min", "max"]), below, ORDER, NUMBER).map(
                lambda t: f"{t[0]}({depth}.duration_ms for {depth} in {spans} if {t[1]}) {t[2]} {t[3]}"
            ),
            st.tuples(below, ORDER, st.sampled_from("012")).map(
                lambda t: f"count({t[0]} for {depth} in {spans}) {t[1]} {t[2]}"
            ),
        ]
    return st.one_of(tests)


def conditions(row: str = "") -> st.SearchStrategy[str]:
    return st.recursive(simple(row), lambda inner: joined(row, inner), max_leaves=4)


@settings(max_examples=70, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(text=conditions())
def test_sql_and_plain_python_agree_on_every_filter(filled: tuple[Store, list[dict[str, Any]]], text: str) -> None:
    store, traces = filled
    compiled = compile_filter(text, store.db.dialect)
    rows = store.db.query(LOCAL_USER, f"select t.trace_id from traces t where {compiled.sql}", compiled.params).rows
    assert {row[0] for row in rows} == {trace["trace_id"] for trace in traces if evaluate(text, trace)}


@settings(max_examples=10, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(text=conditions())
def test_the_sql_that_is_shown_gives_the_same_rows(filled: tuple[Store, list[dict[str, Any]]], text: str) -> None:
    store, _ = filled
    shown = store.sql(store.traces.sql(text)).rows
    assert [row[0] for row in shown] == [row["trace_id"] for row in store.traces.list(text, limit=100).data]


# -- what is refused

REFUSED = {
    'modle == "x"': ("no field 'modle' of a trace. Did you mean 'model'?", 0),
    'any(s.kidn == "tool" for s in spans)': ("no field 'kidn' of a span. Did you mean 'kind'?", 4),
    'status == "faild"': ("status is never 'faild'. Did you mean 'failed'?", 10),
    'model = "x"': ('Compare with "==", not "="', 6),
    "duration_ms > 1s": ("without a unit, such as duration_ms > 1000", 14),
    "model == 3": ("model is text but is compared with a number", 0),
    "duration_ms > 'long'": ("compared with text", 0),
    "model": ("model is not a condition", 0),
    "started_at > 'yesterday'": ("'yesterday' is not a time", 13),
    "started_at > ago('soon')": ("ago() takes a duration", 13),
    'any(s.kind == "tool")': ("any() requires a comprehension over spans", 0),
    "error == 'x'": ("A trace has no field 'error'; its spans do", 0),
    "anny(s.kind == 'tool' for s in spans)": ("no function anny(). Did you mean 'any'?", 0),
    'model == "x" & cost > 1': ("Use and instead", 9),
    'model == "x" && cost > 1': ("Use and instead", 14),
    "!has_errors": ("Use not instead", 0),
    "(cost > 1) | (cost < 2)": ("Use or instead", 0),
    "~(cost > 1)": ("Use not instead", 0),
    "model ==": ("cannot be parsed", None),
    "__import__('os').system('rm -rf /') == 1": ("", 0),
    "open('/etc/passwd').read() == ''": ("no .read()", 0),
    "(lambda: 1)() == 1": ("Only the functions of the filter language", 0),
    "[x for x in ().__class__.__bases__] == 1": ("ListComp is not supported", 0),
    "model.__class__ == 'str'": ("model has no fields", 0),
    "f'{model}' == 'x'": ("JoinedStr is not supported", 0),
    "(y := 1) == 1": ("NamedExpr is not supported", 1),
    "'a\\0b' in input": ("NUL", 0),
    "1e999 > cost": ("too large", 0),
    "any(s.attributes['k\\0'] == 1 for s in spans)": ("requires a name in quotes", 4),
    "not " * 100 + "model is None": ("nested too deep", None),
    "(" * 500 + "1" + ")" * 500: ("", None),
    "model == 'x'; drop table core.spans_raw": ("cannot be parsed", None),
    "x" * 20_000: ("longer than", None),
    "любая == 'x' and modle == 1": ("no field 'любая'", 0),
    "model == 'ü' and\n  modle == 'x'": ("no field 'modle'", 19),
}  # fmt: skip


@pytest.mark.parametrize("text", REFUSED, ids=lambda text: text[:40])
def test_what_makes_no_sense_is_refused_with_the_place_and_a_hint(text: str) -> None:
    message, position = REFUSED[text]
    with pytest.raises(FilterError) as refused:
        compile_filter(text, "duckdb")
    assert message in str(refused.value)
    assert refused.value.next_step
    if position is not None:
        assert refused.value.position == position


SHOWN = {
    'status == "done"': 'status == "completed"',
    'status in ("Done", "needs approval")': 'status in ("completed", "needs_approval")',
    'any("failed" == s.status for s in spans)': 'any(s.status == "error" for s in spans)',
    'any(s.status != "done" for s in spans)': 'any(s.status != "ok" for s in spans)',
}


@pytest.mark.parametrize("text", SHOWN)
def test_a_word_that_the_views_show_is_understood_as_what_it_stands_for(text: str) -> None:
    assert compile_filter(text, "duckdb").params == compile_filter(SHOWN[text], "duckdb").params


HOSTILE = [
    "'; drop table core.spans_raw; --",
    "$1",
    "%s",
    "\\",
    "' or 1=1 --",
    "x' union select * from core.runs",
    "}{",
    "\u202e",
]


def test_hostile_text_reaches_the_database_as_a_parameter_only(filled: tuple[Store, list[dict[str, Any]]]) -> None:
    store, traces = filled
    for text in HOSTILE:
        found = f"{text!r} in input or any(s.attributes[{text!r}] == {text!r} for s in spans) or scores[{text!r}] > 0 or model in ({text!r},)"
        compiled = compile_filter(found, store.db.dialect)
        assert text == "$1" or text not in compiled.sql
        assert store.traces.count(found) == sum(evaluate(found, trace) for trace in traces)
        assert len(store.sql(store.traces.sql(found)).rows) == store.traces.count(found)
        store.traces.list(search=text)
        store.traces.list(search=f'"{text}"')
    assert store.traces.count() == len(traces)


def test_filters_are_parsed_on_many_threads_at_once() -> None:
    """Before Python 3.11.8 `ast.parse` fails with SystemError if a garbage collection lets another thread parse in between."""
    text, failed = " and ".join(["any(s.agent == 'x' for s in spans)"] * 5), []

    def let_others_run(phase: str, info: Mapping[str, int]) -> None:
        time.sleep(0.0001)

    def parse(depth: int) -> None:
        if depth:
            return parse(depth - 1)  # The depth of recursion differs from thread to thread.
        for _ in range(60):
            try:
                read_filter(text)
            except SystemError as error:
                failed.append(error)

    threads = [threading.Thread(target=parse, args=(10 * number,)) for number in range(5)]
    thresholds = gc.get_threshold()
    gc.callbacks.append(let_others_run)
    gc.set_threshold(50)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        gc.set_threshold(*thresholds)
        gc.callbacks.remove(let_others_run)
    assert failed == []
