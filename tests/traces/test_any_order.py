"""A trace of another program shows the same in whatever parts and order it comes: roll-ups against what plain Python makes of the spans."""

from __future__ import annotations

import itertools
import os
import random
import threading
import time
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.traces.test_foreign_traces import CHAT, send
from tests.traces.test_interchange import span
from timestep_lab.store.store import Store, open_store

BEGAN = 1_795_000_000_000_000_000
MS = 1_000_000
COLUMNS = (
    "trace_id, workflow, thread_id, agent_path, model, status, started_at, ended_at, n_spans, n_errors, turns, input_tokens, "
    "output_tokens, cost_usd, n_unpriced, input, output"
)
OPERATIONS = {"generation": "chat", "agent": "invoke_agent", "tool": "execute_tool"}
AROUND = {"agent": 1, "other": 2, "generation": 3, "tool": 4}


class Made:
    """One span, as its sender knows it."""

    def __init__(self, rng: random.Random, trace: int, number: int) -> None:
        self.trace_id, self.number = f"{trace:032x}", number
        self.id = f"{number:016x}"
        self.kind = rng.choice(["generation", "generation", "agent", "tool", "other"])
        self.name = f"{self.kind} {number}"
        self.parent = f"{rng.randint(1, number - 1):016x}" if number > 1 and rng.random() < 0.95 else None
        self.start, self.took = number + rng.randint(0, 2), rng.randint(0, 9)
        self.failed = rng.random() < 0.3
        self.agent = rng.choice(["A", "B"]) if self.kind == "agent" else None
        self.model = rng.choice(["made-up-1", "made-up-2"]) if self.kind == "generation" else None
        self.answer = rng.choice([None, None, "same"]) if self.kind == "generation" and number > 3 else None
        self.tokens = (rng.randint(0, 99), rng.randint(0, 99)) if rng.random() < 0.6 or self.answer else None
        self.cost = rng.randint(1, 64) / 64 if rng.random() < 0.5 or self.answer else None
        self.input = f"in {number}" if rng.random() < 0.5 else None
        self.output = f"out {number}" if rng.random() < 0.5 else None
        self.thread = "thread" if rng.random() < 0.2 else None

    def otlp(self, *, ended: bool = True) -> dict[str, Any]:
        told: dict[str, Any] = {
            "gen_ai.operation.name": OPERATIONS.get(self.kind), "gen_ai.agent.name": self.agent, "gen_ai.request.model": self.model,
            "gen_ai.response.id": self.answer, "gen_ai.cost.total_cost": self.cost, "input.value": self.input, "output.value": self.output,
            "gen_ai.conversation.id": self.thread, "gen_ai.tool.name": self.name if self.kind == "tool" else None,
        }  # fmt: skip
        if self.tokens:
            told |= {"gen_ai.usage.input_tokens": self.tokens[0], "gen_ai.usage.output_tokens": self.tokens[1]}
        attributes = {name: value for name, value in told.items() if value is not None}
        more = {"status": {"code": 2, "message": "failed"}} if self.failed and ended else {}
        made = span(
            self.number, self.name, attributes, traceId=self.trace_id, startTimeUnixNano=str(BEGAN + self.start * MS),
            endTimeUnixNano=str(BEGAN + (self.start + self.took) * MS) if ended else "0", **more,
        )  # fmt: skip
        made.pop("parentSpanId", None)
        return {**made, "parentSpanId": self.parent} if self.parent else made


def random_trace(rng: random.Random, number: int) -> list[Made]:
    """Some of its spans never arrive; calls that are told twice are leaves."""
    spans = [Made(rng, number, n) for n in range(1, rng.randint(2, 9))]
    around = {one.parent for one in spans}
    for one in spans:
        if one.id in around:
            one.answer = None
    return [one for one in spans if len(spans) < 3 or rng.random() < 0.9] or spans


def roll_up(spans: Sequence[Made]) -> tuple[Any, ...]:
    here = {one.id: one for one in spans}

    def above(one: Made) -> Iterable[Made]:
        while one.parent in here:
            one = here[one.parent]
            yield one

    def outermost(those: Sequence[Made]) -> list[Made]:
        return [one for one in those if not any(other in those for other in above(one))]

    def once(those: Sequence[Made]) -> list[Made]:
        """Of leaves that tell of one answer at the same time one is counted, all others are parts of it."""
        kept: list[Made] = []
        for one in sorted(those, key=lambda one: one.id):
            static_copies = [other for other in kept if one.answer and other.answer == one.answer]
            if not any(one.start <= o.start + o.took and o.start <= one.start + one.took for o in static_copies):
                kept.append(one)
        return kept

    counted = once(spans)
    calls = outermost([one for one in counted if one.kind == "generation"])
    tokens = outermost([one for one in counted if one.tokens])
    costs = outermost([one for one in counted if one.cost is not None])
    unpriced = [
        one for one in counted
        if one.tokens and any(one.tokens) and one.cost is None and not any(o.cost is not None for o in above(one))
        and not any(one in above(o) and (o.cost is not None or (o.tokens and any(o.tokens))) for o in spans)
    ]  # fmt: skip
    roots = [one for one in spans if one.parent is None]
    orphans = [one for one in spans if one.parent is not None and one.parent not in here]
    major = [one for one in orphans if one.kind != "tool"]
    tops = roots or major or orphans
    inner = [one for one in spans if one.parent in here]

    def first(groups: Iterable[Sequence[Made]], key: Any) -> Made | None:
        return next((min(group, key=key) for group in groups if group), None)

    def began(one: Made) -> Any:
        return one.start, AROUND[one.kind], one.id

    def ended(one: Made) -> Any:
        return -(one.start + one.took), AROUND[one.kind], one.id

    groups = (
        roots, major, [one for one in inner if one.kind != "tool"], [one for one in orphans if one.kind == "tool"],
        [one for one in inner if one.kind == "tool"],
    )  # fmt: skip
    asked = first([[one for one in group if one.input] for group in groups], began)
    answered = first([[one for one in group if one.output] for group in groups], ended)
    named = first((tops,), began)
    agents = [one.agent for one in sorted(spans, key=lambda one: (one.start, one.id)) if one.agent]
    path = " → ".join(name for place, name in enumerate(agents) if place == 0 or agents[place - 1] != name)
    models = [(one.start, one.id, one.model) for one in spans if one.model]
    last_start = max((start for start, _, _ in models), default=0)
    model = min((id, model) for start, id, model in models if start == last_start)[1] if models else None
    return (
        spans[0].trace_id, named.name if named else "trace", "thread" if any(one.thread for one in spans) else None, path or None, model,
        "failed" if any(one.failed for one in tops) else "completed",
        moment(min(one.start for one in spans)), moment(max(one.start + one.took for one in spans)), len(spans),
        sum(one.failed for one in spans), len(calls),
        sum(one.tokens[0] for one in tokens if one.tokens) if tokens else None,
        sum(one.tokens[1] for one in tokens if one.tokens) if tokens else None,
        sum(one.cost for one in costs if one.cost) if costs else None, len(unpriced),
        asked.input if asked else None, answered.output if answered else None,
    )  # fmt: skip


def moment(ms: int) -> datetime:
    return datetime.fromtimestamp(BEGAN // 1_000_000_000, UTC).replace(tzinfo=None) + timedelta(milliseconds=ms)


N_TRACES = int(os.environ.get("RANDOM_TRACES", "250"))
"""The weekly workflow asks for 1,000, of another seed each time."""


def test_random_traces_in_any_parts_and_order_and_twice_roll_up_as_plain_python_does() -> None:
    store = open_store(":memory:")
    check_any_order(store, N_TRACES, seed=int(os.environ.get("RANDOM_SEED", "7")))
    store.close()


def test_random_traces_roll_up_the_same_in_every_store(store: Store) -> None:
    check_any_order(store, 40, seed=11)


def check_any_order(store: Store, n_traces: int, *, seed: int) -> None:
    rng = random.Random(seed)
    traces = [random_trace(rng, number) for number in range(1, n_traces + 1)]
    everything = [one for trace in traces for one in trace]
    for round in range(2):
        sent = [one.otlp() for one in everything]
        sent += [one.otlp(ended=False) for one in everything if rng.random() < 0.2]
        rng.shuffle(sent)
        while sent:
            part, sent = sent[: (n := rng.choice([1, 3, 40, 150, 400]))], sent[n:]
            send(store, *part)
        found = store.sql(f"select {COLUMNS} from traces order by trace_id").rows
        for row, trace in zip(found, traces, strict=True):
            assert row == roll_up(trace), (round, trace[0].trace_id, [vars(one) for one in trace])
    calls = sum(row[10] for row in found)
    assert store.sql("select cast(sum(calls) as bigint) from usage").rows == [(calls,)]


def test_a_span_works_for_the_agent_above_it_whichever_of_them_comes_first(store: Store) -> None:
    spans = [
        span(1, "invoke_agent A", {"gen_ai.operation.name": "invoke_agent", "gen_ai.agent.name": "A"}),
        span(2, "step", {}, parent=1),
        span(3, "chat", CHAT, parent=2),
    ]
    for one in reversed(spans):
        send(store, one)
    assert store.sql("select distinct agent from spans").rows == [("A",)]
    assert store.sql("select agent from generations").rows == [("A",)]


def test_an_open_span_and_its_end_that_arrive_at_once_are_one_finished_span(store: Store) -> None:
    for number in range(8):
        trace = {"traceId": f"{number + 1:032x}"}
        parts = [span(1, "it", {}, endTimeUnixNano="0", **trace), span(1, "it", {}, **trace)] * 2
        threads = [threading.Thread(target=send, args=(store, part)) for part in parts]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert store.sql("select distinct status, n_spans from traces").rows == [("completed", 1)]
    assert store.sql("select count(*), count(ended_at) from spans").rows == [(8, 8)]


def test_a_trace_in_many_parts_takes_time_by_its_length_and_not_by_the_square_of_it() -> None:
    store = open_store(":memory:")
    chat = {**CHAT, "gen_ai.usage.input_tokens": 10, "gen_ai.usage.output_tokens": 5}

    def seconds(trace: int, n_parts: int) -> float:
        parts = [
            [span(2 + 50 * part + n, "chat", chat, parent=1, traceId=f"{trace:032x}") for n in range(50)]
            for part in range(n_parts)
        ]
        began = time.process_time()
        for part in parts:
            send(store, *part)
        send(store, span(1, "agent", {}, traceId=f"{trace:032x}"))
        return time.process_time() - began

    seconds(1, 5)
    few, many = seconds(2, 10), seconds(3, 80)
    assert many < 8 * few * 2.5
    store.close()


def test_a_deep_chain_of_calls_that_tell_one_answers_id_takes_time_by_its_length() -> None:
    def seconds(n: int) -> float:
        store = open_store(":memory:")
        spans = [span(i, "chat", {**CHAT, "gen_ai.response.id": "r"}, parent=i - 1 or None) for i in range(n, 0, -1)]
        began = time.process_time()
        for first in range(0, n, 50):
            send(store, *spans[first : first + 50])
        took = time.process_time() - began
        assert store.sql("select n_spans, turns from traces").rows == [(n, 1)]
        store.close()
        return took

    few, many = seconds(500), seconds(3000)
    assert many < 6 * few * 3


@pytest.mark.parametrize("around", [{1: 1}, {1: 2, 2: 1}, {1: 3, 2: 1, 3: 2}])
def test_spans_that_are_their_own_parents_are_kept_and_counted_once(store: Store, around: dict[int, int]) -> None:
    spans = [
        span(i, f"it {i}", {**CHAT, "gen_ai.response.id": "r", "gen_ai.usage.input_tokens": 10}, parent=up)
        for i, up in around.items()
    ]
    spans.append(span(9, "below", {}, parent=1))
    for number, order in enumerate((spans, spans[::-1]), 1):
        for one in order:
            send(store, {**one, "traceId": f"{number:032x}"})
    first, second = store.sql("select n_spans, status, input_tokens, turns from traces").rows
    assert first == second
    assert first == (len(spans), "completed", 10, 1)
    assert len(store.traces.spans(f"{1:032x}")) == len(spans)


VERSIONS = [
    span(2, "chat", {**CHAT, "input.value": "hi"}, parent=1),
    span(2, "chat", {**CHAT, "input.value": "hi", "output.value": "yes", "gen_ai.usage.input_tokens": 10, "gen_ai.agent.name": "A"}, parent=1,
         endTimeUnixNano=str(BEGAN + 20 * MS), events=[{"name": "told", "timeUnixNano": "7"}]),
    span(2, "chat", {**CHAT, "input.value": "hi", "output.value": "no"}, parent=1, startTimeUnixNano=str(BEGAN),
         events=[{"name": "other", "timeUnixNano": "9"}], status={"code": 2}),
    span(2, "chat", {**CHAT}, parent=1, endTimeUnixNano="0"),
]  # fmt: skip


@pytest.mark.parametrize("at_once", [False, True])
def test_of_finished_versions_of_a_span_the_most_complete_stands_with_the_time_and_events_of_all_in_any_order(
    store: Store, at_once: bool
) -> None:
    orders = list(itertools.permutations(VERSIONS))
    for number, order in enumerate(orders, 1):
        trace = {"traceId": f"{number:032x}"}
        parts = [span(1, "agent", {"gen_ai.operation.name": "invoke_agent", "gen_ai.agent.name": "A"}, **trace)]
        parts += [{**one, **trace} for one in order]
        for part in [parts] if at_once else [[one] for one in parts + parts[1:]]:
            send(store, *part)
    spans = store.sql(
        "select distinct agent, status, started_at, ended_at, input_tokens, output from spans where span_id like '%2'"
    ).rows
    assert spans == [("A", "ok", moment(0), moment(20), 10, "yes")]
    told = store.sql(
        "select distinct n_spans, n_errors, turns, input_tokens, started_at, ended_at, status, output from traces"
    ).rows
    assert told == [(2, 0, 1, 10, moment(0), moment(20), "completed", "yes")]
    said = [store.traces.payload(f"{number:032x}", f"{2:016x}")["attributes"] for number in range(1, len(orders) + 1)]
    assert all([event["name"] for event in one["timestep.events"]] == ["told", "other"] for one in said)
    assert store.sql("select calls, input_tokens from usage").rows == [(len(orders), 10 * len(orders))]


def test_many_calls_that_all_tell_one_answers_id_are_put_together_in_time_by_their_number() -> None:
    store = open_store(":memory:")
    chat = {**CHAT, "gen_ai.response.id": "always the same", "gen_ai.usage.input_tokens": 1}
    began = time.process_time()
    for first in range(1, 1500, 100):
        send(store, *(span(number, "chat", chat) for number in range(first, first + 100)))
    assert store.sql("select n_spans, turns < 300 from traces").rows == [(1500, True)]
    assert time.process_time() - began < 15
    store.close()


def test_the_user_that_spans_tell_of_is_a_column_to_filter_and_group_by_and_the_rows_stay_their_senders(
    store: Store,
) -> None:
    def trace(number: int, told: dict[str, str]) -> list[dict[str, Any]]:
        ids = {"traceId": f"{number:032x}"}
        root = span(1, "POST /chat", {}, **ids)
        return [span(3, "http", {}, parent=2, **ids), span(2, "chat", {**CHAT, **told}, parent=1, **ids), root]

    said = [{"user.id": "ann"}, {"enduser.id": "ann"}, {"langfuse.user.id": "bob"}, {"mlflow.trace.user": '"bob"'}, {}]
    for number, told in enumerate(said, 1):
        for one in trace(number, told)[:: 1 if number % 2 else -1]:
            send(store, one)
    grouped = store.sql("select end_user, count(*) from traces group by 1 order by 1").rows
    assert sorted(grouped, key=str) == [("ann", 2), ("bob", 2), (None, 1)]
    assert len(store.traces.list('end_user == "ann"').data) == len(store.traces.list('"bo" in end_user').data) == 2
    assert store.sql("select distinct user_id from traces").rows == [(store.user_id,)]


def test_of_two_users_in_one_trace_the_roots_stands_whichever_comes_first(store: Store) -> None:
    root = span(1, "root", {"user.id": "ann"})
    leaf = span(2, "leaf", {"user.id": "a service"}, parent=1)
    for number, parts in enumerate([[root, leaf], [leaf, root]], 1):
        for one in parts:
            send(store, {**one, "traceId": f"{number:032x}"})
    assert store.sql("select distinct end_user from traces").rows == [("ann",)]


def test_the_request_of_mistrals_client_is_part_of_the_call_around_it_and_parallel_calls_stay_apart() -> None:
    """The client `mistralai` 1.x reports its request beside OpenLLMetry's span of the call, without the id of the response."""
    usage = {"gen_ai.request.model": "made-up", "gen_ai.usage.input_tokens": 10, "gen_ai.usage.output_tokens": 5}
    spans = [span(1, "POST /chat", {})]
    for number, begins in ((2, 0), (3, 1), (4, 2)):
        times = {"startTimeUnixNano": str(BEGAN + begins * MS), "endTimeUnixNano": str(BEGAN + (begins + 20) * MS)}
        spans.append({**span(number, "mistralai.chat", {**CHAT, **usage}, parent=1), **times})
        times = {
            "startTimeUnixNano": str(BEGAN + (begins + 3) * MS),
            "endTimeUnixNano": str(BEGAN + (begins + 19) * MS),
        }
        of_client = {
            **usage,
            "http.request.method": "POST",
            "mistral_ai.operation.id": "chat_completion_v1_chat_completions_post",
        }
        spans.append({**span(10 + number, "chat_completion", of_client, parent=1), **times})
    alone = {**span(20, "chat_completion", of_client, parent=1), **times}
    alone["startTimeUnixNano"], alone["endTimeUnixNano"] = str(BEGAN + 40 * MS), str(BEGAN + 50 * MS)
    for seed in range(12):
        rng = random.Random(seed)
        shuffled = rng.sample([*spans, alone], len(spans) + 1)
        cut = rng.randint(1, 7)
        store = open_store(":memory:")
        for part in (shuffled[:cut], shuffled[cut:]) if seed else (shuffled,):
            send(store, *part)
        found = store.sql("select n_spans, turns, input_tokens, output_tokens from traces").rows
        store.close()
        assert found == [(8, 4, 40, 20)], seed


@pytest.mark.parametrize(
    "call",
    [{}, {"gen_ai.request.model": "made-up"}, {"gen_ai.usage.input_tokens": 10, "gen_ai.usage.output_tokens": 5}],
    ids=["without a model", "without numbers", "with the same numbers"],
)
def test_the_request_of_anthropics_client_is_part_of_the_call_beside_it_whatever_that_states(
    call: dict[str, Any],
) -> None:
    """The client `anthropic` 2 reports its requests; OpenLLMetry before 0.40 and failed or streamed calls state no id of a response."""
    store = open_store(":memory:")
    usage = {"gen_ai.request.model": "made-up", "gen_ai.usage.input_tokens": 10, "gen_ai.usage.output_tokens": 5}
    request = {**CHAT, **usage, "gen_ai.response.id": "msg_1", "http.request.method": "POST"}
    around = {"startTimeUnixNano": str(BEGAN), "endTimeUnixNano": str(BEGAN + 20 * MS)}
    inside = {"startTimeUnixNano": str(BEGAN + MS), "endTimeUnixNano": str(BEGAN + 19 * MS)}
    unstated = {name: value for name, value in CHAT.items() if name != "gen_ai.request.model"}
    send(
        store,
        span(1, "POST /chat", {}),
        {**span(2, "anthropic.chat", {**unstated, **call}, parent=1), **around},
        {**span(3, "anthropic.messages.create", request, parent=1), **inside},
        {**span(4, "anthropic.chat", {**request, "gen_ai.response.id": "msg_2"}, parent=1), **around},
        {**span(5, "anthropic.messages.create", {**request, "gen_ai.response.id": "msg_2"}, parent=1), **inside},
    )
    assert store.sql("select turns, input_tokens, output_tokens from traces").rows == [(2, 20, 10)]
    store.close()


@pytest.mark.parametrize("seed", range(4))
def test_a_span_without_a_duration_gives_its_trace_none_and_does_not_shorten_one(store: Store, seed: int) -> None:
    at = BEGAN + 90 * MS
    untimed = [span(n, "event", {}, startTimeUnixNano="0", endTimeUnixNano=str(at + n * MS)) for n in (1, 2)]
    timed = span(3, "work", {}, startTimeUnixNano=str(BEGAN), endTimeUnixNano=str(BEGAN + 10 * MS))
    for one in untimed:
        send(store, one)
    assert store.sql("select n_spans, duration_ms from traces").rows == [(2, None)]
    parts = random.Random(seed).sample([*untimed, timed], 3)
    for one in parts:
        send(store, {**one, "traceId": "b" * 32})
    assert store.sql(f"select n_spans, duration_ms from traces where trace_id = '{'b' * 32}'").rows == [(3, 92.0)]
    assert len(store.traces.spans("b" * 32)) == 3
