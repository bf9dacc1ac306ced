"""Values and errors between a client and the owner: what goes in comes out, of the same type."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Any
from uuid import UUID

import numpy
import pandas
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from timestep_lab.model import errors
from timestep_lab.model.errors import BusyError, DataError, LabError, ProviderError, ToolError
from timestep_lab.store.base import Change, Rows, Statement
from timestep_lab.store.duckdb import loopback as wire

DATETIMES = st.datetimes(timezones=st.sampled_from([None, UTC])).map(lambda moment: moment.replace(fold=0))
SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(st.characters()), st.binary(), DATETIMES,
    st.dates(), st.times().map(lambda moment: moment.replace(fold=0)), st.timedeltas(), st.decimals(), st.uuids(),
)  # fmt: skip
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.tuples(inner, inner),
        st.dictionaries(st.one_of(st.text(), st.integers(), st.just("$"), st.just("v")), inner, max_size=3),
    ),
    max_leaves=6,
)


def through(row: Any) -> Any:
    return wire.loads(wire.dumps(wire.pack_row(row)))


@settings(max_examples=50, deadline=None)
@given(st.lists(VALUES, max_size=5))
def test_any_value_of_any_column_survives(row: list[Any]) -> None:
    assert repr(through(row)) == repr(row)  # repr tells 1 from 1.0 and -0.0 from 0.0, and finds nan equal to nan.


@pytest.mark.parametrize(
    "value",
    [
        float("nan"), 2**53 + 1, -(10**30), "\ud800", datetime(1, 1, 1), datetime(9999, 12, 31, 23, 59, 59, 999999),
        datetime(2026, 1, 1, tzinfo=timezone(timedelta(hours=5, minutes=30))), date(2026, 1, 1), time(1, 2, 3, 4, UTC),
        timedelta(days=-1, microseconds=1), Decimal("1.10"), Decimal("NaN"), UUID(int=1), b"\x00\xff", {"$": "datetime", "v": "x"},
    ],
)  # fmt: skip
def test_values_at_the_edges_survive(value: Any) -> None:
    assert repr(through([value])) == repr([value])


def test_numbers_of_numpy_become_pythons() -> None:
    assert repr(through([numpy.int64(2**60), numpy.float32(0.5), numpy.float64(0.1)])) == repr([2**60, 0.5, 0.1])


def test_missing_values_of_pandas_become_null() -> None:
    assert through([pandas.NaT, pandas.NA, {"a": pandas.NaT}]) == [None, None, {"a": None}]


def test_what_no_column_holds_is_refused() -> None:
    with pytest.raises(DataError, match="type object cannot be stored"):
        wire.dumps([object()])


def test_results_statements_and_changes_survive() -> None:
    rows = Rows(("a", "b"), [(1, [2, None]), (None, {"x": (1,)})], truncated=True)
    assert wire.unpack_rows(wire.loads(wire.dumps(wire.pack_rows(rows)))) == rows
    statement = Statement("select $1", [{"a": b"x"}], expect=1)
    assert wire.unpack_statement(wire.loads(wire.dumps(wire.pack_statement(statement)))) == statement
    change = Change("threads", "u", "i")
    assert wire.unpack_change(wire.loads(wire.dumps(wire.pack_change(change)))) == change


def every_error() -> list[type[LabError]]:
    found, todo = [], [LabError]
    while todo:
        kind = todo.pop()
        found.append(kind)
        todo += kind.__subclasses__()
    return [kind for kind in found if kind.__module__ == errors.__name__ and kind is not errors.MissingExtraError]


@pytest.mark.parametrize("kind", every_error())
def test_every_error_is_raised_again_as_what_it_was(kind: type[LabError]) -> None:
    error = kind("It broke.", "Mend it.")
    with pytest.raises(kind) as caught:
        wire.unpack_answer(wire.dumps({"error": wire.pack_error(error)}))
    assert type(caught.value) is kind
    assert (str(caught.value), vars(caught.value)) == ("It broke. Mend it.", vars(error))


def test_an_errors_particulars_survive() -> None:
    for error, name in (
        (BusyError("x", retry_after=0.5), "retry_after"),
        (ToolError("x", tool="t"), "tool"),
        (ProviderError("x", status=3), "status"),
    ):
        with pytest.raises(type(error)) as caught:
            wire.unpack_answer(wire.dumps({"error": wire.pack_error(error)}))
        assert getattr(caught.value, name) == getattr(error, name)
