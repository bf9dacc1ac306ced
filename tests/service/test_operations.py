"""An operation is declared once. What follows from the declaration: the check of its arguments, its route, its remote call."""

from __future__ import annotations

import ast
import importlib
import inspect
import math
import pkgutil
import re
import textwrap
from collections.abc import Iterator
from typing import Any

import pytest

from timestep_lab import Lab, NotFoundError, UsageError, ui
from timestep_lab.lab.remote.lab import RemoteLab
from timestep_lab.server import pages
from timestep_lab.service.agents import Agents
from timestep_lab.service.datasets import Datasets
from timestep_lab.service.files import Files, VectorStores
from timestep_lab.service.mcp import Mcp
from timestep_lab.service.models import Models
from timestep_lab.service.operation import operations
from timestep_lab.service.runs import Runs
from timestep_lab.service.threads import Threads
from timestep_lab.service.traces import Traces
from timestep_lab.ui.view import View

NOUNS = (Agents, Threads, Runs, Models, Files, VectorStores, Mcp, Traces, Datasets)
IN_THIS_PROCESS = ("__init__", "_columns", "_refuse_taken", "frame", "subscribe", "_waiting_state", "_author")
"""Used by operations only, or written again for a served lab."""


@pytest.fixture
def lab() -> Iterator[Lab]:
    with Lab(":memory:") as lab:
        yield lab


@pytest.mark.parametrize("noun", NOUNS, ids=lambda noun: noun.__name__)
def test_a_method_that_is_no_operation_asks_operations_only_so_that_a_served_lab_has_it_too(noun: type) -> None:
    inherited = {
        name: function
        for name, function in vars(noun).items()
        if inspect.isfunction(function) and name not in operations(noun) and name not in IN_THIS_PROCESS
    }  # fmt: skip
    for name, function in inherited.items():
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
        touched = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
        assert "_scope" not in touched, f"{noun.__name__}.{name} would fail on a served lab"


@pytest.mark.parametrize("noun", NOUNS, ids=lambda noun: noun.__name__)
def test_every_operation_says_what_it_does_and_types_all_that_it_takes_and_gives(noun: type) -> None:
    for name, operation in operations(noun).items():
        assert operation.function.__doc__, name
        assert "return" in operation.function.__annotations__, name
        assert all(one.annotation is not Any for one in operation.signature.parameters.values()), name
        assert set(operation.in_path) <= set(operation.signature.parameters), name


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda lab: lab.agents.create(nmae="x"), r"lab\.agents\.create takes no 'nmae'\. Did you mean 'name'\?"),
        (lambda lab: lab.agents.update("Personal Assistant", modle="x"), r"takes no 'modle'\. Did you mean 'model'\?"),
        (lambda lab: lab.agents.create(), "missing a required argument: 'name'"),
        (lambda lab: lab.agents.create("Poet", "Rhyme."), r"Name each argument: lab\.agents\.create\(name='Poet', …\)"),
        (lambda lab: lab.agents.create(name="x", tools="get_weather"), "tools: .*Sequence"),
        (lambda lab: lab.agents.create(name="x" * 201), "name: .*at most 200"),
        (lambda lab: lab.agents.update("Personal Assistant", name=None), "name: .*string"),
        (lambda lab: lab.agents.create(name="x", model_settings={"temperature": math.nan}), "model_settings: is not JSON"),
        (lambda lab: lab.trace_source.page(limit=0), r"lab\.trace_source\.page: limit"),
        (lambda lab: lab.runs.start("x", budget_usd=0), r"lab\.runs\.start: budget_usd: .*greater than 0"),
        (lambda lab: lab.runs.decide("run_x", {"call_1": {"decision": "maybe"}}), r"lab\.runs\.decide: decisions.call_1"),
        (lambda lab: lab.files.page(limit=0), r"lab\.files\.page: limit"),
        (lambda lab: lab.files.add_bytes("x.txt", 5), r"lab\.files\.add_bytes: content"),
        (lambda lab: lab.mcp.add("x", ulr="http://x"), r"lab\.mcp\.add takes no 'ulr'\. Did you mean 'url'"),
        (lambda lab: lab.threads.page(limit=0), "limit: .*greater than or equal to 1"),
        (lambda lab: lab.threads.page(10, 20), "takes 0 positional|too many positional"),
    ],
)  # fmt: skip
def test_wrong_arguments_are_refused_with_the_name_of_the_one_that_is_wrong(lab: Lab, call: Any, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        call(lab)


def test_a_change_touches_what_is_given_and_nothing_else(lab: Lab) -> None:
    poet = lab.agents.create(
        name="Poet", instructions="Rhyme.", model="demo/echo", tools=["think"], model_settings={"temperature": 0.5}
    )
    changed = lab.agents.update("Poet", model=None, instructions="")
    assert (changed.model, changed.instructions) == (None, "")
    assert (changed.name, changed.tool_ids, changed.model_settings) == ("Poet", poet.tool_ids, {"temperature": 0.5})


def test_names_that_would_end_a_path_can_be_read_changed_and_deleted(lab: Lab) -> None:
    for name in ("a/b", "..", "a?b#c", "50 %", "ünï"):
        lab.agents.create(name=name)
        assert lab.agents.update(name, description="here").name == lab.agents.get(name).name == name
        lab.agents.delete(name)
        with pytest.raises(NotFoundError):
            lab.agents.get(name)


def test_help_shows_the_signature_as_it_is_written() -> None:
    assert str(inspect.signature(Threads.page)).startswith("(self, *, limit: 'Limit' = 20")
    assert inspect.getdoc(Threads.branch)


# -- what can be done on the pages

OPERATION_OF_ACTION = {
    "pages/agents": {
        "save": "agents.create agents.change", "delete": "agents.delete", "restore": "agents.restore", "versions": "agents.versions", "graph": "handoffs",
        "models": "models.list_models", "try": "agents.read", "chat": "agents.draft runs.start",
    },
    "pages/approvals": {"decide": "runs.decide"},
    "pages/compare": {"start": "comparisons.start", "plan": "comparisons.plan", "models": "models.list_models"},
    "pages/files": {
        "finish": "files.add_bytes", "delete_file": "files.delete", "create_store": "vector_stores.create", "delete_store": "vector_stores.delete",
        "add_to_store": "vector_stores.add_file", "take_from_store": "vector_stores.remove_file", "search": "vector_stores.search",
    },
    "pages/overview": {"forget_panel": "trace_source.delete_view", "panel": "sql"},
    "pages/playground": {"ask": "models.ask", "keep": "agents.change agents.create", "models": "models.list_models"},
    "pages/settings": {"delete": "my_data.delete my_data.delete_everything", "revoke": "trace_source.revoke", "ask": "models.of_provider"},
    "pages/sql": {"run": "sql", "save": "trace_source.save_view", "forget": "trace_source.delete_view"},
    "pages/tools": {"add": "mcp.add", "remove": "mcp.remove", "test": "mcp.test", "call": "mcp.call"},
    "chat": {
        "send": "runs.start", "decide": "runs.decide", "stop": "runs.cancel", "edit": "threads.branch runs.start", "retry": "threads.branch runs.start",
        "attach": "files.add_bytes", "open": "threads.items", "rename": "threads.rename", "remove": "threads.delete", "search": "threads.page",
        "choose": "models.read",
    },
    "duel": {"send": "runs.start", "decide": "runs.decide", "stop": "runs.cancel", "vote": "comparisons.vote", "attach": "files.add_bytes"},
    "arena": {"vote": "comparisons.vote"},
    "explorer": {
        "query": "trace_source.page trace_source.histogram trace_source.facets", "more": "trace_source.page", "suggest": "trace_source.suggest",
        "views": "trace_source.views", "save_view": "trace_source.save_view", "forget_view": "trace_source.delete_view", "graph_all": "trace_source.graph",
        "trace": "trace_source.columns", "span": "trace_source.spans", "conversation": "trace_source.spans", "graph": "trace_source.graph_of",
        "json": "trace_source.spans", "find": "trace_source.whole_spans", "comparable": "trace_source.page", "diff": "trace_source.diff",
        "score": "trace_source.score", "waiting": "trace_source.waiting", "decide": "trace_source.decide", "share": "trace_source.share",
        "shares": "trace_source.shares", "revoke": "trace_source.revoke", "delete": "trace_source.delete", "datasets": "datasets.list",
        "add_to_dataset": "datasets.add_traces", "plan_again": "trace_source.plan_again", "run_again": "trace_source.run_again",
        "page": "trace_source.spans", "cause_plan": "causes.plan", "cause_find": "causes.why", "cause_keep": "causes.keep",
    },
    "grid": {"stop": "comparisons.start"},  # The end of its stream.
}  # fmt: skip
OF_THE_PAGE_ALONE = {
    "submit",  # Asks another action.
    "begin", "part", "cancel", "file_part", "read_file", "preview",  # A file on its way, and what is read of it.
    "stop", "forget",  # An answer in the playground ends with its stream.
    "period", "look", "brush", "select", "list", "fresh", "trace", "act", "next", "question", "case", "slices",  # What is shown.
    "cause", "cause_stop",  # A search that this page began.
}  # fmt: skip


def views_of_pages() -> Iterator[type[View]]:
    for package in (pages, ui):
        for module in pkgutil.iter_modules(package.__path__):
            importlib.import_module(f"{package.__name__}.{module.name}")
    kinds = [View]
    for kind in kinds:
        kinds += kind.__subclasses__()
        if kind.__module__.startswith("timestep_lab.") and kind.__dict__.get("stem"):
            yield kind


def test_every_action_of_a_page_is_an_operation_that_a_lab_has_here_and_elsewhere(lab: Lab) -> None:
    seen = set[str]()
    for kind in views_of_pages():
        operation_of = OPERATION_OF_ACTION.get("explorer" if kind.stem == "trace" else kind.stem, {})
        reads_traces = OPERATION_OF_ACTION["explorer"] if kind.stem == "grid" else {}
        for action in kind._handlers:
            names = {**reads_traces, **operation_of}.get(action)
            assert names or action in OF_THE_PAGE_ALONE, f"{kind.__name__}: {action} is no operation"
            for name in (names or "").split():
                is_operation_of_both(lab, name)
        seen.add(kind.stem)
    assert seen >= OPERATION_OF_ACTION.keys()


def is_operation_of_both(lab: Lab, name: str) -> None:
    """An operation, or a method that asks operations only (see above) and that a remote lab inherits."""
    noun, _, method = name.partition(".")
    if not method:
        assert callable(getattr(RemoteLab, noun)), name
        return
    kind = type(lab.causes if noun == "causes" else getattr(lab, noun))
    assert callable(getattr(kind, method)), name
    bases = [base for base in kind.__mro__ if operations(base)]
    assert bases, f"lab.{noun} has no operations"


REACHED_PAST_OPERATIONS = re.compile(
    r"\blab\.(?:runner|router|writer)\b|\blab\.store\.(?!subscribe|user_id|quota|db\b|(?:typed_)?sql\b)\w+"
)


@pytest.mark.parametrize("name", [module.name for module in pkgutil.iter_modules(pages.__path__)])
def test_a_page_does_nothing_that_is_not_an_operation_and_so_possible_from_everywhere(name: str) -> None:
    source = inspect.getsource(importlib.import_module(f"{pages.__name__}.{name}"))
    assert REACHED_PAST_OPERATIONS.findall(source) == []
