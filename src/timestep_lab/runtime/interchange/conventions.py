"""What the attributes of a span mean, whichever convention wrote them.

OpenTelemetry GenAI (`gen_ai.*`, and its older names), OpenInference (`openinference.*`, `llm.*`), Langfuse (`langfuse.*`),
OpenLLMetry (`traceloop.*`) and our own (`timestep.*`). One pass, plain dicts and tuples: tens of thousands of spans a second come by here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from functools import lru_cache
from typing import Any

from timestep_lab.runtime.interchange.flattened import gathered
from timestep_lab.runtime.interchange.meanings import Meaning, meaning_of
from timestep_lab.runtime.pricing import price
from timestep_lab.store.json_text import clean, to_json
from timestep_lab.store.span_rows import INPUT_IS_JSON, OUTPUT_IS_JSON, Row
from timestep_lab.types.clock import parse_iso, to_naive_utc
from timestep_lab.types.records import Usage
from timestep_lab.types.spans import SPAN_KINDS, GenAI, Lab, OpenInference

Attributes = dict[Any, Any]
"""Name to value. Names are text; asked for None, the name of what nothing says, it gives None."""

_OPERATIONS = {
    "chat": "generation", "text_completion": "generation", "generate_content": "generation", "invoke_agent": "agent",
    "create_agent": "agent", "execute_tool": "tool", "embeddings": "retrieval", "retrieval": "retrieval",
    "invoke_workflow": "task",
}  # fmt: skip
_LANGFUSE_KINDS = {
    "generation": "generation", "agent": "agent", "tool": "tool", "chain": "task", "retriever": "retrieval",
    "embedding": "retrieval", "guardrail": "guardrail", "evaluator": "other", "span": "other", "event": "other",
}  # fmt: skip
_TRACELOOP_KINDS = {"workflow": "task", "task": "task", "agent": "agent", "tool": "tool"}
_SDK_SCOPE = "openinference.instrumentation.openai_agents"
_HANDOFF_NAME = "handoff to "
_JSON = "application/json"
_OPENING = ("{", "[")


def span_row(
    user_id: str,
    trace_id: str,
    span_id: str,
    parent_id: str | None,
    name: str,
    started_at: datetime,
    ended_at: datetime | None,
    error: str | None,
    attributes: Attributes,
    scope: str = "",
    fragments: Mapping[str, str] | None = None,
) -> Row:
    """The store's row. `error` is None unless the span failed; datetimes are naive UTC. `attributes` is used up.

    `fragments`: of some attributes, their name and value as JSON, where a reader has it at hand.
    """
    meaning = meaning_of(tuple(attributes))
    get = attributes.get
    kind = kind_of(name, attributes, scope, parent_id)
    agent, model, provider = get(meaning.agent), get(meaning.model), get(meaning.provider)
    in_tokens = out_tokens = cached = reasoning = cost = ttft = stop = None
    queue = rate_limit = server = approval = to_agent = None
    if meaning.is_ours:
        queue, rate_limit = _number(get(Lab.QUEUE_MS)), _number(get(Lab.RATE_LIMIT_MS))
        server, approval, to_agent = _text(get(Lab.SERVER)), _text(get(Lab.APPROVAL)), _text(get(Lab.TO_AGENT))
    asked = answered = None
    if meaning.has_usage:
        # An agent's usage is the sum of its calls, each of which has a price of its own.
        priced = kind in ("generation", "retrieval")
        in_tokens, out_tokens, cached, reasoning, cost = _usage(attributes, meaning, model, provider, priced=priced)
    if kind == "generation":
        if meaning.has_first_token:
            ttft = _time_to_first_token(attributes, started_at)
        stop = _stop_reason(get(GenAI.FINISH_REASONS))
        if meaning.has_messages or meaning.has_flattened:
            asked, answered = _messages(attributes)
    elif kind == "tool":
        name = str(get(meaning.tool) or name)
    text_in, json_in = asked or _payload(attributes, meaning.input, OpenInference.INPUT_MIME)
    text_out, json_out = answered or _payload(attributes, meaning.output, OpenInference.OUTPUT_MIME)
    if kind == "handoff":
        agent = get(Lab.FROM_AGENT) or agent or text_in
        to_agent = to_agent or text_out
        text_in, json_in, text_out, json_out = None, False, None, False
    elif kind == "agent":
        agent = agent or name.removeprefix("invoke_agent ")
        name = str(agent) if name.startswith("invoke_agent ") else name
    elif kind not in ("generation", "retrieval"):
        model = provider = None
    return (
        user_id, trace_id, span_id, parent_id, kind, clean(name), None if agent is None else clean(str(agent)),
        "error" if error is not None else "ok" if ended_at else "pending", None if error is None else clean(error), None if model is None else clean(str(model)),
        None if provider is None else clean(str(provider)), started_at, ended_at, in_tokens, out_tokens, cached, reasoning, cost,
        queue, rate_limit, ttft, stop, server, approval, to_agent,
        (INPUT_IS_JSON if json_in else 0) + (OUTPUT_IS_JSON if json_out else 0), None,
        _as_json(attributes, fragments), text_in, text_out,
    )  # fmt: skip


def fragment(name: str, value: Any) -> str:
    """One attribute as JSON: `"name":value`."""
    return f"{_quoted(name)}:{value if type(value) is int else to_json(value)}"


@lru_cache(maxsize=2048)
def _quoted(name: str) -> str:
    return to_json(name)


def _as_json(attributes: Attributes, fragments: Mapping[str, str] | None) -> str:
    if fragments is None:
        return to_json(attributes)
    return f"{{{','.join([fragments.get(name) or fragment(name, attributes[name]) for name in attributes])}}}"


def _usage(
    attributes: Attributes, meaning: Meaning, model: Any, provider: Any, *, priced: bool
) -> tuple[int | None, int | None, int | None, int | None, float | None]:
    """Input, output, cached and reasoning tokens, and what they cost in USD: as the sender states, else by the price table if `priced`."""
    get = attributes.get
    in_tokens, out_tokens = _whole(get(meaning.in_tokens)), _whole(get(meaning.out_tokens))
    cached, written, reasoning = (
        _whole(get(meaning.cached)),
        _whole(get(meaning.cache_written)),
        _whole(get(meaning.reasoning)),
    )
    total = _whole(get(meaning.total_tokens))
    if in_tokens is None and "langfuse.observation.usage_details" in attributes:
        in_tokens, out_tokens, cached, written, total = _langfuse_usage(
            attributes["langfuse.observation.usage_details"]
        )
    if cached or written:
        in_tokens = inclusive_input(in_tokens or 0, cached or 0, written or 0, out_tokens or 0, total)
    cost = _stated_cost(attributes, meaning)
    source = "sender"
    if cost is None and model and priced and (in_tokens or out_tokens):
        cost = _price(str(provider or ""), str(model), in_tokens or 0, out_tokens or 0, cached or 0, written or 0)
        source = "price table"
    if cost is not None and not meaning.is_ours:
        attributes[Lab.COST_SOURCE] = source
    return in_tokens, out_tokens, cached, reasoning, cost


def inclusive_input(in_tokens: int, cached: int, written: int, out_tokens: int, total: int | None) -> int:
    """All input tokens, those read from and written to the provider's cache among them.

    Most conventions count so. Anthropic's own counts leave the cache out, and senders pass them on under the same names. They are told
    apart by arithmetic: a part cannot be more than the whole, and a stated total is the sum of what was counted apart.
    """
    of_cache = cached + written
    if of_cache > in_tokens or (of_cache and total == in_tokens + of_cache + out_tokens):
        return in_tokens + of_cache
    return in_tokens


def about_trace(attributes: Mapping[Any, Any]) -> dict[str, Any]:
    """What a span's attributes say of its whole trace: `thread_id` and `workflow`, where they do."""
    meaning = meaning_of(tuple(attributes))
    found = {"thread_id": attributes.get(meaning.thread), "workflow": attributes.get(meaning.workflow)}
    return {name: value for name, value in found.items() if value is not None}


def kind_of(name: str, attributes: Mapping[str, Any], scope: str, parent_id: str | None) -> str:
    get = attributes.get
    own = get(Lab.KIND)
    if own in SPAN_KINDS:
        return str(own)
    if (inferred := get(OpenInference.KIND)) is not None:
        return _openinference_kind(str(inferred), name, attributes, scope, parent_id)
    if (operation := get(GenAI.OPERATION)) is not None and str(operation) in _OPERATIONS:
        return _OPERATIONS[str(operation)]
    if (observed := get("langfuse.observation.type")) is not None:
        return _LANGFUSE_KINDS.get(str(observed).lower(), "other")
    if (looped := get("traceloop.span.kind")) is not None:
        return _TRACELOOP_KINDS.get(str(looped), "other")
    if GenAI.TOOL_NAME in attributes:
        return "tool"
    if any(key in attributes for key in (GenAI.REQUEST_MODEL, "llm.request.type", "langfuse.observation.model.name")):
        return "generation"
    return "other"


def _openinference_kind(
    inferred: str, name: str, attributes: Mapping[str, Any], scope: str, parent_id: str | None
) -> str:
    kind = OpenInference.KINDS.get(inferred.upper(), "other")
    if (
        kind == "tool"
        and name.startswith(_HANDOFF_NAME)
        and name[len(_HANDOFF_NAME) :] == attributes.get(OpenInference.OUTPUT)
    ):
        return "handoff"  # The Agents SDK exporter writes a handoff as a tool, with the two agents as its input and output.
    if scope == _SDK_SCOPE:
        if kind == "agent" and parent_id is None and OpenInference.AGENT_NAME not in attributes:
            return "task"  # The trace as a whole, which is no agent.
        if kind == "task" and name == "turn":
            return "turn"
    return kind


def _messages(attributes: Attributes) -> tuple[tuple[str, bool] | None, tuple[str, bool] | None]:
    """A generation's input and output as JSON, where a convention gives messages."""
    asked: Any = None
    answered: Any = None
    if GenAI.INPUT_MESSAGES in attributes:
        asked = _value(attributes.pop(GenAI.INPUT_MESSAGES))
        system = _value(attributes.pop(GenAI.SYSTEM_INSTRUCTIONS, None))
        if system and isinstance(asked, list):
            asked = [
                {"role": "system", "parts": system}
                if isinstance(system, list)
                else {"role": "system", "content": system},
                *asked,
            ]
    if GenAI.OUTPUT_MESSAGES in attributes:
        answered = _value(attributes.pop(GenAI.OUTPUT_MESSAGES))
    for prefix_in, prefix_out in (
        ("llm.input_messages.", "llm.output_messages."),
        ("gen_ai.prompt.", "gen_ai.completion."),
    ):
        asked = gathered(attributes, prefix_in) or asked
        answered = gathered(attributes, prefix_out) or answered
    if asked is None:
        asked = _value(attributes.pop(GenAI.PROMPT_DEPRECATED, None))
    if answered is None:
        answered = _value(attributes.pop(GenAI.COMPLETION_DEPRECATED, None))
    # What was said once more, raw, is not kept twice.
    for raw in (OpenInference.INPUT, OpenInference.INPUT_MIME) if asked else ():
        attributes.pop(raw, None)
    for raw in (OpenInference.OUTPUT, OpenInference.OUTPUT_MIME) if answered else ():
        attributes.pop(raw, None)
    return (None if asked is None else _as_text(asked)), (None if answered is None else _as_text(answered))


def _payload(attributes: Attributes, name: str | None, mime: str) -> tuple[str | None, bool]:
    """The attribute of this name, taken out, as the column's text and whether that is JSON."""
    if name is None:
        return None, False
    value = attributes.pop(name, None)
    said = attributes.pop(mime, None)
    if isinstance(value, str):
        text = clean(value)
        return text, (said == _JSON or (said is None and text[:1] in _OPENING)) and _is_json(text)
    return (None, False) if value is None else (to_json(value), True)


def _as_text(value: Any) -> tuple[str, bool]:
    return (clean(value), False) if isinstance(value, str) else (to_json(value), True)


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _value(given: Any) -> Any:
    """A structured attribute: as it is, or as the JSON text it may be sent as."""
    if isinstance(given, str) and given[:1] in ("{", "["):
        try:
            return json.loads(given)
        except (ValueError, RecursionError):
            return given
    return given


def _object(given: Any) -> Mapping[str, Any]:
    value = _value(given)
    return value if isinstance(value, Mapping) else {}


_LANGFUSE_USAGE = (
    ("input", "prompt_tokens", "input_tokens"),
    ("output", "completion_tokens", "output_tokens"),
    ("input_cached_tokens", "input_cache_read", "cache_read_input_tokens", "input_cache_read_input_tokens", "cached_tokens"),
    ("input_cache_creation", "cache_creation_input_tokens", "input_cache_write", "input_cache_creation_input_tokens"),
    ("total", "total_tokens"),
)  # fmt: skip
"""Keys of Langfuse's usage details: input, output, read from the cache, written to it, total."""


def _langfuse_usage(given: Any) -> list[int | None]:
    usage = _object(given)
    return [next((_whole(usage[key]) for key in keys if key in usage), None) for keys in _LANGFUSE_USAGE]


def _stated_cost(attributes: Attributes, meaning: Meaning) -> float | None:
    """What the sender says that the call cost. Never below zero: that would be no cost."""
    cost = _number(attributes.get(meaning.cost))
    if cost is None and "langfuse.observation.cost_details" in attributes:
        details = _object(attributes["langfuse.observation.cost_details"])
        parts = [number for part in details.values() if (number := _number(part)) is not None]
        cost = _number(details.get("total")) if "total" in details else sum(parts) if parts else None
    return cost if cost is not None and cost >= 0 else None


def _time_to_first_token(attributes: Attributes, started_at: datetime) -> float | None:
    own = _number(attributes.get(Lab.TTFT_MS))
    if own is not None:
        return own
    seconds = _number(attributes.get(GenAI.TIME_TO_FIRST_CHUNK))
    if seconds is not None:
        return seconds * 1000.0
    began = attributes.get("langfuse.observation.completion_start_time")
    if isinstance(began, str):
        try:
            moment = to_naive_utc(parse_iso(began.strip('"')))
        except ValueError:
            return None
        return (moment - started_at).total_seconds() * 1000.0
    return None


def _stop_reason(given: Any) -> str | None:
    if given is None:
        return None
    if isinstance(given, list | tuple):
        given = given[0] if given else None
    return _text(given)


def _price(provider: str, model: str, in_tokens: int, out_tokens: int, cached: int, written: int) -> float | None:
    """USD. Asking for a price takes long for a million spans, so of models with one price a token that price is asked once."""
    rates = _rates(provider, model)
    if rates is None:
        return None
    if not rates:
        return _asked_price(provider, model, in_tokens, out_tokens, cached, written)
    call, each_in, each_out, each_cached, each_written = rates
    fresh = in_tokens - cached - written
    return call + fresh * each_in + out_tokens * each_out + cached * each_cached + written * each_written


@lru_cache(maxsize=4096)
def _asked_price(provider: str, model: str, in_tokens: int, out_tokens: int, cached: int, written: int) -> float | None:
    usage = Usage(
        requests=1, input_tokens=in_tokens, output_tokens=out_tokens, cached_tokens=cached, cache_write_tokens=written
    )
    return price(provider, model, usage)


@lru_cache(maxsize=512)
def _rates(provider: str, model: str) -> tuple[float, ...] | None:
    """For a call, and for each token in, out, cached and written to the cache. None when unknown, empty when a token's price depends on their number."""
    tokens = [
        (n * i, n * o, n * c, n * w)
        for n in (1_000, 1_000_000)
        for i, o, c, w in ((0, 0, 0, 0), (1, 0, 0, 0), (0, 1, 0, 0), (1, 0, 1, 0), (1, 0, 0, 1))
    ]
    found = [cost for each in tokens if (cost := _asked_price(provider, model, *each)) is not None]
    if len(found) < len(tokens):
        return None
    few, many = found[:5], found[5:]
    if any(abs((b - many[0]) - 1_000 * (a - few[0])) > 1e-9 for a, b in zip(few, many, strict=True)):
        return ()
    return (few[0], *((cost - few[0]) / 1_000 for cost in few[1:]))


def _whole(value: Any) -> int | None:
    if value is None:
        return None
    number = _number(value)
    return int(number) if number is not None and 0 <= number < 2**62 else None


def _number(value: Any) -> float | None:
    if value is None or isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        number = float(value)
    except ValueError:
        return None
    return number if abs(number) < float("inf") else None


def _text(value: Any) -> str | None:
    return None if value is None else clean(str(value))
