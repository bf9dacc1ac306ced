"""Data sets and scores of traces in Postgres: as in DuckDB, and each user's own."""

from __future__ import annotations

from timestep_lab import Lab


async def test_data_sets_and_scores_of_traces_are_kept_in_postgres(lab_url: str) -> None:
    rows = [{"input": f"Say word{n}.", "expected": [f"word{n}", "x"], "topic": "a"} for n in range(3)]
    async with Lab(lab_url) as lab:
        lab.datasets.create("mine", rows, tags=["t"])
        second = lab.datasets.save("mine", rows[:1], metadata={"by": "me"})
        assert lab.datasets.versions("mine")[0] == second
        assert [case.expected for case in lab.datasets["mine@1"]] == [["word0", "x"], ["word1", "x"], ["word2", "x"]]
        grid = await lab.compare("mine@1", models="demo/echo", scorers="contains")
        assert len(await lab.score_traces('model == "demo/echo"', scorers="contains:word1")) == 3
        scored = await lab.score_traces(scorers="contains:word1")
        assert sorted(scored["contains:word1"]) == [0.0, 0.0, 1.0]
        assert (await lab.rescore(grid, scorers="contains:Echo")).scorers == ["contains", "contains:Echo"]
        assert list(lab.sql("select count(*) as n from datasets")["n"]) == [4]
        other = lab.for_user("somebody else")
        assert len(other.datasets) == 0
        assert len(other.sql("select * from datasets")) == 0
        lab.datasets.delete("mine")
        assert "mine" not in lab.datasets


async def test_versions_of_agents_are_kept_in_postgres_for_their_user_alone(lab_url: str) -> None:
    async with Lab(lab_url) as lab:
        lab.agents.create(name="Desk", instructions="One.", model="demo/echo")
        lab.agents.update("Desk", instructions="Two.", tools=["think"])
        assert [v.instructions for v in lab.agents.versions("Desk")] == ["Two.", "One."]
        assert (await lab.run("Hello.", agent="Desk@1")).status == "completed"
        other = lab.for_user("somebody else")
        assert other.store.db.query(
            "somebody else", "select count(*) from agent_versions where id = $1", [lab.agents["Desk"].id]
        ).rows == [(0,)]
        lab.agents.delete("Desk")
        assert lab.store.agent_versions.find(name="Desk") == []
