"""Frozen records, one per row of the store. `dict` fields are JSON columns.

Every record carries `user_id`: each row has an owner, and every statement filters by it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import MISSING, dataclass, field, fields, replace
from datetime import datetime
from typing import Any, Generic, Literal, TypeVar

from timestep_lab.model.clock import utc_now
from timestep_lab.model.codec import Json, Moment

R = TypeVar("R")

RunStatus = Literal["running", "completed", "stopped", "failed", "cancelled", "interrupted", "needs_approval"]
"""`stopped`: it reached one of its limits. `interrupted`: its process died. `needs_approval`: paused; its state is in `run_states`."""

RunStateStatus = Literal["pending", "claimed", "done"]


LIMITS = ("budget_usd", "max_tokens_total", "timeout_s", "max_tool_calls")
"""Names of the limits that a run, an agent or an answer of a comparison can have."""


MOST_SHOWN = 80
"""Maximum length of one value in the `repr` of a record."""


class Record:
    """Base of all records. `repr` is one line with the fields that differ from their defaults, without the owner."""

    __slots__ = ()

    def __repr__(self) -> str:
        shown = [f"{name}={_short(value)}" for name, value in self._shown_fields()]
        return f"{type(self).__name__}({', '.join(shown)})"

    def _shown_fields(self) -> Iterator[tuple[str, object]]:
        for item in fields(self):  # type: ignore[arg-type]
            value = getattr(self, item.name)
            default = item.default_factory() if item.default_factory is not MISSING else item.default
            if item.repr and item.name != "user_id" and value != default:
                yield item.name, value


def _short(value: object) -> str:
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M:%S}"
    text = repr(value)
    return text if len(text) <= MOST_SHOWN else f"{text[: MOST_SHOWN - 1]}…"


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class AgentRecord(Record):
    """An agent as stored. Names are unique per user.

    Example:
        assert lab.agents.create(name="Concierge", instructions="Be brief.", model="demo/echo").model == "demo/echo"
    """

    id: str
    user_id: str
    name: str
    instructions: str = ""
    description: str = ""
    """Shown to other agents that can hand off to this one."""
    model: str | None = None
    """`prefix/name`; None uses the lab's default model."""
    model_settings: Mapping[str, Json] = field(default_factory=dict)
    """Agents SDK `ModelSettings` fields in snake_case; camelCase is converted on input."""
    tool_ids: tuple[str, ...] = ()
    """`<mcp server id>.<tool name>`, `<mcp server id>.*` for all tools of a server, or the bare name of a client tool (`switch_theme`)."""
    handoff_ids: tuple[str, ...] = ()
    approvals: Mapping[str, Json] = field(default_factory=dict)
    """Maps a tool id to a rule: `"always"`, `"never"`, or `{"argument": "location", "contains": "berkeley"}` (case-insensitive)."""
    tool_descriptions: Mapping[str, str] = field(default_factory=dict)
    """Maps a tool id to the description that this agent is given of the tool, instead of the one from its server."""
    budget_usd: float | None = None
    """Default limits (with the next three fields) of a run that starts with this agent; `lab.run` can override them."""
    max_tokens_total: int | None = None
    timeout_s: float | None = None
    max_tool_calls: int | None = None
    created_at: Moment = field(default_factory=utc_now)
    updated_at: Moment = field(default_factory=utc_now)
    """When this version was saved."""
    saved_by: str = ""
    """Who saved this version: the name of the account that runs the lab, or `guest` of a served one. Empty: not known."""
    version: int = 1
    """Starts at 1 and increases with every save that changes something. 0 is an unsaved draft."""

    @property
    def ref(self) -> str:
        """Reference to this version (`id@version`), accepted wherever an agent is named."""
        return f"{self.id}@{self.version}"


_WHOLE = "name", "instructions", "description", "model", *LIMITS
_BY_KEY = {"setting": "model_settings", "approval of": "approvals", "description of": "tool_descriptions"}


def differences(before: AgentRecord, after: AgentRecord) -> dict[str, tuple[Json, Json]]:
    """Maps each part in which two versions differ to its old and new value. One model setting, tool or handoff is a part."""
    changes: dict[str, tuple[Json, Json]] = {
        name: (getattr(before, name), getattr(after, name))
        for name in _WHOLE
        if getattr(before, name) != getattr(after, name)
    }
    for what, (left, right) in (
        *((what, [getattr(one, column) for one in (before, after)]) for what, column in _BY_KEY.items()),
        ("tool", [dict.fromkeys(one.tool_ids, True) for one in (before, after)]),
        ("handoff", [dict.fromkeys(one.handoff_ids, True) for one in (before, after)]),
    ):  # fmt: skip
        changes |= {
            f"{what} {key}": (left.get(key), right.get(key))
            for key in {**left, **right}
            if left.get(key) != right.get(key)
        }
    return changes


def mixed(before: AgentRecord, after: AgentRecord, parts: Collection[str]) -> AgentRecord:
    """Returns `before` with the given parts taken from `after`; parts are named as in `differences`."""
    made: dict[str, Any] = {name: getattr(after, name) for name in _WHOLE if name in parts}
    for what, column in _BY_KEY.items():
        own, given = getattr(before, column), getattr(after, column)
        merged = {key: (given if f"{what} {key}" in parts else own).get(key, _ABSENT) for key in {**own, **given}}
        made[column] = {key: value for key, value in merged.items() if value is not _ABSENT}
    for what, column in (("tool", "tool_ids"), ("handoff", "handoff_ids")):
        own, given = getattr(before, column), getattr(after, column)
        made[column] = tuple(
            key for key in dict.fromkeys([*own, *given]) if key in (given if f"{what} {key}" in parts else own)
        )
    return replace(before, **made)


_ABSENT = object()


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class McpServerRecord(Record):
    """An MCP server: `command` (stdio) or `url` (streamable HTTP), never both."""

    id: str
    user_id: str
    name: str
    command: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict, repr=False)  # Secret, as are `headers`.
    url: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Secret. Never shown, traced or logged."""
    allowed_tools: tuple[str, ...] | None = None  # None allows all tools.
    require_approval: Mapping[str, Json] = field(default_factory=dict)
    """Maps a tool name (or `*`) to a rule as in `AgentRecord.approvals`."""
    timeout_s: float = 30.0
    protocol: str | None = None  # None: the newest version that both sides know.
    created_at: Moment = field(default_factory=utc_now)


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class ThreadRecord(Record):
    """A conversation as stored.

    Example:
        print((await lab.run("Say 4.", model="demo/echo")).thread.record.created_at)
    """

    id: str
    user_id: str
    title: str | None = None
    status: Mapping[str, Json] = field(default_factory=lambda: {"type": "active"})
    """ChatKit's thread status object: `{"type": "active" | "locked" | "closed", "reason"?: str}`."""
    metadata: Mapping[str, Json] = field(default_factory=dict)
    """Server side only. Holds `agent_id` and `model`."""
    created_at: Moment = field(default_factory=utc_now)
    updated_at: Moment = field(default_factory=utc_now)


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class ThreadItem(Record):
    """One visible item of a thread, ordered by `item_index` (unique in a thread, assigned by the store).

    `type` is one of ChatKit's item types (then `data` is that item's JSON as ChatKit defines it), or one of the lab's own:

    | type | data |
    |---|---|
    | `user_message`, `assistant_message` | `{"text": str, "attachments": [...], "status": "in_progress" \\| "completed" \\| "incomplete", "annotations": [...]}` |
    | `reasoning` | `{"text"}` |
    | `tool_call` | `{"call_id", "name", "server", "arguments": str, "output": str \\| None, "status": "in_progress" \\| "completed" \\| "failed" \\| "rejected" \\| "needs_approval", "duration_ms", "error"}` |
    | `handoff` | `{"from_agent", "to_agent"}` |
    | `approval` | `{"run_id", "call_id", "name", "server", "arguments": str, "reason", "decision": None \\| "approved" \\| "rejected" \\| "dismissed", "message", "decided_at"}` |
    | `widget` | `{"widget": {...}, "copy_text": str}` |
    | `client_tool_call` | `{"call_id", "name", "arguments": {...}, "status": "pending" \\| "completed", "output"}` |
    | `error` | `{"type", "message"}` |

    Example:
        question, answer = (await lab.run("Say 4.", model="demo/echo")).thread.items
        assert question.type == "user_message"
    """

    id: str
    thread_id: str
    user_id: str
    type: str
    data: Mapping[str, Json] = field(default_factory=dict)
    item_index: int = -1
    """-1 until stored."""
    run_id: str | None = None
    trace_id: str | None = None
    agent: str | None = None
    created_at: Moment = field(default_factory=utc_now)


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Token counts. Cached and reasoning tokens are included in input and output tokens.

    Example:
        print((await lab.run("Say 4.", model="demo/echo")).usage.input_tokens)
    """

    requests: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    cache_write_tokens: int = 0
    reasoning_tokens: int = 0

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            requests=self.requests + other.requests,
            input_tokens=self.input_tokens + other.input_tokens,
            output_tokens=self.output_tokens + other.output_tokens,
            cached_tokens=self.cached_tokens + other.cached_tokens,
            cache_write_tokens=self.cache_write_tokens + other.cache_write_tokens,
            reasoning_tokens=self.reasoning_tokens + other.reasoning_tokens,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelAnswer:
    """One model's answer to one request, with its usage, cost and timing. None: unknown."""

    model: str
    text: str
    items: tuple[Mapping[str, Json], ...]
    """Responses output items (messages, reasoning and tool calls) that can be sent back as input."""
    stop_reason: str | None
    usage: Usage | None
    cost_usd: float | None
    ttft_ms: float | None
    duration_ms: float | None
    trace_id: str
    """The trace that recorded the call."""


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class RunRecord(Record):
    """One call of `lab.run` including all pauses and resumes: one run is one trace.

    Example:
        assert (await lab.run("Say 4.", model="demo/echo")).record.status == "completed"
    """

    id: str
    user_id: str
    thread_id: str
    trace_id: str
    agent_id: str | None
    """None when the run was given an SDK `Agent` object."""
    agent: str
    """Name of the agent the run started with."""
    last_agent: str | None = None
    """Name of the agent that answered or paused."""
    model: str | None = None
    status: RunStatus = "running"
    input: str = ""
    output: str | None = None
    error_type: str | None = None
    error: str | None = None
    usage: Usage = field(default_factory=Usage)
    cost_usd: float | None = None
    """None when a price is unknown; never 0 for unknown."""
    ttft_ms: float | None = None
    started_at: Moment = field(default_factory=utc_now)
    ended_at: Moment | None = None
    process_id: str | None = None
    """The process that executes the run. Its lease in `processes` shows whether it is alive."""
    metadata: Mapping[str, Json] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Interruption(Record):
    """A tool call that waits for a person's decision.

    Example:
        [call] = (await lab.run("What's the weather in Berkeley?", model="demo/assistant")).interruptions
    """

    call_id: str
    name: str
    server: str | None
    """Name of the MCP server that offers the tool; None for a local function."""
    arguments: str
    """JSON text."""
    agent: str
    reason: str = ""
    """Why a decision is needed, e.g. `location contains "berkeley"`; for a question, the server's message."""
    asks: str | None = None
    """What the tool's server asks: `elicitation` (a form, or a page to visit) or `sampling` (the run's model). None: whether to call at all."""
    form: Mapping[str, Json] | None = None
    """JSON schema of the form; the decision's `answer` fills it in."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStateRecord:
    """State of a paused run, sufficient to resume it in any process. Updated only by compare-and-set on `rev`."""

    run_id: str
    user_id: str
    thread_id: str
    state: str
    """Agents SDK `RunState` JSON. Never accepted from a client."""
    agent_snapshot: Mapping[str, Json]
    """The agent graph and the MCP servers, in order, at the time of the pause."""
    interruptions: tuple[Mapping[str, Json], ...]
    decisions: Mapping[str, Json] = field(default_factory=dict)
    """Maps call_id to `{"decision": "approved" | "rejected" | "dismissed", "message": str, "always": bool}`."""
    status: RunStateStatus = "pending"
    rev: int = 0
    claimed_by: str | None = None
    lease_until: Moment | None = None
    created_at: Moment = field(default_factory=utc_now)
    updated_at: Moment = field(default_factory=utc_now)


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class ScoreRecord(Record):
    """An annotation or a scorer's result on a trace, a span or a case of a comparison."""

    id: str
    user_id: str
    target: Literal["trace", "span", "case"]
    target_id: str
    name: str
    value: float | None = None
    label: str | None = None
    note: str | None = None
    source: Literal["human", "scorer", "judge"] = "human"
    created_at: Moment = field(default_factory=utc_now)


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class DatasetRecord(Record):
    """One version of a data set. Its cases are rows of the view `datasets`."""

    id: str
    user_id: str
    name: str
    version: int
    """Starts at 1."""
    hash: str
    """Hash of the cases' content."""
    n_cases: int
    prompts: tuple[str, ...] = ()
    """Prompt templates that came with the data."""
    tags: tuple[str, ...] = ()
    metadata: Mapping[str, Json] = field(default_factory=dict)
    created_at: Moment = field(default_factory=utc_now)


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class ShareRecord(Record):
    """A link that shows one trace without an account until it expires or is revoked."""

    id: str
    user_id: str
    trace_id: str
    created_at: Moment = field(default_factory=utc_now)
    expires_at: Moment


@dataclass(frozen=True, slots=True, kw_only=True)
class Page(Generic[R]):
    """One page of a listing. `after` is the cursor of the next page, None on the last page."""

    data: tuple[R, ...]
    has_more: bool
    after: str | None


# --- Files, uploads and vector stores, one record per row


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class FileRecord(Record):
    """A stored file, without its bytes."""

    id: str
    user_id: str
    filename: str
    """Without folders and control characters, at most 200 bytes."""
    bytes: int
    content_type: str
    """Detected from the content; the sender's type only refines one text format into another."""
    purpose: str = "assistants"
    sha256: str = ""
    status: Literal["processed"] = "processed"
    created_at: Moment = field(default_factory=utc_now)
    expires_at: Moment | None = None
    """After this time the file can no longer be read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UploadRecord:
    """A file that is uploaded in parts."""

    id: str
    user_id: str
    filename: str
    bytes: int
    """Size as declared; the parts must add up to it."""
    content_type: str = ""
    """As declared. The type of the resulting file is detected from its content."""
    purpose: str = "assistants"
    status: Literal["pending", "completed", "cancelled", "expired"] = "pending"
    part_ids: tuple[str, ...] = ()
    """In the order given when the upload was completed."""
    bytes_uploaded: int = 0
    file_id: str | None = None
    created_at: Moment = field(default_factory=utc_now)
    expires_at: Moment = field(default_factory=utc_now)


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class VectorStoreRecord(Record):
    """A named set of files that can be searched by meaning."""

    id: str
    user_id: str
    name: str
    embedding_model: str
    """`prefix/model`. Fixed per store: vectors of different models cannot be compared."""
    metadata: Mapping[str, Json] = field(default_factory=dict)
    expires_after_days: int | None = None
    """Counted from `last_active_at`."""
    created_at: Moment = field(default_factory=utc_now)
    last_active_at: Moment = field(default_factory=utc_now)


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class VectorStoreFileRecord(Record):
    """A file in a vector store, indexed or being indexed."""

    id: str
    """`<vector store id>/<file id>`."""
    user_id: str
    vector_store_id: str
    file_id: str
    filename: str
    status: Literal["in_progress", "completed", "failed", "cancelled"] = "in_progress"
    chunking_strategy: Mapping[str, Json] = field(default_factory=dict)
    """OpenAI's object: `{"type": "static", "static": {"max_chunk_size_tokens", "chunk_overlap_tokens"}}`."""
    last_error: Mapping[str, Json] | None = None
    """`{"code", "message"}`."""
    attributes: Mapping[str, Json] = field(default_factory=dict)
    """Values that searches can filter by."""
    n_chunks: int = 0
    usage_bytes: int = 0
    created_at: Moment = field(default_factory=utc_now)


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchHit:
    """A passage found by a search."""

    file_id: str
    filename: str
    position: int
    """Index of the passage in the file, from 0."""
    text: str
    score: float
    """0 to 1: weighted sum of `vector_score` and `keyword_score`."""
    vector_score: float
    """Cosine similarity of the embeddings; negative values count as 0."""
    keyword_score: float
    """Share of the query's words found in the passage, weighted towards rare words."""
    attributes: Mapping[str, Json] = field(default_factory=dict)


# --- The blind arena: two answers to one case, and the votes on them


VoteOutcome = Literal["left", "right", "tie", "both_bad"]


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class DuelRecord(Record):
    """A duel as a voter sees it. It does not reveal the candidates: names, model names, prices and times are removed."""

    id: str
    """Identifies the duel for `vote`; reveals nothing about the candidates."""
    input: str
    left: str
    right: str
    left_steps: tuple[Mapping[str, Json], ...] = ()
    right_steps: tuple[Mapping[str, Json], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class VoteRecord(Record):
    """One vote between the answers of two candidates to one case."""

    id: str
    user_id: str
    comparison_id: str
    case_id: str
    epoch: int
    left_candidate: str
    right_candidate: str
    outcome: VoteOutcome
    length: float = 0.0
    """(words left − words right) / (words of both)."""
    source: Literal["human", "judge"] = "human"
    created_at: Moment = field(default_factory=utc_now)


# --- The handoff graph as rows: declared and observed handoffs


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphNode:
    """An agent at one place in the graph. `path`: the ids or names from the root, so agents with the same name stay distinct."""

    path: str
    name: str
    calls: int = 0
    p50_ms: float | None = None
    cost_usd: float | None = None
    errors: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphEdge:
    """A handoff between two nodes. `declared` with a `count` of 0 has never been used."""

    from_path: str
    to_path: str
    declared: bool = False
    count: int = 0
    p50_ms: float | None = None
    errors: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentGraph:
    """Agents and the handoffs between them, declared or observed, as rows to draw, compare or count."""

    nodes: tuple[GraphNode, ...]
    edges: tuple[GraphEdge, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class TitledGraph(AgentGraph):
    """An `AgentGraph` with a title."""

    title: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelRef:
    """A resolved model name. `prefix/model` resolves to the same reference again."""

    prefix: str
    model: str

    @property
    def full(self) -> str:
        """`prefix/model`."""
        return f"{self.prefix}/{self.model}"


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class ProviderStatus(Record):
    """Status of a provider as shown by `doctor`, `lab` and the settings page."""

    prefix: str
    ready: bool
    """True when its settings are complete. Whether its server answers is only known after a request (`list_models`)."""
    detail: str
    """The endpoint it uses, or what is missing."""
    next_step: str = ""
    """Empty when ready."""
    badge: str = ""
    """Label shown beside its models, such as `no language model` or `tiny local model`."""
