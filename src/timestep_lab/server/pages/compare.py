"""The Compare page; `/compare/<comparison id>` opens one, `/compare?duel=<model>&duel=<model>` starts a live duel."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, ClassVar, TypedDict, Unpack

from timestep_lab.evals.arena import ranking_of
from timestep_lab.evals.datasets.case import Dataset
from timestep_lab.evals.datasets.files import MAX_UPLOAD
from timestep_lab.evals.datasets.load import has_header, pasted, uploaded
from timestep_lab.evals.scorers.registry import known
from timestep_lab.model.codec import Json, object_of, objects_of
from timestep_lab.model.comparison import ComparisonRecord
from timestep_lab.model.errors import DataError, LabError, TooLargeError, UsageError
from timestep_lab.model.records import VoteOutcome, VoteRecord
from timestep_lab.server.pages.page_view import Heading, PageView, Shown, looked_up
from timestep_lab.server.panel import page_argument, page_arguments
from timestep_lab.store.base import Topic, in_thread
from timestep_lab.ui.duel import ArenaView
from timestep_lab.ui.view import LatestOnly, View, handles

if TYPE_CHECKING:
    from timestep_lab.server.labs import ComparisonOptions, UserLab

# --- A list of comparisons and a form for a new one. An open one is the live matrix of `ui/grid.py`


NEED_MORE = frozenset({"function", "judge", "pairwise"})
"""Scorers that need more than a word: a Python function, or a judge model."""
UNNAMED = "list"
"""Default name of a comparison of plain cases."""
FAILURES = '(status in ("failed", "interrupted") or n_errors > 0) and started_at > ago("7d")'
PREVIEWED = 5
MOST = 200
"""Maximum number of comparisons and duels in the list."""
CHOSEN_AT_FIRST = "Personal Assistant"
"""The default agent: a bare model has no tools, and most first questions need one."""


class Form(TypedDict):
    """The form of a new comparison, as the browser sends it."""

    data: dict[str, Json]
    models: list[str]
    agents: list[str]
    scorers: list[str]
    epochs: int
    approve: bool
    prompts: list[str]
    settings: list[dict[str, Json]]


class ComparePage(PageView):
    stem = "pages/compare"
    title = "Compare"
    topics: ClassVar[frozenset[Topic]] = frozenset({"comparisons", "agents"})

    def __init__(self, lab: UserLab) -> None:
        super().__init__(lab)
        self._sent = bytearray()
        self._file: Dataset | None = None
        self._files = LatestOnly()

    async def read(self) -> object:
        return await self.in_turn(self._read)

    def _read(self) -> object:
        records: list[ComparisonRecord] = self.lab.comparisons(MOST)
        rows = [
            {
                "id": r.id, "name": name_of(r), "status": r.status, "conclusion": r.conclusion, "created_at": r.created_at, "n_cases": r.n_cases,
                "candidates": _candidates(r), "epochs": r.epochs,
            }
            for r in records if not _is_duel(r)
        ]  # fmt: skip
        votes = self.lab.comparisons.all_votes()
        ratings = ranking_of(votes)
        return {
            "comparisons": rows,
            "duels": _duels([r for r in records if _is_duel(r)], votes),
            "arena": {"votes": ratings.votes, "ranking": [asdict(rating) for rating in ratings.ratings]},
            "agents": [record.name for record in self.lab.agents.list()],
            "chosen_agents": [CHOSEN_AT_FIRST],
            "datasets": [{"name": record.name, "n_cases": record.n_cases} for record in self.lab.datasets.list()],
            "scorers": [name for name in known() if name not in NEED_MORE],
            "default_model": self.lab.settings.default_model,
        }

    @handles("models")
    async def _models(self) -> list[str]:
        """The models of all providers that respond. Requested separately, because a provider may be slow."""
        models: list[str] = await self.lab.models.list_models()
        return models

    # -- data: typed, a file, a stored data set, or recent failures

    @handles("file_part")
    def _file_part(self, at: int, size: int, buffers: list[bytes]) -> None:
        """Receive the next part of a file; the first part starts a new one. Raises `TooLargeError` before the second is
        sent.
        """
        if size > MAX_UPLOAD:
            raise TooLargeError(f"The file is larger than {MAX_UPLOAD >> 20} MB.", "Split the file.")
        if at == 0:
            self._sent = bytearray()
        if at != len(self._sent) or at + len(buffers[0]) > size:
            raise UsageError("A part of the file is missing.", "Choose it again.", param="file")
        self._sent += buffers[0]

    @handles("read_file")
    async def _read_file(self, name: str) -> Json:
        """The cases of the uploaded file."""
        content, self._sent = bytes(self._sent), bytearray()
        self._file = None
        is_latest = self._files.ask()
        with _about("file"):
            file = await in_thread(uploaded, content, name)
        if is_latest():
            self._file = file
        return _preview(file, "")

    @handles("preview")
    async def _preview(self, data: dict[str, Json]) -> Json:
        """The first cases, and their total number. Nothing is run or stored."""
        is_table = data.get("kind") == "text" and has_header(str(data.get("text", "")))
        return _preview(await self._data(data), "the first line names the columns" if is_table else "")

    async def _data(self, data: dict[str, Json]) -> Dataset:
        """The data of the form. Raises `UsageError` that names the line and the field."""
        match data:
            case {"kind": "text", "text": str(text)}:
                if not text.strip():
                    raise UsageError(
                        "There are no cases.", "Enter at least one, each on a separate line.", param="cases"
                    )
                with _about("cases"):
                    return await in_thread(pasted, text)
            case {"kind": "file"}:
                if self._file is None:
                    raise UsageError("No file has been uploaded yet.", "Choose a file.", param="file")
                return self._file
            case {"kind": "stored", "name": str(name)}:
                dataset = await in_thread(self.lab.datasets.find, name)
                if dataset is None:
                    raise UsageError(
                        f"There is no data set {name!r}.", "Create one with: lab.datasets.save(…).", param="stored"
                    )
                return dataset
            case {"kind": "failures"}:
                cases = await in_thread(self.lab.datasets.cases_of_traces, FAILURES)
                if not cases:
                    raise UsageError("No trace of the last seven days failed.", "Choose other data.", param="data")
                return Dataset.of(cases, "failures of the last week")
        raise UsageError("Unknown kind of data.", "Reload the page.", param="data")

    @handles("plan")
    async def _plan(self, **form: Unpack[Form]) -> str:
        """The estimated cost, in words. Nothing is run or stored."""
        cases, options = await self._understood(**form)
        return str(await self.lab.plan(cases, **options))

    @handles("start")
    async def _start(self, **form: Unpack[Form]) -> str:
        """Start a comparison and return its id; it continues when the page is left."""
        cases, options = await self._understood(**form)
        view = await self.lab.start_comparison(cases, **options)
        return view.id_of_comparison

    async def _understood(
        self, *, data: dict[str, Json], models: list[str], agents: list[str], scorers: list[str], epochs: int, approve: bool,
        prompts: list[str], settings: list[dict[str, Json]],
    ) -> tuple[Dataset, ComparisonOptions]:  # fmt: skip
        """The form as arguments of `lab.compare`. Raises `UsageError` that names the line or field."""
        cases = await self._data(data)
        options: ComparisonOptions = {"scorers": scorers, "epochs": epochs, "approve": "all" if approve else "none"}
        if models:
            options["models"] = models
        if agents:
            options["agents"] = agents
        if prompts:
            options["prompts"] = prompts
        if settings:
            options["settings"] = settings
        return cases, options


class ArenaPage(View):
    """The arena for one comparison, which is read when a browser shows it."""

    stem = "arena"

    def __init__(self, lab: UserLab, comparison_id: str) -> None:
        super().__init__()
        self._read = lambda: lab.arena(comparison_id)
        self._arena: ArenaView | None = None
        self._problem: LabError | None = None

    async def prepare(self) -> None:
        if self._arena is None:
            try:
                self._arena = await self.in_turn(self._read)
            except UsageError as error:
                self._problem = error

    def snapshot(self) -> Json:
        if self._arena is not None:
            return self._arena.snapshot()
        problem = self._problem
        assert problem is not None
        return {"duel": None, "problem": {"message": problem.message, "next_step": problem.next_step}}

    def static_html(self) -> str:
        return "" if self._arena is None else self._arena.static_html()

    @handles("vote")
    async def _vote(self, duel_id: str, outcome: VoteOutcome) -> None:
        assert self._arena is not None
        await in_thread(self._arena.vote, outcome, duel_id)
        self.emit({"kind": "arena", **object_of(self._arena.snapshot())})

    @handles("next")
    async def _next(self) -> None:
        assert self._arena is not None
        await in_thread(self._arena.next)
        self.emit({"kind": "arena", **object_of(self._arena.snapshot())})


def _candidates(record: ComparisonRecord) -> list[str]:
    return [str(candidate["name"]) for candidate in objects_of(record.candidates)]


def _is_duel(record: ComparisonRecord) -> bool:
    return bool(record.settings.get("live_duel"))


def _duels(records: Sequence[ComparisonRecord], votes: Sequence[VoteRecord]) -> list[dict[str, object]]:
    """Live duels by pair of models, newest first."""
    wins: Counter[tuple[str, str]] = Counter()
    voted = Counter(vote.comparison_id for vote in votes)
    for vote in votes:
        if vote.outcome in ("left", "right"):
            wins[vote.comparison_id, vote.left_candidate if vote.outcome == "left" else vote.right_candidate] += 1
    met: dict[tuple[str, ...], list[ComparisonRecord]] = {}
    for record in records:
        met.setdefault(tuple(sorted(_candidates(record))), []).append(record)
    return [
        {
            "names": [*names], "n_cases": sum(one.n_cases for one in ones), "votes": sum(voted[one.id] for one in ones),
            "wins": [sum(wins[one.id, name] for one in ones) for name in names],
            "duels": [{"id": one.id, "created_at": one.created_at, "n_cases": one.n_cases, "votes": voted[one.id]} for one in ones],
        }
        for names, ones in met.items()
    ]  # fmt: skip


def _preview(dataset: Dataset, note: str) -> Json:
    names = list(dict.fromkeys(name for case in dataset.cases[:PREVIEWED] for name in case.own_vars()))
    shown = [
        name for name in names if not all(case.own_vars().get(name) == case.input for case in dataset.cases[:PREVIEWED])
    ]
    has_expected = any(case.expected is not None for case in dataset)
    rows = [
        [
            _short(case.input),
            *([_short(case.expected)] if has_expected else []),
            *(_short(case.own_vars().get(name)) for name in shown),
        ]
        for case in dataset.cases[:PREVIEWED]
    ]
    columns = ["asked", *(["expected"] if has_expected else []), *shown]
    return {"n": len(dataset), "columns": columns, "rows": rows, "note": note}


def _short(value: object) -> str | None:
    if value is None or value == "":
        return None
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 200 else f"{text[:199]}…"


@contextmanager
def _about(param: str) -> Iterator[None]:
    """Attach the form field to an error."""
    try:
        yield
    except DataError as error:
        raise UsageError(error.message, error.next_step, param=param) from error


def name_of(record: ComparisonRecord) -> str:
    """The name of a comparison; empty if it was not named."""
    return "" if record.name == UNNAMED else record.name


def page(lab: UserLab, *, is_owner: bool) -> ComparePage | Shown:
    if models := page_arguments("duel"):
        named, data = page_argument("named") is not None, page_argument("data")
        questions = None if data is None else partial(_questions, lab, data)
        agent = page_argument("agent")
        with looked_up():
            duel = lab.chat(agent, models=models, blind=not named, trace_base="/traces/", questions=questions)
        return Shown(duel, name="Live duel", spoken="Live duel")
    if (voted_on := page_argument("arena")) is not None:
        with looked_up():
            record = lab.grid_view(voted_on).record
        title = name_of(record) or _against(record)
        return Shown(ArenaPage(lab, voted_on), name=title, heading=_heading(record, f"Arena: {title}", files=False))
    opened = page_argument("id")
    if opened is None:
        return ComparePage(lab)
    with looked_up():
        grid = lab.grid_view(opened)
    title = name_of(grid.record) or _against(grid.record)
    return Shown(grid, name=title, heading=_heading(grid.record, title))


def _questions(lab: UserLab, name: str) -> list[str]:
    """The inputs of a stored data set; empty if it was deleted. Blocks."""
    dataset: Dataset | None = lab.datasets.find(name)
    return [] if dataset is None else [case.input for case in dataset if case.input.strip()]


def _heading(record: ComparisonRecord, title: str, *, files: bool = True) -> Heading:
    cases = f"{record.n_cases:,} {'case' if record.n_cases == 1 else 'cases'}"
    facts = [] if title == _against(record) else [_against(record)]
    facts.append(cases if record.epochs == 1 else f"{cases}, {record.epochs} times each")
    export = f"/api/v1/compare/{record.id}/export?format="
    written = [(f"{export}csv", "CSV"), (f"{export}jsonl", "JSONL"), (f"{export}html", "HTML")]
    return Heading(
        title, " · ".join(facts), record.created_at, ("/compare", "All comparisons"), written if files else ()
    )


def _against(record: ComparisonRecord) -> str:
    return " against ".join(_candidates(record))
