"""What OpenAI's clients may send beside the question: passed on where the model's provider has a word for it, taken where it changes no
answer, and else refused by its name. Nothing that would change an answer is dropped in silence.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from timestep_lab.model.errors import UsageError
from timestep_lab.server.openai_api.shared import Object

CHAT_COMPLETIONS = ("openai_compatible", "hf_inference_providers", "hf_inference_endpoints")
"""Providers that speak it; `openai/` does too, where `OPENAI_BASE_URL` points elsewhere."""
OF_CHAT = ("stop", "seed", "logit_bias")
NEUTRAL: tuple[Any, ...] = (None, False, 0, {}, [])
"""Asks for nothing."""
TEXT_ONLY: tuple[Any, ...] = (None, ["text"])


ABOUT_THE_CALLER = ("user", "safety_identifier")
HINTS = ("prompt_cache_key", "prompt_cache_retention", "prediction")
"""They make an answer cheaper or faster, never another: a provider that has no word for them need not be told."""
TIERS: tuple[Any, ...] = (None, "auto", "default")
INCLUDABLE = (
    "file_search_call.results", "web_search_call.results", "web_search_call.action.sources", "message.input_image.image_url",
    "computer_call_output.output.image_url", "code_interpreter_call.outputs", "reasoning.encrypted_content",
)  # fmt: skip
"""OpenAI's own tools do not run here, so there is nothing of theirs to include; reasoning always comes with what sends it back."""


def beside(given: Mapping[str, Any], model: str, *, openai_elsewhere: bool) -> Object:
    """Model settings by which the provider of `model` hears of the caller, the service tier and hints. The call's trace has the former
    whatever the provider. Raises `UsageError` for a tier that it does not have.
    """
    prefix = model.partition("/")[0]
    told = {
        name: given.get(name) for name in (*ABOUT_THE_CALLER, *HINTS, "service_tier") if given.get(name) is not None
    }
    if prefix in CHAT_COMPLETIONS or prefix == "openai":
        if prefix == "openai" and not openai_elsewhere:
            told.pop("prediction", None)  # The Responses API has none.
        return {"extra_args": told} if told else {}
    if told.get("service_tier") not in TIERS:
        raise unsupported("service_tier", model)
    who = told.get("safety_identifier") or told.get("user")
    return {"extra_args": {"metadata": {"user_id": who}}} if prefix == "anthropic" and who else {}


def merged(*settings: Object) -> Object:
    """One set of settings; what several give as `extra_args` comes together."""
    extra = {name: value for one in settings for name, value in (one.get("extra_args") or {}).items()}
    whole = {name: value for one in settings for name, value in one.items() if name != "extra_args"}
    return {**whole, "extra_args": extra} if extra else whole


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
