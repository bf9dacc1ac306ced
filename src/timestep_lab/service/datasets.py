"""`lab.datasets`: named, versioned data sets, stored as rows."""

from __future__ import annotations

import builtins
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

from annotated_types import Interval, Len

from timestep_lab.model.arguments import did_you_mean
from timestep_lab.model.codec import Json, JsonObject
from timestep_lab.model.errors import ConflictError, NotFoundError, UsageError
from timestep_lab.model.ids import new_id
from timestep_lab.model.records import DatasetRecord
from timestep_lab.service import operation as op
from timestep_lab.service.operation import Scope

if TYPE_CHECKING:
    import pandas

    from timestep_lab.evals.datasets.case import Case, Dataset

Name = Annotated[str, Len(1, 200)]
DatasetId = Annotated[str, Len(1, 200)]
CORRECTION = "correction"
"""The name of the human annotation whose note is the correct answer of a trace."""
_CASE = ("id", "input", "messages", "expected", "vars", "assertions", "metadata")


@op.noun("datasets")
class Datasets:
    """A user's data sets. A version never changes; `name` is the newest version, `name@2` the second.

    Data can be anything that `lab.compare` accepts: lists, DataFrames, files, SQL over past traces, the cases of a grid
    (`grid.failures()`).
    """

    def __init__(self, scope: Scope) -> None:
        self._scope = scope

    # -- operations

    @op.get("/datasets")
    def rows(
        self, *, name: Name | None = None, limit: Annotated[int, Interval(ge=1, le=10_000)] = 1000
    ) -> builtins.list[DatasetRecord]:
        """All versions, or those of one data set, newest first."""
        wanted = {} if name is None else {"name": name}
        return self._scope.store.datasets.find(limit, newest_first=True, **wanted)

    @op.post("/datasets", status=201)
    def add_version(
        self, *, name: Name, cases: Annotated[Sequence[JsonObject], Len(1, 100_000)], prompts: Sequence[str] = (),
        tags: Sequence[str] = (), metadata: JsonObject | None = None, new: bool = False,
    ) -> DatasetRecord:  # fmt: skip
        """Add a version to a data set; with `new`, create the data set. Unchanged cases create no new version.

        Raises `ConflictError` if `new` and the name is taken, `DataError` for an invalid case.
        """
        from timestep_lab.evals.datasets import load_dataset
        from timestep_lab.evals.datasets.load import store_version

        _check_name(name)
        dataset = load_dataset(list(cases), name=name)
        newest = next(iter(self.rows(name=name, limit=1)), None)
        if new and newest is not None:
            raise ConflictError(f"A data set named {name!r} already exists.", "Use save to add a version.")
        if newest is not None and newest.hash == dataset.version and not (prompts or tags or metadata):
            return newest
        record = DatasetRecord(
            id=new_id("dataset"), user_id=self._scope.store.user_id, name=name, version=1 if newest is None else newest.version + 1,
            hash=dataset.version, n_cases=len(dataset), prompts=tuple(prompts), tags=tuple(tags), metadata=metadata or {},
        )  # fmt: skip
        return store_version(self._scope.store, record, dataset)

    @op.post("/datasets/traces", status=201)
    def add_traces(
        self, *, name: Name, trace_ids: Annotated[Sequence[str], Len(1, 1000)], expected: Literal["output"] | None = None,
    ) -> DatasetRecord:  # fmt: skip
        """Add the inputs of these traces to a data set as a new version; the data set is created if needed. Each case
        refers to its trace. The expected answer is the trace's `correction`, or else, with `expected="output"`, its
        output.

        Raises `NotFoundError` if a trace does not exist or has no input.
        """
        from timestep_lab.evals.datasets.load import cases_of_rows

        _check_name(name)
        traces = self._scope.store.traces
        cases = cases_of_rows([traces.get(id) for id in trace_ids], self._sql, expected=expected)
        if not cases:
            raise NotFoundError(
                "These traces have no input, so no cases can be made from them.", "Choose traces that have an input."
            )
        return self.save(name, cases) if self._try_record(name) is None else self.extend(name, cases)

    @op.get("/datasets/{dataset_id}/cases")
    def cases(self, dataset_id: DatasetId) -> builtins.list[JsonObject]:
        """The cases of one version, in order. Raises `NotFoundError`."""
        from timestep_lab.evals.datasets.load import stored_cases

        self._scope.store.datasets.get(dataset_id)
        return [{name: getattr(case, name) for name in _CASE} for case in stored_cases(self._scope.store, dataset_id)]

    @op.delete("/datasets/{dataset_id}")
    def remove(self, dataset_id: DatasetId) -> None:
        """Delete one version. Comparisons that used it keep their cases. Raises `NotFoundError`."""
        from timestep_lab.evals.datasets.load import forget

        self._scope.store.datasets.get(dataset_id)
        forget(self._scope.store, dataset_id)

    # -- by name

    def list(self) -> builtins.list[DatasetRecord]:
        """The newest version of each data set, newest first."""
        newest: dict[str, DatasetRecord] = {}
        for record in self.rows():
            newest.setdefault(record.name, record)
        return [*newest.values()]

    def versions(self, name: str) -> builtins.list[DatasetRecord]:
        """All versions of a data set, newest first. Raises `NotFoundError`."""
        records = self.rows(name=name)
        if not records:
            raise self._missing(name)
        return records

    def create(
        self, name: str, data: object, *, tags: Sequence[str] = (), metadata: Mapping[str, Json] | None = None,
        columns: Mapping[str, str] | None = None, limit: int | None = None,
    ) -> DatasetRecord:  # fmt: skip
        """Create a data set. Raises `ConflictError` if the name is taken, and `DataError`."""
        return self._add(name, self._loaded(data, columns, limit), tags, metadata, new=True)

    def save(
        self, name: str, data: object, *, tags: Sequence[str] = (), metadata: Mapping[str, Json] | None = None,
        columns: Mapping[str, str] | None = None, limit: int | None = None,
    ) -> DatasetRecord:  # fmt: skip
        """Save a new version of a data set, creating it if needed. Unchanged cases create no new version."""
        return self._add(name, self._loaded(data, columns, limit), tags, metadata, new=False)

    def extend(self, name: str, data: object, *, columns: Mapping[str, str] | None = None) -> DatasetRecord:
        """Save a new version with additional cases; cases that it already has are skipped. Raises `NotFoundError`."""
        from timestep_lab.evals.datasets.case import Dataset

        before = self[name]
        known = {case.content_hash() for case in before}
        fresh = [case for case in self._loaded(data, columns, None) if case.content_hash() not in known]
        record = self._record(name)
        return self._add(
            record.name, Dataset.of([*before, *fresh], record.name, record.prompts), record.tags, record.metadata, new=False
        )  # fmt: skip

    def from_traces(
        self, name: str, filter: str = "", *, expected: str | None = None, limit: int | None = None, tags: Sequence[str] = (),
    ) -> DatasetRecord:  # fmt: skip
        """Save the inputs of the traces that match a filter as a new version. The expected answer is the note of the
        newest annotation named `correction` on the trace, or else, with `expected="output"`, its output. Each case
        refers to its trace. Raises `NotFoundError` if no trace matches, and `FilterError`.
        """
        if expected not in (None, "output"):
            raise UsageError(f"expected={expected!r} is not a valid value.", 'Use "output", or omit it.')
        cases = self.cases_of_traces(filter, expected=expected, limit=limit)
        if not cases:
            raise NotFoundError("No trace matches.", "lab.traces shows all traces.")
        return self._add(name, self._loaded(cases, None, None), tags, {"filter": filter} if filter else None, new=False)

    def cases_of_traces(
        self, filter: str = "", *, expected: str | None = None, limit: int | None = None
    ) -> builtins.list[Case]:
        """The cases of `from_traces` without saving them; empty if no trace matches. Raises `FilterError`."""
        from timestep_lab.evals.datasets.load import cases_of_traces

        return cases_of_traces(self._sql, filter, self._filtered, expected=expected, limit=limit)

    def delete(self, name: str) -> None:
        """Delete a data set with all its versions, or with `name@2` only that version. Raises `NotFoundError`."""
        for record in [self._record(name)] if "@" in name else self.versions(name):
            self.remove(record.id)

    def __getitem__(self, name: str) -> Dataset:
        if not isinstance(name, str):
            raise UsageError(
                f"{name!r} is not the name of a data set.",
                "Select by name first, then the case: lab.datasets['capitals'][0].",
            )
        dataset = self.find(name)
        if dataset is None:
            raise self._missing(name)
        return dataset

    def find(self, name: str) -> Dataset | None:
        """The data set `name`, or its version `name@2`; None if it does not exist."""
        from timestep_lab.evals.datasets.case import Case, Dataset

        record = self._try_record(name)
        if record is None:
            return None

        def read(given: dict[str, Any]) -> Case:
            lists = {name: tuple(given[name] or ()) for name in ("messages", "assertions")}
            return Case(**{**given, **lists})

        cases = tuple(map(read, self.cases(record.id)))
        return Dataset(f"{record.name}@{record.version}", cases, record.hash, tuple(record.prompts))

    def __iter__(self) -> Iterator[DatasetRecord]:
        return iter(self.list())

    def __len__(self) -> int:
        return len(self.list())

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self._try_record(name) is not None

    def df(self) -> pandas.DataFrame:
        """One row per version."""
        import pandas

        columns = ["name", "version", "n_cases", "tags", "created_at", "id"]
        return pandas.DataFrame([{c: getattr(r, c) for c in columns} for r in self.rows()], columns=columns)

    def __repr__(self) -> str:
        listed = [f"  {r.name}@{r.version}  {r.n_cases:,} case{'' if r.n_cases == 1 else 's'}" for r in self.list()]
        return (
            "\n".join(["Data sets, newest first:", *listed])
            if listed
            else "No data sets. Save one: lab.datasets.save(name, data)"
        )

    # --

    def _try_record(self, name: str) -> DatasetRecord | None:
        base, at, version = name.rpartition("@")
        if at and version.isdigit():
            return next((r for r in self.rows(name=base) if r.version == int(version)), None)
        return next(iter(self.rows(name=name, limit=1)), None) if name and len(name) <= 200 else None

    def _record(self, name: str) -> DatasetRecord:
        record = self._try_record(name)
        if record is None:
            raise self._missing(name)
        return record

    def _missing(self, name: str) -> NotFoundError:
        known = [record.name for record in self.list()]
        return NotFoundError(
            f"There is no data set {name!r}.{did_you_mean(name, known)}",
            f"Existing data sets: {', '.join(known) or 'none'}.",
        )

    def _add(
        self, name: str, dataset: Dataset, tags: Sequence[str], metadata: Mapping[str, Json] | None, *, new: bool
    ) -> DatasetRecord:
        cases = [_plain(case) for case in dataset]
        return self.add_version(
            name=name, cases=cases, prompts=list(dataset.prompts), tags=list(tags), metadata=dict(metadata or {}), new=new
        )  # fmt: skip

    def _loaded(self, data: object, columns: Mapping[str, str] | None, limit: int | None) -> Dataset:
        from timestep_lab.evals.datasets import load_dataset
        from timestep_lab.evals.datasets.load import checked_columns, is_query

        given = self._sql(str(data)) if is_query(data) else data
        return load_dataset(given, limit=limit, **checked_columns(columns))

    @property
    def _sql(self) -> Callable[[str], builtins.list[dict[str, Any]]]:
        """A function that returns the rows of a query over the lab's views."""
        return lambda query: self._scope.store.typed_sql(query).dicts()

    @property
    def _filtered(self) -> Callable[[str], str]:
        """A function that translates a filter expression into SQL."""
        return lambda filter: self._scope.store.traces.sql(filter)


def _plain(case: Case) -> dict[str, Json]:
    return {
        name: list(value) if isinstance(value := getattr(case, name), tuple) else dict(value) if isinstance(value, Mapping) else value
        for name in _CASE
    }  # fmt: skip


def _check_name(name: str) -> None:
    from timestep_lab.evals.datasets.load import is_query

    if "@" in name or not name.strip() or name != name.strip() or is_query(name):
        raise UsageError(
            f"{name!r} is not a valid name for a data set.",
            "Use a name without @ and without leading or trailing spaces that is not an SQL query.",
            param="name",
        )
