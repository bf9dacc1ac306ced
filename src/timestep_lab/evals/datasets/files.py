"""Readers of files, each giving (row, where) so that a complaint can name the line."""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
import zlib
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

from timestep_lab.model.errors import DataError

Rows = Iterator[tuple[Any, str]]
_SEPARATORS = {",": "comma", ";": "semicolon", "\t": "tab"}


def read_text(path: Path) -> str:
    """The text of a UTF-8 file; one that ends in `.gz` is unpacked."""
    try:
        raw = gzip.decompress(path.read_bytes()) if path.suffix.lower() == ".gz" else path.read_bytes()
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path.name} is not UTF-8 text (byte {error.start}).", "Save it as UTF-8.") from error
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"{path.name} is not gzip: {error}.", "Pack it again, or take the .gz off its name.") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.", "Check the path.") from error
    return text.replace("\r\n", "\n").replace("\r", "\n")


def load_yaml(path: Path) -> Any:
    """The value of a YAML 1.2 file, or of a JSON file: `yes` is a text there, and `12:30` no number. Raises `DataError`."""
    import yaml  # type: ignore[import-untyped]

    text = read_text(path)
    if ending(path) == ".json":
        return _json(text, path.name)
    try:
        return yaml.load(text, _yaml_loader())
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f" at line {mark.line + 1}" if mark else ""
        raise DataError(f"{path.name} is not YAML{line}: {getattr(error, 'problem', error)}.", "Correct it.") from error


@cache
def _yaml_loader() -> Any:
    """PyYAML reads YAML 1.1, promptfoo and most others 1.2: which plain words are truth values and numbers is said anew."""
    import yaml

    class Loader(yaml.SafeLoader):  # type: ignore[misc]
        yaml_implicit_resolvers: ClassVar[dict[str, Any]] = {}
        _in_text = False

        def scan_plain(self) -> Any:
            self._in_text = True
            try:
                return super().scan_plain()
            finally:
                self._in_text = False

        def peek(self, index: int = 0) -> str:
            # Within a text a question mark is a letter, also inside braces: {question: Why?}
            letter = str(super().peek(index))
            return "." if letter == "?" and self._in_text else letter

    for tag, pattern, first in (
        ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
        ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
        ("int", r"[-+]?[0-9]+|0x[0-9a-fA-F]+", list("-+0123456789")),
        ("float", r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)", list("-+0123456789.")),
        ("merge", r"<<", ["<"]),
    ):  # fmt: skip
        Loader.add_implicit_resolver(f"tag:yaml.org,2002:{tag}", re.compile(rf"(?:{pattern})\Z"), first)

    def whole(loader: Any, node: Any) -> int:
        written = loader.construct_scalar(node)
        return int(written, 16 if "x" in written else 10)

    Loader.add_constructor("tag:yaml.org,2002:int", whole)
    return Loader


def read_csv(path: Path) -> Rows:
    """A header line, then one case a line. Every value is text.

    Values are separated by commas; in a `.tsv` by tabs; by semicolons or tabs where the header has those and no comma, as spreadsheets
    write it in many countries. In a file whose header has a space after each separator, that space belongs to no value.
    """
    text = read_text(path)
    separator, spaced = _separator(text, ending(path))
    csv.field_size_limit(max(csv.field_size_limit(), min(len(text), 2**31 - 1)))
    reader = csv.reader(io.StringIO(text, newline="\n"), strict=True, delimiter=separator, skipinitialspace=spaced)
    try:
        header = [name.strip() for name in next(reader, [])]
        if not any(header):
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
                    f"{where} has {len(values)} values for {len(header)} columns.",
                    f"Quote values that hold a {_SEPARATORS[separator]}.",
                )
            yield dict(zip(header, values, strict=True)), where
    except csv.Error as error:
        raise DataError(f"{path.name} line {reader.line_num} is not CSV: {error}.", "Check the quotes.") from error


def read_jsonl(path: Path) -> Rows:
    # Only a line feed ends a line: U+2028, U+0085 and form feeds may stand inside JSON text.
    for number, line in enumerate(read_text(path).split("\n"), 1):
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
    ".csv": read_csv, ".tsv": read_csv, ".jsonl": read_jsonl, ".ndjson": read_jsonl, ".json": read_json, ".parquet": read_parquet,
}  # fmt: skip


def ending(path: Path) -> str:
    """What says how to read the file: `.csv` of `Questions.CSV` and of `questions.csv.gz`."""
    name = path.name.lower().removesuffix(".gz")
    return Path(name).suffix


def reader_of(path: Path) -> Callable[[Path], Rows]:
    """Raises `DataError` for a kind of file that cannot be read."""
    kind = ending(path)
    if kind in (".xlsx", ".xls", ".ods"):
        raise DataError(
            f"{path.name} is a spreadsheet.", "Save the sheet as CSV (UTF-8), or pass pandas.read_excel(…)."
        )
    if kind not in READERS or (kind == ".parquet" and path.suffix.lower() == ".gz"):
        raise DataError(
            f"{path.name} is of no kind that can be read.",
            f"Known: {', '.join([*READERS, '.yaml'])}; those of text also with .gz.",
        )
    return READERS[kind]


def _separator(text: str, kind: str) -> tuple[str, bool]:
    header = re.sub(r'"[^"]*"', "", text.lstrip("\n").split("\n", 1)[0])
    separator = "\t" if kind == ".tsv" else next((s for s in _SEPARATORS if s in header), ",")
    between = header.split(separator)[1:]
    return separator, bool(between) and all(name.startswith(" ") for name in between)


def _json(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(
            f"{where} is not JSON: {error.msg} at column {error.colno}.", "Correct it, or remove it."
        ) from error
