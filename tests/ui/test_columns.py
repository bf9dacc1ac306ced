"""Span columns hold what they were given."""

from __future__ import annotations

import json
import struct
from typing import Any

import numpy as np
import pytest

from tests.ui.sample_traces import big_trace
from timestep_lab.ui.columns import PENDING, encode_spans


def decode(data: bytes) -> tuple[dict[str, Any], dict[str, np.ndarray[Any, Any]]]:
    (length,) = struct.unpack_from("<I", data)
    header = json.loads(data[4 : 4 + length])
    columns = {}
    for column in header["columns"]:
        size = 2 * header["n"] if column["name"] == "id" and column["type"] == "u4" else header["n"]
        columns[column["name"]] = np.frombuffer(data, f"<{column['type']}", size, 4 + length + column["offset"])
    return header, columns


def spans(**changes: list[Any]) -> dict[str, list[Any]]:
    columns: dict[str, list[Any]] = {
        "span_id": ["00000000000000aa", "00000000000000bb"], "parent_id": [None, "00000000000000aa"], "kind": ["agent", "tool"],
        "name": ["A", "t"], "status": ["ok", "pending"], "started_us": [5_000_000, 5_250_000], "ended_us": [6_000_000, None],
    }  # fmt: skip
    return {**columns, **changes}


def test_times_count_from_the_first_start_and_a_pending_span_has_no_end() -> None:
    header, columns = decode(encode_spans(spans()))
    assert header["t0"] == 5000.0
    assert columns["start"].tolist() == [0, 250_000]
    assert columns["end"].tolist() == [1_000_000, PENDING]


@pytest.mark.parametrize("times", [{"ended_us": [4_000_000_000_000, None]}, {"ended_us": [1_000_000, None]}])
def test_of_a_long_trace_and_of_one_that_ends_before_it_starts_times_are_milliseconds(times: dict[str, Any]) -> None:
    _, columns = decode(encode_spans(spans(**times)))
    assert columns["start"].tolist() == [0.0, 250.0]
    assert columns["end"][0] == (times["ended_us"][0] - 5_000_000) / 1000.0
    assert np.isnan(columns["end"][1])


def test_parents_are_rows_and_a_parent_that_is_missing_makes_a_root() -> None:
    assert decode(encode_spans(spans()))[1]["parent"].tolist() == [-1, 0]
    orphan = spans(parent_id=["00000000000000ff", "00000000000000aa"])
    assert decode(encode_spans(orphan))[1]["parent"].tolist() == [-1, 0]


def test_ids_that_are_no_hex_are_kept_as_words() -> None:
    header, columns = decode(encode_spans(spans(span_id=["span one", "zz"], parent_id=[None, "span one"])))
    assert [header["words"]["id"][i - 1] for i in columns["id"]] == ["span one", "zz"]
    assert columns["parent"].tolist() == [-1, 0]


def test_unknown_numbers_stay_unknown() -> None:
    _, columns = decode(encode_spans(spans(cost_usd=[None, 0.0])))
    assert np.isnan(columns["cost_usd"][0])
    assert columns["cost_usd"][1] == 0.0
    assert "input_tokens" not in columns


@pytest.mark.parametrize(("agents", "codes"), [(["A", None], [1, 0]), ([None, None], [0, 0])])
def test_text_counts_from_one_and_none_is_nought(agents: list[str | None], codes: list[int]) -> None:
    header, columns = decode(encode_spans(spans(agent=agents)))
    assert columns["agent"].tolist() == codes
    assert header["words"]["agent"] == [agent for agent in agents if agent]


def test_more_words_than_a_byte_counts_are_kept_apart() -> None:
    n = 70_000
    many = {"span_id": [f"{i:016x}" for i in range(n)], "name": [f"step {i}" for i in range(n)], "parent_id": [None] * n,
            "kind": ["tool"] * n, "status": ["ok"] * n, "started_us": list(range(n))}  # fmt: skip
    header, columns = decode(encode_spans(many))
    assert [header["words"]["name"][i - 1] for i in columns["name"]] == many["name"]


def test_a_kind_of_a_later_version_is_shown_as_other() -> None:
    header, columns = decode(encode_spans(spans(kind=["dream", "tool"])))
    assert header["kinds"][columns["kind"][0]] == "other"


def test_columns_of_different_lengths_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match="name"):
        encode_spans(spans(name=["only one"]))


def test_a_trace_without_spans_is_valid() -> None:
    header, _ = decode(encode_spans({name: [] for name in spans()}))
    assert header["n"] == 0


def test_every_column_starts_on_eight_bytes() -> None:
    data = encode_spans(big_trace(1001))
    (length,) = struct.unpack_from("<I", data)
    assert (4 + length) % 8 == 0
    assert all(column["offset"] % 8 == 0 for column in json.loads(data[4 : 4 + length])["columns"])
