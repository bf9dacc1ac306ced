"""A case, and a list of them with one version."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, overload

from timestep_lab.model.arguments import did_you_mean
from timestep_lab.model.comparison import CaseRecord
from timestep_lab.model.errors import DataError, NotFoundError, UsageError
from timestep_lab.model.records import Json

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One thing to ask. `id` follows from the content unless the data brings one."""

    input: str = ""
    messages: tuple[Json, ...] = ()
    expected: Json = None
    """None where it is not known; an empty text, such as an empty cell of a CSV, is the same."""
    vars: Mapping[str, Json] = field(default_factory=dict)
    """What prompts may name. Names with two underscores before them are directions of the case (as promptfoo's): `__prefix` and
    `__suffix` stand around the prompt, from the mean `__threshold` on its assertions pass, `__models` and `__prompts` are those it is for."""
    assertions: tuple[Json, ...] = ()
    metadata: Mapping[str, Json] = field(default_factory=dict)
    id: str = ""

    def __post_init__(self) -> None:
        if self.expected == [] or (isinstance(self.expected, str) and not self.expected.strip()):
            object.__setattr__(self, "expected", None)

    def __getitem__(self, name: str) -> Json:
        """A field, a variable or what its metadata say: `case["input"]`, `case["topic"]`. Raises `NotFoundError`."""
        fields = {name: getattr(self, name) for name in self.__dataclass_fields__}
        known = {**self.metadata, **self.own_vars(), **fields}
        if name not in known:
            raise NotFoundError(
                f"The case {self.id} has no {name!r}.{did_you_mean(str(name), known)}", f"It has: {', '.join(known)}."
            )
        return known[name]

    def content_hash(self) -> str:
        """64 hex digits over everything that a candidate or a scorer gets to see; metadata and id are not."""
        return digest([self.input, self.messages, self.expected, self.vars, self.assertions])

    @property
    def trace_id(self) -> str | None:
        """Of a case that was a run: its trace."""
        trace_id = self.vars.get("trace_id") or self.metadata.get("trace_id")
        return trace_id if isinstance(trace_id, str) else None

    def template_vars(self) -> dict[str, Json]:
        """What a prompt template may name."""
        return {"input": self.input, "expected": self.expected, **self.own_vars()}

    def own_vars(self) -> dict[str, Json]:
        """Without the directions."""
        return {name: value for name, value in self.vars.items() if not name.startswith("__")}

    def is_for(self, model: str | None, prompt: str | None) -> bool:
        """Whether it is asked of a candidate with this model and this prompt."""
        models, prompts = self.vars.get("__models"), self.vars.get("__prompts")
        return (models is None or model is None or model in models) and (
            prompts is None or prompt is None or prompt in prompts
        )


@dataclass(frozen=True, slots=True)
class Provider:
    """Whom a promptfoo file asks, in its words."""

    id: str
    label: str | None = None
    settings: Mapping[str, Json] = field(default_factory=dict)
    prompts: tuple[str, ...] | None = None
    """Templates it is given. None: all of the file."""


@dataclass(frozen=True, slots=True)
class Dataset:
    """`version` changes when, and only when, a case's content, the order, or the number of cases does."""

    name: str
    cases: tuple[Case, ...]
    version: str
    prompts: tuple[str, ...] = ()
    """Prompt templates that came with the data (promptfoo)."""
    providers: tuple[Provider, ...] = ()
    """Whom the data asks (promptfoo), where no candidates are named."""
    repeat: int = 1
    """How often it asks every case, where no `epochs` are given."""

    @classmethod
    def of(
        cls, cases: Sequence[Case], name: str, prompts: Sequence[str] = (), providers: Sequence[Provider] = (), repeat: int = 1
    ) -> Dataset:  # fmt: skip
        """Raises `DataError` when there is no case, or two cases bring the same id."""
        if not cases:
            raise DataError(f"{name} holds no case.", "Give at least one question.")
        named = _with_ids(cases, name)
        version = digest([case.content_hash() for case in named])[:12]
        return cls(name, tuple(named), version, tuple(prompts), tuple(providers), repeat)

    def __len__(self) -> int:
        return len(self.cases)

    def __iter__(self) -> Iterator[Case]:
        return iter(self.cases)

    @overload
    def __getitem__(self, which: int | str) -> Case: ...
    @overload
    def __getitem__(self, which: slice) -> Dataset: ...
    def __getitem__(self, which: int | str | slice) -> Case | Dataset:
        """A case by its place or its id, or some of them as a data set. Raises `NotFoundError`, `UsageError`."""
        if isinstance(which, slice):
            cases = self.cases[which]
            version = digest([case.content_hash() for case in cases])[:12]
            return replace(self, cases=cases, version=version)
        if isinstance(which, str):
            found = next((case for case in self.cases if case.id == which), None)
            if found is None:
                near = did_you_mean(which, [case.id for case in self.cases])
                raise NotFoundError(
                    f"{self.name} has no case {which!r}.{near}", "Its ids: [case.id for case in dataset]."
                )
            return found
        if isinstance(which, bool) or not isinstance(which, int):
            raise UsageError(
                f"{which!r} is no place in a data set.", "Give a number from 0, an id, or a slice such as [:10]."
            )
        if not -len(self.cases) <= which < len(self.cases):
            raise NotFoundError(
                f"{self.name} has no case {which}: it has {len(self.cases)}, from 0.", "Give a smaller number."
            )
        return self.cases[which]

    def head(self, n: int) -> Dataset:
        return Dataset.of(self.cases[:n], self.name, self.prompts, self.providers, self.repeat)

    def df(self) -> pandas.DataFrame:
        """One row a case; its variables are columns."""
        import pandas

        rows = [
            {"id": c.id, "input": c.input, "expected": c.expected, **c.own_vars(), **c.metadata} for c in self.cases
        ]
        return pandas.DataFrame(rows)

    def records(self, comparison_id: str) -> tuple[CaseRecord, ...]:
        return tuple(
            CaseRecord(
                comparison_id=comparison_id, case_id=case.id, position=position, input=case.input, messages=case.messages,
                expected=case.expected, vars=case.vars, assertions=case.assertions, metadata=case.metadata,
            )
            for position, case in enumerate(self.cases)
        )  # fmt: skip


def from_record(record: CaseRecord) -> Case:
    return Case(
        id=record.case_id, input=record.input, messages=record.messages, expected=record.expected, vars=record.vars,
        assertions=record.assertions, metadata=record.metadata,
    )  # fmt: skip


def digest(value: object) -> str:
    """SHA-256 of a JSON value in canonical form. Raises `DataError` for what JSON cannot hold."""
    try:
        text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise DataError(
            f"A case holds a value that JSON cannot: {error}.", "Use text, numbers, lists and objects."
        ) from error
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _with_ids(cases: Sequence[Case], name: str) -> list[Case]:
    seen: dict[str, int] = {}
    out: list[Case] = []
    for position, case in enumerate(cases, 1):
        base = case.id or f"case_{case.content_hash()[:16]}"
        seen[base] = seen.get(base, 0) + 1
        if case.id and seen[base] > 1:
            raise DataError(
                f"{name}: case {position} has the id {case.id!r} of an earlier one.", "Give each case an id of its own."
            )
        # The same question asked twice on purpose is two cases; the second one's id says so.
        id = base if seen[base] == 1 else f"{base}-{seen[base]}"
        out.append(
            Case(
                id=id, input=case.input, messages=case.messages, expected=case.expected, vars=case.vars,
                assertions=case.assertions, metadata=case.metadata,
            )
        )  # fmt: skip
    return out
