"""`lab.compare` of a served lab: the cases go there, the events and the grid come back."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from timestep_lab.evals.datasets.load import is_query, load_dataset
from timestep_lab.evals.datasets.promptfoo_assertions import read_model
from timestep_lab.evals.grid import Grid
from timestep_lab.evals.pipelines import is_pipeline
from timestep_lab.evals.plan import Options
from timestep_lab.evals.scorers.base import Scorer
from timestep_lab.evals.scorers.registry import to_spec
from timestep_lab.evals.stopping import what_it_takes
from timestep_lab.lab.remote.overrides import select
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
"""How often a stopped comparison is asked, each tenth of a second, whether it has stopped."""


class RemoteComparison:
    """As `evals.engine.Comparison`, but under way from the start: the served lab works, this side follows."""

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
        """Events as they happen, `comparison.ended` last. Leaving early stops the comparison; it can be resumed."""
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
        """Stop asking. Finished answers stay."""
        self._stopped.set()
        if self._waiting is not None:
            self._waiting.cancel()

    @property
    def forecast(self) -> str:
        """As `evals.engine.Comparison.forecast`."""
        chosen = Options.read(self.record.settings)
        if not chosen.stop:
            return ""
        return what_it_takes(self.record.n_cases, len(self.record.candidates), alpha=chosen.alpha, margin=chosen.margin)

    def grid(self) -> Grid:
        """What is finished so far."""
        seed = int(self.record.settings.get("seed", 0))
        return Grid(self.record, self._started.cases, list(self._cells.values()), seed=seed)

    async def _ended(self) -> ComparisonEnded:
        """How the served lab took leave of a comparison whose reader hung up."""
        for _ in range(ENDS_TRIES):
            grid = (await in_thread(self._comparisons.rows, self.record.id)).grid()
            if grid.status != "running":
                break
            await asyncio.sleep(0.1)
        self.record, self._cells = grid.record, {cell.key: cell for cell in grid.cells}
        return ComparisonEnded(comparison=self.record)


async def prepare(lab: RemoteLab, data: object, resume: str | None, options: dict[str, Any]) -> RemoteComparison:
    if resume is not None:
        return await RemoteComparison.begin(lab.comparisons, lab.comparisons.resume(resume, **options))
    body = await in_thread(body_of, lab.connection, data, options)
    return await RemoteComparison.begin(lab.comparisons, lab.comparisons.start(**body))


def body_of(connection: Connection, data: Any, options: Mapping[str, Any]) -> dict[str, Any]:
    """What `lab.comparisons.start` takes: data of this machine is read here, names are sent as they are. Raises `UsageError`, `DataError`."""
    rest = dict(options)
    if rest.pop("client", None) is not None:
        raise unsupported_remotely("A Dask cluster of yours", "Leave client away, or open the store itself.")
    columns, limit = rest.pop("columns", None) or {}, rest.pop("limit", None)
    rows = select(connection, data).dicts() if is_query(data) else data
    dataset: Dataset = load_dataset(rows, limit=limit, **columns)
    cases = [
        {
            name: getattr(case, name)
            for name in ("id", "input", "messages", "expected", "vars", "assertions", "metadata")
        }
        for case in dataset.cases
    ]
    body = {"cases": cases, "name": rest.pop("name", None) or dataset.name}
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


def _of_providers(dataset: Dataset) -> dict[str, Any]:
    """Those that a promptfoo file asks, as models and settings. Raises `UsageError` where these are no combinations of all with all."""
    settings = [dict(provider.settings) for provider in dataset.providers]
    if any(provider.prompts for provider in dataset.providers) or any(one != settings[0] for one in settings):
        raise UsageError(
            f"The providers of {dataset.name} differ in prompts or settings, which a served lab cannot be told.",
            "Name models, or compare with the store itself.",
        )
    models = [read_model(provider.id, dataset.name) for provider in dataset.providers]
    return {"models": models, **({"settings": settings[:1]} if settings[0] else {})}


def named_scorers(scorers: object) -> list[Any]:
    """Scorers as a served lab takes them. Raises `UsageError` for Python functions."""
    many = [scorers] if callable(scorers) or isinstance(scorers, Mapping | Scorer) else _many(scorers)
    return [_named(one, "scorers") for one in many]


def _many(value: Any) -> list[Any]:
    if value is None:
        return []
    many = isinstance(value, Sequence) and not isinstance(value, str)
    return list(value) if many else [value]


def _named(one: object, kind: str) -> Any:
    if kind == "agents" and (is_pipeline(one) or (isinstance(one, str) and one.startswith(("http://", "https://")))):
        raise unsupported_remotely(
            "A function or a service as a candidate", "Open the store itself, or name stored agents."
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
        raise unsupported_remotely("An Agents SDK agent", "Store it there with lab.agents.create(…), and name it.")
    if kind == "scorers":
        raise unsupported_remotely(
            "A scorer that is a Python function", "Name one of those that are built in, or open the store itself."
        )
    raise UsageError(f"{one!r} is none of the {kind}.", "Give names.")
