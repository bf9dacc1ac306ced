"""The columns of a comparison: every model × agent × settings × prompt that was asked for, each with a fingerprint."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from typing import TYPE_CHECKING, Any, cast

import agents as sdk

from timestep_lab.evals.bench import Bench
from timestep_lab.evals.datasets.case import Dataset, digest
from timestep_lab.evals.datasets.promptfoo_assertions import read_model
from timestep_lab.evals.pipelines import Endpoint, Pipeline, check, is_pipeline, kind_of, name_of
from timestep_lab.model.comparison import CandidateRecord
from timestep_lab.model.errors import UsageError
from timestep_lab.model.ids import new_id
from timestep_lab.model.records import AgentRecord, Json
from timestep_lab.runtime.agent_graph import BuiltGraph, build, from_sdk, reachable
from timestep_lab.runtime.model_settings import validate_settings
from timestep_lab.runtime.provider import ModelRef
from timestep_lab.store.base import in_thread

if TYPE_CHECKING:
    from timestep_lab.runtime.tape import Tape

AnyAgent = AgentRecord | sdk.Agent[Any] | Pipeline
FindAgent = Callable[[str], AgentRecord]
BARE_AGENT = "Assistant"


@dataclass(frozen=True, slots=True)
class Candidate:
    """A candidate ready to run. `graph` is built once and shared by all its runs."""

    record: CandidateRecord
    agent: AnyAgent | None
    graph: BuiltGraph
    model: ModelRef
    has_tools: bool
    """Its answers depend on more than the model."""
    pipeline: Pipeline | None = None
    """What is called in place of agent and model."""
    offered: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    """On tape: each agent's tools as they are."""

    @property
    def name(self) -> str:
        return self.record.name


def name_of_agent(agent: AnyAgent) -> str:
    return agent.name if isinstance(agent, AgentRecord | sdk.Agent | Endpoint) else name_of(agent)


def expand(
    models: Sequence[str | None],
    agents: Sequence[AnyAgent | None],
    settings: Sequence[Mapping[str, Json]],
    prompts: Sequence[str | None],
) -> list[tuple[CandidateRecord, AnyAgent | None]]:
    """The cross product, each combination named by what tells it from the others. Raises `UsageError` for two alike."""
    found = []
    for agent, model, options, (number, prompt) in product(agents, models, settings, enumerate(prompts, 1)):
        parts = [
            name_of_agent(agent) if agent is not None and (len(agents) > 1 or model is None) else None,
            model
            if model is not None and (len(models) > 1 or len(agents) * len(settings) * len(prompts) == 1)
            else None,
            _settings_name(options) if len(settings) > 1 else None,
            f"prompt {number}" if len(prompts) > 1 else None,
        ]
        name = (
            " · ".join(part for part in parts if part)
            or model
            or (name_of_agent(agent) if agent is not None else "default model")
        )
        record = CandidateRecord(
            name=name, model=model, agent_id=agent.id if isinstance(agent, AgentRecord) else None,
            agent=None if agent is None else name_of_agent(agent), model_settings=validate_settings(dict(options)), prompt=prompt,
        )  # fmt: skip
        found.append((record, agent))
    return found


def of_pipelines(
    pipelines: Sequence[Pipeline], prompts: Sequence[str | None]
) -> list[tuple[CandidateRecord, AnyAgent | None]]:
    """Functions and services: these bring model and settings of their own, so only prompts multiply them."""
    return [
        (
            CandidateRecord(
                name=f"{name_of(one)} · prompt {number}" if len(prompts) > 1 else name_of(one), agent=name_of(one), prompt=prompt
            ),
            one,
        )
        for one in pipelines
        for number, prompt in enumerate(prompts, 1)
    ]  # fmt: skip


def of_providers(dataset: Dataset, prompts: Sequence[str]) -> list[tuple[CandidateRecord, AnyAgent | None]]:
    """Those that a promptfoo file asks: each provider with each of its prompts. Raises `DataError` for one that cannot be asked here."""
    found: list[tuple[CandidateRecord, AnyAgent | None]] = []
    for provider in dataset.providers:
        model = read_model(provider.id, dataset.name)
        templates: list[str | None] = [*(prompts or provider.prompts or dataset.prompts)]
        for number, prompt in enumerate(templates or [None], 1):
            place = dataset.prompts.index(prompt) + 1 if prompt in dataset.prompts else number
            name = f"{provider.label or model}{f' · prompt {place}' if len(templates) > 1 else ''}"
            record = CandidateRecord(name=name, model=model, model_settings=validate_settings(provider.settings), prompt=prompt)  # fmt: skip
            found.append((record, None))
    return found


def refuse_alike(names: Sequence[str]) -> None:
    """Raises `UsageError` for two candidates of one name."""
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise UsageError(f"Two candidates are the same: {twice}.", "Leave one of them away; for repeats use epochs=….")


async def prepare(
    record: CandidateRecord, agent: AnyAgent | None, bench: Bench, tape: Tape | None = None, on_miss: str = "fail"
) -> Candidate:
    """Resolve the model, build the agents, take the fingerprint.

    Raises `UnknownPrefixError`, `MissingKeyError`, `NotFoundError`, `SettingsError`: before anything is spent.
    """
    if is_pipeline(agent):
        pipeline = cast(Pipeline, agent)
        bare = sdk.Agent(name=name_of(pipeline))
        known = digest(["1", check(pipeline), record.prompt])
        return Candidate(
            replace(record, fingerprint=known), agent, BuiltGraph(root=bare, agents={bare.name: bare}),
            ModelRef(prefix=kind_of(pipeline), model=name_of(pipeline)), has_tools=True, pipeline=pipeline,
        )  # fmt: skip
    if agent is None:
        graph = BuiltGraph(root=(bare := sdk.Agent(name=BARE_AGENT)), agents={BARE_AGENT: bare})
        definition: Any = None
    elif isinstance(agent, sdk.Agent):
        graph = from_sdk(agent)
        definition = [_sdk_definition(a) for a in graph.agents.values()]
    else:
        assert isinstance(agent, AgentRecord)
        records = await in_thread(reachable, agent, bench.store.agents.try_get)
        graph = await build(
            records,
            agent.id,
            bench.toolbox,
            default_model=bench.settings.default_model,
            recorded=tape.definitions if tape else None,
        )
        servers = await in_thread(bench.store.mcp_servers.find)
        definition = [_definition(r) for r in records.values()] + [
            [s.id, s.name, list(s.command), s.url] for s in servers
        ]
    chosen = record.model or graph.root.model
    model = bench.router.resolve(
        chosen if isinstance(chosen, str) or chosen is None else bench.router.add_model(chosen)
    )
    if record.model is not None or isinstance(graph.root.model, str) or graph.root.model is None:
        bench.router.get_model(model.full)
    has_tools = any(a.tools or a.mcp_servers for a in graph.agents.values())
    # An object says something else in each process: its answers are nobody's to take from a cache.
    which = [new_id("case")] if bench.router.is_object(model.full) else []
    on = [] if tape is None else [[tape.version, on_miss]]
    fingerprint = digest(["1", definition, model.full, dict(record.model_settings), record.prompt, *which, *on])
    offered = {} if tape is None else await offered_on_tape(graph, tape, on_miss)
    if tape is not None and on_miss == "fail":
        has_tools = False  # They say the same each time.
    return Candidate(replace(record, fingerprint=fingerprint), agent, graph, model, has_tools, offered=offered)


async def offered_on_tape(graph: BuiltGraph, tape: Tape, on_miss: str) -> Mapping[str, Sequence[Any]]:
    """Each agent's tools. Raises `UsageError` for one that a tape cannot answer for."""
    from timestep_lab.runtime.recorded import Changes
    from timestep_lab.runtime.replay import offered_tools
    from timestep_lab.runtime.tape import Player, taped_tools

    offered = await offered_tools(graph, Changes(), tape.definitions)
    taped_tools(graph, offered, Player(tape, on_miss))
    return offered


def _definition(agent: AgentRecord) -> dict[str, Any]:
    return {
        "name": agent.name, "instructions": agent.instructions, "description": agent.description, "model": agent.model,
        "model_settings": dict(agent.model_settings), "tools": list(agent.tool_ids), "handoffs": list(agent.handoff_ids),
        "approvals": dict(agent.approvals), "id": agent.id,
    }  # fmt: skip


def _sdk_definition(agent: sdk.Agent[Any]) -> dict[str, Any]:
    """What can be known of an SDK agent: the text of it and the names of its tools; not the code behind them."""
    return {
        "name": agent.name, "instructions": agent.instructions if isinstance(agent.instructions, str) else repr(agent.instructions),
        "model": str(agent.model), "model_settings": agent.model_settings.to_json_dict(),
        "tools": [getattr(tool, "name", repr(tool)) for tool in agent.tools], "output_type": repr(agent.output_type),
    }  # fmt: skip


def _settings_name(settings: Mapping[str, Json]) -> str:
    return ", ".join(f"{name}={value}" for name, value in settings.items()) or "default settings"
