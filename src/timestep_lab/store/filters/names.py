"""Which name means what: fields of the trace by themselves, fields of a span after the name its comprehension gave it."""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from typing import NoReturn, Protocol

from timestep_lab.model.arguments import did_you_mean
from timestep_lab.store.filters.fields import (
    SPAN_ALIASES,
    SPAN_CHOICES,
    SPAN_FIELDS,
    SPAN_WORDS,
    TRACE_ALIASES,
    TRACE_CHOICES,
    TRACE_FIELDS,
    TRACE_WORDS,
    ValueType,
)
from timestep_lab.store.filters.tree import Entry, Field, Row, Value

TRACE = Row("")
MAX_PARENTS = 5
EACH_SPAN = 'Write, for example: any(s.kind == "tool" for s in spans)'


class Fail(Protocol):
    def __call__(self, node: ast.expr, message: str, next_step: str) -> NoReturn: ...


class Scope:
    """`spans`: names that stand for a span here."""

    def __init__(self, spans: Mapping[str, Row]) -> None:
        self._spans = spans

    def with_span(self, target: ast.Name, fail: Fail) -> Scope:
        if target.id in TRACE_FIELDS or target.id in self._spans or target.id in ("spans", "scores", "labels"):
            fail(target, f"{target.id!r} means something else already.", "Name the span otherwise, for example s or c.")
        return Scope({**self._spans, target.id: Row(target.id)})

    def spans_of(self, node: ast.expr, fail: Fail) -> Row | None:
        """What a comprehension goes through: None for all spans of the trace, else the span whose children they are."""
        match node:
            case ast.Name(id="spans"):
                return None
            case ast.Attribute(value=owner, attr="children") if (row := self._row(owner, fail)) is not None:
                return row
        fail(node, f"{ast.unparse(node)} is no list of spans.", "Use spans, or the children of a span: s.children")

    def resolve(self, node: ast.Name | ast.Attribute | ast.Subscript, fail: Fail) -> Value:
        if isinstance(node, ast.Subscript):
            return self._entry(node, fail)
        if isinstance(node, ast.Name):
            if node.id in self._spans:
                fail(node, f"{node.id} is a whole span.", f"Name one of its fields, for example {node.id}.kind")
            if node.id in ("spans", "scores", "labels", "attributes"):
                fail(
                    node,
                    f"{node.id} cannot be compared as a whole.",
                    EACH_SPAN if node.id == "spans" else f'Write {node.id}["name"]',
                )
            return _field(node, TRACE, node.id, TRACE_FIELDS, TRACE_ALIASES, [*self._spans], fail)
        row = self._row(node.value, fail)
        if row is None:
            fail(node, f"{ast.unparse(node.value)} has no fields.", EACH_SPAN)
        if node.attr in ("parent", "children", "attributes", "scores", "labels"):
            fail(node, f"{ast.unparse(node)} cannot be compared as a whole.", f"Write, for example: {ast.unparse(node)}"
                 + {"parent": ".kind", "children": " in any(… for c in …)"}.get(node.attr, '["name"]'))  # fmt: skip
        return _field(node, row, node.attr, SPAN_FIELDS, SPAN_ALIASES, [], fail)

    def _row(self, node: ast.expr, fail: Fail) -> Row | None:
        match node:
            case ast.Name(id=name):
                return self._spans.get(name)
            case ast.Attribute(value=below, attr="parent") if (row := self._row(below, fail)) is not None:
                if row.parents == MAX_PARENTS:
                    fail(node, f"More than {MAX_PARENTS} parents up is too far.", "Look from further up instead.")
                return Row(row.name, row.parents + 1)
        return None

    def _entry(self, node: ast.Subscript, fail: Fail) -> Value:
        key = node.slice.value if isinstance(node.slice, ast.Constant) else None
        if not isinstance(key, str) or not key or "\0" in key:
            fail(node, f"{ast.unparse(node.value)} takes a name in quotes.", f'Write {ast.unparse(node.value)}["name"]')
        types: dict[str, ValueType] = {"attributes": "any", "scores": "number", "labels": "text"}
        match node.value:
            case ast.Name(id="attributes"):
                fail(node, "Attributes belong to spans.", f"Write any(s.attributes[{key!r}] == … for s in spans)")
            case ast.Name(id="scores" | "labels" as table):
                return Entry(TRACE, table, key, types[table])
            case ast.Attribute(value=owner, attr="attributes" | "scores" | "labels" as table) if row := self._row(
                owner, fail
            ):
                return Entry(row, table, key, types[table])
        fail(
            node,
            f"{ast.unparse(node.value)} has no entries.",
            'There are scores["name"], labels["name"] and s.attributes["key"].',
        )

    @staticmethod
    def choices(field: Field) -> Sequence[str]:
        return (TRACE_CHOICES if field.row == TRACE else SPAN_CHOICES).get(field.name, ())

    @staticmethod
    def shown_words(field: Field) -> Mapping[str, str]:
        """What the views call the choices of a field, where they call them otherwise."""
        return (TRACE_WORDS if field.row == TRACE else SPAN_WORDS).get(field.name, {})


def _field(
    node: ast.expr,
    row: Row,
    name: str,
    fields: Mapping[str, ValueType],
    aliases: Mapping[str, str],
    more: list[str],
    fail: Fail,
) -> Field:
    name = aliases.get(name, name)
    if name in fields:
        return Field(row, name, fields[name])
    owner = "a trace" if row == TRACE else "a span"
    if row == TRACE and name in SPAN_FIELDS:
        fail(node, f"A trace has no field {name!r}, its spans do.", f"Write any(s.{name} == … for s in spans)")
    hint = did_you_mean(name, [*fields, *aliases, *more])
    fail(node, f"There is no field {name!r} of {owner}.{hint}", f"There are: {', '.join(fields)}.")
