"""How much a query may make out of nothing: functions whose result is as large as an argument says take constant, bounded sizes only.

DuckDB computes with constants while it plans, where its memory limit does not count and an interrupt is not heard, and it does not count
single lists at all. So `repeat('x', 2000000000)` must be refused before it begins. What grows with the rows that are read is left
to DuckDB's limit, and to the watch over the process (`fence.py`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from timestep_lab.model.errors import QueryError

Node = Mapping[str, Any]

MAX_SIZE = 10_000
"""Elements or characters that one call may make, and all calls of a query multiplied, for a size may stand inside another."""
SMALL = 100
"""A size up to this is never too much, as to pad a column of a report."""
MAX_STARS = 1_000
"""`select *, *` of `select *, *` has four times the columns."""

SIZE_AT: dict[str, tuple[int, ...]] = {
    **dict.fromkeys(("repeat", "lpad", "rpad", "list_resize", "array_resize", "bitstring"), (1,)),
    **dict.fromkeys(("min", "max", "approx_top_k"), (1,)),
    **dict.fromkeys(("arg_min", "arg_max", "argmin", "argmax", "min_by", "max_by", "arg_min_nulls_last", "arg_max_nulls_last"), (2,)),
    **dict.fromkeys(("lttb", "equi_width_bins", "reservoir_quantile", "approx_quantile"), (2,)),
}  # fmt: skip
"""Functions whose result is as large as these arguments say (counted from 0, where there is one)."""
SERIES = frozenset({"range", "generate_series"})
FORMATS = frozenset({"printf", "format"})
JSON_TYPES = frozenset({"from_json", "from_json_strict", "json_transform", "json_transform_strict"})

UNBOUNDED = {
    **dict.fromkeys(("list_reduce", "array_reduce", "reduce"), "Use list_sum, list_aggregate, or unnest and group by."),
    "damerau_levenshtein": "Use levenshtein or jaro_winkler_similarity.",
    **dict.fromkeys(("make_type", "replace_type", "cast_to_type"), "Write the type: cast(x as integer)."),
    **dict.fromkeys(
        ("to_aggregate_state", "finalize", "combine", "combine_aggr", "invoke", "bitstring_agg", "remap_struct"),
        "Use an ordinary aggregate such as sum, count or list.",
    ),
}
"""Functions that no argument bounds, and what to use instead."""


class SizeCheck:
    """For one query; `place` says where in its text a node stands."""

    def __init__(self, place: Callable[[Node], str]) -> None:
        self._place = place
        self._made, self._stars = 1.0, 1

    def check(self, node: Any) -> None:
        """Raises `QueryError` for a size that is not constant, or too large."""
        if isinstance(node, list):
            for child in node:
                self.check(child)
        elif isinstance(node, dict):
            if "select_list" in node:
                self._columns(node)
            if node.get("class") == "FUNCTION" and node.get("type") == "FUNCTION":
                self._call(node)
            elif node.get("class") == "TYPE" and str(node.get("type_name", "")).lower() == "array":
                self._make(node, "an array type", self._constant(node, "an array type", node["children"][1]))
            # A series that is read as a table comes row by row; its arguments may hold anything.
            inside = node["function"].get("arguments", []) if node.get("type") == "TABLE_FUNCTION" else None
            if inside is not None and _name(node["function"]) in SERIES:
                self.check(inside)
                self.check([child for key, child in node.items() if key != "function"])
            else:
                self.check(list(node.values()))

    def _columns(self, node: Node) -> None:
        self._stars *= max(sum(item.get("class") == "STAR" for item in node["select_list"]), 1)
        if self._stars > MAX_STARS:
            raise QueryError("The query asks for too many columns by `*`.", "Name the columns that you need.")

    def _call(self, node: Node) -> None:
        name, arguments = _name(node), _arguments(node)
        if len(arguments) > SMALL:
            self._make(node, f"{name}() of {len(arguments)} arguments", len(arguments))
        if name in SERIES:
            self._make(node, f"{name}()", self._length(node, name, arguments))
        elif name in FORMATS:
            self._make(node, f"{name}()", self._width(node, name, arguments))
        elif name in JSON_TYPES:
            text = _text(arguments[1]) if len(arguments) > 1 else ""
            if text is None or re.search(r"\[\s*\d|array", text, re.IGNORECASE):
                raise QueryError(
                    f"The structure that {name}() reads may hold no array of a fixed length{self._place(node)}.",
                    "Write it as a constant, with lists: '[\"INTEGER\"]'",
                )
        for at in SIZE_AT.get(name, ()):
            if at < len(arguments):
                self._make(node, f"{name}()", self._constant(node, f"{name}()", arguments[at]))

    def _length(self, node: Node, name: str, arguments: Sequence[Node]) -> float:
        numbers = [self._constant(node, f"{name}()", argument) for argument in arguments]
        start, stop, step = (0.0, *numbers, 1.0) if len(numbers) == 1 else (*numbers, 1.0)[:3]
        return abs(stop - start) / abs(step) + 1 if step else 0

    def _width(self, node: Node, name: str, arguments: Sequence[Node]) -> float:
        text = _text(arguments[0]) if arguments else ""
        if text is None or "*" in text or re.search(r"\{[^}]*\{", text):
            raise QueryError(
                f"{name}() takes a constant format with constant widths{self._place(node)}.",
                "Write the widths in it, or use lpad(value, 20, ' ').",
            )
        return max((float(number) for number in re.findall(r"\d+", text)), default=0)

    def _constant(self, node: Node, what: str, argument: Node) -> float:
        while argument.get("class") == "CAST":
            argument = argument["child"]
        literal = argument.get("literal", {})
        try:
            if argument.get("class") == "CONSTANT" and literal.get("kind") in ("INTEGER", "NUMERIC"):
                return float(str(literal["text"]).replace("_", ""))
        except ValueError:
            pass  # Then it is no number that a size can be.
        hint = (
            "Or read it as a table: from range(…)."
            if what.startswith(tuple(SERIES))
            else "A parameter or a column cannot say it."
        )
        raise QueryError(f"The size of {what} must be a number in the text{self._place(node)}.", hint)

    def _make(self, node: Node, what: str, size: float) -> None:
        if abs(size) > SMALL:
            self._made = self._made * abs(size)
        if not self._made <= MAX_SIZE:
            raise QueryError(
                f"The size of {what} is too large{self._place(node)}.",
                f"All sizes of a query, multiplied, may be {MAX_SIZE:,} at most. For many rows read a table: from range(…).",
            )


def _arguments(node: Node) -> list[Node]:
    return [argument.get("expression", argument) for argument in node.get("arguments", [])]


def _name(node: Node) -> str:
    path = node.get("qualified_name", {}).get("path")
    return str(path[-1] if path else node.get("function_name", "")).lower()


def _text(node: Node) -> str | None:
    literal = node.get("literal", {})
    if node.get("class") == "CONSTANT" and literal.get("kind") == "STRING":
        return str(literal.get("text", ""))
    return None
