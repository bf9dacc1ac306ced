"""Options, limits and agents of a run. The agents are built from the store, or from a paused run's snapshot."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, cast

import agents as sdk
from agents import RunState

from timestep_lab.model.arguments import did_you_mean, messages_of
from timestep_lab.model.codec import Json
from timestep_lab.model.errors import RunError, UsageError
from timestep_lab.model.records import LIMITS, AgentRecord, McpServerRecord, RunRecord, RunStateRecord, ThreadItem
from timestep_lab.runtime.agent_graph import (
    BuiltGraph,
    build,
    freeze,
    freeze_sdk,
    from_sdk,
    reachable,
    restore,
    restore_servers,
    same_servers,
)
from timestep_lab.runtime.approvals import REJECTED
from timestep_lab.runtime.model_settings import validate_settings
from timestep_lab.store.base import in_thread

if TYPE_CHECKING:
    from timestep_lab.runtime.mcp.toolbox import Definitions, Toolbox
    from timestep_lab.store.store import Store


# --- Arguments of a run, validated before anything is written


Approve = Literal["ask", "all", "none"]
DEFAULT_MAX_TURNS = 10
TITLE_LENGTH = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class RunLimits:
    """Limits of a run, over all its agents and pauses. None: unlimited."""

    budget_usd: float | None = None
    max_tokens_total: int | None = None
    """Input and output tokens of all answers."""
    timeout_s: float | None = None
    """Seconds of work; time spent waiting for approval does not count."""
    max_tool_calls: int | None = None

    @classmethod
    def read(cls, **given: Any) -> RunLimits:
        """Validates the given limits. Raises `UsageError`."""
        for name, value in given.items():
            if name not in LIMITS:
                raise UsageError(
                    f"There is no limit or argument {name!r}.{did_you_mean(name, LIMITS)}", f"The limits are {', '.join(LIMITS)}.", param=name
                )  # fmt: skip
            whole = name.startswith("max_")
            right = isinstance(value, int if whole else int | float) and not isinstance(value, bool)
            if value is not None and not (
                right and (value >= 0 if name == "max_tool_calls" else 0 < value < float("inf"))
            ):
                least = "0" if name == "max_tool_calls" else "1" if whole else "above 0"
                raise UsageError(
                    f"{name}={value!r} is not a valid limit.", f"Pass a {'whole ' * whole}number{' from' * whole} {least}{' up' * whole}.",
                    param=name,
                )  # fmt: skip
        return cls(**given)

    @classmethod
    def of_agent(cls, agent: object) -> RunLimits:
        """Returns the limits of a stored agent; any other agent has none."""
        return cls(**{name: getattr(agent, name) for name in LIMITS}) if isinstance(agent, AgentRecord) else cls()

    def over(self, others: RunLimits) -> RunLimits:
        """Returns `others` overridden by the limits set here."""
        return replace(others, **self.given())

    def given(self) -> dict[str, Any]:
        """Returns the limits that are set."""
        return {name: value for name in LIMITS if (value := getattr(self, name)) is not None}


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """Options of a single run. They are stored with a paused run, so that it resumes unchanged."""

    model: str | None = None
    model_settings: Mapping[str, Json] = field(default_factory=dict)
    max_turns: int = DEFAULT_MAX_TURNS
    approve: Approve = "ask"
    limits: RunLimits = RunLimits()
    tape: Mapping[str, Json] | None = None
    """`Tape.spec` of the tape that answers tool calls; None calls the real tools."""

    def to_json(self) -> dict[str, Json]:
        return {
            "model": self.model, "model_settings": dict(self.model_settings), "max_turns": self.max_turns,
            "approve": self.approve, "limits": self.limits.given(),
            **({} if self.tape is None else {"tape": dict(self.tape)}),
        }  # fmt: skip

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> RunOptions:
        return cls(**{**plain, "limits": RunLimits(**plain.get("limits") or {})})


def read_options(
    *,
    model: str | None,
    model_settings: Mapping[str, Json] | None,
    max_turns: int,
    approve: str,
    limits: RunLimits,
    tape: Mapping[str, Json] | None = None,
) -> RunOptions:
    """Validates the options of a run. Raises `UsageError` or `SettingsError`."""
    if approve not in ("ask", "all", "none"):
        raise UsageError(f"approve={approve!r} is not known.", "Use 'ask', 'all' or 'none'.", param="approve")
    if type(max_turns) is not int or max_turns < 1:
        raise UsageError(
            f"max_turns={max_turns!r} is not a valid limit.", "Pass a whole number from 1 up.", param="max_turns"
        )
    return RunOptions(
        model=model,
        model_settings=validate_settings(dict(model_settings)) if model_settings else {},
        max_turns=max_turns,
        approve=cast(Approve, approve),
        limits=limits,
        tape=tape,
    )


@dataclass(frozen=True, slots=True)
class UserTurn:
    """The user's input, in the three forms in which it is stored."""

    text: str
    """Plain text, for the run's row and the thread's title."""
    session_items: tuple[Mapping[str, Json], ...]
    """Responses input items, for the model."""
    thread_items: tuple[tuple[str, dict[str, Json]], ...]
    """Thread items as (type, data), for readers."""

    @property
    def title(self) -> str | None:
        line = next((line.strip() for line in self.text.splitlines() if line.strip()), "")
        return line if len(line) <= TITLE_LENGTH else f"{line[: TITLE_LENGTH - 1].rstrip()}…"


def read_turn(prompt: str | Sequence[Mapping[str, object]], attachments: Sequence[Mapping[str, Json]] = ()) -> UserTurn:
    """Reads the user's input: a string, or Responses input items. An attachment is a mapping shown to readers; its optional key `input` is
    the content part sent to the model (`input_image`, `input_file`, `input_text`). Raises `UsageError` for empty input.
    """
    if isinstance(prompt, str):
        return _text_turn(prompt, attachments)
    items = messages_of(prompt)
    if not items:
        raise UsageError("The input is empty.", "Pass a prompt.", param="input")
    shown = [
        ("user_message", _message(content_text(item.get("content")), []))
        for item in items
        if item.get("type", "message") == "message" and item.get("role") == "user"
    ]
    if attachments and shown:
        shown[-1][1]["attachments"] = [_shown(a) for a in attachments]
        items[-1] = {**items[-1], "content": [*_parts(items[-1].get("content")), *_inputs(attachments)]}
    return UserTurn("\n".join(str(data["text"]) for _, data in shown), tuple(items), tuple(shown))


def content_text(content: Json) -> str:
    """Returns the text of a Responses message's content."""
    if isinstance(content, str):
        return content
    parts = cast(Sequence[Mapping[str, Json]], content or ())
    return "".join(str(part.get("text", "")) for part in parts)


def _text_turn(text: str, attachments: Sequence[Mapping[str, Json]]) -> UserTurn:
    if not text.strip() and not attachments:
        raise UsageError("The prompt is empty.", "Pass a prompt.", param="input")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UsageError(
            f"The prompt contains {text[error.start]!r}, an unpaired surrogate.", "Encode it as UTF-8.", param="input"
        ) from None
    inputs = _inputs(attachments)
    content: Json = [*_parts(text), *inputs] if inputs else text
    return UserTurn(
        text,
        ({"role": "user", "content": content},),
        (("user_message", _message(text, [_shown(a) for a in attachments])),),
    )


def _message(text: str, attachments: list[Json]) -> dict[str, Json]:
    return {"text": text, "attachments": attachments, "status": "completed", "annotations": []}


def _parts(content: Json) -> list[Json]:
    if isinstance(content, str):
        return [{"type": "input_text", "text": content}] if content else []
    return list(cast(Sequence[Json], content or ()))


def _inputs(attachments: Sequence[Mapping[str, Json]]) -> list[Json]:
    return [attachment["input"] for attachment in attachments if attachment.get("input")]


def _shown(attachment: Mapping[str, Json]) -> dict[str, Json]:
    return {name: value for name, value in attachment.items() if name != "input"}


AnyAgent = AgentRecord | sdk.Agent
Snapshot = Callable[[], Mapping[str, Json]]
"""Makes what a pause stores of a run's agents."""
KEPT_GRAPHS = 8


@dataclass(slots=True)
class Graphs:
    """Builds the agents of a user's runs."""

    store: Store
    toolbox: Toolbox
    default_model: str
    """The model of an agent that names none."""
    _built: dict[str, BuiltGraph] = field(default_factory=dict)
    """Maps the root's id to the latest graph. Runs share it until an agent or its tools change."""

    async def records(self, agent: AnyAgent, versions: Mapping[str, int] | None = None) -> dict[str, AgentRecord]:
        """Returns the stored agents reachable from `agent`, in their current or the given `versions` (by id); empty for an SDK agent.
        Raises `NotFoundError`."""
        if isinstance(agent, sdk.Agent):
            return {}
        known = versions or {}
        return await in_thread(reachable, agent, lambda id: self.store.agent(id, known.get(id)))

    async def build(
        self,
        agent: AnyAgent,
        records: Mapping[str, AgentRecord],
        options: RunOptions,
        recorded: Definitions | None = None,
        *,
        shared: bool = True,
    ) -> tuple[BuiltGraph, Snapshot]:
        """Builds the agents and what makes the snapshot that a pause stores. For `recorded` see `Toolbox.tools_for`. Unless `shared`, the
        agents are of this run alone, for code that may change them."""
        if isinstance(agent, sdk.Agent):
            return from_sdk(agent), lambda: freeze_sdk(agent.name, options.to_json())
        servers = await self._servers()
        like = self._built.get(agent.id) if shared and recorded is None else None
        graph = await self._build(records, agent.id, self.toolbox, servers, recorded, like)
        if graph is not like and shared and recorded is None and not graph.notices:
            if len(self._built) >= KEPT_GRAPHS:
                self._built.clear()
            self._built[agent.id] = graph
        return graph, lambda: freeze(records, agent.id, servers, options.to_json())

    async def rebuild(self, state: RunStateRecord, agent: sdk.Agent | None) -> tuple[BuiltGraph, Toolbox | None]:
        """Rebuilds the agents from the snapshot of a pause, with a toolbox of their own if the MCP servers changed since.

        Raises `RunError` when they cannot be restored.
        """
        snapshot = state.agent_snapshot
        if snapshot.get("kind") == "sdk" and agent is not None:
            if agent.name != snapshot["root"]:
                raise RunError(
                    f"This run was started with the agent {snapshot['root']!r}, not with {agent.name!r}.",
                    "Pass the same agent.",
                    code="damaged_state",
                )
            return from_sdk(agent), None
        records, root_id = restore(snapshot, state.run_id)
        servers = await self._servers()
        if same_servers(snapshot, servers):
            return await self._build(records, root_id, self.toolbox, servers), None
        toolbox = self.toolbox.with_servers(restore_servers(snapshot, servers))
        return await self._build(records, root_id, toolbox), toolbox

    async def _build(
        self,
        records: Mapping[str, AgentRecord],
        root_id: str,
        toolbox: Toolbox,
        servers: Sequence[McpServerRecord] | None = None,
        recorded: Definitions | None = None,
        like: BuiltGraph | None = None,
    ) -> BuiltGraph:
        return await build(
            records, root_id, toolbox, default_model=self.default_model, servers=servers, recorded=recorded,
            like=like,
        )  # fmt: skip

    async def _servers(self) -> list[McpServerRecord]:
        return await in_thread(self.store.mcp_servers.find)


async def restore_state(graph: BuiltGraph, state: RunStateRecord, items: list[ThreadItem], context: Any) -> RunState:
    """Restores the SDK's state and applies every decision. A call that finished before a crash is answered with its stored output.

    Raises `RunError` when the state cannot be read.
    """
    try:
        restored = await RunState.from_string(graph.root, state.state, context_override=context)
    except Exception as error:
        raise RunError(
            f"The state of run {state.run_id} cannot be read: {error}",
            "Cancel it with lab.cancel(run_id) and run it again.",
            code="damaged_state",
        ) from error
    decisions = decisions_of(state)
    for call in restored.get_interruptions():
        call_id = call.call_id or ""
        decision = decisions.get(call_id)
        if item := finished_call(items, call_id):
            # The SDK cannot be given a result; the message of a rejection becomes the call's output verbatim.
            restored.reject(call, rejection_message=cast(str, item.data["output"]))
        elif decision and decision["decision"] == "approved":
            restored.approve(call)
        elif decision:
            restored.reject(call, rejection_message=decision["message"] or REJECTED)
    return restored


def decisions_of(state: RunStateRecord) -> Mapping[str, Mapping[str, Any]]:
    """Returns the stored decisions by call id, each as written by `Decision.to_json`."""
    return cast(Mapping[str, Mapping[str, Any]], state.decisions)


def finished_call(items: Iterable[ThreadItem], call_id: str) -> ThreadItem | None:
    """Returns the item of a tool call if its tool has finished."""
    for item in items:
        if item.type == "tool_call" and item.data["call_id"] == call_id:
            over = item.data["status"] in ("completed", "failed") and item.data["output"] is not None
            return item if over else None
    return None


def was_answered(state: RunStateRecord, session: Sequence[Mapping[str, Json]]) -> bool:
    """Returns whether the session has an output for every pending call: an earlier resume processed them and then died."""
    answered = {item.get("call_id") for item in session if str(item.get("type", "")).endswith("_output")}
    return all(call["call_id"] in answered for call in state.interruptions)


def last_agent(graph: BuiltGraph, run: RunRecord) -> sdk.Agent:
    return graph.agents.get(run.last_agent or run.agent, graph.root)
