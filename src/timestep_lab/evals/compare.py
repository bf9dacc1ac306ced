"""Creates comparisons: from user input to a comparison that is ready to run. Everything is validated before anything is
spent or written.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import agents as sdk

from timestep_lab.evals.datasets.case import Dataset, from_record
from timestep_lab.evals.datasets.load import checked_columns, load_dataset
from timestep_lab.evals.engine import Comparison, Executor
from timestep_lab.evals.grid import DF_COLUMNS, Grid
from timestep_lab.evals.judging import asked_of
from timestep_lab.evals.pipelines import is_pipeline
from timestep_lab.evals.plan import (
    BARE_AGENT,
    AnyAgent,
    Candidate,
    Options,
    check_prices,
    expand,
    name_of_agent,
    of_pipelines,
    of_providers,
    prepare,
    refuse_alike,
)
from timestep_lab.evals.results import ComparisonRows, EvalContext, deciding_scorer, seed_of
from timestep_lab.evals.scorers.base import Scorer, Scorers
from timestep_lab.evals.scorers.registry import (
    ASSERTIONS,
    OVERALL,
    PASSED,
    assertion_names,
    assertion_problems,
    make_scorer,
    make_scorers,
    to_spec,
)
from timestep_lab.model.arguments import did_you_mean
from timestep_lab.model.codec import Json, objects_of
from timestep_lab.model.comparison import CandidateRecord, CandidateRow, ComparisonRecord
from timestep_lab.model.errors import ConflictError, DataError, UsageError
from timestep_lab.model.ids import new_id
from timestep_lab.model.records import AgentRecord
from timestep_lab.runtime.agent_graph import BuiltGraph
from timestep_lab.runtime.router import ModelRef
from timestep_lab.store.base import in_thread

if TYPE_CHECKING:
    from timestep_lab.runtime.tape import Tape

FindAgent = Callable[[str], AgentRecord]


async def new_comparison(
    context: EvalContext,
    data: object,
    *,
    models: Sequence[str] | str | None = None,
    agents: Sequence[AnyAgent] | AnyAgent | None = None,
    settings: Sequence[Mapping[str, Json]] | Mapping[str, Json] | None = None,
    prompts: Sequence[str] | str | None = None,
    scorers: Scorers = (),
    name: str | None = None,
    names: Sequence[str] | None = None,
    columns: Mapping[str, str] | None = None,
    limit: int | None = None,
    client: object = None,
    **options: object,
) -> Comparison:
    """Candidates are all combinations of models, agents, settings and prompts; `scorers` as accepted by `make_scorers`;
    `columns` names the data's `input`, `expected` and `id` columns; `names` overrides the candidates' names; `client`
    is a Dask client; the rest are `Options`.

    Raises `DataError`, `UsageError`, `UnknownPrefixError`, `MissingKeyError`, `SettingsError`, `NotFoundError`.
    """
    dataset = await in_thread(load_dataset, data, store=context.store, limit=limit, **checked_columns(columns))
    chosen = Options.read({"epochs": dataset.repeat, **options})
    given, asked = _many(agents), _many(prompts) or list(dataset.prompts) or [None]
    pipelines = [one for one in given if is_pipeline(one)]
    rest = [one for one in given if not is_pipeline(one)]
    if dataset.providers and not (_many(models) or given or _many(settings)):
        pairs = of_providers(dataset, _many(prompts))
    else:
        others = _many(models) or rest or _many(settings) or not pipelines
        pairs = expand(_many(models) or [None], rest or [None], _many(settings) or [{}], asked) if others else []
        pairs += of_pipelines(pipelines, asked)
    if names is not None:
        pairs = [(replace(record, name=called), one) for called, (record, one) in zip(names, pairs, strict=True)]
    refuse_alike([record.name for record, _ in pairs])
    if pipelines and client is not None:
        raise UsageError("Functions and services cannot be run on a Dask cluster.", "Omit client.")
    if pipelines and chosen.tools is not None:
        raise UsageError(
            "Functions and services have no tools that a tape could replace.", "Omit tools.", param="tools"
        )
    tape = await in_thread(tape_of, context, dataset, chosen)
    candidates = [await prepare(record, agent, context, tape, chosen.on_miss) for record, agent in pairs]
    made = make_scorers(scorers)
    judges = _check(dataset, candidates, made, chosen, context)
    record = ComparisonRecord(
        id=new_id("comparison"), user_id=context.user_id, name=name or dataset.name, dataset=dataset.name,
        dataset_version=dataset.version, candidates=tuple(_plain(c.record) for c in candidates),
        scorers=tuple(to_spec(scorer) for scorer in made), epochs=chosen.epochs, n_cases=len(dataset), settings=chosen.to_json(),
        process_id=context.store.db.process_id,
    )  # fmt: skip
    _check_stop(record, dataset, made, chosen)
    return Comparison(
        context,
        record,
        dataset,
        candidates,
        made,
        chosen,
        executor=_executor(context, chosen, client, tape),
        judges=judges,
    )


def refuse_changes(resume: str, **given: object) -> None:
    """Raises `UsageError` for what a resumed comparison takes from its record."""
    for name in ("data", "models", "settings", "prompts", "name", "columns", "limit"):
        if given.get(name) is not None:
            raise UsageError(
                f"Comparison {resume} keeps the {name} that it was started with.",
                f'Omit {name}: await lab.compare(resume="{resume}")',
                param=name,
                command=f"timestep-lab compare --resume {resume}",
            )


async def resume_comparison(
    context: EvalContext, id: str, *, agents: Sequence[AnyAgent] | AnyAgent | None = None, scorers: Scorers = (), client: object = None,
    **options: object,
) -> Comparison:  # fmt: skip
    """Resume a comparison that was interrupted, cancelled or ran out of budget; its failed cells are tried again.

    SDK agents and Python functions must be passed again. `options` replace the original ones (such as a larger budget).
    Raises `NotFoundError`, `UsageError` if a candidate has changed, `ConflictError` if it is running elsewhere.
    """
    rows = ComparisonRows(context.store.db, context.user_id)
    record = await in_thread(rows.comparisons.get, id)
    stored = await in_thread(rows.cases, id)
    chosen = Options.read({**record.settings, **options})
    if chosen.epochs < record.epochs:
        raise UsageError(
            f"Comparison {id} was started with {record.epochs} epochs.", "Omit epochs, or use a larger number."
        )
    cases = [from_record(case) for case in stored]
    dataset = Dataset(record.dataset, tuple(cases), record.dataset_version)
    given = {name_of_agent(agent): agent for agent in _many(agents)}
    tape = await in_thread(tape_of, context, dataset, chosen)
    candidates = []
    for was in _recorded(record):
        candidate = await prepare(was, await _agent_again(was, given, context), context, tape, chosen.on_miss)
        if candidate.record.fingerprint != was.fingerprint:
            raise UsageError(
                f"The candidate {was.name!r} has changed since comparison {id} was started.",
                "Start a new comparison, or revert the change.",
            )
        candidates.append(candidate)
    made, again = _scorers_again(record, scorers)
    record = replace(record, scorers=tuple(to_spec(scorer) for scorer in made))
    judges = _check(dataset, candidates, made, chosen, context)
    _check_stop(record, dataset, made, chosen)
    cells = await in_thread(rows.cells, id)
    return Comparison(
        context,
        record,
        dataset,
        candidates,
        made,
        chosen,
        cells,
        executor=_executor(context, chosen, client, tape),
        resumed=True,
        again=again,
        judges=judges,
    )


async def rescored_comparison(
    context: EvalContext, id: str, scorers: Scorers, **options: object
) -> Comparison:  # fmt: skip
    """A comparison over stored answers, with additional or changed scorers. Running it runs no candidate.

    Raises `NotFoundError`, `UsageError`, `ConflictError` if it is running elsewhere.
    """
    rows = ComparisonRows(context.store.db, context.user_id)
    record = await in_thread(rows.get, id)
    if record.status == "running":
        raise ConflictError(f"Comparison {id} is running.", "Wait until it ends.")
    again = make_scorers(scorers)
    if not again:
        raise UsageError("No scorer was given.", "Pass scorers=[…].", param="scorers")
    chosen = Options.read({**record.settings, "budget_usd": None, "budget_tokens": None, **options})
    dataset = Dataset(
        record.dataset, tuple(from_record(case) for case in await in_thread(rows.cases, id)), record.dataset_version
    )
    # Function scorers from before are not stored; their scores are kept.
    stored = {str(s["name"]): make_scorer(s) for s in objects_of(record.scorers) if s["type"] != "function"}
    made = list({**stored, **{scorer.name: scorer for scorer in again}}.values())
    candidates = [await _as_asked(one, context) for one in _recorded(record)]
    judges = _check(dataset, candidates, made, replace(chosen, budget_usd=None), context)
    check_prices([], judges, chosen.budget_usd)
    specs = {str(s["name"]): s for s in [*objects_of(record.scorers), *(to_spec(scorer) for scorer in made)]}
    return Comparison(
        context, replace(record, scorers=tuple(specs.values())), dataset, candidates, made, chosen, await in_thread(rows.cells, id),
        resumed=True, again=[scorer.name for scorer in again], judges=judges, only_score=True,
    )  # fmt: skip


async def _as_asked(record: CandidateRecord, context: EvalContext) -> Candidate:
    """What scorers need to know of a candidate that is not run again: its prompt, and its instructions if they are
    stored.
    """
    stored = (
        None if record.agent_id is None else await in_thread(context.store.agent, record.agent_id, record.agent_version)
    )
    root = sdk.Agent(name=record.agent or BARE_AGENT, instructions=None if stored is None else stored.instructions)
    graph = BuiltGraph(root=root, agents={root.name: root})
    return Candidate(record, None, graph, context.router.resolve(record.model), has_tools=False)


def load_grid(context: EvalContext, id: str) -> Grid:
    """A stored comparison. Blocks. Raises `NotFoundError`."""
    rows = ComparisonRows(context.store.db, context.user_id)
    record = rows.get(id)
    return Grid(record, rows.cases(id), rows.cells(id), seed=seed_of(record))


def _check(
    dataset: Dataset, candidates: Sequence[Candidate], scorers: Sequence[Scorer], options: Options, context: EvalContext
) -> list[ModelRef]:
    """Check all prompts, assertions and judges before anything is spent. Returns the judges."""
    for case in dataset:
        asked = [c for c in candidates if case.is_for(c.record.model, c.record.prompt)]
        if not asked:
            raise UsageError(
                f"Case {case.id} is for {', '.join(map(str, cast('Sequence[str]', case.vars.get('__models') or ())))}: none of the candidates use these models.",
                "Compare these models, or remove `providers` and `prompts` from its test.",
            )
        for candidate in asked:
            asked_of(candidate.record, case)
        for problem in assertion_problems(case).values():
            raise DataError(f"Case {case.id}: {problem}")
    lacking = next((case for case in dataset if options.group not in {**case.vars, **case.metadata}), None)
    if options.group is not None and lacking is not None:
        known = sorted({*dataset.cases[0].own_vars(), *dataset.cases[0].metadata})
        raise DataError(
            f"Case {lacking.id} has no {options.group!r}, which is the column to group cases by.{did_you_mean(options.group, known)}",
            f"Columns of the first case: {', '.join(known) or 'none'}.",
        )
    if any(scorer.pairwise for scorer in scorers) and len(candidates) < 2:
        raise UsageError(
            "A pairwise judge needs at least two candidates.", "Add a model, an agent, settings or a prompt."
        )
    taken = {*DF_COLUMNS, *CandidateRow.__dataclass_fields__, ASSERTIONS, OVERALL, PASSED}
    for name in [*(scorer.name for scorer in scorers), *assertion_names(dataset)]:
        if name in taken:
            raise UsageError(
                f"A scorer cannot be named {name!r}: the results have a column of that name.",
                'Use another name: {"type": …, "name": …}, or rename the function.',
            )
        taken.add(name)
    judges = judges_of(scorers, dataset, context)
    check_prices(candidates, judges, options.budget_usd)
    check_prices(candidates, [], options.budget_usd_per_answer)
    return judges


def _check_stop(record: ComparisonRecord, dataset: Dataset, scorers: Sequence[Scorer], options: Options) -> None:
    """Early stopping needs two candidates, and scores that are available with the answers. Raises `UsageError`."""
    if options.stop is None:
        return
    if len(record.candidates) < 2:
        raise UsageError(
            "Early stopping needs at least two candidates.",
            "Add a model, an agent, settings or a prompt.",
            param="stop",
        )
    decides = deciding_scorer(record, dataset.records(record.id))
    late = [scorer.name for scorer in scorers if scorer.pairwise and decides in (scorer.name, OVERALL)]
    if late:
        raise UsageError(
            f"The scorer {late[0]!r} compares all answers at the end, so it cannot be used for early stopping.",
            "Put a scorer that scores each answer separately first, or omit stop.",
            param="stop",
        )  # fmt: skip


def judges_of(scorers: Sequence[Scorer], dataset: Dataset, context: EvalContext) -> list[ModelRef]:
    """The judge models of the scorers and of the cases' own assertions, without duplicates. Raises if one is not
    available.
    """
    everyone = [*scorers, *(make_scorer(spec) for case in dataset for spec in case.assertions)]
    judges = [judge for scorer in everyone for judge in scorer.judges]
    names = {context.router.resolve(getattr(judge, "model", None)).full for judge in judges}
    return [context.router.resolve(context.router.get_model(name).full) for name in sorted(names)]


async def _agent_again(record: CandidateRecord, given: Mapping[str, AnyAgent], context: EvalContext) -> AnyAgent | None:
    if record.agent is None:
        return None
    if record.agent_id is not None:
        stored = await in_thread(context.store.agent, record.agent_id, record.agent_version)
        return stored or await in_thread(context.store.agents.get, record.agent_id)
    if record.agent not in given:
        raise UsageError(
            f"The candidate {record.name!r} is an SDK agent, a function or a service.",
            f"Pass it again: agents=[{record.agent}]",
        )
    return given[record.agent]


def _scorers_again(record: ComparisonRecord, given: Scorers) -> tuple[list[Scorer], list[str]]:
    """All scorers, and the names of those that were passed now."""
    again = {scorer.name: scorer for scorer in make_scorers(given)}
    stored = list(objects_of(record.scorers))
    missing = [name for s in stored if s["type"] == "function" and (name := str(s["name"])) not in again]
    if missing:
        raise UsageError(f"The scorer {missing[0]!r} is a Python function.", f"Pass it again: scorers=[{missing[0]}]")
    recorded = {(name := str(s["name"])): again.get(name) or make_scorer(s) for s in stored}
    return list({**recorded, **again}.values()), list(again)


def _many(value: Any) -> list[Any]:
    if value is None:
        return []
    one = isinstance(value, str | Mapping | AgentRecord | sdk.Agent) or is_pipeline(value)
    return [value] if one else list(value)


def _recorded(record: ComparisonRecord) -> list[CandidateRecord]:
    """The candidates as they were when the comparison was started."""
    stored: list[dict[str, Any]] = [dict(candidate) for candidate in objects_of(record.candidates)]
    return [CandidateRecord(**fields) for fields in stored]


def _plain(record: CandidateRecord) -> dict[str, Json]:
    return {name: getattr(record, name) for name in record.__dataclass_fields__} | {
        "model_settings": dict(record.model_settings)
    }


def tape_of(context: EvalContext, dataset: Dataset, options: Options) -> Tape | None:
    """The tape that the tools of a comparison answer from; None to call the tools. Blocks. Raises `UsageError`,
    `FilterError`, `NotFoundError`.
    """
    if options.tools is None:
        return None
    from timestep_lab.runtime.tape import matching, read_ids, record

    own = [case.trace_id for case in dataset if case.trace_id]
    if isinstance(options.tools, str):
        word, colon, expression = options.tools.partition(":")
        if word != "tape" or (colon and not expression.strip()):
            raise UsageError(
                f"tools={options.tools!r} is not a valid value.",
                "Use 'tape', 'tape:<trace filter>', or lab.tape(…).",
                param="tools",
            )
        if not colon and not own:
            raise UsageError(
                "tools='tape' uses the traces named in the column trace_id of the cases, but these cases have none.",
                "Compare traces, or give a filter: tools='tape:agent == \"Front desk\"'.",
                param="tools",
            )
        pool = matching(context.store, expression) if expression else []
    else:
        pool = read_ids(options.tools)
    return record(context.store, [*own, *pool], ignore=options.ignore, near=options.near)


def _executor(context: EvalContext, options: Options, client: object, tape: Tape | None) -> Executor:
    if client is None:
        from timestep_lab.evals.engine import LocalExecutor

        return LocalExecutor(context, options, tape)
    from timestep_lab.evals.cluster import DaskExecutor

    return DaskExecutor(context, options, client, tape)
