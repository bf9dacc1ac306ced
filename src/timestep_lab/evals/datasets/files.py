"""File readers. Each returns (row, location) pairs, so that errors can name the line."""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, time
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar, TypeVar

from timestep_lab.evals.datasets.rows import is_question_column
from timestep_lab.model.codec import Json
from timestep_lab.model.errors import DataError, MissingExtraError, TooLargeError
from timestep_lab.store.worker import apart

T = TypeVar("T")

Rows = Iterator[tuple[object, str]]
TextRows = Iterator[tuple[dict[str, str], str]]
_SEPARATORS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "bar"}
_READ_S = 60.0
_SHEET_ERRORS = ("#NULL!", "#DIV/0!", "#VALUE!", "#REF!", "#NAME?", "#NUM!", "#N/A")


def read_text(path: Path) -> str:
    """The text of a UTF-8 file, or a UTF-16 file with a byte order mark; `.gz` files are decompressed."""
    try:
        raw = gzip.decompress(path.read_bytes()) if path.suffix.lower() == ".gz" else path.read_bytes()
        text = raw.decode("utf-16" if raw[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path.name} is not UTF-8 text (byte {error.start}).", "Save it as UTF-8.") from error
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(
            f"{path.name} is not a valid gzip file: {error}.", "Compress it again, or remove .gz from its name."
        ) from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.", "Check the path.") from error
    _refuse_pointer(raw, path.name)
    if "\0" in text:
        raise DataError(f"{path.name} is not UTF-8 text: it contains the character U+0000.", "Save it as UTF-8.")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _refuse_pointer(content: bytes, name: str) -> None:
    """Raises `DataError` for what Git leaves in place of a large file that it has not fetched."""
    if content.startswith(b"version https://git-lfs.github.com/spec/"):
        raise DataError(f"{name} is a pointer of Git LFS, not the data.", "Fetch the file: git lfs pull.")


def load_yaml(path: Path) -> object:
    """The value of a YAML 1.2 file (or a JSON file): `yes` is a text and `12:30` is not a number. Raises `DataError`."""
    text = read_text(path)
    return parsed_json(text, path.name) if ending(path) == ".json" else parsed_yaml(text, path.name)


def parsed_yaml(text: str, where: str) -> object:
    import yaml  # type: ignore[import-untyped]

    try:
        return yaml.load(text, _yaml_loader())
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f" at line {mark.line + 1}" if mark else ""
        raise DataError(f"{where} is not valid YAML{line}: {getattr(error, 'problem', error)}.", "Fix it.") from error


@cache
def _yaml_loader() -> type[object]:
    """A loader for YAML 1.2, as used by promptfoo and others. PyYAML implements 1.1, so the rules for booleans and
    numbers are redefined.
    """
    import yaml

    class Loader(yaml.SafeLoader):  # type: ignore[misc]
        yaml_implicit_resolvers: ClassVar[dict[str, list[tuple[str, re.Pattern[str]]]]] = {}
        _in_text = False

        def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> object:
            written = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode) and key.value != "<<"]
            if twice := next((key for key in written if written.count(key) > 1), None):
                raise yaml.constructor.ConstructorError(None, None, f"{twice!r} is given twice", node.start_mark)
            return super().construct_mapping(node, deep)

        def scan_plain(self) -> object:
            self._in_text = True
            try:
                return super().scan_plain()
            finally:
                self._in_text = False

        def peek(self, index: int = 0) -> str:
            # Inside a text a question mark is an ordinary character, also within braces: {question: Why?}
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

    def whole(loader: Loader, node: yaml.ScalarNode) -> int:
        written = loader.construct_scalar(node)
        return int(written, 16 if "x" in written else 10)

    Loader.add_constructor("tag:yaml.org,2002:int", whole)
    return Loader


def read_csv(path: Path) -> TextRows:
    """A CSV file with a header line, one case per line. All values are text; empty lines are skipped.

    The separator is a comma; in `.tsv` files a tab; a semicolon, tab or bar if the header has those but no comma (as
    spreadsheets write in many locales); or the one given by a first line `sep=;` (Excel). If the header has a space
    after each separator, leading spaces are stripped from values. A column without a name is skipped if it is empty or
    a row number (pandas index).
    """
    yield from csv_rows(read_text(path), path.name, ending(path))


def csv_rows(text: str, name: str, kind: str = ".csv") -> TextRows:
    """`read_csv` for a text; `name` is used in messages."""
    match = re.match(r'"?sep=(.)"?\n', text)
    text = text[match.end() :] if match else text
    separator, spaced = separator_of(text, kind)
    separator = match[1] if match else separator
    csv.field_size_limit(max(csv.field_size_limit(), min(len(text), 2**31 - 1)))
    reader = csv.reader(io.StringIO(text, newline="\n"), strict=True, delimiter=separator, skipinitialspace=spaced)
    try:
        header = [column.strip() for column in next((row for row in reader if any(value.strip() for value in row)), [])]
        if not any(header):
            raise DataError(
                f"{name} has no header line.", "The first line must contain column names, for example: input,expected"
            )
        named = [column for column in header if column]
        if len(set(named)) != len(named):
            raise DataError(f"{name} has duplicate column names.", "Rename one of them.")
        count = 0
        for values in reader:
            if not any(value.strip() for value in values):
                continue
            where = f"{name} line {reader.line_num + (1 if match else 0)}"
            while len(values) > len(header) and not values[-1].strip():
                values.pop()
            if not any(header[len(values) :]):
                values += [""] * (len(header) - len(values))
            if len(values) != len(header):
                raise DataError(
                    f"{where} has {len(values)} values for {len(header)} columns.",
                    f"Quote values that contain a {_SEPARATORS.get(separator, separator)}."
                    if len(values) > len(header)
                    else f"Write a {_SEPARATORS.get(separator, separator)} for each empty value at the end too.",
                )
            yield _of_header(header, values, count, where), where
            count += 1
    except csv.Error as error:
        raise DataError(f"{name} line {reader.line_num} is not valid CSV: {error}.", "Check the quotes.") from error


def _of_header(header: Sequence[str], values: Sequence[T], count: int, where: str) -> dict[str, T]:
    for place, (name, value) in enumerate(zip(header, values, strict=True)):
        numbers_lines = place == 0 and str(value) == str(count)
        if not name and not numbers_lines and value is not None and str(value).strip():
            raise DataError(f"{where} has {str(value)[:40]!r} in a column without a name.", "Add a name in the header.")
    return {name: value for name, value in zip(header, values, strict=True) if name}


def read_sheet(path: Path, sheet: str | None = None) -> Rows:
    """A sheet of an Excel workbook by its name or number, or else the only one with rows, parsed in a separate process
    with memory and time limits."""
    if find_spec("openpyxl") is None:
        raise MissingExtraError("Reading .xlsx", "files")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.", "Check the path.") from error
    _refuse_pointer(content, path.name)
    yield from apart(f"{__name__}:{sheet_rows.__name__}", content, path.name, sheet, time_limit_s=_READ_S)


def sheet_rows(content: bytes, filename: str, sheet: str | None = None) -> list[tuple[object, str]]:
    """`read_sheet` in this process."""
    import openpyxl  # type: ignore[import-untyped]

    try:
        books = [openpyxl.load_workbook(io.BytesIO(content), read_only=True, data_only=how) for how in (True, False)]
        names = [name for name in books[0].sheetnames if hasattr(books[0][name], "iter_rows")]
        if sheet is not None:
            chosen = (
                sheet
                if sheet in names
                else names[int(sheet) - 1]
                if sheet.isdecimal() and 0 < int(sheet) <= len(names)
                else None
            )
            if chosen is None:
                raise DataError(f"{filename} has no sheet {sheet!r}.", f"Its sheets: {', '.join(names)}.")
            names = [chosen]
        _refuse_merged(content, filename, names)
        sheets = {
            name: [
                [_cell_value(value, raw, f"{filename} {name} row {at}") for value, raw in zip(values, written, strict=True)]
                for at, (values, written) in enumerate(
                    zip(*(book[name].iter_rows(values_only=True) for book in books), strict=True), 1
                )
            ]
            for name in names
        }  # fmt: skip
    # On a corrupt workbook openpyxl can raise any exception, not only its own.
    except (
        zipfile.BadZipFile,
        KeyError,
        ValueError,
        TypeError,
        AttributeError,
        IndexError,
        SyntaxError,
        OSError,
    ) as error:
        raise DataError(
            f"{filename} cannot be read as a workbook ({error}).", "Save it again as .xlsx or CSV."
        ) from error
    filled = {name: rows for name, rows in sheets.items() if any(any(v is not None for v in row) for row in rows)}
    if len(filled) != 1:
        many = f"has rows in {len(filled)} sheets: {', '.join(filled)}" if filled else "has no rows"
        raise DataError(f"{filename} {many}.", "Put the cases in one sheet, or save one sheet as CSV.")
    [rows] = filled.values()
    records: list[tuple[object, str]] = []
    header: list[str] | None = None
    for number, row in enumerate(rows, 1):
        if all(value is None or not str(value).strip() for value in row):
            continue
        if header is None:
            header = ["" if value is None else str(value).strip() for value in row]
            named = [name for name in header if name]
            if len(set(named)) != len(named):
                raise DataError(f"{filename} has duplicate column names.", "Rename one of them.")
            continue
        where = f"{filename} row {number}"
        values = [*row, *([None] * (len(header) - len(row)))]
        header += [""] * (len(values) - len(header))
        records.append((_of_header(header, values, len(records), where), where))
    return records


def _refuse_merged(content: bytes, filename: str, names: Sequence[str]) -> None:
    """A workbook stores the value of merged cells once; whether it is meant for each row, only its author knows."""
    import openpyxl

    with zipfile.ZipFile(io.BytesIO(content)) as parts:
        if not any(b"mergeCell " in parts.read(part) for part in parts.namelist() if "/worksheets/" in part):
            return
    book = openpyxl.load_workbook(
        io.BytesIO(content)
    )  # Read-only mode, which needs less memory, does not tell merged cells.
    for name in names:
        if merged := [str(cells) for cells in book[name].merged_cells.ranges]:
            raise DataError(
                f"{filename} has merged cells in the sheet {name}: {', '.join(merged[:5])}.",
                "Unmerge them and write the value into each row.",
            )


def _cell_value(value: object, written: object, where: str) -> object:
    if value is None and isinstance(written, str) and written.startswith("="):
        raise DataError(f"{where} has a formula without a saved value: {written[:40]}.", "Open it in a spreadsheet program and save it again.")  # fmt: skip
    if isinstance(value, datetime) and value.time() == time():
        return value.date()  # A workbook stores a date as its midnight.
    if value in _SHEET_ERRORS:
        raise DataError(f"{where} has the error {value}.", "Fix the formula.")
    return value


def read_jsonl(path: Path) -> Rows:
    # Only a line feed ends a line: U+2028, U+0085 and form feeds may occur inside JSON strings.
    for number, line in enumerate(read_text(path).split("\n"), 1):
        if line.strip():
            yield parsed_json(line, f"{path.name} line {number}"), f"{path.name} line {number}"


def is_json_lines(path: Path) -> bool:
    """Whether a file holds an object on its first line, and more after it: JSON Lines, whatever its name."""
    first, _, rest = read_text(path).strip().partition("\n")
    return bool(rest) and first.startswith("{") and first.rstrip().endswith("}")


def read_json(path: Path) -> Rows:
    if is_json_lines(path):
        yield from read_jsonl(path)
        return
    value = parsed_json(read_text(path), path.name)
    rows = _listed(value, path.name)
    if not isinstance(rows, list):
        raise DataError(f"{path.name} does not contain a list.", "Use a list of texts or objects.")
    for number, row in enumerate(rows, 1):
        yield row, f"{path.name} case {number}"


_LISTS = ("cases", "examples", "samples", "rows", "items", "data", "goldens", "test_cases")


def _listed(value: object, name: str) -> object:
    """The rows of a JSON value: the list of cases in an object (possibly nested one level, as in Phoenix exports);
    columns (lists of equal length, objects with the same keys, or pandas' `split` format); rows of the Hugging Face
    viewer; SQuAD questions."""
    if isinstance(value, dict):
        columns, data = value.get("columns"), value.get("data")
        if (
            isinstance(columns, list)
            and isinstance(data, list)
            and all(isinstance(r, list) and len(r) == len(columns) for r in data)
        ):
            return [dict(zip(columns, row, strict=True)) for row in data]
        for key in _LISTS:
            held = value.get(key)
            if isinstance(held, dict) and key == "samples" and all(isinstance(inner, list) for inner in held.values()):
                if len(held) != 1:
                    raise DataError(
                        f"{name} has samples from {len(held)} tasks: {', '.join(held)}.",
                        "Save the samples of one task in a separate file.",
                    )
                [held] = held.values()
            if isinstance(held, dict) and any(isinstance(held.get(inner), list) for inner in _LISTS):
                return _listed(held, name)
            if isinstance(held, list) and not _is_columns(value):
                beside = [
                    other for other, column in value.items()
                    if other != key and isinstance(column, list) and 0 < len(column) == len(held)
                    and all(isinstance(one, str | int | float) for one in column)
                ]  # fmt: skip
                if beside:
                    raise DataError(
                        f"{name} has {key!r} and {beside[0]!r} as lists of {len(held)}.", "Use one list of objects."
                    )
                return _listed(held, name)
        if not _is_columns(value):
            raise DataError(f"{name} contains an object without cases.", 'Use a list, or {"cases": [ … ]}.')
        if all(isinstance(column, dict) for column in value.values()):
            return [{column: cells[row] for column, cells in value.items()} for row in next(iter(value.values()))]
        return [dict(zip(value, row, strict=True)) for row in zip(*value.values(), strict=True)]
    if isinstance(value, list) and value and all(isinstance(row, dict) for row in value):
        if all(isinstance(row.get("row"), dict) and "row_idx" in row for row in value):
            return [row["row"] for row in value]
        if all(isinstance(row.get("paragraphs"), list) for row in value):
            return [
                {**asked, "context": part.get("context"), "title": article.get("title"), "answers": _texts(asked.get("answers"))}
                for article in value for part in article["paragraphs"] for asked in part.get("qas", [])
            ]  # fmt: skip
    return value


def _texts(answers: object) -> object:
    """SQuAD answers, as in the original files and in the Hugging Face version."""
    return {"text": [one["text"] for one in answers]} if isinstance(answers, list) else answers


def _is_columns(value: dict[str, Any]) -> bool:
    """Whether an object is a table by columns: lists of equal length, or objects with the same keys, one of which holds
    questions (texts, not the messages of one conversation).
    """
    columns = [list(column.values()) if isinstance(column, dict) else column for column in value.values()]
    asked = [column for name, column in zip(value, columns, strict=True) if is_question_column(name)]
    if not asked or not all(isinstance(column, list) and len(column) == len(asked[0]) > 0 for column in columns):
        return False
    names = {tuple(column) if isinstance(column, dict) else None for column in value.values()}
    return len(names) == 1 and all(isinstance(question, str) for column in asked for question in column)


def read_inspect(path: Path) -> Rows:
    """The samples of an Inspect log (a zip archive)."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name for name in archive.namelist() if re.fullmatch(r"samples/[^/]+\.json", name)]
            for name in names:
                yield parsed_json(archive.read(name).decode("utf-8"), f"{path.name} {name}"), f"{path.name} {name}"
    except (zipfile.BadZipFile, NotImplementedError, zlib.error, UnicodeDecodeError) as error:
        raise DataError(
            f"{path.name} cannot be read as an Inspect log ({error}).",
            "Convert it to JSON: inspect log convert --to json.",
        ) from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.", "Check the path.") from error
    if not names:
        raise DataError(f"{path.name} has no samples.", "Enable logging of samples.")


def read_parquet(path: Path) -> Rows:
    import duckdb

    if path.is_file():
        with path.open("rb") as file:
            _refuse_pointer(file.read(64), path.name)
    try:
        with duckdb.connect() as db:
            columns = db.execute("describe select * from read_parquet($1)", [str(path)]).fetchall()
            names = [name for name, *_ in columns]
            # A 32-bit 3.8 is 3.8, not the 3.799999952316284 nearest to it.
            quoted = ['"' + name.replace('"', '""') + '"' for name in names]
            wanted = ", ".join(
                f"cast(cast({name} as varchar) as double)" if kind == "FLOAT" else name
                for name, (_, kind, *_) in zip(quoted, columns, strict=True)
            )
            rows = db.execute(f"select {wanted} from read_parquet($1)", [str(path)]).fetchall()
    except duckdb.Error as error:
        raise DataError(
            f"{path.name} cannot be read as Parquet: {str(error).splitlines()[0]}", "Check the file."
        ) from error
    for number, row in enumerate(rows, 1):
        yield dict(zip(names, row, strict=True)), f"{path.name} row {number}"


READERS: dict[str, Callable[[Path], Rows]] = {
    ".csv": read_csv, ".tsv": read_csv, ".jsonl": read_jsonl, ".ndjson": read_jsonl, ".json": read_json, ".parquet": read_parquet,
    ".xlsx": read_sheet, ".eval": read_inspect,
}  # fmt: skip


MAX_UPLOAD = 20 * 2**20


def rows_of_bytes(content: bytes, filename: str) -> list[tuple[object, str]]:
    """The rows of an uploaded file, parsed in a separate process with memory and time limits, without access to other
    files.

    Raises `DataError`, `TooLargeError`, `MissingExtraError`.
    """
    name = Path(filename).name or "file"
    if len(content) > MAX_UPLOAD:
        raise TooLargeError(f"{name} is larger than {MAX_UPLOAD >> 20} MB.", "Split the file.")
    kind = ending(Path(name))
    reader_of(Path(name))
    if kind == ".xlsx" and find_spec("openpyxl") is None:
        raise MissingExtraError("Reading .xlsx", "files")
    rows: list[tuple[object, str]] = apart(f"{__name__}:{_rows_here.__name__}", content, name, time_limit_s=_READ_S)
    return rows


def _rows_here(content: bytes, name: str) -> list[tuple[object, str]]:
    if ending(Path(name)) == ".xlsx":
        return sheet_rows(content, name)
    with TemporaryDirectory(prefix="timestep-lab-") as folder:
        path = Path(folder, name)
        path.write_bytes(content)
        return list(reader_of(path)(path))


def ending(path: Path) -> str:
    """The suffix that determines the reader: `.csv` for `Questions.CSV` and for `questions.csv.gz`."""
    name = path.name.lower().removesuffix(".gz")
    return Path(name).suffix


def reader_of(path: Path) -> Callable[[Path], Rows]:
    """The reader for this path. Raises `DataError` for an unsupported kind of file."""
    kind = ending(path)
    if kind in (".xls", ".ods"):
        raise DataError(f"{path.name} is a spreadsheet in an unsupported format.", "Save it as .xlsx or CSV.")
    if kind not in READERS or (kind in (".parquet", ".xlsx", ".eval") and path.suffix.lower() == ".gz"):
        raise DataError(
            f"{path.name} is not a supported file type.",
            f"Supported: {', '.join([*READERS, '.yaml'])}; text formats also with .gz.",
        )
    return READERS[kind]


def separator_of(text: str, kind: str) -> tuple[str, bool]:
    header = re.sub(r'"[^"]*"', "", text.lstrip("\n").split("\n", 1)[0])
    separator = "\t" if kind == ".tsv" else next((s for s in _SEPARATORS if s in header), ",")
    between = header.split(separator)[1:]
    return separator, bool(between) and all(name.startswith(" ") for name in between)


def parsed_json(text: str, where: str) -> Json:
    def once(pairs: list[tuple[str, Json]]) -> dict[str, Json]:
        made = dict(pairs)
        if len(made) < len(pairs):
            twice = next(name for number, (name, _) in enumerate(pairs) if name in [n for n, _ in pairs[:number]])
            raise DataError(f"{where} gives {twice!r} twice in one object.", "Remove one of them.")
        return made

    try:
        value: Json = json.loads(text, object_pairs_hook=once)
        return value
    except RecursionError:
        raise DataError(f"{where} is nested too deeply.", "Use a list of objects.") from None
    except json.JSONDecodeError as error:
        raise DataError(
            f"{where} is not valid JSON: {error.msg} at column {error.colno}.", "Fix or remove it."
        ) from error
    except ValueError:  # Python's limit against numbers that take minutes to read.
        raise DataError(f"{where} holds a number of more than 4,300 digits.", "Write it as a text.") from None
