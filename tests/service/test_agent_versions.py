"""Every save of an agent is a version of it: it never changes, and it can be named wherever an agent is named."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from timestep_lab import Lab, NotFoundError, SettingsError, UsageError
from timestep_lab.cli import main


@pytest.fixture
async def lab() -> AsyncIterator[Lab]:
    async with Lab(":memory:") as lab:
        lab.agents.create(name="Front desk", instructions="Be kind.", model="demo/echo")
        lab.agents.update("Front desk", instructions="Be brief.")
        lab.agents.update("Front desk", model="demo/assistant", tools=["think"], model_settings={"temperature": 0.5})
        yield lab


async def test_every_save_is_a_version_and_one_that_changes_nothing_is_none(lab: Lab) -> None:
    assert [(v.version, v.instructions, v.model) for v in lab.agents.versions("front desk")] == [
        (3, "Be brief.", "demo/assistant"), (2, "Be brief.", "demo/echo"), (1, "Be kind.", "demo/echo"),
    ]  # fmt: skip
    before = lab.agents.get("Front desk")
    assert lab.agents.update("Front desk", instructions="Be brief.", name="Front desk") == before
    assert len(lab.agents.versions("Front desk")) == 3
    assert lab.agents.get("Front desk@3") == before == lab.agents[before.ref]
    assert [len(lab.agents.versions(agent.id)) for agent in lab.agents] == [1, 1, 3][-len(lab.agents) :]


async def test_a_version_says_who_saved_it(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOGNAME", "anna")
    lab.agents.update("Front desk", instructions="Be both.")
    monkeypatch.setenv("LOGNAME", "bert")
    lab.agents.restore("Front desk@1")
    assert [v.saved_by for v in lab.agents.versions("Front desk")][:2] == ["bert", "anna"]
    assert lab.agents.get("Front desk").saved_by == "bert"
    assert lab.agents.get("Personal Assistant").saved_by == "", "It came with the lab."
    guest = lab.for_user("00000000-0000-4000-8000-00000000000a")
    assert guest.agents.create(name="Mine").saved_by == "guest"
    await guest.aclose()


async def test_a_version_that_is_not_there_is_refused_with_the_newest(lab: Lab) -> None:
    with pytest.raises(NotFoundError, match=r"'Front desk' has no version 9. The newest version is Front desk@3"):
        lab.agents.get("Front desk@9")
    with pytest.raises(NotFoundError, match="no agent 'Back office'"):
        lab.agents.get("Back office@1")


async def test_a_version_is_neither_changed_nor_deleted_by_itself(lab: Lab) -> None:
    for change in (
        lambda: lab.agents.update("Front desk@1", model="demo/echo"),
        lambda: lab.agents.delete("Front desk@1"),
    ):
        with pytest.raises(UsageError, match="versions cannot be changed"):
            change()
    with pytest.raises(UsageError, match="looks like a version"):
        lab.agents.create(name="Front desk@1")


async def test_what_differs_is_told_part_by_part(lab: Lab) -> None:
    desk = lab.agents.create(name="Back office")
    lab.agents.update("Front desk", handoffs=["Back office"])
    told = lab.agents.diff("Front desk@1", "Front desk").set_index("part")
    assert tuple(told.loc["instructions"]) == ("Be kind.", "Be brief.")
    assert tuple(told.loc["model"]) == ("demo/echo", "demo/assistant")
    assert tuple(told.loc["setting temperature"]) == (None, 0.5)
    assert f"handoff {desk.id}" in told.index
    assert len(told) == 5
    assert len(lab.agents.diff("Front desk@2", "Front desk@2")) == 0


async def test_an_earlier_version_can_be_made_the_newest(lab: Lab) -> None:
    restored = lab.agents.restore("Front desk@1")
    assert (restored.version, restored.instructions, restored.model, restored.tool_ids) == (
        4,
        "Be kind.",
        "demo/echo",
        (),
    )
    assert len(lab.agents.diff("Front desk@1", "Front desk")) == 0


async def test_deleting_an_agent_deletes_its_versions_and_unlinks_others_in_a_version_of_theirs(lab: Lab) -> None:
    lab.agents.create(name="Manager", handoffs=["Front desk"])
    gone = lab.agents.get("Front desk")
    lab.agents.delete("Front desk")
    assert lab.store.agent_versions.find(id=gone.id) == []
    assert [v.handoff_ids for v in lab.agents.versions("Manager")] == [(), (gone.id,)]
    assert lab.agents.create(name="Front desk").version == 1


async def test_a_run_names_a_version_and_its_trace_knows_it_and_so_does_a_fork_after_further_changes(lab: Lab) -> None:
    run = await lab.run("Hello.", agent="Front desk@1")
    assert run.model == "demo/echo"
    [span] = [s for s in lab.trace_source.spans(run.trace_id) if s.kind == "agent"]
    told = lab.sql(f"select attributes from spans where span_id = '{span.span_id}'")["attributes"][0]
    assert json.loads(told)["gen_ai.agent.version"] == "1"
    assert lab.store.traces.start(run.trace_id).metadata["agent_version"] == 1
    newest = await lab.run("Hello.", agent="Front desk")
    assert lab.store.traces.start(newest.trace_id).metadata["agent_version"] == 3
    again = await lab.fork(run, prompt="Good morning.")
    assert lab.store.runs.get(again.id).metadata["agent_versions"][lab.agents["Front desk"].id] == 1
    assert lab.store.traces.start(again.trace_id).metadata["agent_version"] == 1
    assert again.model == "demo/echo"


async def test_two_versions_are_compared_side_by_side_and_stay_what_they_are_when_it_is_resumed(lab: Lab) -> None:
    grid = await lab.compare(["Hello."], agents=["Front desk@1", "Front desk"])
    assert grid.candidates == ["Front desk@1", "Front desk@3"]
    lab.agents.update("Front desk", model="demo/echo")
    again = await lab.compare(resume=grid.id)
    assert [cell.error for cell in again.cells] == [None, None]
    fingerprints = [c["fingerprint"] for c in again.record.candidates]
    assert fingerprints == [c["fingerprint"] for c in grid.record.candidates]


async def test_a_conversation_with_one_version_offers_it_among_the_agents(lab: Lab) -> None:
    chat = lab.chat("Front desk@1")
    assert await chat.ask("Hello.")
    assert list(lab.sql("select model from traces")["model"]) == ["demo/echo"]


async def test_two_that_save_at_once_make_two_versions(lab: Lab) -> None:
    import threading

    writers = [
        threading.Thread(target=lambda n=n: lab.agents.update("Front desk", description=f"d{n}")) for n in range(6)
    ]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert [v.version for v in lab.agents.versions("Front desk")] == [*range(9, 0, -1)]
    assert {v.description for v in lab.agents.versions("Front desk")} == {"", *(f"d{n}" for n in range(6))}


def test_versions_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = ["--store", str(tmp_path / "lab.duckdb")]
    assert main(["agents", "add", "Desk", "--instructions", "One.", "--model", "demo/echo", *store]) == 0
    with Lab(tmp_path / "lab.duckdb") as lab:
        lab.agents.update("Desk", instructions="Two.")
    capsys.readouterr()
    assert main(["agents", "versions", "Desk", "--json", *store]) == 0
    assert [v["version"] for v in json.loads(capsys.readouterr().out)] == [2, 1]
    assert main(["agents", "diff", "Desk@1", "Desk@2", "--json", *store]) == 0
    assert json.loads(capsys.readouterr().out) == [{"part": "instructions", "before": "One.", "after": "Two."}]
    assert main(["agents", "restore", "Desk@1", *store]) == 0
    assert main(["agents", "show", "Desk@3", *store]) == 0
    assert '"instructions": "One."' in capsys.readouterr().out
    assert main(["run", "Hello.", "--agent", "Desk@2", "--json", *store]) == 0


async def test_a_draft_answers_without_being_saved(lab: Lab) -> None:
    desk = lab.agents.get("Front desk")
    draft = lab.agents.draft(desk.id, model="demo/echo", instructions="Say it again.")
    assert (draft.id, draft.model, draft.version) == (desk.id, "demo/echo", 0)
    assert lab.agents.get("Front desk") == desk
    events = [event async for event in lab.runs.start("Hello", agent=desk.id, draft={"model": "demo/echo"})]
    assert events[-1].run.output == "Echo (no language model): Hello"
    assert len(lab.agents.versions("Front desk")) == 3
    new = [event async for event in lab.runs.start("Hello", draft={"model": "demo/echo"})]
    assert new[-1].run.agent == "Draft"
    assert "Draft" not in [agent.name for agent in lab.agents]
    with pytest.raises(SettingsError, match="temperature must be"):
        lab.agents.draft(desk.id, model_settings={"temperature": 9})


async def test_it_is_known_when_an_agent_was_used_last(lab: Lab) -> None:
    desk = lab.agents.get("Front desk")
    assert lab.agents.last_used() == {}
    run = await lab.run("Hello", agent="Front desk", model="demo/echo")
    assert lab.agents.last_used() == {desk.id: run.record.started_at}
