"""`Case` and `Dataset`: the input of a comparison."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date, datetime, time
from typing import TYPE_CHECKING, cast, overload

from timestep_lab.model.arguments import did_you_mean
from timestep_lab.model.codec import Json
from timestep_lab.model.comparison import CaseRecord
from timestep_lab.model.errors import DataError, NotFoundError, UsageError

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One input to run. `id` is derived from the content unless the data has one."""

    input: str = ""
    messages: tuple[Json, ...] = ()
    expected: Json = None
    """The expected answer. None if unknown; an empty text (such as an empty CSV cell) means the same."""
    vars: Mapping[str, Json] = field(default_factory=dict)
    """Variables for prompt templates. Names with two leading underscores are promptfoo directives: `__prefix` and
    `__suffix` surround the prompt, `__threshold` is the mean of assertions needed to pass, `__models` and `__prompts`
    restrict the candidates."""
    assertions: tuple[Json, ...] = ()
    metadata: Mapping[str, Json] = field(default_factory=dict)
    id: str = ""

    def __post_init__(self) -> None:
        if self.expected == [] or (isinstance(self.expected, str) and not self.expected.strip()):
            object.__setattr__(self, "expected", None)

    def __getitem__(self, name: str) -> Json:
        """A field, variable or metadata value: `case["input"]`, `case["topic"]`. Raises `NotFoundError`."""
        fields = {name: getattr(self, name) for name in self.__dataclass_fields__}
        known: dict[str, Json] = {**self.metadata, **self.own_vars(), **fields}
        if name not in known:
            raise NotFoundError(
                f"The case {self.id} has no {name!r}.{did_you_mean(str(name), known)}",
                f"Available: {', '.join(known)}.",
            )
        return known[name]

    def content_hash(self) -> str:
        """SHA-256 (64 hex digits) of everything that candidates or scorers see; metadata and id are excluded."""
        return digest([self.input, self.messages, self.expected, self.vars, self.assertions])

    @property
    def trace_id(self) -> str | None:
        """The trace id of a case that was made from a run."""
        trace_id = self.vars.get("trace_id") or self.metadata.get("trace_id")
        return trace_id if isinstance(trace_id, str) else None

    def template_vars(self) -> dict[str, Json]:
        """All variables available to a prompt template."""
        return {"input": self.input, "expected": self.expected, **self.own_vars()}

    def own_vars(self) -> dict[str, Json]:
        """Variables without promptfoo directives."""
        return {name: value for name, value in self.vars.items() if not name.startswith("__")}

    def is_for(self, model: str | None, prompt: str | None) -> bool:
        """Whether the case applies to a candidate with this model and prompt."""
        models, prompts = (cast("Sequence[str] | None", self.vars.get(name)) for name in ("__models", "__prompts"))
        return (models is None or model is None or model in models) and (
            prompts is None or prompt is None or prompt in prompts
        )


@dataclass(frozen=True, slots=True)
class Provider:
    """A provider entry of a promptfoo file."""

    id: str
    label: str | None = None
    settings: Mapping[str, Json] = field(default_factory=dict)
    prompts: tuple[str, ...] | None = None
    """Prompt templates for this provider. None: all templates of the file."""


@dataclass(frozen=True, slots=True)
class Dataset:
    """A list of cases. `version` changes if and only if the content, order or number of cases changes."""

    name: str
    cases: tuple[Case, ...]
    version: str
    prompts: tuple[str, ...] = ()
    """Prompt templates that came with the data (promptfoo)."""
    providers: tuple[Provider, ...] = ()
    """Providers that came with the data (promptfoo), used if no candidates are given."""
    repeat: int = 1
    """Number of repeats that came with the data, used if `epochs` is not given."""

    @classmethod
    def of(
        cls, cases: Sequence[Case], name: str, prompts: Sequence[str] = (), providers: Sequence[Provider] = (), repeat: int = 1
    ) -> Dataset:  # fmt: skip
        """Build a data set. Raises `DataError` if there are no cases, or duplicate ids."""
        if not cases:
            raise DataError(f"{name} contains no cases.", "Add at least one case.")
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
        """A case by position or id, or a slice as a data set. Raises `NotFoundError`, `UsageError`."""
        if isinstance(which, slice):
            cases = self.cases[which]
            version = digest([case.content_hash() for case in cases])[:12]
            return replace(self, cases=cases, version=version)
        if isinstance(which, str):
            found = next((case for case in self.cases if case.id == which), None)
            if found is None:
                near = did_you_mean(which, [case.id for case in self.cases])
                raise NotFoundError(
                    f"{self.name} has no case {which!r}.{near}", "List the ids with: [case.id for case in dataset]."
                )
            return found
        if isinstance(which, bool) or not isinstance(which, int):
            raise UsageError(
                f"{which!r} is not a valid index.", "Use a position from 0, an id, or a slice such as [:10]."
            )
        if not -len(self.cases) <= which < len(self.cases):
            raise NotFoundError(
                f"{self.name} has no case {which}: it has {len(self.cases)} cases, numbered from 0.",
                "Use a smaller position.",
            )
        return self.cases[which]

    def head(self, n: int) -> Dataset:
        return Dataset.of(self.cases[:n], self.name, self.prompts, self.providers, self.repeat)

    def df(self) -> pandas.DataFrame:
        """One row per case; variables are columns."""
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
    """SHA-256 of a JSON value in canonical form. Raises `DataError` if it is not valid JSON."""
    try:
        text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise DataError(
            f"A case contains a value that is not valid JSON: {error}.", "Use text, numbers, lists and objects."
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
                f"{name}: case {position} has the same id as an earlier case, {case.id!r}.",
                "Give each case a unique id.",
            )
        # The same question twice on purpose is two cases; the second gets a suffixed id.
        id = base if seen[base] == 1 else f"{base}-{seen[base]}"
        out.append(
            Case(
                id=id, input=case.input, messages=case.messages, expected=case.expected, vars=case.vars,
                assertions=case.assertions, metadata=case.metadata,
            )
        )  # fmt: skip
    return out


@overload
def plain(value: Mapping[str, object], where: str) -> dict[str, Json]: ...
@overload
def plain(value: object, where: str) -> Json: ...
def plain(value: object, where: str) -> Json:
    """Convert numpy scalars and arrays, dates and NaN from a DataFrame or a database to a JSON value."""
    if isinstance(value, str):
        return str.__str__(value)  # Without the class of numpy.str_, which shows in messages.
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        if math.isinf(value):
            raise DataError(f"{where} holds {value}, which is not a number in JSON.", "Use a number, or a text.")
        return None if math.isnan(value) else value
    if isinstance(value, Mapping):
        return {str(key): plain(inner, where) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner, where) for inner in value]
    if isinstance(value, set | frozenset):  # Sorted, because its order differs from process to process.
        return sorted((plain(inner, where) for inner in value), key=repr)
    if isinstance(value, datetime | date | time):
        return None if value != value else value.isoformat()  # NaT is not equal to itself
    if hasattr(value, "tolist"):
        listed: object = value.tolist()
        return plain(listed, where)
    if type(value).__name__ in ("NAType", "NaTType"):
        return None
    if type(value).__name__ in ("Decimal", "UUID"):
        return str(value)
    raise DataError(f"{where} holds {kind_of(value)}.", "Use text, numbers, lists and objects; or leave it out.")


def kind_of(value: object) -> str:
    return {
        "NoneType": "nothing",
        "list": "a list",
        "dict": "an object",
        "int": "a number",
        "float": "a number",
        "bytes": "binary data",
    }.get(type(value).__name__, f"a {type(value).__name__}")
