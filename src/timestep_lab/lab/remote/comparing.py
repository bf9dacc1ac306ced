"""`lab.compare` for a served lab: sends the cases, receives the events and the grid."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, cast

from timestep_lab.evals.compare import refuse_changes
from timestep_lab.evals.datasets.load import checked_columns, is_query, load_dataset
from timestep_lab.evals.datasets.promptfoo_assertions import read_model
from timestep_lab.evals.grid import Grid
from timestep_lab.evals.pipelines import is_pipeline
from timestep_lab.evals.plan import Options
from timestep_lab.evals.results import seed_of
from timestep_lab.evals.scorers.base import Scorer
from timestep_lab.evals.scorers.registry import make_scorer, to_spec
from timestep_lab.evals.stopping import what_it_takes
from timestep_lab.lab.remote.views import select
from timestep_lab.model.codec import Json
from timestep_lab.model.comparison import (
    CellDone,
    ComparisonEnded,
    ComparisonStarted,
)
from timestep_lab.model.errors import UsageError
from timestep_lab.model.events import Event
from timestep_lab.model.records import AgentRecord
from timestep_lab.service.client import Connection, unsupported_remotely
from timestep_lab.store.base import in_thread

if TYPE_CHECKING:
    from timestep_lab.evals.datasets.case import Dataset
    from timestep_lab.lab.remote.lab import RemoteLab
    from timestep_lab.service.comparisons import Comparisons

ENDS_TRIES = 50
"""How many times, at intervals of 0.1 s, to check whether a cancelled comparison has ended."""


class RemoteComparison:
    """The remote counterpart of `evals.engine.Comparison`. It is already running on the server when created."""

    def __init__(
        self, comparisons: Comparisons, started: ComparisonStarted, events: AsyncGenerator[Event, None]
    ) -> None:
        self.record = started.comparison
        self._comparisons, self._started, self._events = comparisons, started, events
        self._cells = {cell.key: cell for cell in started.cells}
        self._waiting: asyncio.Future[Event] | None = None
        self._stopped = asyncio.Event()

    @classmethod
    async def begin(cls, comparisons: Comparisons, events: AsyncGenerator[Event, None]) -> RemoteComparison:
        started = await anext(events)
        assert isinstance(started, ComparisonStarted)
        return cls(comparisons, started, events)

    async def run(self, on_event: Callable[[Event], None] | None = None) -> Grid:
        async with contextlib.aclosing(self.events()) as events:
            async for event in events:
                if on_event:
                    on_event(event)
        return self.grid()

    async def events(self, *, deltas: bool = True) -> AsyncGenerator[Event, None]:
        """Events as they happen, ending with `comparison.ended`. Leaving early stops the comparison; it can be resumed."""
        yield self._started
        try:
            while not self._stopped.is_set():
                self._waiting = asyncio.ensure_future(anext(self._events))
                try:
                    event = await self._waiting
                except StopAsyncIteration:
                    return
                except asyncio.CancelledError:
                    if not self._stopped.is_set():
                        raise
                    break
                if isinstance(event, CellDone):
                    self._cells[event.cell.key] = event.cell
                elif isinstance(event, ComparisonEnded):
                    self.record = event.comparison
                yield event
        finally:
            await self._events.aclose()
        yield await self._ended()

    def cancel(self) -> None:
        """Stop the comparison. Finished answers are kept."""
        self._stopped.set()
        if self._waiting is not None:
            self._waiting.cancel()

    @property
    def forecast(self) -> str:
        """See `evals.engine.Comparison.forecast`."""
        chosen = Options.read(self.record.settings)
        if not chosen.stop:
            return ""
        return what_it_takes(self.record.n_cases, len(self.record.candidates), alpha=chosen.alpha, margin=chosen.margin)

    def grid(self) -> Grid:
        """The results so far."""
        return Grid(self.record, self._started.cases, list(self._cells.values()), seed=seed_of(self.record))

    async def _ended(self) -> ComparisonEnded:
        """The final event of a comparison whose event stream was closed by this client."""
        for _ in range(ENDS_TRIES):
            grid = (await in_thread(self._comparisons.rows, self.record.id)).grid()
            if grid.status != "running":
                break
            await asyncio.sleep(0.1)
        self.record, self._cells = grid.record, {cell.key: cell for cell in grid.cells}
        return ComparisonEnded(comparison=self.record)


async def prepare(lab: RemoteLab, data: object, resume: str | None, options: dict[str, Any]) -> RemoteComparison:
    if resume is not None:
        refuse_changes(resume, data=data, **options)
        return await RemoteComparison.begin(lab.comparisons, lab.comparisons.resume(resume, **options))
    body = await in_thread(body_of, lab.connection, data, options)
    return await RemoteComparison.begin(lab.comparisons, lab.comparisons.start(**body))


def body_of(connection: Connection, data: object, options: Mapping[str, object]) -> dict[str, Any]:
    """The arguments of `lab.comparisons.start`: local data is read here, names are sent unchanged. Raises `UsageError`,
    `DataError`.
    """
    rest: dict[str, Any] = dict(options)
    if rest.pop("client", None) is not None:
        raise unsupported_remotely("A Dask client", "Omit client, or open the store directly.")
    columns, limit = checked_columns(rest.pop("columns", None)), rest.pop("limit", None)
    rows = select(connection, str(data)).dicts() if is_query(data) else data
    dataset: Dataset = load_dataset(rows, limit=limit, **columns)
    cases = [
        {
            name: getattr(case, name)
            for name in ("id", "input", "messages", "expected", "vars", "assertions", "metadata")
        }
        for case in dataset.cases
    ]
    body = {"cases": cases, "name": rest.pop("name", None) or dataset.name}
    if rest.get("scorers", ()) is None:
        make_scorer(None)  # Raises, as in a local lab.
    for name in ("models", "agents", "settings", "prompts", "scorers"):
        if many := _many(rest.pop(name, None)):
            body[name] = [_named(one, name) for one in many]
    if dataset.prompts and "prompts" not in body:
        body["prompts"] = list(dataset.prompts)
    if dataset.providers and not {"models", "agents", "settings"} & set(body):
        body |= _of_providers(dataset)
    if dataset.repeat > 1:
        rest.setdefault("epochs", dataset.repeat)
    Options.read(rest)
    return {**body, **{name: value for name, value in rest.items() if value is not None}}


def _of_providers(dataset: Dataset) -> dict[str, Json]:
    """The providers of a promptfoo file, as models and settings. Raises `UsageError` if they are not all combinations
    of some models and settings.
    """
    settings = [dict(provider.settings) for provider in dataset.providers]
    if any(provider.prompts for provider in dataset.providers) or any(one != settings[0] for one in settings):
        raise UsageError(
            f"The providers of {dataset.name} differ in prompts or settings, which a served lab does not support.",
            "Pass models=[…], or open the store directly.",
        )
    models = [read_model(provider.id, dataset.name) for provider in dataset.providers]
    return {"models": models, **({"settings": settings[:1]} if settings[0] else {})}


def named_scorers(scorers: object) -> list[dict[str, Json] | str]:
    """Scorers in the form that a served lab accepts. Raises `UsageError` for Python functions."""
    many = [scorers] if callable(scorers) or isinstance(scorers, Mapping | Scorer) else _many(scorers)
    return cast("list[dict[str, Json] | str]", [_named(one, "scorers") for one in many])


def _many(value: object) -> list[object]:
    if value is None:
        return []
    return [*value] if isinstance(value, Iterable) and not isinstance(value, str | Mapping | Scorer) else [value]


def _named(one: object, kind: str) -> Json:
    if kind == "agents" and (is_pipeline(one) or (isinstance(one, str) and one.startswith(("http://", "https://")))):
        raise unsupported_remotely(
            "A function or a service as a candidate", "Open the store directly, or name stored agents."
        )
    if isinstance(one, str | Mapping):
        return one
    if isinstance(one, AgentRecord):
        return one.ref
    if isinstance(one, Scorer):
        spec = to_spec(one)
        if spec["type"] != "function":
            return spec
    if kind == "agents":
        raise unsupported_remotely("An Agents SDK agent", "Store it with lab.agents.create(…) and pass its name.")
    if kind == "scorers":
        make_scorer(one)  # Raises for what is no scorer at all.
        raise unsupported_remotely(
            "A scorer that is a Python function", "Use a built-in scorer, or open the store directly."
        )
    raise UsageError(f"{one!r} is not valid in {kind}.", "Pass names.")
