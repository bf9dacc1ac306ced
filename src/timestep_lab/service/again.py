""" "Run again": replays a recorded run with changes. `plan` describes what would be replayed and what would run live;
`start` begins.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypedDict

from annotated_types import Len

from timestep_lab.model.codec import JsonObject
from timestep_lab.model.events import RunStarted
from timestep_lab.model.records import RunRecord
from timestep_lab.store.base import in_thread

if TYPE_CHECKING:
    from timestep_lab.runtime.forks import Branching
    from timestep_lab.service.operation import Scope

Text = Annotated[str, Len(0, 200_000)]


class AgainChanges(TypedDict, total=False):
    """The changes to apply, as in `lab.fork`."""

    span_id: Annotated[str, Len(1, 200)]
    """The step from which the run is live. Default: the first step that a change affects."""
    prompt: Text
    model: Annotated[str, Len(1, 300)]
    instructions: Text | Mapping[str, Text]
    """Instructions for the first agent, or a mapping of agent names to instructions."""
    tools: JsonObject
    """Tool name to the result that replaces its live calls."""
    results: JsonObject
    """Id of a recorded call to the result that replaces it."""
    again: bool
    """Run live even if nothing is changed."""
    on_tools: Literal["ask", "live", "tape"]


@dataclass(frozen=True, slots=True, kw_only=True)
class AgainPlan:
    """What running again would do. `steps` of `of_steps` responses and tool calls are replayed as recorded.
    `live_model` is None if all are.
    """

    steps: int
    of_steps: int
    live_agent: str | None
    live_model: str | None
    on_tools: Literal["ask", "live", "tape"]
    replaced: tuple[str, ...]
    """Tools whose results are given by the user; they are never called."""
    text: str
    """A description in one sentence or two."""


async def plan(scope: Scope, trace_id: str, changes: AgainChanges) -> AgainPlan:
    """Plan a run without writing anything or calling a model or a tool. Raises what `start` would raise before it
    begins.
    """
    from timestep_lab.runtime.forks import prepare, read_changes

    given: dict[str, Any] = {**changes}
    span_id, on_tools = given.pop("span_id", None), given.get("on_tools")
    read = read_changes(
        given.get("prompt"), given.get("model"), given.get("instructions"), given.get("tools"), given.get("results"),
        given.get("again", False), None, on_tools,
    )  # fmt: skip
    await in_thread(scope.flush)
    branching = await prepare(scope.runner, trace_id, span_id, read, None, None, on_tools)
    return _told(branching)


def _told(branching: Branching) -> AgainPlan:
    from timestep_lab.runtime.replay import Replay

    recorded, point, changes = branching.recorded, branching.point, branching.changes
    calls = [span for call_id, span in recorded.tools.items() if call_id in recorded.turn_of]
    of_steps = len(recorded.answers) + len(calls)
    on_tools: Any = changes.on_tools
    replaced = tuple(
        dict.fromkeys(
            [*changes.tools, *(str(recorded.tools[i]["name"]) for i in changes.results if i in recorded.tools)]
        )
    )
    if point is None:
        return AgainPlan(
            steps=of_steps, of_steps=of_steps, live_agent=None, live_model=None, on_tools=on_tools, replaced=replaced,
            text=f"Replays all {of_steps} steps as recorded. Asks no model and calls no tool.",
        )  # fmt: skip
    replay = Replay(recorded, point, changes)
    steps = point.answers + len(replay.calls)
    nxt = recorded.answers[min(point.answers, len(recorded.answers) - 1)] if recorded.answers else None
    agent = str(nxt["agent"]) if nxt else branching.run.agent
    model = _model(branching, agent)
    begin = "Replays no step" if not steps else f"Replays {'1 step' if steps == 1 else f'{steps} steps'} as recorded"
    says = (
        f" {_listed(replaced)} {'returns' if len(replaced) == 1 else 'return'} the result you entered."
        if replaced
        else ""
    )
    others = "Other tools" if replaced else "Tools"
    how = {
        "ask": f"{others} that may have side effects wait for your approval.",
        "live": f"{others} are called for real.",
        "tape": f"{others} answer from recorded runs; none is called.",
    }[on_tools]
    return AgainPlan(
        steps=steps, of_steps=of_steps, live_agent=agent, live_model=model, on_tools=on_tools, replaced=replaced,
        text=f"{begin}, then asks {model} as {agent}.{says} {how}",
    )  # fmt: skip


def _model(branching: Branching, agent: str) -> str:
    own = branching.graph.agents[agent].model if agent in branching.graph.agents else None
    model = branching.changes.models.get(agent) or branching.options.model or own or branching.run.model
    return model if isinstance(model, str) else str(branching.run.model or "the agent's model")


def _listed(names: tuple[str, ...]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


async def start(scope: Scope, trace_id: str, changes: AgainChanges) -> RunRecord:
    """Start the run and return as soon as it is stored. It continues in the background."""
    given: dict[str, Any] = {**changes}
    await in_thread(scope.flush)
    events = scope.runner.fork(trace_id, given.pop("span_id", None), keep_running=True, **given)
    try:
        async for event in events:
            if isinstance(event, RunStarted):
                return event.run
    finally:
        await events.aclose()
    raise AssertionError("a run begins with its start")
