"""What the explorer asks: pages, histograms, facets, latency, the agents' graph, search, annotations."""

from __future__ import annotations

import time
from datetime import timedelta
from pathlib import Path

import pytest

from tests.traces.recorder import NOON, Recorder
from timestep_lab.model.errors import NotFoundError, UsageError
from timestep_lab.model.ids import LOCAL_USER
from timestep_lab.model.records import GraphEdge
from timestep_lab.model.spans import Lab
from timestep_lab.store import trace_sums
from timestep_lab.store.search import SearchIndex, Word
from timestep_lab.store.store import Store, open_store


def test_pages_follow_each_other_without_gap_or_overlap_in_any_order(store: Store, recorder: Recorder) -> None:
    for number in range(7):
        trace_id = recorder.start(at=NOON + timedelta(minutes=number // 2))
        cost = None if number % 3 == 0 else number / 10
        recorder.ended(
            trace_id, "generation", "m", at=NOON + timedelta(minutes=number // 2), cost_usd=cost, input_tokens=1
        )
    recorder.writer.flush()
    for order in ("started_at desc", "started_at", "cost_usd desc", "cost_usd asc", "status desc"):
        whole = [row["trace_id"] for row in store.traces.list(order=order).data]
        assert len(set(whole)) == 7
        paged, after = [], None
        while True:
            page = store.traces.list(order=order, limit=2, after=after)
            paged += [row["trace_id"] for row in page.data]
            after = page.after
            if not page.has_more:
                break
        assert paged == whole
    with pytest.raises(UsageError, match="Did you mean 'started_at'"):
        store.traces.list(order="startet_at")
    with pytest.raises(NotFoundError):
        store.traces.list(after="nope")


def test_histogram_facets_and_latency_count_the_same_traces(store: Store, recorder: Recorder) -> None:
    for number in range(6):
        recorder.weather_run(
            at=NOON + timedelta(hours=number), model=("gpt-4.1", "qwen3")[number % 2], fails=number == 5
        )
    recorder.writer.flush()
    bars = store.traces.histogram(5)
    assert [bar.count for bar in bars] == [1, 1, 1, 1, 2]
    assert [(bar.failed, bar.steps_failed) for bar in bars] == [(0, 0), (0, 0), (0, 0), (0, 0), (0, 1)]
    assert (bars[0].start, bars[-1].end) == (NOON, NOON + timedelta(hours=5))
    facets = store.traces.facets('model == "qwen3"')
    counts = {name: [(value.value, value.count) for value in values] for name, values in facets.items()}
    assert counts["model"] == [("qwen3", 3)]
    assert counts["agent"] == [("Personal Assistant", 3), ("Weather Assistant", 3)]
    assert counts["outcome"] == [("done", 2), ("steps_failed", 1)]
    assert counts["source"] == [("live", 3)]
    for values in facets.values():
        for value in values:
            assert store.traces.count(f'model == "qwen3" and {value.filter}') == value.count, value
    hours = store.traces.latency(since=NOON, until=NOON + timedelta(hours=2)).dicts()
    assert [(row["model"], row["calls"], row["p50_ms"], row["ttft_p50_ms"]) for row in hours] == [
        ("gpt-4.1", 2, 500.0, 40.0),
        ("qwen3", 2, 500.0, 40.0),
    ]
    assert store.traces.frame().shape == (6, 26)


def test_a_trace_has_one_outcome_in_every_list_count_and_chart(store: Store, recorder: Recorder) -> None:
    done = recorder.weather_run()
    tool_failed = recorder.weather_run(at=NOON + timedelta(hours=1), fails=True)
    failed = recorder.start(at=NOON + timedelta(hours=2))
    recorder.ended(
        failed, "agent", "Boss", at=NOON + timedelta(hours=2), agent="Boss", status="error", error="out of luck"
    )
    recorder.writer.flush()
    outcomes = {row["trace_id"]: row["outcome"] for row in store.traces.list().data}
    assert outcomes == {done: "done", tool_failed: "steps_failed", failed: "failed"}
    for outcome in ("done", "steps_failed", "failed"):
        assert store.traces.count(f'outcome == "{outcome}"') == 1
    [step] = store.traces.series(1)
    assert (step.runs, step.failed, step.steps_failed) == (3, 1, 1)
    bars = store.traces.histogram(3)
    assert [(bar.count, bar.failed, bar.steps_failed) for bar in bars] == [(1, 0, 0), (1, 0, 1), (1, 1, 0)]


def test_traces_are_sorted_by_what_they_took(store: Store, recorder: Recorder) -> None:
    traces = [recorder.weather_run(at=NOON + timedelta(hours=n), fails=n == 1) for n in range(3)]
    recorder.writer.flush()
    store.traces.score("trace", traces[1], "quality", 0.25)
    store.traces.score("trace", traces[2], "quality", 0.75)
    assert [row["trace_id"] for row in store.traces.list(order="score desc").data] == [traces[2], traces[1], traces[0]]
    assert store.traces.list(order="n_errors desc").data[0]["trace_id"] == traces[1]
    for order in ("duration_ms desc", "cost_usd desc", "tokens desc", "ttft_ms asc", "score asc"):
        whole = [row["trace_id"] for row in store.traces.list(order=order).data]
        first = store.traces.list(order=order, limit=2)
        rest = store.traces.list(order=order, limit=2, after=first.after)
        assert [row["trace_id"] for row in (*first.data, *rest.data)] == whole
        assert [row[0] for row in store.sql(store.traces.sql(order=order)).rows] == whole
    assert store.traces.scores_of(traces) == {traces[1]: {"quality": 0.25}, traces[2]: {"quality": 0.75}}
    assert store.traces.get(traces[0])["ttft_ms"] is not None


def test_traces_are_counted_by_who_asked_how_they_are_tagged_and_where_they_come_from(
    store: Store, recorder: Recorder
) -> None:
    for n, metadata in enumerate(({"user": "ada", "tags": ["beta", "eu"]}, {"comparison_id": "cmp_1"}, {})):
        trace_id = recorder.start(at=NOON + timedelta(hours=n), metadata=metadata)
        recorder.ended(trace_id, "agent", "Boss", at=NOON + timedelta(hours=n), agent="Boss")
    recorder.writer.flush()
    found = {name: [(one.value, one.count) for one in values] for name, values in store.traces.facets().items()}
    assert found["user"] == [("ada", 1)]
    assert found["tag"] == [("beta", 1), ("eu", 1)]
    assert found["source"] == [("live", 2), ("evaluation", 1)]
    assert store.traces.count('"eu" in tags and user == "ada"', source="live") == 1
    assert store.traces.count('"e" in tags') == 0
    assert len(store.traces.list(source="evaluation").data) == 1


def test_sums_that_were_folded_are_the_sums_that_were_added_up(
    store: Store, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = [recorder.weather_run(at=NOON + timedelta(hours=n), fails=n == 1) for n in range(3)]
    recorder.writer.flush()
    added_up = store.sql("select * from traces order by trace_id").rows
    monkeypatch.setattr(trace_sums, "FOLD_FROM", 1)
    trace_sums.fold(store.db)
    assert store.sql("select * from traces order by trace_id").rows == added_up
    recorder.ended(before[0], "tool", "late", at=NOON + timedelta(hours=5), status="error", error="too late")
    recorder.writer.flush()
    assert store.traces.get(before[0])["failed_tools"] == "late"
    added_up = store.sql("select * from traces order by trace_id").rows
    trace_sums.fold(store.db)
    assert store.sql("select * from traces order by trace_id").rows == added_up


def test_the_graph_keeps_agents_of_one_name_apart_by_their_path(store: Store, recorder: Recorder) -> None:
    recorder.weather_run()
    trace_id = recorder.start()
    ms = timedelta(milliseconds=1)
    outer = recorder.ended(trace_id, "agent", "Boss", ms=1000, agent="Boss")
    tool = recorder.ended(trace_id, "tool", "ask", at=NOON + 10 * ms, ms=500, agent="Boss", parent=outer.span_id)
    recorder.ended(
        trace_id,
        "agent",
        "Weather Assistant",
        at=NOON + 11 * ms,
        ms=400,
        agent="Weather Assistant",
        parent=tool.span_id,
    )
    recorder.writer.flush()
    graph = store.traces.graph()
    assert {node.path: (node.calls, node.cost_usd) for node in graph.nodes} == {
        "Personal Assistant": (1, pytest.approx(0.01)), "Personal Assistant/Weather Assistant": (1, pytest.approx(0.01)),
        "Boss": (1, 0.0), "Boss/Weather Assistant": (1, 0.0),
    }  # fmt: skip
    assert set(graph.edges) == {
        GraphEdge(
            from_path="Personal Assistant", to_path="Personal Assistant/Weather Assistant", count=1, p50_ms=1000.0
        ),
        GraphEdge(from_path="Boss", to_path="Boss/Weather Assistant", count=1, p50_ms=400.0),
    }
    assert store.traces.graph([trace_id]).nodes == tuple(node for node in graph.nodes if node.path.startswith("Boss"))


def test_an_agent_begun_again_in_a_trace_is_the_node_it_was(store: Store, recorder: Recorder) -> None:
    trace_id = recorder.weather_run()
    later = NOON + timedelta(seconds=30)
    recorder.ended(trace_id, "agent", "Weather Assistant", at=later, ms=500, agent="Weather Assistant")
    resumed = {Lab.RESUMED: True}
    recorder.ended(trace_id, "agent", "Weather Assistant", at=later + timedelta(seconds=1), ms=100, agent="Weather Assistant",
                   status="error", error="no", attributes=resumed)  # fmt: skip
    recorder.writer.flush()
    graph = store.traces.graph()
    assert [(node.path, node.calls, node.p50_ms, node.errors) for node in graph.nodes] == [
        ("Personal Assistant", 1, 500.0, 0), ("Personal Assistant/Weather Assistant", 2, 800.0, 1),
    ]  # fmt: skip
    assert [(way.count, way.errors) for way in graph.edges] == [(1, 1)]


def test_spans_come_in_order_of_start_and_what_holds_others_before_them(store: Store, recorder: Recorder) -> None:
    trace_id = recorder.start()
    agent = recorder.span(trace_id, "agent", "A", ms=50)
    child = recorder.span(trace_id, "generation", "g", ms=20, parent=agent.span_id)
    later = recorder.span(trace_id, "tool", "t", at=NOON + timedelta(milliseconds=30), ms=10, parent=agent.span_id)
    for span in (later, child, agent):
        recorder.writer.span_ended(span)
        recorder.writer.flush()
    kinds = ["agent", "generation", "tool"]
    assert store.traces.columns(trace_id)["kind"] == kinds
    assert [record.kind for record in store.traces.spans(trace_id)] == kinds


def test_spans_come_as_records_and_as_columns_with_what_is_still_open(store: Store, recorder: Recorder) -> None:
    trace_id = recorder.weather_run()
    recorder.opened(trace_id, "turn", "turn", at=NOON + timedelta(seconds=1))
    recorder.writer.flush()
    records, columns = store.traces.spans(trace_id), store.traces.columns(trace_id)
    assert {record.span_id for record in records} == set(columns["span_id"])
    assert [record.started_at for record in records] == sorted(record.started_at for record in records)
    assert sum(end != end for end in columns["ended_us"]) == 1
    assert min(columns["started_us"]) == int(NOON.timestamp() * 1_000_000)
    assert [record.status for record in records].count("pending") == 1


def test_scores_are_kept_with_their_trace_and_can_be_filtered_by(store: Store, recorder: Recorder) -> None:
    trace_id = recorder.weather_run()
    recorder.weather_run(at=NOON + timedelta(hours=1))
    recorder.writer.flush()
    span_id = store.traces.spans(trace_id)[0].span_id
    store.traces.score("trace", trace_id, "quality", 0.2)
    store.traces.score("trace", trace_id, "quality", 0.9, label="good", note="well said")
    store.traces.score("span", span_id, "tone", 1)
    assert [(score.name, score.value) for score in store.traces.scores(trace_id)] == [
        ("quality", 0.2),
        ("quality", 0.9),
        ("tone", 1),
    ]
    assert [
        row["trace_id"] for row in store.traces.list('scores["quality"] > 0.5 and labels["quality"] == "good"').data
    ] == [trace_id]
    assert store.traces.count('any(s.scores["tone"] == 1 for s in spans)') == 1
    assert store.sql("select target, name, note from scores where note is not null").rows == [
        ("trace", "quality", "well said")
    ]


SEARCHES = {
    "berkeley": ["b"], "BERKELEY umbrella": ["b"], "berk": ["b"], "berk*": ["b"], '"umbrella in berkeley"': ["b"],
    "umbrella be": ["b"], "b": [], "berk umbrella": [], "berk* umbrella": ["b"], '"berk"': [], "oakl sho": [], "BERKE": ["b"],
    '"berkeley umbrella"': [], "get_weather": ["b", "o"], "oakland location": ["o"], "nothing": [], '" "': ["b", "o"], "-*'": [],
    "no place": ["o"], "still": ["b"], "zürich": ["b"], "lorem": ["o"],
    "🧥": ["o"], "!!!": ["o"], "🧥 !!!": ["o"], '"🧥!!!"': ["o"], "☂": [], "%": [], "!!! coat": ["o"],
}  # fmt: skip
"""Search to the traces it finds, among b and o below."""


def test_search_finds_words_and_phrases_of_any_span_ended_or_open_alike_with_and_without_an_index(
    store: Store, recorder: Recorder
) -> None:
    traces = {
        "b": recorder.weather_run(question="Umbrella in Berkeley?"),
        "o": recorder.weather_run(at=NOON + timedelta(hours=1), question="Coat? 🧥!!!", location="Oakland", fails=True),
    }
    recorder.opened(traces["b"], "tool", "slow", input="still at work in Zürich")
    recorder.ended(
        traces["o"],
        "generation",
        "m",
        input=[{"role": "user", "content": "lorem " * 500}, {"role": "user", "content": "x"}],
    )
    recorder.writer.flush()
    deadline = time.monotonic() + 20
    while store.db.dialect == "duckdb" and getattr(store.db, "is_owner", False):
        if SearchIndex(Path(store.db.url)).find(LOCAL_USER, [Word("lorem")], 10).span_numbers:
            break
        assert time.monotonic() < deadline
        time.sleep(0.05)
    for text, expected in SEARCHES.items():
        found = {row["trace_id"] for row in store.traces.list(search=text).data}
        assert found == {traces[name] for name in expected}, text
        assert store.traces.count(search=text) == len(expected)
        assert {row[0] for row in store.sql(store.traces.sql(search=text)).rows} == found, text


def test_a_lab_in_memory_is_searched_by_reading_it() -> None:
    store = open_store(":memory:")
    recorder = Recorder(store.db)
    trace_id = recorder.weather_run()
    recorder.writer.flush()
    assert [row["trace_id"] for row in store.traces.list(search='"umbrella in berk*').data] == []
    assert [row["trace_id"] for row in store.traces.list(search="berk* sunny*").data] == [trace_id]
    recorder.writer.close()
    store.close()


def test_a_lost_or_foreign_search_index_is_built_anew(tmp_path: Path) -> None:
    path = tmp_path / "lab.duckdb"
    index = SearchIndex(path)

    def searched(expected: int) -> None:
        store = open_store(path)
        recorder = Recorder(store.db)
        recorder.weather_run()
        recorder.writer.flush()
        deadline = time.monotonic() + 20
        while len(index.find(LOCAL_USER, [Word("berkeley")], 100).span_numbers) != 3 * expected:
            assert time.monotonic() < deadline
            store.traces.list(search="berkeley")
            time.sleep(0.05)
        assert store.traces.count(search="berkeley") == expected
        recorder.writer.close()
        store.close()

    searched(1)
    index.path.write_bytes(b"no database at all")
    searched(2)
    index.delete()
    index.add(
        [(n, LOCAL_USER, "berkeley") for n in range(1, 50)], (49, "another lab's span"), index.position().forgotten
    )
    searched(3)


def test_words_of_deleted_traces_are_in_no_file_of_the_index_and_the_rest_is_found_as_before(tmp_path: Path) -> None:
    path = tmp_path / "lab.duckdb"
    store, index = open_store(path), SearchIndex(path)
    recorder = Recorder(store.db)
    kept = recorder.weather_run(question="Umbrella in Berkeley?")
    gone = recorder.weather_run(at=NOON + timedelta(hours=1), question="Xylophone in Berkeley?")
    recorder.writer.flush()

    def indexed(word: str) -> int:
        return len(index.find(LOCAL_USER, [Word(word)], 100).span_numbers)

    def wait_for(word: str) -> None:
        deadline = time.monotonic() + 20
        while not indexed(word) or index.again():
            assert time.monotonic() < deadline
            store.traces.list(search=word)
            time.sleep(0.05)

    def files() -> bytes:
        return b"".join(file.read_bytes() for file in sorted(tmp_path.glob("lab.duckdb.search*")))

    wait_for("xylophone")
    assert b"ylophone" in files()
    at = index.position()
    store.traces.delete([gone])
    assert b"ylophone" not in files()
    assert [row["trace_id"] for row in store.traces.list(search="berkeley").data] == [kept]
    # What was read before they were deleted is not written after it.
    assert not index.add([(at.indexed_to + 1, LOCAL_USER, "xylophone")], (at.indexed_to + 1, "span"), at.forgotten)
    wait_for("umbrella")
    assert not indexed("xylophone")
    assert b"ylophone" not in files()
    later = recorder.weather_run(at=NOON + timedelta(hours=2), question="Zither in Berkeley?")
    recorder.writer.flush()
    wait_for("zither")
    assert {row["trace_id"] for row in store.traces.list(search="berkeley").data} == {kept, later}
    recorder.writer.close()
    store.close()
