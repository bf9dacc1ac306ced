"""Rules about the steps of a run. They use only steps, so they apply to stored traces as well as to new answers.

A step is `{"type": "tool", "name", "arguments": {…}, "agent", "approval", "error"}` or `{"type": "handoff", "from",
"to"}`. Tool names may contain the wildcard `*`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import ClassVar

from timestep_lab.evals.datasets.case import Case
from timestep_lab.evals.scorers.base import Answer, Score, Scorer, passed, same_json, scorer
from timestep_lab.model.codec import Json
from timestep_lab.model.errors import UsageError

Step = Mapping[str, Json]


@scorer("tool_used")
@dataclass(frozen=True, kw_only=True)
class ToolUsed(Scorer):
    """A tool was called: at least once, or exactly `times` times; with these `arguments` among its own (text is
    compared case-insensitively).
    """

    main: ClassVar[str | None] = "tool"
    tool: str = ""
    arguments: Mapping[str, Json] = field(default_factory=dict)
    times: int | None = None

    def __post_init__(self) -> None:
        _need(self.tool, self.type, "tool_used:get_weather")

    def check(self, answer: Answer, case: Case) -> Score:
        calls = [s for s in tools_of(answer.steps) if fnmatchcase(str(s.get("name")), self.tool)]
        fitting = [s for s in calls if _holds(self.arguments, s.get("arguments"))]
        note = (
            f"called {_times(len(fitting))}"
            if len(fitting) == len(calls)
            else f"called {_times(len(calls))}, {len(fitting)} with these arguments"
        )
        return passed(len(fitting) == self.times if self.times is not None else bool(fitting), note)


@scorer("tool_order")
@dataclass(frozen=True, kw_only=True)
class ToolOrder(Scorer):
    """Tools were called in this order (`tool_order:search,fetch`); other calls may come in between, unless `strict`."""

    main: ClassVar[str | None] = "tools"
    tools: Sequence[str] = ()
    strict: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "tools", _names(self.tools))
        _need(self.tools, self.type, "tool_order:search,fetch")

    def check(self, answer: Answer, case: Case) -> Score:
        called = [str(s.get("name")) for s in tools_of(answer.steps)]
        note = " → ".join(called) or "no tool called"
        if self.strict:
            fits = len(called) == len(self.tools) and all(map(fnmatchcase, called, self.tools))
        else:
            rest = iter(called)
            fits = all(any(fnmatchcase(name, wanted) for name in rest) for wanted in self.tools)
        return passed(fits, note)


@scorer("steps")
@dataclass(frozen=True, kw_only=True)
class StepCount(Scorer):
    """The number of tool calls and handoffs is between `at_least` and `at_most`."""

    main: ClassVar[str | None] = "at_most"
    at_most: int | None = None
    at_least: int = 0

    def __post_init__(self) -> None:
        if self.at_most is None and not self.at_least:
            raise UsageError("The scorer steps needs a limit.", "For example: steps:4")

    def check(self, answer: Answer, case: Case) -> Score:
        n = len(answer.steps)
        return passed(n >= self.at_least and (self.at_most is None or n <= self.at_most), f"{n} steps")


@scorer("handoff_path")
@dataclass(frozen=True, kw_only=True)
class HandoffPath(Scorer):
    """The run visited these agents in this order (`handoff_path:Personal Assistant,Weather Assistant`), and no others
    unless `partial`.
    """

    main: ClassVar[str | None] = "agents"
    agents: Sequence[str] = ()
    partial: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "agents", _names(self.agents))
        _need(self.agents, self.type, "handoff_path:Personal Assistant,Weather Assistant")

    def check(self, answer: Answer, case: Case) -> Score:
        handoffs = [s for s in answer.steps if s.get("type") == "handoff"]
        path = [str(handoffs[0].get("from"))] if handoffs else [str(s.get("agent")) for s in answer.steps[:1]]
        path += [str(s.get("to")) for s in handoffs]
        note = " → ".join(path) or "no handoff"
        if not self.partial:
            return passed(path == list(self.agents), note)
        rest = iter(path)
        return passed(all(agent in rest for agent in self.agents), note)


@scorer("no_tool_before_approval")
@dataclass(frozen=True, kw_only=True)
class NoToolBeforeApproval(Scorer):
    """None of these tools ran without a person's approval of that call; or, with `after`, before that tool was called
    or that agent was reached."""

    main: ClassVar[str | None] = "tools"
    tools: Sequence[str] = ()
    after: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "tools", _names(self.tools))
        _need(self.tools, self.type, "no_tool_before_approval:send_*,pay")

    def check(self, answer: Answer, case: Case) -> Score:
        opened = False
        for step in answer.steps:
            name = str(step.get("name"))
            if step.get("type") == "tool" and any(fnmatchcase(name, tool) for tool in self.tools):
                waited = step.get("approval") in ("rejected", "pending")
                allowed = opened if self.after is not None else step.get("approval") == "approved"
                if not waited and not allowed:
                    return passed(False, f"{name} ran without {self.after or 'approval'}")
            opened = opened or self.after in (step.get("name"), step.get("to"))
        return passed(True)


def tools_of(steps: Sequence[Step]) -> list[Step]:
    """The tool calls among the steps, in order."""
    return [step for step in steps if step.get("type") == "tool"]


def _holds(wanted: object, found: object) -> bool:
    """Whether all wanted arguments are present and equal; additional arguments are ignored."""
    if isinstance(wanted, Mapping):
        return isinstance(found, Mapping) and all(
            key in found and _holds(value, found[key]) for key, value in wanted.items()
        )
    if isinstance(wanted, str) and isinstance(found, str):
        return fnmatchcase(found.casefold(), wanted.casefold())
    return same_json(found, wanted)


def _names(value: Sequence[str] | str) -> tuple[str, ...]:
    return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else tuple(value)


def _need(value: object, name: str, example: str) -> None:
    if not value:
        raise UsageError(f"The scorer {name} needs an argument.", f"For example: {example}")


def _times(n: int) -> str:
    return "once" if n == 1 else f"{n} times"
