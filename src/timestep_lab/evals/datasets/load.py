"""One door for all kinds of data."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from timestep_lab.evals.datasets import promptfoo
from timestep_lab.evals.datasets.case import Case, Dataset
from timestep_lab.evals.datasets.files import READERS
from timestep_lab.evals.datasets.rows import Columns, to_case
from timestep_lab.types.errors import DataError, UsageError

if TYPE_CHECKING:
    from timestep_lab.store.store import Store


def load_dataset(
    data: Any, *, store: Store | None = None, name: str | None = None, input: str | None = None,
    expected: str | None = None, id: str | None = None, limit: int | None = None,
) -> Dataset:  # fmt: skip
    """Make a dataset of

    - a list of texts, objects or `Case`s; a DataFrame; a `Dataset`
    - a path: `.csv`, `.json`, `.jsonl` (also OpenAI evals: `input` messages and `ideal`), `.parquet`, `.yaml` (promptfoo)
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
        rows = ((row, f"row {n}") for n, row in enumerate(data.to_dict("records"), 1))
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
    return Dataset.of([to_case(row, where, columns) for row, where in rows], name)


def _of_file(path: Path, name: str | None, columns: Columns) -> Dataset:
    if not path.is_file():
        raise DataError(f"There is no file {path}.", 'Check the path; a single question goes into a list: ["…"].')
    if path.suffix in (".yaml", ".yml"):
        cases, prompts = promptfoo.read(path)
        return Dataset.of(cases, name or path.stem, prompts)
    if path.suffix not in READERS:
        known = ", ".join([*READERS, ".yaml"])
        raise DataError(f"{path.name} is of no kind that can be read.", f"Known: {known}.")
    return _of_rows(READERS[path.suffix](path), name or path.stem, columns)


def _query(sql: str, store: Store | None) -> Iterator[tuple[Case | Mapping[str, Any], str]]:
    if store is None:
        raise UsageError("A query over past traces needs a lab.", 'Use lab.compare("select …", …).')
    return ((row, f"row {n} of the query") for n, row in enumerate(store.sql(sql).dicts(), 1))
