"""Stored agents become SDK agents with every field honoured, and come back from a snapshot as they were."""

from __future__ import annotations

import json
import re
import threading
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import pytest
from agents import Agent, Handoff, ModelSettings, RunHooks
from hypothesis import given
from hypothesis import strategies as st

from tests.runtime.bench import Bench, last, says
from timestep_lab.model.errors import NotFoundError, RunError, SettingsError
from timestep_lab.model.ids import BUILTIN_MCP_SERVER, PERSONAL_ASSISTANT, WEATHER_ASSISTANT
from timestep_lab.model.records import AgentGraph, AgentRecord, GraphEdge, GraphNode, McpServerRecord
from timestep_lab.runtime.agent_graph import (
    build,
    declared_graph,
    freeze,
    from_sdk,
    handoff_names,
    handoff_targets,
    identity,
    over,
    reachable,
    restore,
    restore_servers,
    same_servers,
)
from timestep_lab.runtime.run import RunOptions
from timestep_lab.runtime.tools.builtin import builtin_record
from timestep_lab.service.agents import GET_WEATHER, default_agents, ensure_default_agents

USER = "user"


def record(id: str, **fields: object) -> AgentRecord:
    return AgentRecord(**{"id": id, "user_id": USER, "name": id.title(), **fields})  # type: ignore[arg-type]


async def test_every_stored_field_reaches_the_sdk_agent(bench: Bench) -> None:
    other = record("other", description="Knows the other thing.")
    agent = record(
        "one", instructions="Be brief.", model="demo/echo", handoff_ids=("other",),
        model_settings={"temperature": 0.2, "toolChoice": "required", "reasoning": {"effort": "low"}},
        tool_ids=(f"{BUILTIN_MCP_SERVER}.think", "switch_theme"),
    )  # fmt: skip
    graph = await build({"one": agent, "other": other}, "one", bench.toolbox, default_model="demo/slow")
    one, two = graph.root, graph.agents["Other"]
    assert (one.name, one.instructions, one.model, two.model) == ("One", "Be brief.", "demo/echo", "demo/slow")
    assert isinstance(one.model_settings, ModelSettings)
    assert (one.model_settings.temperature, one.model_settings.tool_choice) == (0.2, "required")
    assert one.model_settings.reasoning
    assert one.model_settings.reasoning.effort == "low"
    assert [tool.name for tool in one.tools] == ["think", "switch_theme"]
    assert one.tool_use_behavior == {"stop_at_tool_names": ["switch_theme"]}
    assert two.tool_use_behavior == "run_llm_again"
    [way] = one.handoffs
    assert isinstance(way, Handoff)
    assert way.tool_name == "transfer_to_other"
    assert "Knows the other thing." in way.tool_description


async def test_settings_that_no_provider_takes_are_refused() -> None:
    with pytest.raises(SettingsError, match="temprature"):
        await build({"a": record("a", model_settings={"temprature": 1})}, "a", None, default_model="demo/echo")


async def test_agents_may_hand_off_in_a_circle() -> None:
    ring = {"a": record("a", handoff_ids=("b",)), "b": record("b", handoff_ids=("a", "b"))}
    graph = await build(reachable(ring["a"], ring.get), "a", None, default_model="demo/echo")
    assert handoff_targets(graph.root) == {"transfer_to_b": "B"}
    assert handoff_targets(graph.agents["B"]) == {"transfer_to_a": "A", "transfer_to_b": "B"}


def test_a_lost_handoff_target_names_the_agent_to_change() -> None:
    with pytest.raises(NotFoundError, match="Agent 'A' hands off to the agent 'gone'"):
        reachable(record("a", handoff_ids=("gone",)), lambda _: None)


def test_names_in_any_script_give_different_tool_names() -> None:
    names = ["Wetter Büro", "Wetter Buro", "天气", "天氣", "погода", "Weather Assistant", "a" * 100, "a" * 101]
    tools = handoff_names(names)
    assert tools["Weather Assistant"] == "transfer_to_weather_assistant"
    assert tools["Wetter Büro"] == "transfer_to_wetter_buro"
    assert len(set(tools.values())) == len(names)


@given(st.lists(st.text(), unique=True, max_size=20))
def test_handoff_tool_names_are_unique_and_every_provider_takes_them(names: list[str]) -> None:
    tools = handoff_names(names)
    assert list(tools) == names
    assert len(set(tools.values())) == len(names)
    assert all(re.fullmatch(r"[a-zA-Z0-9_-]{1,64}", tool) for tool in tools.values())


def test_the_declared_graph_has_each_agent_once_at_its_shortest_path() -> None:
    a, b, c = record("a", handoff_ids=("b", "c")), record("b", handoff_ids=("c",)), record("c", handoff_ids=("a",))
    graph = declared_graph(a, {"a": a, "b": b, "c": c})
    assert [node.path for node in graph.nodes] == ["A", "A/B", "A/C"]
    assert [(e.from_path, e.to_path) for e in graph.edges] == [
        ("A", "A/B"), ("A", "A/C"), ("A/B", "A/C"), ("A/C", "A"),
    ]  # fmt: skip
    one = Agent(name="A")
    one.handoffs = [Agent(name="B", handoffs=[one]), one]
    assert {(e.from_path, e.to_path) for e in declared_graph(one).edges} == {("A", "A/B"), ("A/B", "A"), ("A", "A")}
    assert set(from_sdk(one).agents) == {"A", "B"}


def test_the_graph_of_an_agent_leaves_out_agents_that_it_did_not_reach() -> None:
    billing = AgentRecord(id="b", user_id="u", name="Billing", instructions="")
    desk = AgentRecord(id="d", user_id="u", name="Desk", instructions="", handoff_ids=("b",))
    observed = AgentGraph(
        nodes=tuple(GraphNode(path=path, name=path.split("/")[-1], calls=2) for path in ("Desk", "Desk/Billing", "Desk/Billing/Mail", "Other", "Other/Billing")),
        edges=(GraphEdge(from_path="Desk", to_path="Desk/Billing", count=2), GraphEdge(from_path="Other", to_path="Other/Billing", count=2)),
    )  # fmt: skip
    graph = over(declared_graph(desk, {"b": billing, "d": desk}), observed)
    assert [(node.path, node.calls) for node in graph.nodes] == [("Desk", 2), ("Desk/Billing", 2), ("Desk/Billing/Mail", 2)]  # fmt: skip
    assert [(edge.to_path, edge.count, edge.declared) for edge in graph.edges] == [("Desk/Billing", 2, True)]


def test_a_snapshot_is_json_and_gives_the_same_records_back() -> None:
    records = {agent.id: agent for agent in default_agents(USER)}
    server = McpServerRecord(
        id="srv", user_id=USER, name="docs", url="https://docs/mcp", headers={"Authorization": "hunter2"}
    )  # fmt: skip
    records[PERSONAL_ASSISTANT] = replace(records[PERSONAL_ASSISTANT], tool_ids=("srv.*",))
    text = json.dumps(freeze(records, PERSONAL_ASSISTANT, [server], {"approve": "ask"}))
    assert "hunter2" not in text
    snapshot = json.loads(text)
    assert restore(snapshot, "run_1") == (records, PERSONAL_ASSISTANT)
    assert same_servers(snapshot, [server])
    renamed = replace(server, name="manuals", headers={"Authorization": "new"})
    assert not same_servers(snapshot, [renamed])
    assert restore_servers(snapshot, [renamed]) == [replace(server, headers={"Authorization": "new"})]
    with pytest.raises(RunError, match="'docs' of this paused run was removed"):
        restore_servers(snapshot, [])


@pytest.mark.parametrize("damage", [{"version": 99}, {"agents": [{"id": "x"}]}, {"root": "nobody"}, {"agents": None}])
def test_a_damaged_snapshot_is_an_error_with_a_next_step(damage: dict[str, object]) -> None:
    snapshot = freeze({"a": record("a")}, "a", [], {})
    with pytest.raises(RunError) as caught:
        restore({**snapshot, **damage}, "run_1")
    assert caught.value.next_step


async def test_new_users_find_two_assistants_with_fixed_ids(bench: Bench) -> None:
    personal, weather = bench.store.agents.get(PERSONAL_ASSISTANT), bench.store.agents.get(WEATHER_ASSISTANT)
    assert (personal.name, weather.name) == ("Personal Assistant", "Weather Assistant")
    assert personal.handoff_ids == (WEATHER_ASSISTANT,)
    assert personal.model_settings == weather.model_settings == {"temperature": 0, "tool_choice": "auto"}
    assert personal.model is None
    assert weather.approvals == {GET_WEATHER: {"argument": "location", "contains": "berkeley"}}
    ensure_default_agents(bench.store)
    bench.store.agents.delete(WEATHER_ASSISTANT)
    ensure_default_agents(bench.store)
    assert [agent.id for agent in bench.store.agents.find()] == [PERSONAL_ASSISTANT], (
        "what a user deleted stays deleted"
    )


async def test_a_stored_agents_instructions_and_settings_reach_the_model(bench: Bench) -> None:
    model = bench.script(says("Aye."))
    agent = bench.agent("Pirate", instructions="Talk like a pirate.", model=model, model_settings={"temperature": 0.9})
    await bench.run("hello", agent, model_settings={"max_tokens": 5})
    [call] = bench.router.scripts[model].inner.calls  # type: ignore[attr-defined]
    assert call.system_instructions == "Talk like a pirate."
    assert (call.model_settings.temperature, call.model_settings.max_tokens) == (0.9, 5)


async def test_the_model_asked_for_this_run_wins_over_the_agents_own(bench: Bench) -> None:
    agent = bench.agent("Echo", model="demo/slow")
    run = last(await bench.run("hello", agent, model="demo/echo")).run
    assert run.model == "demo/echo"
    assert run.output
    assert "hello" in run.output


async def test_a_run_sees_its_agent_as_it_is_stored_now(bench: Bench) -> None:
    model = bench.script(*[says("Aye.")] * 3)
    agent = bench.agent("Pirate", instructions="First.", model=model, tool_ids=(f"{BUILTIN_MCP_SERVER}.think",))
    await bench.run("hello", agent)
    changed = bench.store.agents.update(agent.id, instructions="Second.", tool_ids=())
    await bench.run("hello", changed)
    await bench.run("hello", replace(changed, instructions="Third."))
    heard = bench.router.scripts[model].inner.calls  # type: ignore[attr-defined]
    assert [call.system_instructions for call in heard] == ["First.", "Second.", "Third."]
    assert [len(call.tools) for call in heard] == [1, 0, 0]


async def test_the_agents_of_a_stored_agent_are_built_once_until_it_or_its_servers_change(bench: Bench) -> None:
    graphs, options = bench.runner.graphs, RunOptions()

    async def built(**how: bool) -> object:
        agent = bench.store.agents.get(PERSONAL_ASSISTANT)
        return (await graphs.build(agent, await graphs.records(agent), options, **how))[0]

    first = await built()
    assert await built() is first
    bench.store.agents.update(WEATHER_ASSISTANT, instructions="Another answer.")
    second = await built()
    assert second is not first
    bench.store.mcp_servers.insert(
        replace(builtin_record(), user_id=bench.store.user_id, allowed_tools=("get_weather",))
    )
    assert await built() is not second


async def test_what_a_hook_changes_about_an_agent_ends_with_its_run(bench: Bench) -> None:
    class Renames(RunHooks):  # type: ignore[type-arg]
        async def on_agent_start(self, context: object, agent: Any) -> None:
            agent.instructions = "Changed by the hook."

    model = bench.script(*[says("Aye.")] * 3)
    agent = bench.agent("Pirate", instructions="As stored.", model=model)
    await bench.run("hello", agent)
    await bench.run("hello", agent, hooks=Renames())
    await bench.run("hello", agent)
    heard = bench.router.scripts[model].inner.calls  # type: ignore[attr-defined]
    assert heard[0].system_instructions == heard[2].system_instructions == "As stored."


async def test_agents_of_one_name_are_still_told_apart(bench: Bench) -> None:
    """The SDK's identities of agents, which a paused run is found again by."""
    from agents._run_state_agent_identity import _build_agent_identity_keys_by_id as identities

    one, two = Agent(name="Twin", instructions="b"), Agent(name="Twin", instructions="a")
    root = Agent(name="Root", handoffs=[one, two, Agent(name="Other")])
    found = identities(root)
    assert sorted(found.values()) == ["Other", "Root", "Twin", "Twin#2"]
    assert (found[id(two)], found[id(one)]) == ("Twin", "Twin#2")
    two.name = "Second"
    assert sorted(identities(root).values()) == ["Other", "Root", "Second", "Twin"]


def test_a_value_is_identified_by_its_data_and_code_in_every_process_whatever_it_contains() -> None:
    @dataclass
    class Context:
        user: str
        lock: Any = None
        itself: Any = None

    def context(user: str) -> Context:
        made = Context(user, lock=threading.Lock())
        made.itself = made
        return made

    def rule(word: str) -> Any:
        count = 0

        def check(text: str) -> bool:
            nonlocal count
            count += 1
            return word in text

        return check

    assert identity(context("ada")) == identity(context("ada")) != identity(context("eve"))
    once = rule("a")
    before = identity(once)
    once("a")
    assert before == identity(once) == identity(rule("a")) != identity(rule("b"))
    assert json.dumps([identity(partial(rule, "a")), identity(once), identity(float("nan")), identity({1, 2})])
