"""The OpenAPI document against many more calls than the suite makes: `BENCH_EXAMPLES` (8) of each operation, right and wrong, and
four times so many ways of 40 calls that follow from each other.

Run: `pytest tests/benchmarks/bench_openapi.py -m benchmark -s`. Nothing is timed. It takes about 10 s of CPU time for each example.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from tests.server.openapi_walk import follow, served, walk

pytestmark = pytest.mark.benchmark
EXAMPLES = int(os.environ.get("BENCH_EXAMPLES", "8"))


@pytest.mark.timeout(3600)
def test_nothing_sent_makes_the_server_fail_or_answer_what_is_not_documented(tmp_path: Path) -> None:
    with served(tmp_path / "lab.duckdb") as (url, token):
        faults = walk(url, token, EXAMPLES)
        faults += follow(url, token, 4 * EXAMPLES, steps=40)
    print(f"\n{EXAMPLES} examples of each operation, right and wrong: {len(faults)} faults")
    assert faults == []
