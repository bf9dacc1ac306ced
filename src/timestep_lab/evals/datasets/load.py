"""One door for all kinds of data."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from timestep_lab.evals.datasets import promptfoo
from timestep_lab.evals.datasets.case import Case, Dataset
from timestep_lab.evals.datasets.files import ending, load_yaml, reader_of
from timestep_lab.evals.datasets.rows import EXPORTED, Columns, asked_again, to_case
from timestep_lab.model.errors import DataError, UsageError

if TYPE_CHECKING:
    from timestep_lab.store.store import Store


def load_dataset(
    data: Any, *, store: Store | None = None, name: str | None = None, input: str | None = None,
    expected: str | None = None, id: str | None = None, limit: int | None = None,
) -> Dataset:  # fmt: skip
    """Make a dataset of

    - a list of texts, objects or `Case`s; a DataFrame; a `Dataset`
    - a path: `.csv`, `.tsv`, `.json`, `.jsonl` (also OpenAI evals: `input` messages and `ideal`), each also with `.gz`; `.parquet`, `.xlsx`;
      `.yaml` (promptfoo); a comparison saved as one of these, whose cases are asked again
    - a query over what happened before: `"select input, output as expected from traces where …"` (needs `store`)

    `input`, `expected` and `id` name columns. Raises `DataError`, naming file and line, when anything in it cannot be read.
    """
    columns = Columns(input, expected, id)
    if isinstance(data, Dataset):
        dataset = data
    elif isinstance(data, Mapping):
        raise DataError("The data is one object, not a list of cases.", "Put it into a list.")
    elif is_query(data):
        dataset = _of_rows(_query(str(data), store), name or "query", columns)
    elif isinstance(data, str | Path):
        dataset = _of_file(Path(data).expanduser(), name, columns)
    elif hasattr(data, "to_dict") and hasattr(data, "columns"):
        rows = ((row, f"row {n}") for n, row in enumerate(_whole_numbers(data).to_dict("records"), 1))
        dataset = _of_rows(rows, name or "DataFrame", columns)
    elif isinstance(data, Iterable):
        dataset = _of_rows(((row, f"case {n}") for n, row in enumerate(data, 1)), name or "list", columns)
    else:
        raise DataError(
            f"A {type(data).__name__} is no dataset.",
            "Give a list, a DataFrame, a file's path, or a query over past traces.",
        )
    return dataset if limit is None else dataset.head(limit)


def is_query(data: Any) -> bool:
    """SQL is told from a path by its first word; a path has no `select ` at its start."""
    return isinstance(data, str) and data.lstrip()[:7].lower().split(maxsplit=1)[:1] in (["select"], ["with"])


def _of_rows(rows: Iterable[tuple[Any, str]], name: str, columns: Columns) -> Dataset:
    cases: list[Case] = []
    exported: set[str] = set()
    for row, where in rows:
        if isinstance(row, Mapping) and row.keys() >= EXPORTED:
            # A saved comparison has one row an answer: of the rows of a case, one is the case.
            if str(row["case_id"]) in exported:
                continue
            exported.add(str(row["case_id"]))
            row = asked_again(row, where)
        cases.append(to_case(row, where, columns))
    return Dataset.of(cases, name)


def _whole_numbers(frame: Any) -> Any:
    """pandas makes 18 into 18.0 in a column that lacks a value; such a column of whole numbers is made one again."""
    frame = frame.copy(deep=False)
    for name, column in list(frame.items()):
        known = column.dropna()
        if column.dtype.kind == "f" and len(known) < len(column) and ((known % 1 == 0) & (known.abs() < 2**53)).all():
            frame[name] = column.astype("Int64")
    return frame


def _of_file(path: Path, name: str | None, columns: Columns) -> Dataset:
    if not path.is_file():
        raise DataError(f"There is no file {path}.", 'Check the path; a single question goes into a list: ["…"].')
    kind = ending(path)
    if kind in (".yaml", ".yml") or (kind == ".json" and promptfoo.is_config(load_yaml(path))):
        config = promptfoo.read(path)
        return Dataset.of(config.cases, name or path.stem, config.prompts, config.providers, config.repeat)
    if kind in (".csv", ".tsv"):
        read = list(reader_of(path)(path))
        if read and any(str(column).startswith("__expected") for column in read[0][0]):
            cases = [promptfoo.case_of_row(row, path, where) for row, where in read]
            return Dataset.of(cases, name or path.stem)
        return _of_rows(read, name or path.stem, columns)
    return _of_rows(reader_of(path)(path), name or path.stem, columns)


def _query(sql: str, store: Store | None) -> Iterator[tuple[Case | Mapping[str, Any], str]]:
    if store is None:
        raise UsageError("A query over past traces needs a lab.", 'Use lab.compare("select …", …).')
    return ((row, f"row {n} of the query") for n, row in enumerate(store.sql(sql).dicts(), 1))
