"""A column of codes reads like the list of texts it stands for."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from timestep_lab.store.table import CodedText

TEXTS = st.lists(st.one_of(st.none(), st.sampled_from(["tool", "agent", "", "ü"])))


@given(TEXTS)
def test_it_has_the_texts_in_their_rows(texts: list[str | None]) -> None:
    column = CodedText.of(texts)
    assert column == texts
    assert list(column) == column.tolist() == [column[row] for row in range(len(texts))] == texts
    assert column[1:3] == texts[1:3]
    assert CodedText.of(column) is column


@given(TEXTS)
def test_rows_that_say_one_of_some_texts_are_found(texts: list[str | None]) -> None:
    found = CodedText.of(texts).where("tool", "ü", "never said")
    assert found.tolist() == [text in ("tool", "ü") for text in texts]


def test_columns_that_differ_are_not_equal() -> None:
    assert CodedText.of(["a", None]) != ["a", "b"]
    assert CodedText.of(["a"]) != "b"
    assert repr(CodedText.of(["a", None])) == "['a', None]"
