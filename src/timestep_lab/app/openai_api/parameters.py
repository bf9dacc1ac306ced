"""What OpenAI's clients may send beside the question: passed on where the model's provider has a word for it, taken where it changes no
answer, and else refused by its name. Nothing that would change an answer is dropped in silence.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from timestep_lab.app.openai_api.shared import Object
from timestep_lab.types.errors import UsageError

CHAT_COMPLETIONS = ("openai_compatible", "hf_inference_providers", "hf_inference_endpoints")
"""Providers that speak it; `openai/` does too, where `OPENAI_BASE_URL` points elsewhere."""
OF_CHAT = ("stop", "seed", "logit_bias")
NEUTRAL: tuple[Any, ...] = (None, False, 0, {}, [])
"""Asks for nothing."""
TEXT_ONLY: tuple[Any, ...] = (None, ["text"])


def refuse(given: Mapping[str, Any], model: str, *, neutral: tuple[Any, ...] = NEUTRAL) -> None:
    """Raises `UsageError` for the first parameter that asks for something."""
    for name, value in given.items():
        if value not in neutral:
            raise unsupported(name, model)


def unsupported(name: str, model: str) -> UsageError:
    return UsageError(
        f"The parameter {name} cannot be honoured for {model}.", "Leave it out, or ask another model.",
        param=name, code="unsupported_parameter",
    )  # fmt: skip


def passed_on(given: Mapping[str, Any], model: str, *, openai_elsewhere: bool) -> Object:
    """Model settings by which the provider of `model` (`prefix/name`) hears of `stop`, `seed` and `logit_bias`.

    Raises `UsageError` for one that it has no word for.
    """
    prefix = model.partition("/")[0]
    wanted = {name: value for name, value in given.items() if value is not None and value not in ({}, [])}
    if not wanted:
        return {}
    if prefix in CHAT_COMPLETIONS or (prefix == "openai" and openai_elsewhere):
        return {"extra_args": wanted}
    if prefix == "local":
        return {"extra_body": wanted}
    if isinstance(wanted.get("stop"), str):
        wanted["stop"] = [wanted["stop"]]
    words = {"anthropic": {"stop": "stop_sequences"}, "ollama": {"stop": "stop", "seed": "seed"}}.get(prefix, {})
    if prefix == "demo":
        wanted.pop("seed", None)  # Its answers are the same whatever the seed.
    for name in wanted:
        if name not in words:
            raise unsupported(name, model)
    return {"extra_args": {words[name]: value for name, value in wanted.items()}} if wanted else {}
