"""A Python function as a scorer."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from timestep_lab.evals.datasets.case import Case
from timestep_lab.evals.scorers.base import Answer, Score, Scorer, Tools, in_scorer_thread, unknown
from timestep_lab.model.errors import UsageError

_OFFERED = ("output", "expected", "input", "case", "answer", "vars", "steps")


@dataclass(frozen=True, kw_only=True)
class Function(Scorer):
    """Calls `function` with those of output, expected, input, case, answer, vars and steps that it names as parameters.

    It gives back a number, True or False, a `Score`, or None (cannot say). A plain function is called in a thread, several calls side
    by side; an async one on the event loop. One that raises scores nothing, with the exception as the note.
    """

    function: Callable[..., Any]

    def __post_init__(self) -> None:
        wanted = inspect.signature(self.function).parameters.values()
        strange = [
            p.name for p in wanted
            if p.name not in _OFFERED and p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
        ]  # fmt: skip
        if strange:
            raise UsageError(
                f"The scorer {self.name or self.function.__name__} asks for {', '.join(strange)}, which no answer has.",
                f"Its parameters may be: {', '.join(_OFFERED)}.",
            )

    def check(self, answer: Answer, case: Case) -> Score:
        result = self._call(answer, case)
        if inspect.isawaitable(result):
            raise UsageError(f"The scorer {self.name} is async.", "Use it in a comparison, which waits for it.")
        return _as_score(result)

    async def score(self, answer: Answer, case: Case, tools: Tools) -> Score:
        if inspect.iscoroutinefunction(self.function):
            return _as_score(await self._call(answer, case))
        result = await in_scorer_thread(self._call, answer, case)
        return _as_score(await result if inspect.isawaitable(result) else result)

    def _call(self, answer: Answer, case: Case) -> Any:
        offered = {
            "output": answer.output, "expected": case.expected, "input": case.input, "case": case, "answer": answer,
            "vars": case.own_vars(), "steps": list(answer.steps),
        }  # fmt: skip
        parameters = inspect.signature(self.function).parameters
        if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
            return self.function(**offered)
        return self.function(**{name: offered[name] for name in parameters if name in offered})


def _as_score(result: Any) -> Score:
    if isinstance(result, Score):
        return result
    if result is None:
        return unknown("the function gave no score")
    if isinstance(result, bool | int | float) or hasattr(result, "__float__"):
        value = float(result)
        return Score(value) if math.isfinite(value) else unknown(f"the function gave {value}, which is not a score")
    return unknown(f"the function gave a {type(result).__name__}, not a number")
