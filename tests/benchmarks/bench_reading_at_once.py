"""Whether everything that a run did can be read when it returns: 312 runs of every kind on every store, each read at once by sql, traces,
the trace's frame, the thread and another process. Prints a table; a single miss fails.

Run: `pytest tests/benchmarks/bench_reading_at_once.py -m benchmark -s`.
"""

from __future__ import annotations

import time

import pytest
from tests.runtime.test_reading_at_once import KINDS, Reader, lab_and_reader, misses

from timestep_lab.lab.lab import Lab

__all__ = ["lab_and_reader"]
pytestmark = [pytest.mark.benchmark, pytest.mark.timeout(3600)]
ROUNDS = 24


async def test_three_hundred_runs_are_read_at_once_without_a_miss(
    request: pytest.FixtureRequest, lab_and_reader: tuple[Lab, Reader | None]
) -> None:
    began = time.monotonic()
    missed, runs = await misses(*lab_and_reader, rounds=ROUNDS)
    store = request.node.callspec.params["lab_and_reader"]
    print(f"\n| {store} | {runs} runs | {len(missed)} misses | {time.monotonic() - began:.0f} s |")
    assert (missed, runs) == ([], ROUNDS * KINDS)
