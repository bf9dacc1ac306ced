"""From the SDK's items to an Anthropic Messages request. <https://docs.claude.com/en/api/messages>

Blocks of one speaker in a row become one message: parallel calls stay in one assistant turn and their results in one user turn,
as the API wants them. Thinking goes back with its signature, unchanged, to the model that thought it; so do searches and the like
that Anthropic ran itself.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import Any

from timestep_lab.model.errors import SettingsError, UsageError
from timestep_lab.runtime.adapters.base import ModelRequest, items_of, parts_of, plain_object, text_of
from timestep_lab.runtime.output_text import arguments_object
from timestep_lab.runtime.unique_ids import provider_call_id

BLOCKS = "anthropic_blocks"
"""Key of a reasoning item's provider data: thinking, calls of Anthropic's own tools with their results, and unknown blocks."""

_BUDGETS = {"minimal": 1024, "low": 2048, "medium": 8192, "high": 16384, "xhigh": 32768, "max": 32768}
_ADAPTIVE_SINCE = (4, 6)
"""From here on a model decides itself how much to think; older ones want a budget.
<https://docs.claude.com/en/docs/build-with-claude/adaptive-thinking>"""
_NO_SAMPLING_SINCE = (4, 7)
"""<https://docs.claude.com/en/docs/about-claude/models/migration-guide>"""
_ROOM_FOR_THE_ANSWER = 4096
_CACHE = {"cache_control": {"type": "ephemeral"}}


def message_request(model: str, request: ModelRequest) -> dict[str, Any]:
    """Arguments for `client.messages.create`. Raises `SettingsError` for settings that cannot go together."""
    settings = request.settings
    system, messages = conversation(model, request)
    body: dict[str, Any] = {
        "model": model,
        "messages": messages,
        "max_tokens": settings.max_tokens or _usual_limit(model),
    }
    if system:
        # Caching covers everything up to a mark: one after the system text, one after the last tool.
        body["system"] = [*system[:-1], {**system[-1], **_CACHE}]
    if request.functions:
        body["tools"] = _tools(request)
        if (choice := _tool_choice(request)) is not None:
            body["tool_choice"] = choice
    output: dict[str, Any] = {}
    if request.effort is not None:
        _thinking(model, request, body, output)
    if request.any_json:
        raise SettingsError(
            f"anthropic/{model} cannot be asked for any JSON object.",
            "Give the schema that the answer must follow (response_format json_schema).",
            param="response_format",
        )
    if request.schema is not None:
        output["format"] = {"type": "json_schema", "schema": dict(request.schema)}
    if output:
        body["output_config"] = output
    # The client has no argument for these; the API does.
    sampling = _sampling(model, request, thinks=body.get("thinking", {}).get("type") not in (None, "disabled"))
    extra_body = {**sampling, **dict(settings.extra_body or {})}  # type: ignore[call-overload]
    for name, value in (
        ("extra_body", extra_body),
        ("extra_headers", settings.extra_headers),
        ("extra_query", settings.extra_query),
    ):
        if value:
            body[name] = value
    return {**body, **(settings.extra_args or {})}


def set_aside(model: str, request: ModelRequest) -> list[str]:
    """Names of settings that have no meaning for this model and ask for nothing that it does not do anyway.

    Temperature 0 asks for the steadiest answers. Models from 4.7 on take no temperature at all, thinking ones only 1; they
    have one steadiness, so 0 is left out (and said to be, in the response) where any other value is refused.
    """
    unsteerable = _version(model) >= _NO_SAMPLING_SINCE or request.effort not in (None, "none")
    return ["temperature"] if unsteerable and request.settings.temperature == 0 else []


def _sampling(model: str, request: ModelRequest, *, thinks: bool) -> dict[str, Any]:
    settings, left_out = request.settings, set_aside(model, request)
    given = {name: value for name in ("temperature", "top_p") if (value := getattr(settings, name)) is not None}
    given = {name: value for name, value in given.items() if name not in left_out}
    if given and (thinks or _version(model) >= _NO_SAMPLING_SINCE):
        why = "while it reasons" if _version(model) < _NO_SAMPLING_SINCE else "at all"
        name = next(iter(given))
        raise SettingsError(
            f"anthropic/{model} does not take {' and '.join(given)} {why}.",
            "Leave it out.",
            param=f"model_settings.{name}",
        )
    return given


def conversation(model: str, request: ModelRequest) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """(system blocks, messages)."""
    system = [{"type": "text", "text": request.instructions}] if request.instructions else []
    messages: list[dict[str, Any]] = []

    def add(role: str, block: dict[str, Any]) -> None:
        if messages and messages[-1]["role"] == role:
            messages[-1]["content"].append(block)
        else:
            messages.append({"role": role, "content": [block]})

    ids = _CallIds()
    for kind, item in items_of(request.input):
        if kind == "message" and item["role"] in ("system", "developer"):
            system.append({"type": "text", "text": text_of(item["content"])})
        elif kind == "message":
            for part in parts_of(item["content"]):
                if (block := _block(part)) is not None:
                    add("assistant" if item["role"] == "assistant" else "user", block)
        elif kind == "reasoning":
            kept = item.get("provider_data") or {}
            for block in kept.get(BLOCKS, ()) if kept.get("model") == model else ():
                add("assistant", dict(block))
        elif kind == "function_call":
            arguments = arguments_object(item.get("arguments") or "{}")
            add(
                "assistant",
                {"type": "tool_use", "id": ids.of_call(item["call_id"]), "name": item["name"], "input": arguments},
            )
        elif kind == "function_call_output":
            answered = ids.of_answer(item["call_id"])
            add("user", {"type": "tool_result", "tool_use_id": answered, "content": _result(item.get("output"))})
        else:
            raise UsageError(
                f"anthropic/{model} cannot be sent an item of type {kind!r}.", "Start a new thread for it."
            )
    return system, _without_unfinished_steps(messages)


def _without_unfinished_steps(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A call of one of Anthropic's own tools that was cut off before its result is refused by the API, and with it the thread."""
    finished = {block.get("tool_use_id") for message in messages for block in message["content"]}

    def whole(block: Mapping[str, Any]) -> bool:
        return block["type"] not in ("server_tool_use", "mcp_tool_use") or block.get("id") in finished

    kept = [{**message, "content": [block for block in message["content"] if whole(block)]} for message in messages]
    return [message for message in kept if message["content"]]


class _CallIds:
    """Ids of calls as this API takes them: none twice, of letters, digits, `_` and `-`. Its own ids come back as they were."""

    def __init__(self) -> None:
        self._used: set[str] = set()
        self._open: dict[str, list[str]] = {}
        self._answered: dict[str, str] = {}

    def of_call(self, call_id: str) -> str:
        for sent in (provider_call_id(call_id), call_id):
            if re.fullmatch(r"[a-zA-Z0-9_-]+", sent) and sent not in self._used:
                break
        else:
            times = len(self._used)  # counted, so that the same conversation is always sent in the same words
            sent = f"call_{hashlib.sha256(f'{times}/{call_id}'.encode()).hexdigest()[:24]}"
        self._used.add(sent)
        self._open.setdefault(call_id, []).append(sent)
        return sent

    def of_answer(self, call_id: str) -> str:
        """Of the first call with this id that has no answer yet."""
        if waiting := self._open.get(call_id):
            self._answered[call_id] = waiting.pop(0)
        return self._answered.get(call_id, call_id)


def _block(part: Mapping[str, Any]) -> dict[str, Any] | None:
    kind = part.get("type")
    if kind in ("input_text", "output_text", "text", "refusal"):
        text = str(part.get("text") or part.get("refusal") or "")
        return {"type": "text", "text": text} if text else None
    if kind == "input_image" and part.get("image_url"):
        return {"type": "image", "source": _source(str(part["image_url"]))}
    if kind == "input_file" and (address := part.get("file_data") or part.get("file_url")):
        named = {"title": part["filename"]} if part.get("filename") else {}
        return {"type": "document", "source": _source(str(address)), **named}
    raise UsageError(
        f"anthropic/ cannot be sent content of type {kind!r} without its data or address.",
        "Send text, an image or a PDF.",
    )


def _source(address: str) -> dict[str, Any]:
    if not address.startswith("data:"):
        return {"type": "url", "url": address}
    head, _, data = address.partition(",")
    return {"type": "base64", "media_type": head[5:].split(";")[0], "data": data}


def _result(output: Any) -> str | list[dict[str, Any]]:
    if isinstance(output, str):
        return output
    return [block for part in parts_of(output) if (block := _block(part)) is not None]


def _tools(request: ModelRequest) -> list[dict[str, Any]]:
    tools: list[dict[str, Any]] = [
        {"name": spec.name, "description": spec.description, "input_schema": dict(spec.parameters)}
        for spec in map(plain_object, request.functions)
    ]
    tools[-1].update(_CACHE)
    return tools


def _tool_choice(request: ModelRequest) -> dict[str, Any] | None:
    choice, parallel = request.settings.tool_choice, request.settings.parallel_tool_calls
    if choice is None and parallel is None:
        return None
    known = {None: "auto", "auto": "auto", "required": "any", "none": "none"}
    said: dict[str, Any] = (
        {"type": known[choice]} if choice is None or choice in known else {"type": "tool", "name": choice}
    )
    if parallel is False and said["type"] != "none":
        said["disable_parallel_tool_use"] = True
    return said


def _thinking(model: str, request: ModelRequest, body: dict[str, Any], output: dict[str, Any]) -> None:
    effort = str(request.effort)
    adaptive = _version(model) >= _ADAPTIVE_SINCE
    if effort == "none":
        if adaptive:
            body["thinking"] = {"type": "disabled"}
        return
    if request.settings.tool_choice not in (None, "auto", "none"):
        raise SettingsError(
            f"anthropic/{model} cannot be made to call a tool while it reasons.",
            'Set tool_choice to "auto", or reasoning to {"effort": "none"}.',
            param="model_settings.tool_choice",
        )
    if adaptive:
        body["thinking"] = {"type": "adaptive", "display": "summarized"}
        output["effort"] = "low" if effort == "minimal" else effort
        return
    budget = _BUDGETS[effort]
    body["thinking"] = {"type": "enabled", "budget_tokens": budget}
    # The budget counts against max_tokens, which must be more than it.
    body["max_tokens"] = max(body["max_tokens"], budget + _ROOM_FOR_THE_ANSWER)


def _version(model: str) -> tuple[int, int]:
    """`claude-sonnet-4-6` and `claude-3-7-sonnet-20250219` alike; (0, 0) for a name without a number."""
    numbers = [int(part) for part in re.split(r"[-.@]", model) if re.fullmatch(r"\d{1,2}", part)]
    return (numbers[0], numbers[1] if len(numbers) > 1 else 0) if numbers and "claude" in model else (0, 0)


def _usual_limit(model: str) -> int:
    """The API wants a limit. Models before 3.5 end at 4096."""
    return 4096 if (3, 0) <= _version(model) < (3, 5) else 8192
