"""`load_dataset`: converts all supported kinds of data into a `Dataset`."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from timestep_lab.evals.datasets import promptfoo
from timestep_lab.evals.datasets.case import Case, Dataset
from timestep_lab.evals.datasets.files import (
    csv_rows,
    ending,
    is_json_lines,
    load_yaml,
    parsed_json,
    reader_of,
    rows_of_bytes,
    separator_of,
)
from timestep_lab.evals.datasets.rows import (
    EXPORTED,
    Columns,
    asked_again,
    case_of_sample,
    is_archived,
    is_question_column,
    to_case,
)
from timestep_lab.model.arguments import check_whole, did_you_mean
from timestep_lab.model.codec import Json, list_of
from timestep_lab.model.comparison import JUDGE
from timestep_lab.model.errors import DataError, UsageError
from timestep_lab.model.records import DatasetRecord
from timestep_lab.store.base import Statement

if TYPE_CHECKING:
    from timestep_lab.store.store import Store


# --- Stored data sets: one row per version, one row per case. Everything here blocks


_COLUMNS = ("user_id", "dataset_id", "position", "case_id", "input", "messages", "expected", "vars", "assertions", "metadata")  # fmt: skip
_CORRECTIONS = "select target_id, note from scores where target = 'trace' and name = 'correction' and note is not null order by created_at"  # fmt: skip


def store_version(store: Store, record: DatasetRecord, dataset: Dataset) -> DatasetRecord:
    """Store a version, atomically. Raises `ConflictError` if another writer stored that version number first."""
    rows = [
        (
            store.user_id, record.id, position, case.id, case.input, json.dumps(list(case.messages), ensure_ascii=False),
            None if case.expected is None else json.dumps(case.expected, ensure_ascii=False),
            json.dumps(dict(case.vars), ensure_ascii=False), json.dumps(list(case.assertions), ensure_ascii=False),
            json.dumps(dict(case.metadata), ensure_ascii=False),
        )
        for position, case in enumerate(dataset.cases)
    ]  # fmt: skip
    store.db.append(
        store.user_id, {"dataset_cases": (_COLUMNS, rows)}, then=[store.datasets.insert_statement(record)],
        changes=store.datasets.changes(record.id),
    )  # fmt: skip
    return record


def stored_cases(store: Store, dataset_id: str) -> list[Case]:
    sql = (
        f"select {', '.join(_COLUMNS[3:])} from dataset_cases where user_id = $1 and dataset_id = $2 order by position"
    )
    return [
        Case(
            id=id, input=asked, messages=tuple(_json(messages) or ()), expected=_json(expected), vars=_json(variables),
            assertions=tuple(_json(assertions) or ()), metadata=_json(metadata),
        )
        for id, asked, messages, expected, variables, assertions, metadata in store.db.query(store.user_id, sql, [store.user_id, dataset_id]).rows
    ]  # fmt: skip


def forget(store: Store, dataset_id: str) -> None:
    params = [store.user_id, dataset_id]
    store.db.write(
        store.user_id,
        [
            Statement("delete from dataset_cases where user_id = $1 and dataset_id = $2", params),
            Statement("delete from dataset_versions where user_id = $1 and id = $2", params),
        ],
        changes=store.datasets.changes(dataset_id),
    )


def cases_of_traces(
    sql: Callable[[str], Sequence[Mapping[str, object]]], filter: str, query_of: Callable[[str], str], *, expected: str | None, limit: int | None
) -> list[Case]:  # fmt: skip
    """The inputs of the traces that match a filter, oldest first, with their expected answers where annotated."""
    rows = sorted(sql(query_of(filter)), key=lambda row: str(row["started_at"]))
    cases = cases_of_rows(rows, sql, expected=expected)
    return cases if limit is None else cases[-limit:]


def cases_of_rows(
    rows: Sequence[Mapping[str, object]], sql: Callable[[str], Sequence[Mapping[str, object]]], *, expected: str | None
) -> list[Case]:  # fmt: skip
    """The same from rows of the view `traces`, in their order. Traces without input are skipped."""
    # All columns that are read here hold texts.
    notes, texts = (cast("Sequence[Mapping[str, str | None]]", read) for read in (sql(_CORRECTIONS), rows))
    corrections = {row["target_id"]: row["note"] for row in notes}
    cases = []
    for row in texts:
        asked = row["input"]
        if not isinstance(asked, str) or not asked.strip() or row["workflow"] == JUDGE:
            continue
        right = corrections.get(row["trace_id"], row["output"] if expected == "output" else None)
        about = {"trace_id": row["trace_id"], "agent": row["agent_path"], "model": row["model"], "status": row["status"]}  # fmt: skip
        cases.append(Case(input=asked, expected=right, metadata={k: v for k, v in about.items() if v is not None}))
    return cases


def _json(value: object) -> Any:
    return json.loads(value) if isinstance(value, str | bytes) else value


def checked_columns(given: Mapping[str, str] | None) -> dict[str, Any]:
    """The columns of `load_dataset`, as a caller gave them. Raises `UsageError`."""
    known = ("input", "expected", "id")
    for name in given or {}:
        if name not in known:
            raise UsageError(
                f"columns takes no {name!r}.{did_you_mean(name, known)}",
                f"It takes: {', '.join(known)}.",
                param="columns",
            )
    return dict(given or {})


def load_dataset(
    data: object, *, store: Store | None = None, name: str | None = None, input: str | None = None,
    expected: str | None = None, id: str | None = None, limit: int | None = None,
) -> Dataset:  # fmt: skip
    """Build a data set from

    - a list of texts, objects or `Case`s; a `Dataset`; a DataFrame of pandas or polars, or an Arrow table
    - a path: `.csv`, `.tsv`, `.json`, `.jsonl` (including OpenAI evals with `input` messages and `ideal`), each also
      with `.gz`; `.parquet`, `.xlsx`, `.eval` (Inspect log); `.yaml` (promptfoo); or a saved comparison, whose cases
      are used again
    - a query over past traces: `"select input, output as expected from traces where …"` (needs `store`)

    `input`, `expected` and `id` are column names. Raises `DataError`, naming file and line, for invalid data.
    """
    columns = Columns(input, expected, id)
    if isinstance(data, Dataset):
        dataset = data if data.cases else Dataset.of((), data.name)
    elif isinstance(data, Mapping):
        if data and all(hasattr(held, "column_names") for held in data.values()):
            splits = [str(name) for name in data]
            raise DataError(f"The data has the splits {', '.join(splits)}.", f"Pass one of them: data[{splits[0]!r}].")
        raise DataError("The data is one object, not a list of cases.", "Wrap it in a list.")
    elif is_query(data):
        dataset = _of_rows(_query(str(data), store), name or "query", columns)
    elif isinstance(data, str | Path):
        dataset = _of_file(Path(data).expanduser(), name, columns)
    elif hasattr(data, "with_format") and hasattr(data, "column_names"):  # A data set of Hugging Face
        features = getattr(data, "features", None) or {}
        kinds = {name: getattr(kind, "dtype", "") for name, kind in features.items()}
        written = _with_short_numbers(data.with_format(None), kinds)
        dataset = _of_rows(((row, f"row {n}") for n, row in enumerate(written, 1)), name or "list", columns)
    elif hasattr(data, "columns") and (rows := _rows_of_frame(data)) is not None:
        dataset = _of_rows(((row, f"row {n}") for n, row in enumerate(rows, 1)), name or "DataFrame", columns)
    elif isinstance(data, Iterable) and not isinstance(data, bytes | bytearray):
        dataset = _of_rows(((row, f"case {n}") for n, row in enumerate(data, 1)), name or "list", columns)
    else:
        raise DataError(
            f"A {type(data).__name__} is not a data set.",
            "Pass a list, a DataFrame, a file path, or a query over past traces.",
        )
    if limit is None:
        return dataset
    check_whole(1, limit=limit)
    return dataset.head(limit)


def pasted(text: str, name: str = "list") -> Dataset:
    """Parse typed or pasted text: a table whose header contains a usual name of the input column (from a spreadsheet,
    CSV or TSV); JSON Lines; a JSON list; else one question per line. Raises `DataError` that names the line."""
    text = text.removeprefix("\ufeff").replace("\r\n", "\n").strip("\n")
    if text.lstrip().startswith("["):
        rows = list_of(parsed_json(text, "The list"))
        return _of_rows(((row, f"case {n}") for n, row in enumerate(rows, 1)), name, Columns())
    if has_header(text):
        return _of_rows(csv_rows(text, "The table"), name, Columns())
    lines = [(line.strip(), f"Line {n}") for n, line in enumerate(text.split("\n"), 1) if line.strip()]
    if lines and is_question_column(lines[0][0]):
        lines = lines[1:]
    return _of_rows(((_line(line, where), where) for line, where in lines), name, Columns())


def _line(line: str, where: str) -> Json:
    if not line.startswith("{"):
        return line
    try:
        return parsed_json(line, where)
    except DataError as error:
        raise DataError(error.message, 'Use {"input": "…", "expected": "…"}, or plain text.') from error


def has_header(text: str) -> bool:
    """Whether the first line is a header: several column names, one of them a usual name of the input column."""
    first, _, rest = text.strip("\n").partition("\n")
    names = [name.strip().strip('"') for name in first.split(separator_of(first, ".csv")[0])]
    return len(names) > 1 and bool(rest.strip()) and any(map(is_question_column, names))


def uploaded(content: bytes, filename: str) -> Dataset:
    """Parse an uploaded file; `file://` references are not followed. Raises `DataError`, `TooLargeError`,
    `MissingExtraError`.
    """
    return _of_rows(rows_of_bytes(content, filename), Path(filename).stem or "file", Columns())


def is_query(data: object) -> bool:
    """Whether a string is an SQL query, not a path: it starts with a keyword such as `select `."""
    return isinstance(data, str) and data.lstrip()[:7].lower().split(maxsplit=1)[:1] in (["select"], ["with"])


def _of_rows(rows: Iterable[tuple[object, str]], name: str, columns: Columns, path: Path | None = None) -> Dataset:
    """`path`: the file of the rows, to which promptfoo tests may refer from."""
    cases: list[Case] = []
    seen: set[str] = set()
    for row, where in rows:
        if is_archived(row):
            continue
        if (key := case_of_sample(row)) is not None:
            # Of several rows about one case, keep one.
            if key in seen:
                continue
            seen.add(key)
        if isinstance(row, Mapping) and row.keys() >= EXPORTED:
            row = asked_again(row, where)
        if isinstance(row, Mapping) and promptfoo.is_test(row):
            cases += promptfoo.cases_of_row(row, path, where)
        else:
            cases.append(to_case(row, where, columns))
    return Dataset.of(cases, name)


def _rows_of_frame(frame: Any) -> list[dict[str, object]] | None:
    """The rows of a DataFrame of pandas or polars, or of an Arrow table; None for anything else."""
    if hasattr(frame, "to_dicts"):  # polars
        return _with_short_numbers(frame.to_dicts(), dict(frame.schema))
    if hasattr(frame, "to_pylist"):  # Arrow
        return _with_short_numbers(frame.to_pylist(), {column.name: column.type for column in frame.schema})
    if not (hasattr(frame, "to_dict") and hasattr(frame, "index")):
        return None
    if frame.columns.nlevels > 1:
        raise DataError(f"The DataFrame has columns of {frame.columns.nlevels} levels.", "Give each column one name.")
    names = [str(name) for name in frame.columns]
    if twice := [name for name in dict.fromkeys(names) if names.count(name) > 1]:
        raise DataError(f"The DataFrame has several columns {', '.join(map(repr, twice))}.", "Rename all but one.")
    # What was made the index is a column still, except where it only repeats one.
    indexed = [name for name in frame.index.names if name is not None and str(name) not in names]
    frame = frame.reset_index(level=indexed) if indexed else frame.copy(deep=False)
    for name, column in list(frame.items()):
        frame[name] = _as_written(column)
    return list(frame.to_dict("records"))


def _with_short_numbers(rows: Iterable[dict[str, object]], kinds: Mapping[str, object]) -> list[dict[str, object]]:
    """Rows in which a number of 32 or 16 bits has the digits that were written: 3.8, not 3.799999952316284."""
    names = {"float32": "float32", "float": "float32", "float16": "float16", "halffloat": "float16"}
    short = {name: names[known] for name, kind in kinds.items() if (known := str(kind).lower()) in names}
    if not short:
        return list(rows)
    import numpy as np

    makes = {name: getattr(np, kind) for name, kind in short.items()}
    return [
        {
            name: float(str(makes[name](value))) if name in makes and value is not None else value
            for name, value in row.items()
        }
        for row in rows
    ]


def _as_written(column: Any) -> object:
    """A column without what pandas' types add: 18.0 for 18 where values are missing, midnight for a date, and the digits
    of a 32-bit number as 64 bits."""
    known, kind = column.dropna(), column.dtype.kind
    if kind == "f" and len(known) < len(column):
        numbers = known.astype("float64")
        if ((numbers % 1 == 0) & (numbers.abs() < 2**53)).all():
            return column.astype("Float64").astype("Int64")
    if kind == "f" and str(column.dtype) in ("float16", "float32", "Float32", "float[pyarrow]"):
        return [float(str(number)) for number in column.to_numpy("float32", na_value=math.nan)]
    if kind == "M" and column.dt.tz is None and (known == known.dt.normalize()).all():
        return column.dt.date
    return column


def _of_file(path: Path, name: str | None, columns: Columns) -> Dataset:
    if path.is_dir():
        raise DataError(f"{path} is a folder.", "Pass a file in it, or what datasets.load_from_disk makes of it.")
    if not path.is_file():
        raise DataError(f"The file {path} does not exist.", 'Check the path; put a single question in a list: ["…"].')
    kind = ending(path)
    if kind in (".yaml", ".yml") or (
        kind == ".json" and not is_json_lines(path) and promptfoo.is_config(load_yaml(path))
    ):
        config = promptfoo.read(path)
        return Dataset.of(config.cases, name or path.stem, config.prompts, config.providers, config.repeat)
    return _of_rows(reader_of(path)(path), name or path.stem, columns, path)


def _query(sql: str, store: Store | None) -> Iterator[tuple[Mapping[str, object], str]]:
    if store is None:
        raise UsageError("A query over past traces needs a lab.", 'Use lab.compare("select …", …).')
    return ((row, f"row {n} of the query") for n, row in enumerate(store.typed_sql(sql).dicts(), 1))
