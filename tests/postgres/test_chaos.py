"""The short form; the long one is tests/benchmarks/bench_postgres_chaos.py."""

from __future__ import annotations

from pathlib import Path

from tests.postgres.chaos import chaos


async def test_servers_that_are_killed_and_a_database_that_restarts_lose_repeat_and_mix_up_nothing(
    walkable: Path,
) -> None:
    figures = await chaos(walkable, servers=3, users=10, seconds=10, kill_every_s=6)
    print(figures)
    assert figures.acknowledged > 20
    assert figures.approvals > 5
    assert figures.kills == 1
    assert figures.postgres_restarts == 1
    assert figures.faults == []
    assert (figures.lost, figures.tools_run_twice, figures.foreign, figures.gave_up) == ([], [], [], [])
