"""What remains without JavaScript, and what every text that leaves for a browser has in common."""

from __future__ import annotations

import copy
import json
import pickle
import re
import sys
from html.parser import HTMLParser
from types import SimpleNamespace

import pytest

from tests.ui.hostile import HOSTILE, hostile_source
from tests.ui.sample_traces import SampleSource
from timestep_lab import Lab
from timestep_lab.model.errors import UsageError
from timestep_lab.model.records import AgentGraph, GraphEdge, GraphNode
from timestep_lab.ui.columns import json_safe
from timestep_lab.ui.explorer import TraceExplorer
from timestep_lab.ui.handoff_graph import HandoffGraph, difference
from timestep_lab.ui.html_export import export_html
from timestep_lab.ui.trace_view import TraceView


class Tags(HTMLParser):
    """Tags and attributes of a page, as a browser would read them."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def source() -> SampleSource:
    return SampleSource.with_history(12)


def test_the_static_copy_of_a_trace_tells_its_steps_times_and_messages(source: SampleSource) -> None:
    trace_id = next(iter(source.rows))
    page = Tags(TraceView(source, trace_id).static_html())
    for expected in ("Personal Assistant", "get_weather", "█", "31.", "User:", "14 °C with fog", "handed off from"):
        assert expected in page.text


def test_the_static_copy_of_the_explorer_lists_traces_and_shows_the_opened_one(source: SampleSource) -> None:
    explorer = TraceExplorer(source, filter='status == "failed"')
    explorer.selection = explorer.df()["trace_id"].iloc[0]
    page = Tags(explorer.static_html())
    assert "✗ failed" in page.text
    assert "ConnectTimeout" in page.text
    assert "Kyoto" not in page.text


def test_an_explorer_without_traces_says_how_to_make_one() -> None:
    assert "lab.run" in TraceExplorer(SampleSource()).static_html()


def test_a_live_span_says_running_in_the_static_copy(source: SampleSource) -> None:
    row, spans = next(iter(source.rows.values())), next(iter(source.by_trace.values()))
    live = SampleSource([(row, [*spans[:-1], {**spans[-1], "status": "pending", "ended_at": None}])])
    assert "running" in TraceView(live, row["trace_id"]).static_html()


def test_hostile_text_is_only_text_in_the_static_copies() -> None:
    source = hostile_source()
    trace_id = next(iter(source.rows))
    for html in (TraceView(source, trace_id).static_html(), TraceExplorer(source).static_html()):
        page = Tags(html)
        assert page.tags <= {"p", "strong", "br", "bdi", "table", "tr", "th", "td", "code", "em", "details", "summary"}
        assert page.attributes <= {"dir", "align", "colspan"}
        assert "<img src=x onerror=" in page.text
        assert "\0" not in html
        html.encode("utf-8")
        assert len(html) < 60_000


def test_an_export_holds_hostile_text_packed_and_escaped(tmp_path: object) -> None:
    path = export_html(hostile_source(), f"{tmp_path}/run.html")
    html = path.read_text("utf-8")
    assert html.count("<script") == 2
    assert html.count("</script>") == 2
    assert Tags(html.split("<noscript>")[1].split("</noscript>")[0]).tags.isdisjoint({"img", "script", "svg", "a"})


def test_a_handoff_graph_without_javascript_is_a_list_and_a_table() -> None:
    graph = AgentGraph(
        nodes=(GraphNode(path="A", name="A", calls=3, p50_ms=20.0), GraphNode(path="A/B", name="B")),
        edges=(GraphEdge(from_path="A", to_path="A/B", declared=True),),
    )
    page = Tags(HandoffGraph(graph).static_html())
    assert "A: 3 ×" in page.text
    assert "never observed" in page.text


def test_the_difference_of_two_graphs_weighs_each_by_its_own_runs() -> None:
    def graph(b: int, c: int) -> AgentGraph:
        nodes = tuple(GraphNode(path=name, name=name, calls=1) for name in "ABC")
        edges = (GraphEdge(from_path="A", to_path="B", count=b), GraphEdge(from_path="A", to_path="C", count=c))
        return AgentGraph(nodes=nodes, edges=edges)

    to_b, to_c = difference(graph(20, 20), graph(3, 1))["edges"]
    assert (to_b["count"], to_b["count_b"]) == (20, 3)
    assert to_b["share_a"] < to_b["share_b"]
    assert to_c["share_a"] > to_c["share_b"]


@pytest.mark.parametrize("value", HOSTILE.values(), ids=HOSTILE.keys())
def test_everything_sent_to_a_browser_is_strict_json_and_valid_utf8(value: object) -> None:
    json.dumps(json_safe({"value": value}), allow_nan=False, ensure_ascii=False).encode("utf-8")


def test_a_value_that_nests_without_end_is_cut() -> None:
    value: dict[str, object] = {}
    value["self"] = value
    assert "nested too deeply" in json.dumps(json_safe(value))


def test_each_cell_of_a_static_copy_has_its_alignment_as_a_style_which_jupyter_does_not_override(
    source: SampleSource,
) -> None:
    trace_id = next(iter(source.rows))
    shown = TraceView(source, trace_id)._repr_html_()
    assert "<td align='left' style='text-align:left'>" in shown
    assert "<td align='right' style='text-align:right;white-space:nowrap'>" in shown
    assert not re.search(r"<t[dh](?![^>]*style=)", shown)


def test_a_step_is_named_once_in_the_static_copy(source: SampleSource) -> None:
    page = Tags(TraceView(source, next(iter(source.rows))).static_html())
    assert "turn 1" in page.text
    assert "turn turn" not in page.text


def test_on_a_terminal_a_view_is_text_with_its_columns_under_each_other(source: SampleSource) -> None:
    trace_id = next(iter(source.rows))
    lines = str(TraceView(source, trace_id)).splitlines()
    [head] = [line for line in lines if line.startswith("Step")]
    steps = lines[lines.index(head) + 1 :][:8]
    assert {line[head.index("When")] for line in steps} <= set("█▒·")
    assert any(line.startswith("      ") and "get_weather" in line for line in steps)
    listed = repr(TraceExplorer(source)).splitlines()
    assert listed[0] == "12 traces"
    assert len({len(line) for line in listed[1:4]}) == 1
    assert "<" not in str(TraceExplorer(SampleSource())).replace("\n", "")


def test_a_view_that_cannot_be_read_says_why_on_a_terminal() -> None:
    assert "modle" in repr(TraceExplorer(SampleSource.with_history(1), filter="modle == 1"))


async def test_a_view_and_the_card_of_a_closed_lab_say_so_in_their_place() -> None:
    lab = Lab(":memory:")
    explorer = lab.traces
    await lab.aclose()
    for shown in (explorer._repr_html_(), lab._repr_html_(), repr(lab), repr(explorer)):
        assert "The lab in memory is closed. Open it again." in shown


def test_a_view_is_one_widget_for_layouts_and_hosts_of_widgets(
    source: SampleSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ipywidgets import VBox

    explorer, trace = TraceExplorer(source), TraceView(source, next(iter(source.rows)))
    box = VBox([explorer, trace, explorer.widget])
    assert box.get_state("children")["children"] == [
        f"IPY_MODEL_{widget.model_id}" for widget in (explorer.widget, trace.widget, explorer.widget)
    ]
    assert isinstance(explorer, TraceExplorer)
    assert explorer.__class__.__doc__ == TraceExplorer.__doc__
    assert not hasattr(explorer, "no_such_name")
    bundle, metadata = explorer._repr_mimebundle_()
    assert metadata == {}
    assert bundle["application/vnd.jupyter.widget-view+json"]["model_id"] == explorer.widget.model_id
    assert "data-tl-static" in bundle["text/html"]
    assert "mathjax_ignore" in bundle["text/html"], "amounts of dollars are not set as formulas"
    assert bundle["text/plain"].startswith("12 traces")
    # marimo shows what an object's `_mime_` gives: here the widget in its own frame.
    shown = SimpleNamespace(anywidget=lambda widget: SimpleNamespace(_mime_=lambda: ("text/html", widget.model_id)))
    monkeypatch.setitem(sys.modules, "marimo", SimpleNamespace(ui=shown))
    assert explorer._mime_() == ("text/html", explorer.widget.model_id)


async def test_the_static_copy_of_a_chat_that_no_browser_has_shown_has_its_conversation() -> None:
    lab = Lab(":memory:")
    run = await lab.run("What's the weather in Berkeley?", model="demo/assistant")
    page = Tags(lab.chat(thread=run.thread_id)._repr_html_())
    assert "What's the weather in Berkeley?" in page.text
    assert "get_weather" in page.text
    assert "Nothing was said yet." in lab.chat()._repr_html_()
    await lab.aclose()


def test_in_colab_a_view_says_which_widget_manager_shows_it(
    source: SampleSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    manager = SimpleNamespace(_installed_url="https://colab.example/manager.js")
    colab = SimpleNamespace(enable_custom_widget_manager=lambda: None, _widgets=manager)
    monkeypatch.setitem(sys.modules, "google.colab.output", colab)
    _, metadata = TraceExplorer(source)._repr_mimebundle_()
    shown_by = metadata["application/vnd.jupyter.widget-view+json"]["colab"]["custom_widget_manager"]
    assert shown_by == {"url": manager._installed_url}


async def test_a_widget_has_all_that_a_host_without_jupyterlab_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    """VS Code and Colab load the module of an anywidget out of its state, without RequireJS and without a network."""
    import comm

    opened: list[str] = []
    create = comm.create_comm

    def created(*args: object, **given: str) -> object:
        opened.append(given["target_name"])
        return create(*args, **given)

    monkeypatch.setattr(comm, "create_comm", created)
    lab = Lab(":memory:")
    run = await lab.run("hello", model="demo/echo")
    grid = await lab.compare(["hello"], models=["demo/echo", "demo/assistant"])
    views = [lab.chat(), lab.traces, lab.trace(run), lab.handoffs(), grid.view, lab.arena(grid)]
    assert not opened, "no widget exists before it is asked for"
    for view in views:
        state = json.loads(json.dumps(view.widget.get_state()))
        assert (state["_view_module"], state["_model_module"]) == ("anywidget", "anywidget")
        module = state["_esm"]
        assert re.search(r"export\s*(default|\{[^}]*as default)", module)
        assert not re.search(r"\b(require|define)\(|(from|import)\s*\(?\s*[\"'](https?:)?//", module)
    await lab.aclose()


async def test_views_and_labs_say_that_they_cannot_be_copied_and_a_run_needs_no_copy(source: SampleSource) -> None:
    explorer = TraceExplorer(source)
    assert explorer.widget is not None
    lab = Lab(":memory:")
    for duplicate in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(UsageError, match=r"cannot be copied or pickled.*lab\.explorer\(filter=…\)"):
            duplicate(explorer)
        with pytest.raises(UsageError, match=r"cannot be copied or pickled.*Lab\(store\)"):
            duplicate(lab)
    run = await lab.run("hello", model="demo/echo")
    assert copy.deepcopy({"run": run}) == {"run": run}
    await lab.aclose()


async def test_a_lab_and_a_run_are_small_cards_whatever_was_said() -> None:
    lab = Lab(":memory:")
    run = await lab.run("x" * 300_000, model="demo/echo?bare=1")
    assert len(str(run.output)) == 300_000
    for card in (repr(run), run._repr_html_()):
        assert len(card) < 6_000
        assert "(300,000 characters; full text: run.output)" in card
    assert "2 agents · 1 thread · 1 trace" in repr(lab)
    assert "2 agents · 1 thread · 1 trace" in lab._repr_html_()
    await lab.aclose()


async def test_a_comparison_is_a_view_wherever_views_are(monkeypatch: pytest.MonkeyPatch) -> None:
    from ipywidgets import VBox

    lab = Lab(":memory:")
    grid = await lab.compare(["hello"], models=["demo/echo", "demo/assistant"])
    assert VBox([grid.view, lab.traces]).children[0] is grid.view
    assert grid.view is grid.view
    shown = SimpleNamespace(anywidget=lambda widget: SimpleNamespace(_mime_=lambda: ("text/html", widget.model_id)))
    monkeypatch.setitem(sys.modules, "marimo", SimpleNamespace(ui=shown))
    assert grid._mime_() == ("text/html", grid.view.widget.model_id)
    await lab.aclose()
