"""Converts span attributes of any supported convention to the store's columns.

OpenTelemetry GenAI (`gen_ai.*`, and its older names), OpenInference (`openinference.*`, `llm.*`), Langfuse (`langfuse.*`), OpenLLMetry
(`traceloop.*`) and the lab's own (`timestep.*`). One pass with plain dicts and tuples, for tens of thousands of spans per second.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import datetime
from functools import lru_cache

from timestep_lab.model.clock import parse_iso, to_naive_utc
from timestep_lab.model.codec import list_of, object_of
from timestep_lab.model.spans import SPAN_KINDS, SPAN_STATUSES, GenAI, Lab, OpenInference
from timestep_lab.runtime.interchange.attribute_map import Meaning, meaning_of
from timestep_lab.runtime.interchange.attribute_readers import (
    DOCUMENTS,
    EMBEDDED,
    FLATTENED,
    Source,
    documents_of,
    json_value,
    number_in,
    part,
    value_of,
    whole_number,
)
from timestep_lab.runtime.interchange.flattened_messages import gathered, gathered_documents
from timestep_lab.runtime.interchange.messages import (
    NO_MESSAGE,
    Message,
    answer_of,
    are_blocks,
    arguments_of,
    conversation,
    exception_text,
    finish_of,
    read_json,
    result_of,
    say_nothing,
)  # fmt: skip
from timestep_lab.runtime.pricing import linear_price
from timestep_lab.store.spans import INPUT_IS_JSON, OUTPUT_IS_JSON, Row, events_of
from timestep_lab.store.table import clean, to_json

Attributes = dict[str, object]
_SDK_SCOPE = "openinference.instrumentation.openai_agents"
_HANDOFF_NAME = "handoff to "
_WITH_METADATA = ("-langchain", "mlflow.tracing.provider")
"""Scopes whose spans have LangChain's metadata as JSON."""
_QUARKUS_SCOPE, _QUARKUS_TOOLS, _QUARKUS_SERVICES = (
    "io.quarkus.opentelemetry", ("langchain4j.tools.", "langchain4j.mcp-tools."), "langchain4j.aiservices.",
)  # fmt: skip
"""Quarkus LangChain4j names its steps so, which state nothing more before version 1.5, and records exceptions without a status."""
_STRANDS_SCOPE = "strands-agents"
_AGENTS_SCOPE = "opentelemetry.instrumentation.openai_agents"
_FUNCTION_SCOPE = "semantic_kernel.functions.kernel_function"
"""The functions of Semantic Kernel, which state nothing in version 1.30."""
_ADK_SCOPE, _ADK_AGENT = "gcp.vertex.agent", "agent_run ["
"""Google ADK before 1.15 identifies an agent only by its span's name, as every version does for a failed request."""
_JSON = "application/json"
_OPENING = ("{", "[")
_UNREAD = re.compile(r"<[\w.]+ object(?: [\w.<>]+)? at 0x[0-9a-fA-F]+>")
"""A stream, as Python writes an object: sent by instrumentations that do not read it, such as OpenInference's of Portkey."""
_JSON_TEXT = ("mlflow.", "ai.", "genkit:", "lmnr.", "traceloop.entity.", "gen_ai.tool.call.")
"""Prefixes of attributes whose text is always JSON, even if it is only a quoted word."""
_RAW = frozenset({OpenInference.INPUT, OpenInference.OUTPUT})
"""Removed after conversion: in an export they are rebuilt from the columns."""
Payload = tuple[str | None, bool]
"""The text of a column, and whether it is JSON."""


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
    meaning: Meaning | None = None,
) -> Row:
    """Returns the store's row. `error` is None unless the span failed; datetimes are naive UTC. `attributes` is modified.

    `fragments`: for some attributes, name and value already serialized as JSON. `meaning`: of these attributes, if known.
    """
    if Lab.EXPORTED in attributes:
        exported = _exported(attributes, is_open=ended_at is None)
        if exported is not None:
            return (
                user_id, trace_id, span_id, parent_id, exported["kind"], clean(name), *(exported.get(c) for c in ("agent", "status")),
                None if error is None else clean(error), *(exported.get(c) for c in ("model", "provider")), started_at, ended_at,
                *(exported.get(column) for column in EXPORTED_COLUMNS[5:-1]), exported["io_json"], None, to_json(attributes),
                exported["input"], exported["output"],
            )  # fmt: skip
    meaning = meaning or meaning_of(tuple(attributes), scope)
    kind = _kind(meaning, name, attributes, scope, parent_id)
    if error is None and kind == "generation" and _only_opens_stream(attributes, meaning):
        kind = "task"
    agent = value_of(attributes, meaning.agent) if meaning.agent else None
    model = value_of(attributes, meaning.model) if meaning.model else None
    provider = value_of(attributes, meaning.provider) if meaning.provider else None
    if error is None and meaning.failed and value_of(attributes, meaning.failed):
        error = ""
    if error is None and scope == _QUARKUS_SCOPE and kind in ("tool", "generation"):
        events = events_of(attributes)
        error = exception_text(events, {}) if any(event["name"] == "exception" for event in events) else None
    if error in ("", NO_MESSAGE) and meaning.failure:
        error = str(value_of(attributes, meaning.failure) or error)
    if meaning.name:
        name = str(value_of(attributes, meaning.name) or name)
    in_tokens = out_tokens = cached = reasoning = cost = ttft = stop = None
    queue = rate_limit = server = approval = to_agent = None
    if meaning.is_ours:
        get = attributes.get
        queue, rate_limit = number_in(get(Lab.QUEUE_MS)), number_in(get(Lab.RATE_LIMIT_MS))
        server, approval = _text(get(Lab.SERVER)), _text(get(Lab.APPROVAL))
    asked = answered = None
    # The model of a step that speaks or listens is shown, although it is no turn of the model that answers.
    is_of_speech = bool(meaning.speech and value_of(attributes, meaning.speech))
    if meaning.has_usage and not _is_told_elsewhere(attributes, meaning, kind):
        # An agent's usage is the sum of its calls, which are priced individually, unless they do not report it.
        priced = kind in ("generation", "embedding", "retrieval") or bool(meaning.usage_is_whole)
        in_tokens, out_tokens, cached, reasoning, cost = _usage(attributes, meaning, model, provider, priced=priced)
    if kind == "generation":
        if meaning.response_id and GenAI.RESPONSE_ID not in attributes:
            answer_id = value_of(attributes, meaning.response_id)
            if isinstance(answer_id, str) and answer_id:
                attributes[GenAI.RESPONSE_ID] = answer_id
        if meaning.has_first_token:
            ttft = _time_to_first_token(attributes, meaning, started_at)
        if meaning.stop:
            stop = _stop_reason(value_of(attributes, meaning.stop))
    elif kind == "tool":
        name = str(value_of(attributes, meaning.tool) or _tool_named(name, scope))
    elif kind == "handoff":
        to_agent = _text(value_of(attributes, meaning.to_agent))
    if kind not in ("tool", "handoff") and (meaning.has_messages or meaning.has_flattened):
        asked, answered, ended_by = _messages(attributes, meaning, kind)
        stop = stop or (_stop_reason(ended_by) if kind == "generation" else None)
    if meaning.has_documents:
        answered = _documents(attributes) or answered
    if kind == "embedding" and asked is None and OpenInference.INPUT not in attributes:
        asked = _embedded(attributes)
    text_in, json_in = asked or _payload(attributes, meaning.input, OpenInference.INPUT_MIME, kind, "user")
    text_out, json_out = answered or _payload(attributes, meaning.output, OpenInference.OUTPUT_MIME, kind, "assistant")
    if kind == "generation" and stop is None and json_out and text_out and '_reason"' in text_out:
        stop = _stop_reason(finish_of(read_json(text_out)))
    if kind == "handoff":
        agent = value_of(attributes, meaning.from_agent) or agent or text_in
        to_agent = (
            to_agent or text_out or (name.removeprefix(_HANDOFF_NAME) if name.startswith(_HANDOFF_NAME) else None)
        )
        text_in, json_in, text_out, json_out = None, False, None, False
    elif kind == "agent":
        agent = agent or value_of(attributes, meaning.agent_named) or _agent_named(name, scope)
        name = str(agent) if name.startswith(("invoke_agent ", _ADK_AGENT)) else name
    elif kind not in ("generation", "embedding", "retrieval") and not is_of_speech:
        model = provider = None
    return (
        user_id, trace_id, span_id, parent_id, kind, clean(name), None if agent is None else clean(str(agent)),
        "error" if error is not None else "pending" if not ended_at else "rejected" if approval == "rejected" else "ok", None if error is None else clean(error), None if model is None else clean(str(model)),
        None if provider is None else clean(str(provider)), started_at, ended_at, in_tokens, out_tokens, cached, reasoning, cost,
        queue, rate_limit, ttft, stop, server, approval, to_agent,
        (INPUT_IS_JSON if json_in else 0) + (OUTPUT_IS_JSON if json_out else 0), None,
        _as_json(attributes, fragments), text_in, text_out,
    )  # fmt: skip


_OPENS_STREAM = frozenset({
    "Chat Completion with {request_data[model]!r}", "Message with {request_data[model]!r}",
    "Responses API with {gen_ai.request.model!r}", "Completion with {request_data[model]!r}",
})  # fmt: skip


def _only_opens_stream(attributes: Attributes, meaning: Meaning) -> bool:
    """Whether a span of Logfire is the request of a streamed call, whose answer and usage Logfire states in a record beside it."""
    if meaning.has_usage or meaning.answered or GenAI.RESPONSE_ID in attributes:
        return False
    return attributes.get("logfire.msg_template") in _OPENS_STREAM


def _is_told_elsewhere(attributes: Attributes, meaning: Meaning, kind: str) -> bool:
    """Whether other spans report the usage: of an agent, if it is that of its last step, as in `generateText` of the Vercel AI SDK 4 and
    5."""
    if meaning.usage_is_repeated and value_of(attributes, meaning.usage_is_repeated):
        return True
    if kind != "agent":
        return False
    is_one = attributes.get("ai.operationId") == "ai.generateText"
    return is_one and "ai.usage.promptTokens" in attributes and "ai.usage.inputTokens" not in attributes


def _tool_named(name: str, scope: str) -> str:
    prefixes = _QUARKUS_TOOLS if scope == _QUARKUS_SCOPE else ()
    return next((name.removeprefix(one) for one in prefixes if name.startswith(one)), name.removesuffix(".__call__"))


def _agent_named(name: str, scope: str) -> str:
    if scope == _ADK_SCOPE and name.startswith(_ADK_AGENT):
        return name.removeprefix(_ADK_AGENT).removesuffix("]")
    return name.removeprefix("invoke_agent ")


EXPORTED_COLUMNS = (
    "kind", "agent", "status", "model", "provider", "input_tokens", "output_tokens", "cached_tokens", "reasoning_tokens", "cost_usd",
    "queue_ms", "rate_limit_ms", "ttft_ms", "stop_reason", "server", "approval", "to_agent", "io_json",
)  # fmt: skip
"""The columns of a span's row, in order, that an OTLP export states in `Lab.EXPORTED`; attributes alone may not reproduce them."""
PAYLOADS = {"input": OpenInference.INPUT, "output": OpenInference.OUTPUT}
"""The columns that an OTLP export states in attributes of their own. `empty` in `Lab.EXPORTED`: the attribute is the sender's."""
_COUNTS = frozenset(EXPORTED_COLUMNS[5:9])
_MEASURES = frozenset(EXPORTED_COLUMNS[9:13])


def _exported(attributes: Attributes, *, is_open: bool) -> dict[str, object] | None:
    """Returns the columns stated by an export of a lab, and removes the attributes that the export added. Returns None, and removes
    nothing, if the span is not such an export."""
    exported = read_json(attributes[Lab.EXPORTED])
    if not isinstance(exported, dict) or exported.get("kind") not in SPAN_KINDS:
        return None
    if exported.get("status") not in SPAN_STATUSES:
        return None
    if not is_open:
        exported["status"] = "ok" if exported["status"] == "pending" else exported["status"]
    columns: dict[str, object] = {"io_json": 0}
    for column in EXPORTED_COLUMNS:
        value = exported.get(column)
        if value is None:
            continue
        if column in _COUNTS:
            columns[column] = whole_number(value)
        elif column in _MEASURES:
            columns[column] = number_in(value)
        elif column == "io_json":
            columns[column] = (whole_number(value) or 0) & (INPUT_IS_JSON | OUTPUT_IS_JSON)
        else:
            columns[column] = _text(value)
    empty = exported.get("empty")
    for column, name in PAYLOADS.items():
        is_empty = isinstance(empty, list) and column in empty
        columns[column] = None if is_empty else _text(attributes.get(name))
    added, replaced = exported.get("added"), exported.get("replaced")
    for name in (Lab.EXPORTED, *(added if isinstance(added, list) else ())):
        attributes.pop(str(name), None)
    if isinstance(replaced, dict):
        attributes.update(replaced)
    return columns


def fragment(name: str, value: object) -> str:
    """Serializes one attribute as JSON: `"name":value`."""
    return f"{_quoted(name)}:{value if type(value) is int else to_json(value)}"


@lru_cache(maxsize=2048)
def _quoted(name: str) -> str:
    return to_json(name)


def _as_json(attributes: Attributes, fragments: Mapping[str, str] | None) -> str:
    if fragments is None:
        return to_json(attributes)
    return f"{{{','.join([fragments.get(name) or fragment(name, attributes[name]) for name in attributes])}}}"


def _usage(
    attributes: Attributes, meaning: Meaning, model: object, provider: object, *, priced: bool
) -> tuple[int | None, int | None, int | None, int | None, float | None]:
    """Returns input, output, cached and reasoning tokens, and the cost in USD: the sender's, else from the price table if `priced`."""
    in_tokens, out_tokens, cached, written, reasoning, total = (
        whole_number(value_of(attributes, sources)) if sources else None
        for sources in (
            meaning.input_tokens, meaning.output_tokens, meaning.cached_tokens, meaning.cache_write_tokens, meaning.reasoning_tokens,
            meaning.total_tokens,
        )
    )  # fmt: skip
    if cached or written:
        in_tokens = inclusive_input(in_tokens or 0, cached or 0, written or 0, out_tokens or 0, total, reasoning or 0)
    if reasoning and out_tokens is not None:
        out_tokens = inclusive_output(in_tokens or 0, out_tokens, reasoning, total)
    cost = _stated_cost(attributes, meaning)
    source = "sender"
    if cost is None and model and priced and (in_tokens or out_tokens):
        cost = linear_price(str(provider or ""), str(model), in_tokens or 0, out_tokens or 0, cached or 0, written or 0)
        source = "price table"
    if cost is not None and not meaning.is_ours:
        attributes[Lab.COST_SOURCE] = source
    return in_tokens, out_tokens, cached, reasoning, cost


def inclusive_input(
    in_tokens: int, cached: int, written: int, out_tokens: int, total: int | None, reasoning: int = 0
) -> int:
    """Returns all input tokens, including those read from and written to the provider's cache.

    Most conventions include them. Anthropic's own counts do not, and senders pass them on under the same names. The two are distinguished
    by arithmetic: a part cannot exceed the whole, and a stated total is the sum of separately counted parts. Reasoning may be one, too.
    """
    of_cache = cached + written
    if of_cache > in_tokens or (of_cache and (total or 0) - in_tokens - of_cache - out_tokens in (0, reasoning)):
        return in_tokens + of_cache
    return in_tokens


def inclusive_output(in_tokens: int, out_tokens: int, reasoning: int, total: int | None) -> int:
    """Returns all output tokens, including reasoning. Google's own counts exclude it, which is detected as in `inclusive_input`."""
    if reasoning > out_tokens or total == in_tokens + out_tokens + reasoning:
        return out_tokens + reasoning
    return out_tokens


def about_trace(attributes: Mapping[str, object], meaning: Meaning) -> dict[str, object]:
    """Returns the fields of the whole trace that a span's attributes set: `thread_id`, `end_user` and `workflow`."""
    if not meaning.has_trace:
        return {}
    values = {
        "thread_id": value_of(attributes, meaning.thread),
        "end_user": value_of(attributes, meaning.end_user),
        "workflow": value_of(attributes, meaning.workflow),
    }
    return {name: value for name, value in values.items() if value is not None}


def kind_of(name: str, attributes: Mapping[str, object], scope: str, parent_id: str | None) -> str:
    return _kind(meaning_of(tuple(attributes), scope), name, attributes, scope, parent_id)


def _kind(meaning: Meaning, name: str, attributes: Mapping[str, object], scope: str, parent_id: str | None) -> str:
    kind = value_of(attributes, meaning.kind)
    if OpenInference.KIND in attributes and not meaning.is_ours:
        return _openinference(str(kind or "other"), name, attributes, scope, parent_id)
    if kind == "task" and _is_agent_of_langchain(name, attributes, scope):
        return "agent"
    if scope == _STRANDS_SCOPE and kind == "generation" and name == attributes.get(GenAI.AGENT_NAME):
        return "agent"  # Strands before 0.2 names no operation.
    if kind == "agent" and scope == _AGENTS_SCOPE and parent_id is None and GenAI.AGENT_NAME not in attributes:
        return "task"  # OpenTelemetry's instrumentation of the Agents SDK calls the trace as a whole an agent.
    if kind is None and scope == _QUARKUS_SCOPE:
        kind = "tool" if name.startswith(_QUARKUS_TOOLS) else "task" if name.startswith(_QUARKUS_SERVICES) else None
    if kind is None and scope == _FUNCTION_SCOPE:
        kind = "tool"
    if kind is None and scope == _ADK_SCOPE:
        kind = "agent" if name.startswith(_ADK_AGENT) else "generation" if name == "call_llm" else None
    return str(kind) if kind in SPAN_KINDS else "other"


def _is_agent_of_langchain(name: str, attributes: Mapping[str, object], scope: str) -> bool:
    """LangChain puts the name of the agent, its outermost step, on each of its steps."""
    if attributes.get("langsmith.metadata.lc_agent_name") == name:
        return True
    return scope.endswith(_WITH_METADATA) and part("lc_agent_name")(attributes.get("metadata")) == name


def _openinference(kind: str, name: str, attributes: Mapping[str, object], scope: str, parent_id: str | None) -> str:
    if kind == "tool" and name.startswith(_HANDOFF_NAME):
        to_agent = attributes.get(OpenInference.OUTPUT)
        if name[len(_HANDOFF_NAME) :] == to_agent or (to_agent is None and scope == _SDK_SCOPE):
            return "handoff"  # The Agents SDK exporter writes a handoff as a tool; newer ones state its agents as input and output.
    if kind == "task" and _is_agent_of_langchain(name, attributes, scope):
        return "agent"
    if scope == _SDK_SCOPE:
        if kind == "agent" and parent_id is None and OpenInference.AGENT_NAME not in attributes:
            return "task"  # The trace as a whole, which is not an agent.
        if kind == "task" and name == "turn":
            return "turn"
    return kind


def _messages(attributes: Attributes, meaning: Meaning, kind: str) -> tuple[Payload | None, Payload | None, object]:
    """Returns a step's input and output messages as JSON, if stated, and the finish reason of the last output message."""
    asked = _taken(attributes, meaning.asked, "user")
    answered = _taken(attributes, meaning.answered, "assistant")
    if meaning.has_flattened and kind in ("generation", "agent"):
        for prefix_in, prefix_out in FLATTENED:
            asked = gathered(attributes, prefix_in, "user") or asked
            answered = _joined(gathered(attributes, prefix_out), answered)
    if answered is None and (meaning.answer_text or meaning.answer_calls or meaning.answer_reasoning):
        answered = answer_of(
            value_of(attributes, meaning.answer_text),
            value_of(attributes, meaning.answer_reasoning),
            value_of(attributes, meaning.answer_calls),
        )
    system = json_value(attributes.get(GenAI.SYSTEM_INSTRUCTIONS)) if meaning.instructions else None
    if system and isinstance(asked, list):
        attributes.pop(GenAI.SYSTEM_INSTRUCTIONS)
        parts = {"parts": system} if isinstance(system, list) else {"content": system}
        if not any(_has_text(message, system) for message in asked[:1]):  # Pipecat states them in both places.
            asked = [{"role": "system", **parts}, *asked]
    # Raw duplicates of the messages are not kept.
    for raw in (OpenInference.INPUT, OpenInference.INPUT_MIME) if asked else ():
        attributes.pop(raw, None)
    for raw in (OpenInference.OUTPUT, OpenInference.OUTPUT_MIME) if answered else ():
        attributes.pop(raw, None)
    return (
        None if asked is None or say_nothing(asked) else _as_text(asked),
        None if answered is None or say_nothing(answered) else _as_text(answered),
        finish_of(answered),
    )


def _has_text(message: object, system: object) -> bool:
    """Whether a message is these instructions."""
    fields = object_of(message)
    return fields.get("role") in ("system", "developer") and system in (fields.get("content"), fields.get("parts"))


def _joined(spread: list[Message], whole: object) -> object:
    """Merges an answer that is stated twice: returns the structured form, with tool calls that only the other form has."""
    if not isinstance(whole, list) or not whole:
        return spread or whole
    calls = [call for message in spread for call in list_of(message.get("tool_calls"))]
    if calls and isinstance(whole[-1], dict) and not any(map(_calls_a_tool, whole)):
        return [*whole[:-1], {**whole[-1], "tool_calls": calls}]
    return whole


def _calls_a_tool(message: object) -> bool:
    fields = object_of(message)
    parts = map(object_of, list_of(fields.get("parts")))
    return bool(fields.get("tool_calls")) or any(part.get("type") == "tool_call" for part in parts)


def _taken(attributes: Attributes, sources: tuple[Source, ...], role: str) -> object:
    """Returns the messages of the first of these attributes that has any, and removes the attribute unless they were converted."""
    for name, read in sources:
        value = attributes.get(name)
        if value is None or value in ("", "null"):
            continue
        value = read_json(value if read is None else read(value))
        if isinstance(value, list) and all(isinstance(each, str) and each[:1] == "{" for each in value):
            value = [read_json(each) for each in value]  # An array of texts, each a message.
        if value is None or value == "":
            continue
        if value and are_blocks(value):
            value = [{"role": role, "content": value}]
        native = conversation(value, role)
        if read is None and native is None:
            del attributes[name]
        return value if native is None else native
    return None


def _documents(attributes: Attributes) -> Payload | None:
    documents = [document for prefix in DOCUMENTS for document in gathered_documents(attributes, prefix)]
    if not documents:
        return None
    for raw in (OpenInference.OUTPUT, OpenInference.OUTPUT_MIME):
        attributes.pop(raw, None)
    return to_json(documents), True


def _embedded(attributes: Attributes) -> Payload | None:
    """Returns the texts of an embedding, if they are stated one by one."""
    texts = [
        str(attributes[name]) for name in attributes if name.startswith(EMBEDDED[0]) and name.endswith(EMBEDDED[1])
    ]
    return _as_text(texts[0] if len(texts) == 1 else texts) if texts else None


def _payload(attributes: Attributes, sources: tuple[Source, ...], mime: str, kind: str, role: str) -> Payload:
    """Returns the column text from the first of these attributes that is set, and removes it unless its value was converted."""
    mime_type = attributes.pop(mime, None)
    for name, read in sources:
        value = attributes.get(name)
        if value is None or (value == "null" and kind != "tool"):  # A tool may return null.
            continue
        text = clean(value) if isinstance(value, str) else None
        given = value if text is None else _parsed(text, mime_type, name)
        found = given if read is None else read(given)
        if found is None:
            continue
        changed = text if found is text else _read_payload(found, kind, role)  # Plain text is never converted.
        if say_nothing(changed) or (kind == "generation" and isinstance(changed, str) and _UNREAD.fullmatch(changed)):
            return None, False
        if changed is given or name in _RAW:
            del attributes[name]
        if changed is given and text is not None and not isinstance(given, str) and "\\u" not in text:
            return text, True  # With the sender's spacing. Escaped characters may not be storable as text.
        return _as_text(changed)
    return None, False


def _parsed(text: str, mime: object, name: str) -> object:
    """Parses JSON text; returns other text unchanged."""
    if (mime is None or mime == _JSON) and (
        text[:1] in _OPENING or (text[:1] == '"' and (mime == _JSON or name.startswith(_JSON_TEXT)))
    ):
        try:
            return json.loads(text)
        except (ValueError, RecursionError):
            return text
    return text


def _read_payload(given: object, kind: str, role: str) -> object:
    """Converts a payload to the form for its kind; returns the same object if there is nothing to convert."""
    given = arguments_of(given) if role == "user" else given
    if kind == "tool":
        return given if role == "user" else result_of(given)
    if kind == "retrieval":
        return given if role == "user" else documents_of(given)
    if kind in ("embedding", "handoff", "guardrail"):
        return given
    messages = conversation(given, role)
    return given if messages is None else messages


def _as_text(value: object) -> tuple[str, bool]:
    return (clean(value), False) if isinstance(value, str) else (to_json(value), True)


def _stated_cost(attributes: Attributes, meaning: Meaning) -> float | None:
    """Returns the cost stated by the sender, or None. Negative values are ignored."""
    cost = number_in(value_of(attributes, meaning.cost))
    if cost is None and meaning.cost_part:
        parts = [part for name, _ in meaning.cost_part if (part := number_in(attributes[name])) is not None]
        cost = sum(parts) if parts else None
    return cost if cost is not None and cost >= 0 else None


def _time_to_first_token(attributes: Attributes, meaning: Meaning, started_at: datetime) -> float | None:
    waited = number_in(value_of(attributes, meaning.first_token))
    if waited is not None:
        return waited
    began = value_of(attributes, meaning.first_token_at)
    try:
        waited = (
            (to_naive_utc(parse_iso(began)) - started_at).total_seconds() * 1000.0 if isinstance(began, str) else None
        )
    except ValueError:
        return None
    if waited is not None and waited < 0:  # Mastra states the time of the first call with the next ones, too.
        return None
    return waited


def _stop_reason(given: object) -> str | None:
    """Returns a stop reason as one word: the first of a list, which may be JSON text."""
    given = read_json(given)
    while isinstance(given, list | tuple):
        given = given[0] if given else None
    return None if given is None or given == "" or isinstance(given, Mapping) else _text(given)


def _text(value: object) -> str | None:
    return None if value is None else clean(str(value))
