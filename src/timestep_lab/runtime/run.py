"""The agents of a run: built from what the store says now, or from what it said when the run paused."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, cast

import agents as sdk
from agents import RunState

from timestep_lab.model.arguments import messages_of
from timestep_lab.model.errors import RunError, UsageError
from timestep_lab.model.records import LIMITS, AgentRecord, Json, McpServerRecord, RunRecord, RunStateRecord, ThreadItem
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
    from timestep_lab.runtime.settings import Settings
    from timestep_lab.store.store import Store


# --- What a caller asks of a run, checked before anything is written


Approve = Literal["ask", "all", "none"]
DEFAULT_MAX_TURNS = 10
TITLE_LENGTH = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class RunLimits:
    """What a run may take, over all its agents, pauses and parts. None: as much as it wants."""

    budget_usd: float | None = None
    max_tokens_total: int | None = None
    """Input and output, of all answers."""
    timeout_s: float | None = None
    """Seconds that it works; waiting for approval does not count."""
    max_tool_calls: int | None = None

    @classmethod
    def read(cls, **given: Any) -> RunLimits:
        """Raises `UsageError`."""
        for name, value in given.items():
            whole = name.startswith("max_")
            right = isinstance(value, int if whole else int | float) and not isinstance(value, bool)
            if value is not None and not (
                right and (value >= 0 if name == "max_tool_calls" else 0 < value < float("inf"))
            ):
                least = "0" if name == "max_tool_calls" else "1" if whole else "above 0"
                raise UsageError(
                    f"{name}={value!r} is no limit.", f"Give a {'whole ' * whole}number{' from' * whole} {least}{' up' * whole}.",
                    param=name,
                )  # fmt: skip
        return cls(**given)

    @classmethod
    def of_agent(cls, agent: object) -> RunLimits:
        """Those that a stored agent carries; no other has any."""
        return cls(**{name: getattr(agent, name) for name in LIMITS}) if isinstance(agent, AgentRecord) else cls()

    def over(self, others: RunLimits) -> RunLimits:
        """`others`, but for those that are set here."""
        return replace(others, **self.given())

    def given(self) -> dict[str, Any]:
        """Those that are set."""
        return {name: value for name in LIMITS if (value := getattr(self, name)) is not None}


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """What holds for one run alone. It is kept with a paused run, so that the run goes on as it began."""

    model: str | None = None
    model_settings: Mapping[str, Json] = field(default_factory=dict)
    max_turns: int = DEFAULT_MAX_TURNS
    approve: Approve = "ask"
    limits: RunLimits = RunLimits()
    tape: Mapping[str, Json] | None = None
    """`Tape.spec` of what its tools answer from; None: they are real."""

    def to_json(self) -> dict[str, Json]:
        return {
            "model": self.model, "model_settings": dict(self.model_settings), "max_turns": self.max_turns,
            "approve": self.approve, "limits": self.limits.given(),
            **({} if self.tape is None else {"tape": dict(self.tape)}),
        }  # fmt: skip

    @classmethod
    def from_json(cls, plain: Mapping[str, Json]) -> RunOptions:
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
    """Raises `UsageError` or `SettingsError`."""
    if approve not in ("ask", "all", "none"):
        raise UsageError(f"approve={approve!r} is not known.", "Use 'ask', 'all' or 'none'.", param="approve")
    if type(max_turns) is not int or max_turns < 1:
        raise UsageError(
            f"max_turns={max_turns!r} allows no turn.", "Give a whole number from 1 up.", param="max_turns"
        )
    return RunOptions(
        model=model,
        model_settings=validate_settings(dict(model_settings or {})),
        max_turns=max_turns,
        approve=cast(Approve, approve),
        limits=limits,
        tape=tape,
    )


@dataclass(frozen=True, slots=True)
class UserTurn:
    """What the user says, in the three forms it is kept in."""

    text: str
    """For the run's row and the title."""
    session_items: tuple[Mapping[str, Any], ...]
    """For the model: Responses input items."""
    thread_items: tuple[tuple[str, dict[str, Json]], ...]
    """For the reader: (type, data)."""

    @property
    def title(self) -> str | None:
        line = next((line.strip() for line in self.text.splitlines() if line.strip()), "")
        return line if len(line) <= TITLE_LENGTH else f"{line[: TITLE_LENGTH - 1].rstrip()}…"


def read_turn(said: str | Sequence[Mapping[str, object]], attachments: Sequence[Mapping[str, Json]] = ()) -> UserTurn:
    """`said` is a text, or Responses input items. An attachment is a mapping that readers see; its key `input`, if any, is the content
    part that the model gets (`input_image`, `input_file`, `input_text`). Raises `UsageError` when nothing was said.
    """
    if isinstance(said, str):
        return _text_turn(said, attachments)
    items = messages_of(said)
    if not items:
        raise UsageError("There is nothing to say: the input is empty.", "Give a prompt.", param="input")
    shown = [
        ("user_message", _message(content_text(item.get("content")), []))
        for item in items
        if item.get("type", "message") == "message" and item.get("role") == "user"
    ]
    if attachments and shown:
        shown[-1][1]["attachments"] = [_shown(a) for a in attachments]
        items[-1] = {**items[-1], "content": [*_parts(items[-1].get("content")), *_inputs(attachments)]}
    return UserTurn("\n".join(data["text"] for _, data in shown), tuple(items), tuple(shown))


def content_text(content: Any) -> str:
    """The text of a Responses message's content."""
    return content if isinstance(content, str) else "".join(str(part.get("text", "")) for part in content or ())


def _text_turn(text: str, attachments: Sequence[Mapping[str, Json]]) -> UserTurn:
    if not text.strip() and not attachments:
        raise UsageError("There is nothing to say: the prompt is empty.", "Give a prompt.", param="input")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UsageError(
            f"The prompt holds {text[error.start]!r}, which is half a character.", "Write it as UTF-8.", param="input"
        ) from None
    inputs = _inputs(attachments)
    content: Any = [*_parts(text), *inputs] if inputs else text
    return UserTurn(
        text,
        ({"role": "user", "content": content},),
        (("user_message", _message(text, [_shown(a) for a in attachments])),),
    )


def _message(text: str, attachments: list[Json]) -> dict[str, Json]:
    return {"text": text, "attachments": attachments, "status": "completed", "annotations": []}


def _parts(content: Any) -> list[Json]:
    if isinstance(content, str):
        return [{"type": "input_text", "text": content}] if content else []
    return list(content or ())


def _inputs(attachments: Sequence[Mapping[str, Json]]) -> list[Json]:
    return [attachment["input"] for attachment in attachments if attachment.get("input")]


def _shown(attachment: Mapping[str, Json]) -> dict[str, Json]:
    return {name: value for name, value in attachment.items() if name != "input"}


AnyAgent = AgentRecord | sdk.Agent[Any]


@dataclass(slots=True)
class Graphs:
    """Builds the agents of one user's runs."""

    store: Store
    toolbox: Toolbox
    settings: Settings

    async def records(self, agent: AnyAgent, versions: Mapping[str, int] | None = None) -> dict[str, AgentRecord]:
        """The stored agents that a run of `agent` may reach, as they are today or in these `versions` (by id); none for an SDK agent.
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
    ) -> tuple[BuiltGraph, dict[str, Json]]:
        """The agents, and the snapshot that a pause keeps of them. `recorded`: see `Toolbox.tools_for`."""
        if isinstance(agent, sdk.Agent):
            return from_sdk(agent), freeze_sdk(agent.name, options.to_json())
        servers = await self._servers()
        graph = await self._build(records, agent.id, self.toolbox, servers, recorded)
        return graph, freeze(records, agent.id, servers, options.to_json())

    async def rebuild(self, state: RunStateRecord, agent: sdk.Agent[Any] | None) -> tuple[BuiltGraph, Toolbox | None]:
        """The agents as they were at the pause, and the toolbox made for them if today's servers are others.

        Raises `RunError` when they cannot be had.
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
    ) -> BuiltGraph:
        return await build(
            records, root_id, toolbox, default_model=self.settings.default_model, servers=servers, recorded=recorded
        )

    async def _servers(self) -> list[McpServerRecord]:
        return await in_thread(self.store.mcp_servers.find)


async def restore_state(
    graph: BuiltGraph, state: RunStateRecord, items: list[ThreadItem], context: Any
) -> RunState[Any, Any]:
    """The SDK's state with every decision applied. A call that had finished before a crash is answered with what it said then.

    Raises `RunError` when the state cannot be read.
    """
    try:
        restored = await RunState.from_string(graph.root, state.state, context_override=context)
    except Exception as error:
        raise RunError(
            f"The state of run {state.run_id} cannot be read: {error}",
            "Cancel it with lab.cancel(run_id) and ask again.",
            code="damaged_state",
        ) from error
    for call in restored.get_interruptions():
        call_id = call.call_id or ""
        decision = state.decisions.get(call_id)
        if item := finished_call(items, call_id):
            # The SDK has no way to hand it a result; a refusal's message becomes the call's output word for word.
            restored.reject(call, rejection_message=item.data["output"])
        elif decision and decision["decision"] == "approved":
            restored.approve(call)
        elif decision:
            restored.reject(call, rejection_message=decision["message"] or REJECTED)
    return restored


def finished_call(items: Iterable[ThreadItem], call_id: str) -> ThreadItem | None:
    """The call's item, if its tool ran to an end."""
    for item in items:
        if item.type == "tool_call" and item.data["call_id"] == call_id:
            over = item.data["status"] in ("completed", "failed") and item.data["output"] is not None
            return item if over else None
    return None


def was_answered(state: RunStateRecord, session: list[dict[str, Any]]) -> bool:
    """Whether the model's log holds an answer to every call that waited: an earlier resume got past them and then died."""
    answered = {item.get("call_id") for item in session if str(item.get("type", "")).endswith("_output")}
    return all(call["call_id"] in answered for call in state.interruptions)


def last_agent(graph: BuiltGraph, run: RunRecord) -> sdk.Agent[Any]:
    return graph.agents.get(run.last_agent or run.agent, graph.root)
