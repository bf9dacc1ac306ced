"""The long form of tests/postgres/test_chaos.py: 4 server processes, 100 users, 5 minutes, a process killed every 20 s, Postgres restarted once.

Run: `pytest tests/benchmarks/bench_postgres_chaos.py -m benchmark -s`.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from tests.postgres.chaos import chaos

pytestmark = [pytest.mark.benchmark, pytest.mark.timeout(1800)]


async def test_five_minutes_of_chaos_lose_repeat_and_mix_up_nothing() -> None:
    with tempfile.TemporaryDirectory(prefix="chaos-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        folder.chmod(0o755)  # the server's account has to walk through it
        figures = await chaos(folder, servers=4, users=100, seconds=300, kill_every_s=20)
    print(f"\n{figures}")
    assert figures.kills >= 14
    assert figures.postgres_restarts == 1
    assert figures.acknowledged > 500
    assert (figures.lost, figures.tools_run_twice, figures.foreign, figures.gave_up, figures.faults) == (
        [],
        [],
        [],
        [],
        [],
    )
