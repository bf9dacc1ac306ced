"""The same comparison on a Dask cluster: same results, traces in the lab of the one who asked."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from dask.distributed import Client, LocalCluster

from tests.evals.benches import MODEL, opened
from tests.evals.loopback import model_server
from timestep_lab.evals.compare import new_comparison
from timestep_lab.model.ids import BUILTIN_MCP_SERVER
from timestep_lab.model.records import AgentRecord

CASES = [{"input": f"question {n}", "expected": f"answer {n}" if n % 3 else "other"} for n in range(24)]


async def test_a_cluster_gives_the_same_results_and_the_traces_come_home(tmp_path: Path) -> None:
    with model_server(lambda said, _: said.replace("question", "answer")) as server:
        cluster = LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None, protocol="tcp")
        async with opened(tmp_path / "lab.duckdb", server.url) as bench:
            with cluster, Client(cluster) as client:
                there = await (
                    await new_comparison(bench, CASES, models=[MODEL], scorers=["exact"], client=client, cache="off")
                ).run()
            here = await (await new_comparison(bench, CASES, models=[MODEL], scorers=["exact"], cache="off")).run()
            assert [(c.case_id, c.output, c.scores) for c in there.cells] == [
                (c.case_id, c.output, c.scores) for c in here.cells
            ]
            assert there.to_json()["candidates"][0]["scores"] == here.to_json()["candidates"][0]["scores"]
            bench.writer.flush()
            traces = bench.store.sql(
                "select t.status, t.n_spans from comparisons c join traces t using (trace_id) where comparison_id = $1",
                [there.id],
            )
            assert Counter(status for status, _ in traces.rows) == {"completed": 24}
            assert {n for _, n in traces.rows} == {4}


async def test_workers_answer_from_the_tape_that_is_sent_to_them(tmp_path: Path) -> None:
    with model_server(str) as server:
        cluster = LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=None, protocol="tcp")
        async with opened(tmp_path / "lab.duckdb", server.url) as bench:
            agent = bench.store.agents.insert(
                AgentRecord(
                    id="looker",
                    user_id=bench.user_id,
                    name="Looker",
                    model="demo/assistant",
                    tool_ids=(f"{BUILTIN_MCP_SERVER}.think",),
                )
            )
            asked = [{"input": f'call think {{"thought": "{n}"}}'} for n in range(3)]
            live = await (await new_comparison(bench, asked, agents=[agent])).run()
            assert [len(cell.steps) for cell in live.cells] == [1, 1, 1]
            cases = [{**case, "trace_id": cell.trace_id} for case, cell in zip(asked, live.cells, strict=True)]
            with cluster, Client(cluster) as client:
                grid = await (await new_comparison(bench, cases, agents=[agent], tools="tape", client=client)).run()
            assert [step["tape"] for cell in grid.cells for step in cell.steps] == ["hit"] * 3
