"""Readers of files, each giving (row, where) so that a complaint can name the line."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from timestep_lab.types.errors import DataError

Rows = Iterator[tuple[Any, str]]


def read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path.name} is not UTF-8 text (byte {error.start}).", "Save it as UTF-8.") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.", "Check the path.") from error


def read_csv(path: Path) -> Rows:
    """A header line, then one case a line. Every value is text."""
    text = read_text(path)
    reader = csv.reader(text.splitlines(keepends=True), strict=True)
    try:
        header = next(reader, None)
        if not header or not any(name.strip() for name in header):
            raise DataError(
                f"{path.name} has no header line.", "Its first line names the columns, for example: input,expected"
            )
        if len(set(header)) != len(header):
            raise DataError(f"{path.name} names a column twice.", "Rename one of them.")
        for values in reader:
            if not values:
                continue
            where = f"{path.name} line {reader.line_num}"
            if len(values) != len(header):
                raise DataError(
                    f"{where} has {len(values)} values for {len(header)} columns.", "Quote values that hold commas."
                )
            yield dict(zip(header, values, strict=True)), where
    except csv.Error as error:
        raise DataError(f"{path.name} line {reader.line_num} is not CSV: {error}.", "Check the quotes.") from error


def read_jsonl(path: Path) -> Rows:
    for number, line in enumerate(read_text(path).splitlines(), 1):
        if line.strip():
            yield _json(line, f"{path.name} line {number}"), f"{path.name} line {number}"


def read_json(path: Path) -> Rows:
    value = _json(read_text(path), path.name)
    if isinstance(value, dict):
        found = next((value[key] for key in ("cases", "data", "examples") if isinstance(value.get(key), list)), None)
        if found is None:
            raise DataError(f"{path.name} holds an object without cases.", 'Give a list, or {"cases": [ … ]}.')
        value = found
    if not isinstance(value, list):
        raise DataError(f"{path.name} does not hold a list.", "Give a list of texts or objects.")
    for number, row in enumerate(value, 1):
        yield row, f"{path.name} case {number}"


def read_parquet(path: Path) -> Rows:
    import duckdb

    try:
        with duckdb.connect() as db:
            cursor = db.execute("select * from read_parquet($1)", [str(path)])
            names = [column[0] for column in cursor.description or []]
            rows = cursor.fetchall()
    except duckdb.Error as error:
        raise DataError(
            f"{path.name} cannot be read as Parquet: {str(error).splitlines()[0]}", "Check the file."
        ) from error
    for number, row in enumerate(rows, 1):
        yield dict(zip(names, row, strict=True)), f"{path.name} row {number}"


READERS: dict[str, Callable[[Path], Rows]] = {
    ".csv": read_csv, ".jsonl": read_jsonl, ".ndjson": read_jsonl, ".json": read_json, ".parquet": read_parquet,
}  # fmt: skip


def _json(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(
            f"{where} is not JSON: {error.msg} at column {error.colno}.", "Correct it, or remove it."
        ) from error
