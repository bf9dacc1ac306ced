"""What the OpenAPI document promises holds for whatever is sent. tests/benchmarks/bench_openapi.py sends much more."""

from __future__ import annotations

from pathlib import Path

from tests.app.openapi_walk import served, walk


def test_no_call_makes_the_server_fail_or_answer_what_is_not_documented(tmp_path: Path) -> None:
    with served(tmp_path / "lab.duckdb") as (url, token):
        assert walk(url, token, examples=1) == []
