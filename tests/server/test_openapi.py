"""What the OpenAPI document promises holds for whatever is sent. tests/benchmarks/bench_openapi.py sends much more."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.server.openapi_walk import follow, served, walk


# The server answers in this process, and may draw a random number of its own while the next call is being made up.
@pytest.mark.filterwarnings("ignore:Do not use the `random` module inside strategies")
def test_no_call_makes_the_server_fail_or_answer_what_is_not_documented(tmp_path: Path) -> None:
    with served(tmp_path / "lab.duckdb") as (url, token):
        assert walk(url, token, examples=1) == []


@pytest.mark.filterwarnings("ignore:Do not use the `random` module inside strategies")
def test_calls_that_take_their_ids_from_answers_before_them_are_answered_as_documented(tmp_path: Path) -> None:
    with served(tmp_path / "lab.duckdb") as (url, token):
        assert follow(url, token, examples=2, steps=20) == []
