"""SQL written by a model, held against the right query by running both."""

from __future__ import annotations

import json
import re
import threading
from collections import Counter
from dataclasses import dataclass
from typing import Any, ClassVar

from timestep_lab.evals.datasets.case import Case
from timestep_lab.evals.scorers.base import Answer, Score, ValueScorer, acceptable, passed, scorer, unknown

LIMIT_S = 5.0
MOST_ROWS = 100_000
_FENCE = re.compile(r"```(?:sql|duckdb)?[^\S\n]*\n(.*?)```", re.DOTALL | re.IGNORECASE)


@scorer("sql_equal")
@dataclass(frozen=True, kw_only=True)
class SqlEqual(ValueScorer):
    """The answer is a query that gives what the expected query gives, in DuckDB, over the tables that `setup` makes (SQL; else the case's
    variable `setup`). Column names do not count; the order of rows counts where the expected query orders them.

    Queries see nothing but these tables, and are given up after five seconds.
    """

    main: ClassVar[str | None] = "setup"
    setup: str | None = None

    def check(self, answer: Answer, case: Case) -> Score:
        wanted = acceptable(self.value, case)
        if isinstance(wanted, Score):
            return wanted
        setup = self.setup if self.setup is not None else case.vars.get("setup", "")
        if not isinstance(setup, str):
            return unknown("the variable setup is no SQL text")
        blocks = _FENCE.findall(answer.output)
        query = (blocks[-1] if blocks else answer.output).strip()
        notes = []
        for right in wanted:
            try:
                expected = _rows(setup, right)
            except _NotRunError as error:
                return unknown(f"the expected query does not run: {error}")
            try:
                found = _rows(setup, query)
            except _NotRunError as error:
                return passed(False, f"the query does not run: {error}")
            if _alike(found, expected, ordered=re.search(r"\border\s+by\b", right, re.IGNORECASE) is not None):
                return passed(True, f"{len(found)} rows")
            notes.append(_difference(found, expected))
        return passed(False, notes[0])


class _NotRunError(Exception):
    """A query that DuckDB refused, or that took too long."""


def _rows(setup: str, query: str) -> list[tuple[Any, ...]]:
    import duckdb

    with duckdb.connect(
        ":memory:",
        config={"enable_external_access": "false", "memory_limit": "256MB", "threads": "1", "temp_directory": ""},
    ) as connection:
        timer = threading.Timer(LIMIT_S, connection.interrupt)
        timer.start()
        try:
            connection.execute("set lock_configuration = true")
            if setup.strip():
                connection.execute(setup)
            statements = connection.extract_statements(query)
            if len(statements) != 1 or statements[0].type != duckdb.StatementType.SELECT:
                raise _NotRunError("it is not one query")
            rows = connection.execute(statements[0]).fetchmany(MOST_ROWS + 1)
        except duckdb.InterruptException as error:
            raise _NotRunError(f"it was given up after {LIMIT_S:g} s") from error
        except duckdb.Error as error:
            raise _NotRunError(str(error).splitlines()[0]) from error
        finally:
            timer.cancel()
    if len(rows) > MOST_ROWS:
        raise _NotRunError(f"it gives more than {MOST_ROWS:,} rows")
    return [tuple(_plain(value) for value in row) for row in rows]


def _plain(value: Any) -> Any:
    if isinstance(value, bool) or value is None or isinstance(value, str):
        return value
    if isinstance(value, int | float) or type(value).__name__ == "Decimal":
        return float(f"{float(value):.9g}")
    return json.dumps(value, default=str, sort_keys=True)


def _alike(found: list[tuple[Any, ...]], expected: list[tuple[Any, ...]], *, ordered: bool) -> bool:
    return found == expected if ordered else Counter(found) == Counter(expected)


def _difference(found: list[tuple[Any, ...]], expected: list[tuple[Any, ...]]) -> str:
    if len(found) != len(expected):
        return f"{len(found)} rows, not {len(expected)}"
    missing = list((Counter(expected) - Counter(found)).elements())
    return f"missing row: {missing[0]}" if missing else "the rows are in another order"
