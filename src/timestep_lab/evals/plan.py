"""Options, candidates, cost estimates (from earlier calls of the same models) and budgets of a comparison."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from html import escape
from itertools import product
from typing import TYPE_CHECKING, Any, Literal, cast

import agents as sdk
import numpy as np

from timestep_lab.evals.datasets.case import Case, Dataset, digest
from timestep_lab.evals.datasets.promptfoo_assertions import read_model
from timestep_lab.evals.pipelines import Endpoint, Pipeline, as_record, check, is_pipeline, kind_of, name_of
from timestep_lab.evals.results import ComparisonRows, EvalContext
from timestep_lab.model.arguments import did_you_mean
from timestep_lab.model.codec import Json
from timestep_lab.model.comparison import CandidateRecord, PlanRow
from timestep_lab.model.display import cost_text, duration_text
from timestep_lab.model.errors import LabError, UsageError
from timestep_lab.model.ids import new_id
from timestep_lab.model.records import AgentRecord
from timestep_lab.runtime.agent_graph import BuiltGraph, build, definition_of, from_sdk, reachable
from timestep_lab.runtime.model_settings import validate_settings
from timestep_lab.runtime.pricing import has_price, is_free
from timestep_lab.runtime.router import ModelRef, Router
from timestep_lab.runtime.run import RunLimits
from timestep_lab.store.base import in_thread

if TYPE_CHECKING:
    import pandas

    from timestep_lab.evals.engine import Comparison
    from timestep_lab.runtime.replay import Offered
    from timestep_lab.runtime.tape import Tape


# --- Options: how a comparison is carried out


Cache = Literal["models", "all", "off"]
DEFAULT_CONCURRENCY = 10
MOST_CONCURRENCY = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    epochs: int = 1
    """Number of repeats of every case. Repeats do not share cached answers."""
    group: str | None = None
    """Column that groups related cases (such as `document`); intervals, tests and early stopping then count groups."""
    concurrency: int | None = None
    """Maximum concurrent calls per provider. None: starts at 10 and grows to 64 while the provider accepts it."""
    timeout_s: float = 120.0
    """Timeout in seconds of one attempt, excluding waits for a slot or a rate limit."""
    retries: int = 2
    """Further attempts after a transient error, in addition to the router's own retries."""
    budget_usd: float | None = None
    budget_tokens: int | None = None
    cache: Cache = "models"
    """`models`: reuse cached answers of candidates without tools; `all`: of all candidates; `off`: none."""
    max_turns: int = 10
    budget_usd_per_answer: float | None = None
    max_tokens_total: int | None = None
    max_tool_calls: int | None = None
    """These three limit a single answer. None: the limits of its agent."""
    approve: Literal["all", "none"] = "none"
    """Whether tool calls that need approval are approved or rejected; nobody is asked."""
    seed: int = 0
    """Random seed of the bootstrap, and of the order of cases with early stopping."""
    stop: Literal["settled"] | None = None
    """`settled`: early stopping, checked after every case, once one candidate is better or no worse than every other."""
    margin: float | None = None
    """Non-inferiority margin in the score's units. None: 0.05 for scores from 0 to 1; 0: only superiority counts."""
    alpha: float = 0.05
    """With `stop`: the family-wise false positive rate over all looks and pairs."""
    open_ended: bool = False
    """With `stop`: cases may be added later. This needs more cases than a test with a planned end."""
    tools: str | Sequence[str] | None = None
    """None: call the tools. `tape`: answer from the traces of the cases (column `trace_id`); or `tape:<filter>`, or ids."""
    on_miss: str = "fail"
    """For calls that are not on the tape: `fail` (the answer is not judged), `live-if-readonly`, `simulate:<model>`."""
    ignore: Mapping[str, Sequence[str] | str] | None = None
    """On tape: tool name to arguments that do not affect the result, `*` for all of them."""
    near: Mapping[str, Sequence[str] | str] | None = None
    """On tape: tool name to text arguments that only need to be similar."""

    def __post_init__(self) -> None:
        for name, least in (("epochs", 1), ("retries", 0), ("max_turns", 1), ("concurrency", 1)):
            value = getattr(self, name)
            if (value is not None or name != "concurrency") and (type(value) is not int or value < least):
                raise UsageError(f"{name}={value!r} is not possible.", f"Use a whole number of at least {least}.", param=name)  # fmt: skip
        for name in ("timeout_s", "budget_usd", "budget_usd_per_answer", "budget_tokens"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise UsageError(f"{name}={value!r} is not possible.", "Use a number above 0.", param=name)
        RunLimits.read(**self.limits.given())
        if self.tools is None and (self.on_miss != "fail" or self.ignore or self.near):
            raise UsageError("on_miss, ignore and near need a tape.", "Add tools='tape'.", param="tools")
        if self.cache not in ("models", "all", "off"):
            raise UsageError(
                f"cache={self.cache!r} is not a valid value.", "Use 'models', 'all' or 'off'.", param="cache"
            )
        if self.open_ended and self.group is not None:
            raise UsageError(
                "With grouped cases, the number of groups must be known in advance.", "Omit open_ended or group.", param="group",
            )  # fmt: skip
        if self.stop not in (None, "settled"):
            raise UsageError(f"stop={self.stop!r} is not a valid value.", "Use 'settled', or omit it.", param="stop")
        if self.margin is not None and not 0 <= self.margin < float("inf"):
            raise UsageError(f"margin={self.margin!r} is not possible.", "Use a number of at least 0.", param="margin")
        if not 0 < self.alpha <= 0.5:
            raise UsageError(f"alpha={self.alpha!r} is not possible.", "Use a number above 0 and at most 0.5.", param="alpha")  # fmt: skip
        if self.stop is None and (self.open_ended or self.alpha != 0.05):
            name = "open_ended" if self.open_ended else "alpha"
            raise UsageError(f"{name} applies only to early stopping.", "Add stop='settled'.", param=name)
        if self.approve not in ("all", "none"):
            raise UsageError(f"approve={self.approve!r} is not possible here.", "Use 'all' or 'none'.", param="approve")

    @classmethod
    def read(cls, given: Mapping[str, object]) -> Options:
        """Parse options. Raises `UsageError` for an unknown one."""
        names = cls.__dataclass_fields__
        strange = next((name for name in given if name not in names), None)
        if strange is not None:
            raise UsageError(
                f"A comparison has no option {strange!r}.{did_you_mean(strange, names)}",
                f"Its options: {', '.join(names)}.",
            )
        values: dict[str, Any] = dict(given)
        if hasattr(values.get("tools"), "spec"):  # A `Tape` object.
            spec = values["tools"].spec("fail")
            values = {"ignore": spec["ignore"] or None, "near": spec["near"] or None, **values, "tools": spec["traces"]}
        if isinstance(values.get("cache"), bool):
            values["cache"] = "models" if values["cache"] else "off"
        return cls(**values)

    @property
    def limits(self) -> RunLimits:
        """The limits of each answer."""
        return RunLimits(budget_usd=self.budget_usd_per_answer, max_tokens_total=self.max_tokens_total, max_tool_calls=self.max_tool_calls)  # fmt: skip

    def to_json(self) -> dict[str, Json]:
        return asdict(self)


# --- Candidates: every combination of model, agent, settings and prompt, each with a fingerprint


AnyAgent = AgentRecord | sdk.Agent | Pipeline
FindAgent = Callable[[str], AgentRecord]
BARE_AGENT = "Assistant"


@dataclass(frozen=True, slots=True)
class Candidate:
    """A candidate that is ready to run. `graph` is built once and shared by all its runs."""

    record: CandidateRecord
    agent: AnyAgent | None
    graph: BuiltGraph
    model: ModelRef
    has_tools: bool
    """Whether its answers depend on tools, not only on the model."""
    pipeline: Pipeline | None = None
    """What is called instead of an agent and a model."""
    offered: Offered = field(default_factory=dict)
    """On tape: the real tools of each agent."""

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
    """The cross product, with names made from what differs. Raises `UsageError` for duplicates."""
    candidates = []
    stored = [agent.id for agent in agents if isinstance(agent, AgentRecord)]
    for agent, model, options, (number, prompt) in product(agents, models, settings, enumerate(prompts, 1)):
        record = agent if isinstance(agent, AgentRecord) else None
        called = None if agent is None else name_of_agent(agent)
        if record is not None and stored.count(record.id) > 1:
            called = f"{record.name}@{record.version}"
        parts = [
            called if len(agents) > 1 or model is None else None,
            model if len(models) > 1 or len(agents) * len(settings) * len(prompts) == 1 else None,
            _settings_name(options) if len(settings) > 1 else None,
            f"prompt {number}" if len(prompts) > 1 else None,
        ]
        name = " · ".join(part for part in parts if part) or model or called or "default model"
        candidate = CandidateRecord(
            name=name, model=model, agent_id=record.id if record else None, agent=None if agent is None else name_of_agent(agent),
            agent_version=record.version if record else None, model_settings=validate_settings(dict(options)), prompt=prompt,
        )  # fmt: skip
        candidates.append((candidate, agent))
    return candidates


def of_pipelines(
    pipelines: Sequence[Pipeline], prompts: Sequence[str | None]
) -> list[tuple[CandidateRecord, AnyAgent | None]]:
    """Functions and services as candidates, combined with prompts only: they have their own model and settings."""
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
    """The providers of a promptfoo file, each with its prompts. Raises `DataError` for an unsupported provider."""
    candidates: list[tuple[CandidateRecord, AnyAgent | None]] = []
    for provider in dataset.providers:
        model = read_model(provider.id, dataset.name)
        templates: list[str | None] = [*(prompts or provider.prompts or dataset.prompts)]
        for number, prompt in enumerate(templates or [None], 1):
            place = dataset.prompts.index(prompt) + 1 if prompt in dataset.prompts else number
            name = f"{provider.label or model}{f' · prompt {place}' if len(templates) > 1 else ''}"
            record = CandidateRecord(name=name, model=model, model_settings=validate_settings(provider.settings), prompt=prompt)  # fmt: skip
            candidates.append((record, None))
    return candidates


def refuse_alike(names: Sequence[str]) -> None:
    """Raises `UsageError` for two candidates with the same name."""
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise UsageError(
            f"Two candidates are the same: {twice}.",
            "Remove one of them, or give it another name; for repeats use epochs=…",
        )


async def prepare(
    record: CandidateRecord,
    agent: AnyAgent | None,
    context: EvalContext,
    tape: Tape | None = None,
    on_miss: str = "fail",
) -> Candidate:
    """Resolve the model, build the agents, and compute the fingerprint.

    Raises `UnknownPrefixError`, `MissingKeyError`, `NotFoundError` or `SettingsError` before anything is spent.
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
        definition: list[Json] | None = None
    elif isinstance(agent, sdk.Agent):
        graph = from_sdk(agent)
        definition = [definition_of(a, code=False) for a in graph.agents.values()]
    else:
        agent = as_record(agent)
        records = await in_thread(reachable, agent, context.store.agents.try_get)
        graph = await build(
            records,
            agent.id,
            context.toolbox,
            default_model=context.settings.default_model,
            recorded=tape.definitions if tape else None,
        )
        servers = await in_thread(context.store.mcp_servers.find)
        definition = [_definition(r) for r in records.values()] + [
            [s.id, s.name, list(s.command), s.url] for s in servers
        ]
    chosen = record.model or graph.root.model
    model = context.router.resolve(
        chosen if isinstance(chosen, str) or chosen is None else context.router.add_model(chosen)
    )
    if record.model is not None or isinstance(graph.root.model, str) or graph.root.model is None:
        context.router.get_model(model.full)
    has_tools = any(a.tools or a.mcp_servers for a in graph.agents.values())
    # The repr of an object differs between processes: its answers cannot be reused from the cache.
    which = [new_id("case")] if context.router.is_object(model.full) else []
    on = [] if tape is None else [[tape.version, on_miss]]
    fingerprint = digest(["1", definition, model.full, dict(record.model_settings), record.prompt, *which, *on])
    offered = {} if tape is None else await offered_on_tape(graph, tape, on_miss, context.router)
    if tape is not None and on_miss == "fail":
        has_tools = False  # These are the same in every process.
    return Candidate(replace(record, fingerprint=fingerprint), agent, graph, model, has_tools, offered=offered)


async def offered_on_tape(graph: BuiltGraph, tape: Tape, on_miss: str, router: Router) -> Offered:
    """The tools of each agent. Raises `UsageError` for a tool that cannot be replaced by a tape."""
    from timestep_lab.runtime.recorded import Changes
    from timestep_lab.runtime.replay import offered_tools
    from timestep_lab.runtime.tape import Player, check_on_miss, taped_tools

    check_on_miss(on_miss, may_ask=False, model_of=router.get_model)
    offered = await offered_tools(graph, Changes(), tape.definitions)
    taped_tools(graph, offered, Player(tape, on_miss))
    return offered


def _definition(agent: AgentRecord) -> dict[str, Json]:
    return {
        "name": agent.name, "instructions": agent.instructions, "description": agent.description, "model": agent.model,
        "model_settings": dict(agent.model_settings), "tools": [*agent.tool_ids, *agent.tool_descriptions.items()], "handoffs": list(agent.handoff_ids),
        "approvals": dict(agent.approvals), "id": agent.id, **RunLimits.of_agent(agent).given(),
    }  # fmt: skip


def _settings_name(settings: Mapping[str, Json]) -> str:
    return ", ".join(f"{name}={value}" for name, value in settings.items()) or "default settings"


Slot = tuple["Candidate", "Case", int]
LEAST_HISTORY = 5
"""Minimum number of known answers of a model for an estimate."""
AROUND_S = 1.0
"""Time in seconds that a comparison needs in addition to its calls (storing, statistics), at most."""
_SUMS = 1000


@dataclass(frozen=True, slots=True)
class Plan:
    """The estimated cost. `rows`: one per candidate, then one per judge. Totals are None if any part is unknown.
    Example:
        (await lab.plan(["Say 4.", "Say 5."], models=["demo/echo"], scorers=["contains:4"])).calls
    """

    rows: tuple[PlanRow, ...]

    @property
    def calls(self) -> int:
        return sum(row.calls for row in self.rows)

    @property
    def cache_hits(self) -> int:
        return sum(row.cache_hits for row in self.rows)

    @property
    def cost_usd(self) -> tuple[float, float] | None:
        """10th and 90th percentile of the total cost in US dollars."""
        return _total([(row.cost_usd_low, row.cost_usd_high) for row in self.rows])

    @property
    def time_s(self) -> tuple[float, float] | None:
        """10th and 90th percentile of the duration in seconds: that of the slowest provider, since they run in parallel."""
        lanes = [
            _total([(row.time_s_low, row.time_s_high) for row in self.rows if row.provider == provider])
            for provider in {row.provider for row in self.rows}
        ]
        known = [lane for lane in lanes if lane is not None]
        if not known or len(known) < len(lanes):
            return None
        return max(low for low, _ in known), max(high for _, high in known)

    def df(self) -> pandas.DataFrame:
        import pandas

        return pandas.DataFrame(
            [{name: getattr(row, name) for name in PlanRow.__dataclass_fields__} for row in self.rows]
        )

    def __str__(self) -> str:
        cost, time = self.cost_usd, self.time_s
        unpriced = dict.fromkeys(row.candidate for row in self.rows if row.calls and not row.priced)
        money = (
            f"cost unknown{': no price is known for ' if unpriced else ''}{', '.join(unpriced)}"
            if cost is None
            else cost_text(0)
            if cost[1] == 0
            else f"{cost_text(cost[0])} to {cost_text(cost[1])}"
        )
        wait = "time unknown" if time is None else f"{duration_text(time[0] * 1000)} to {duration_text(time[1] * 1000)}"
        judging = sum(row.calls for row in self.rows if row.judge)
        cached = [
            f"{n} {what} from the cache"
            for judge, what in ((False, "answers"), (True, "judgements"))
            if (n := sum(row.cache_hits for row in self.rows if row.judge is judge))
        ]
        calls = [f"{self.calls} calls", *([f"{judging} of them to judges"] if judging else []), *cached]
        return f"{', '.join(calls)}; {money}; {wait}."

    def _repr_html_(self) -> str:
        return f"<p>{escape(str(self))}</p>{self.df().to_html(index=False)}"


def make_plan(
    rows: ComparisonRows,
    candidates: Sequence[Candidate],
    slots: Sequence[Slot],
    to_ask: Sequence[Slot],
    options: Options,
    *,
    judges: Sequence[ModelRef] = (),
    questions: Mapping[str, set[str]] | None = None,
) -> Plan:
    """Estimate a comparison. `questions`: judge model to the cache keys of its questions. Blocks."""
    planned = []
    for candidate in candidates:
        calls = sum(c is candidate for c, _, _ in to_ask)
        hits = sum(c is candidate for c, _, _ in slots) - calls
        planned.append(
            _row(
                candidate.name, candidate.model, calls, hits, rows.history(candidate.record.name), options, judge=False
            )
        )
    asked = questions or {}
    known = (
        set() if options.cache == "off" else set(rows.cached(sorted({key for keys in asked.values() for key in keys})))
    )
    for model in judges:
        keys = asked.get(model.full, set())
        hits = len(keys & known)
        planned.append(
            _row(model.full, model, len(keys) - hits, hits, rows.judge_history(model.full), options, judge=True)
        )
    return Plan(tuple(planned))


def _row(
    name: str, model: ModelRef, calls: int, hits: int, history: Sequence[tuple[float | None, float | None]], options: Options, *, judge: bool,
) -> PlanRow:  # fmt: skip
    costs = [cost for cost, _ in history if cost is not None]
    times = [time for _, time in history if time is not None]
    free = is_free(model.prefix, model.model)
    cost: tuple[float | None, float | None] = (0.0, 0.0) if free else _range(costs, calls)
    low, high = _time_s(times, calls, options)
    return PlanRow(
        candidate=name, calls=calls, cache_hits=hits, cost_usd_low=cost[0], cost_usd_high=cost[1], time_s_low=low, time_s_high=high,
        basis="history" if len(history) >= LEAST_HISTORY else "unknown", provider=model.prefix, judge=judge,
        priced=has_price(model.prefix, model.model),
    )  # fmt: skip


def _time_s(history: Sequence[float], calls: int, options: Options) -> tuple[float | None, float | None]:
    """Range of seconds until the last of `calls` answers arrives, from the durations in ms of earlier ones.

    With m slots it is at least the sum over m, and at most that plus the remaining part of the longest call (Graham
    1966, Bell Syst. Tech. J. 45:1563). If the number of slots adapts, the range is from the maximum to the initial
    number.
    """
    low, high = _range(history, calls)
    if low is None or high is None or calls == 0:
        return low, high
    most = min(calls, options.concurrency or MOST_CONCURRENCY)
    least = min(calls, options.concurrency or DEFAULT_CONCURRENCY)
    last = float(np.quantile(history, 0.9)) * (1 - 1 / least)
    return low / most / 1000.0, (high / least + last) / 1000.0 + AROUND_S


def _range(history: Sequence[float], calls: int) -> tuple[float | None, float | None]:
    """10th and 90th percentile of the sum of `calls` draws, each from a resampled history: a prediction interval."""
    if calls == 0:
        return 0.0, 0.0
    if len(history) < LEAST_HISTORY:
        return None, None
    generator = np.random.default_rng(0)
    past = np.asarray(history, dtype=float)
    samples = past[generator.integers(0, len(past), (_SUMS, len(past)))]
    means, spreads = samples.mean(axis=1), samples.std(axis=1)
    sums = means * calls + generator.normal(size=_SUMS) * spreads * np.sqrt(calls)
    low, high = np.quantile(np.maximum(sums, 0.0), [0.1, 0.9])
    return float(low), float(high)


def _total(parts: Sequence[tuple[float | None, float | None]]) -> tuple[float, float] | None:
    if not parts or any(low is None or high is None for low, high in parts):
        return None
    return sum(low for low, _ in parts if low is not None), sum(high for _, high in parts if high is not None)


async def plan(comparison: Comparison) -> tuple[PlanRow, ...]:
    """Cost estimates of a comparison that is ready to run, one row per candidate."""
    return (await comparison.plan()).rows


# --- Budgets in US dollars and tokens: a call starts only if it is likely to fit, together with the calls in progress


@dataclass(slots=True)
class Budget:
    usd: float | None = None
    tokens: int | None = None
    spent_usd: float = 0.0
    spent_tokens: int = 0
    answers: int = 0
    running: int = 0
    judgements: int = 0
    judging_usd: float = 0.0
    judging_tokens: int = 0
    judging: int = 0
    """Number of judgements in progress."""
    used_up: bool = False
    """Whether a judgement was refused because the budget was used up."""
    _first: asyncio.Lock = field(default_factory=asyncio.Lock)

    @asynccontextmanager
    async def judgement(self) -> AsyncIterator[None]:
        """Reserve budget for one judgement; one at a time until the first size is known. Raises `LabError`."""
        bounded = self.usd is not None or self.tokens is not None
        async with self._first if bounded and not self.judgements else nullcontext():
            fits = all(
                limit is None
                or (spent < limit and spent + self._under_way(spent, of_judging) + self._one(of_judging) <= limit)
                for limit, spent, of_judging in (
                    (self.usd, self.spent_usd, self.judging_usd),
                    (self.tokens, float(self.spent_tokens), float(self.judging_tokens)),
                )
            )
            if not fits:
                self.used_up = True
                raise LabError(
                    f"The budget of {self.words} is used up, so the judge was not asked.", "Resume with a larger one."
                )
            self.judging += 1
            try:
                yield
            finally:
                self.judging -= 1

    def _one(self, of_judging: float) -> float:
        return of_judging / self.judgements if self.judgements else 0.0

    def _under_way(self, spent: float, of_judging: float) -> float:
        """The expected cost of answers and judgements in progress."""
        answer = (spent - of_judging) / self.answers if self.answers else 0.0
        return answer * self.running + self._one(of_judging) * self.judging

    def spend_on_judging(self, usd: float | None, tokens: int) -> None:
        self.spent_usd += usd or 0.0
        self.spent_tokens += tokens
        self.judging_usd += usd or 0.0
        self.judging_tokens += tokens
        self.judgements += 1

    def room_for_one(self) -> bool | None:
        """True: start another answer. None: wait for one that is running. False: the budget is used up."""
        usd = self._room(self.usd, self.spent_usd, self._one(self.judging_usd))
        tokens = self._room(self.tokens, float(self.spent_tokens), self._one(self.judging_tokens))
        if usd and tokens:
            return True
        return None if self.running else False

    def _room(self, limit: float | None, spent: float, judgement: float) -> bool:
        if limit is None:
            return True
        mean = spent / self.answers if self.answers else 0.0
        # Before the first answer the size is unknown, so only a few start at a time.
        if not self.answers and self.running >= 4:
            return False
        return spent < limit and spent + mean * (self.running + 1) + judgement * self.judging <= limit

    def spend(self, usd: float | None, tokens: int) -> None:
        self.spent_usd += usd or 0.0
        self.spent_tokens += tokens
        self.answers += 1

    @property
    def words(self) -> str:
        parts = [
            f"${self.usd:g}" if self.usd is not None else "",
            f"{self.tokens:,} tokens" if self.tokens is not None else "",
        ]
        return " and ".join(part for part in parts if part)


def check_prices(candidates: Sequence[Candidate], judges: Sequence[ModelRef], budget_usd: float | None) -> None:
    """Raises `UsageError` if there is a budget in US dollars and the price of a model or judge is unknown."""
    if budget_usd is None:
        return
    unknown = [c.name for c in candidates if not has_price(c.model.prefix, c.model.model)]
    unknown += [f"the judge {j.full}" for j in judges if not has_price(j.prefix, j.model)]
    if unknown:
        raise UsageError(
            f"The price of {', '.join(unknown)} is not known, so budget_usd cannot be enforced.",
            "Set budget_tokens instead.",
        )
