"""How a run ended, told as one typed error with a next step."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from agents.exceptions import (
    AgentsException,
    InputGuardrailTripwireTriggered,
    MaxTurnsExceeded,
    ModelBehaviorError,
    ModelRefusalError,
    ModelTimeoutError,
    OutputGuardrailTripwireTriggered,
    ToolInputGuardrailTripwireTriggered,
    ToolOutputGuardrailTripwireTriggered,
    ToolTimeoutError,
    UserError,
)

from timestep_lab.model.errors import LabError, ProviderTimeoutError, RunError, ToolError
from timestep_lab.model.records import Json

SHOWN_ROUND = 8
"""How many agents of an endless round are named."""


def as_lab_error(error: BaseException, *, speakers: Sequence[str], max_turns: int | None) -> LabError:
    """`speakers`: the agents in the order they spoke, for a run that never came to an end."""
    if isinstance(error, LabError):
        return error
    if isinstance(error, MaxTurnsExceeded):
        return _max_turns(speakers, max_turns)
    if isinstance(error, ModelRefusalError):
        return RunError(
            f"The model refused: {error.refusal}", "Say it differently, or try another model.", code="refusal"
        )
    guardrail = _guardrail(error)
    if guardrail:
        return RunError(guardrail, "Change the input, or the guardrail.", code="guardrail")
    if isinstance(error, ModelTimeoutError):
        return ProviderTimeoutError(str(error), "Try again, or allow more time: model_settings={'timeout': …}")
    if isinstance(error, ToolTimeoutError):
        return ToolError(str(error), "Try again, or give the tool a longer timeout.", tool=error.tool_name)
    # The SDK wraps what a tool or a model raised; the error inside says more.
    if isinstance(error, UserError | AgentsException) and isinstance(error.__cause__, Exception):
        return as_lab_error(error.__cause__, speakers=speakers, max_turns=max_turns)
    if isinstance(error, ModelBehaviorError):
        return RunError(
            f"The model did something it cannot do: {error.message}",
            "Try again; if it repeats, give it fewer tools or a stronger model.",
            code="model_behavior",
        )
    if isinstance(error, UserError):
        return RunError(f"The agent cannot run as it is: {error.message}", "Correct the agent and run it again.")
    return RunError(
        f"{type(error).__name__}: {error}", "The whole error is in the log of logger 'timestep_lab'.", code="unexpected"
    )


def error_json(error: LabError) -> dict[str, Json]:
    return {
        "type": type(error).__name__,
        "message": error.message,
        "next_step": error.next_step,
        **({"code": error.code} if error.code else {}),
    }


def _max_turns(speakers: Sequence[str], max_turns: int | None) -> RunError:
    message = f"The run was stopped after {max_turns} turns without an answer."
    handoffs = sum(a != b for a, b in pairwise(speakers))
    if handoffs >= SHOWN_ROUND // 2:
        shown = " → ".join(speakers[-SHOWN_ROUND:])
        return RunError(
            f"{message} It went round: {'… → ' if len(speakers) > SHOWN_ROUND else ''}{shown}",
            "Take one of these handoffs away, or tell one of these agents when to answer itself.",
            code="max_turns",
        )
    where = f" {speakers[-1]} went on calling tools." if speakers else ""
    return RunError(message + where, "Allow more with max_turns=…, or tell the agent when to stop.", code="max_turns")


def _guardrail(error: BaseException) -> str | None:
    if isinstance(error, InputGuardrailTripwireTriggered):
        return f"The input guardrail {error.guardrail_result.guardrail.get_name()!r} stopped the run."
    if isinstance(error, OutputGuardrailTripwireTriggered):
        return f"The output guardrail {error.guardrail_result.guardrail.get_name()!r} stopped the answer."
    if isinstance(error, ToolInputGuardrailTripwireTriggered | ToolOutputGuardrailTripwireTriggered):
        side = "input" if isinstance(error, ToolInputGuardrailTripwireTriggered) else "output"
        return f"The tool {side} guardrail {error.guardrail.get_name()!r} stopped the run."
    return None
