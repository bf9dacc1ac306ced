"""A line of `attribute_map`, and the functions that read the value of its attribute."""

from __future__ import annotations

import ast
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

from timestep_lab.model.codec import list_of, object_of
from timestep_lab.runtime.interchange.messages import answer_of

Reader = Callable[[object], object]
"""Converts an attribute's value to the field's value; None if it has none."""


@dataclass(frozen=True, slots=True)
class Convention:
    name: str
    version: str


class Line(NamedTuple):
    field: str
    name: str
    convention: Convention
    read: Reader | None = None
    """None: the value is used unchanged."""
    scope: str = ""
    """Applies only to instrumentation scopes whose names start with this: for names too common to have the same meaning everywhere."""


Source = tuple[str, Reader | None]
"""An attribute that sets a field, and how it is read."""


def value_of(attributes: Mapping[str, object], sources: tuple[Source, ...]) -> object:
    """Returns the value of the first of these attributes that has one, else None."""
    for name, read in sources:
        value = attributes.get(name)
        if value is not None and read is not None:
            value = read(value)
        if value is not None and value != "":
            return value
    return None


_REMEMBERED = 64 * 1024
"""Longest JSON text that is remembered after parsing: several lines of the map read parts of the same attribute."""


def json_value(value: object) -> object:
    """Parses JSON text; returns other values unchanged."""
    if isinstance(value, str) and value[:1] in ("{", "[", '"', "n"):
        try:
            return _loaded(value) if len(value) < _REMEMBERED else json.loads(value)
        except (ValueError, RecursionError):
            return value
    return value


@lru_cache(maxsize=32)
def _loaded(text: str) -> object:
    return json.loads(text)


def each_json(values: object) -> object:
    """Parses each JSON text of a list."""
    return [json_value(value) for value in values] if isinstance(values, list) else values


def part(*path: str | int) -> Reader:
    """Reads the value at this path in an object, which may be given as JSON text. A number is a place in a list."""

    def read(value: object) -> object:
        value = json_value(value)
        for step in path:
            if isinstance(step, int):
                value = value[step] if isinstance(value, list) and step < len(value) else None
            else:
                value = value.get(step) if isinstance(value, Mapping) else None
        return value

    return read


def sum_of(*paths: tuple[str | int, ...]) -> Reader:
    """Reads the sum of the numbers at these paths of an object, of those that are there; None without the first."""

    def read(value: object) -> object:
        first, *more = (part(*path)(value) for path in paths)
        return first + sum(one for one in more if isinstance(one, int)) if isinstance(first, int) else None

    return read


def elapsed(since: str, until: str) -> Reader:
    """Reads the time between two fields of an object with times in milliseconds."""

    def read(value: object) -> object:
        start, end = (part(name)(value) for name in (since, until))
        return end - start if isinstance(start, int | float) and isinstance(end, int | float) else None

    return read


def first_of(*readers: Reader) -> Reader:
    """Returns what the first of these readers finds."""
    return lambda value: next((found for read in readers if (found := read(value)) is not None), None)


def then(read: Reader, next_read: Reader) -> Reader:
    """Applies the second reader to what the first one finds."""
    return lambda value: None if (found := read(value)) is None else next_read(found)


def literal(inner: Reader) -> Reader:
    """Applies a reader to an object that is written as a Python literal."""

    def read(value: object) -> object:
        try:
            return inner(ast.literal_eval(value)) if isinstance(value, str) and value[:1] == "{" else inner(value)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            return None

    return read


def words(table: Mapping[str, str]) -> Reader:
    """Looks up a word in the table, ignoring case; None if it is missing."""
    known = {word.lower(): meaning for word, meaning in table.items()} | dict(table)
    return lambda value: (
        known[value] if isinstance(value, str) and value in known else known.get(str(json_value(value)).lower())
    )


def always(meaning: str) -> Reader:
    """Returns `meaning` whenever the attribute is present."""
    return lambda value: meaning


_ASIDE = frozenset({"tags", "metadata", "kwargs"})


def handed_over(value: object) -> object:
    """Returns the input of a step, without the metadata that its framework recorded with it."""
    data = json_value(value)
    if not isinstance(data, Mapping):
        return value
    given = data.keys() - _ASIDE
    return next((data[name] for name in ("inputs", "query") if given == {name}), value)


def typed(*types: str) -> Reader:
    """Returns the value of LangWatch's `{"type": …, "value": …}`, for these types or for all."""

    def read(value: object) -> object:
        value = json_value(value)
        if isinstance(value, Mapping) and value.keys() == {"type", "value"}:
            return value["value"] if not types or value["type"] in types else None
        return None if types else value

    return read


def request_of(value: object) -> object:
    """Returns what a request says to a model, with its instructions, for a request that has messages."""
    request = json_value(value)
    if not isinstance(request, Mapping) or not isinstance(request.get("messages"), list):
        return None
    return {name: request[name] for name in ("system", "messages") if name in request}


def text_of_answer(value: object) -> object:
    """Returns an answer that is stated beside its files: its text, or the message with its tool calls."""
    answer = json_value(value)
    if not isinstance(answer, Mapping) or not isinstance(answer.get("text"), str):
        return value
    calls = answer.get("toolCalls")
    return answer_of(answer["text"] or None, None, calls) if calls else answer["text"]


def under_heading(value: object) -> object:
    """Returns the message that Claude Code writes under a heading: `[USER]`, or `[TOOL RESULT: …]` with the id of the call."""
    heading, _, rest = value.partition("\n") if isinstance(value, str) else ("", "", "")
    if heading.startswith("[TOOL RESULT: "):
        return [{"role": "tool", "tool_call_id": heading[len("[TOOL RESULT: ") : -1], "content": rest}]
    return [{"role": "user", "content": rest}] if heading.startswith("[USER") else None


def chat_context(value: object) -> object:
    """Returns the messages of LiveKit's `{"items": […]}`, whose calls and their results are items of their own."""
    messages: list[Mapping[str, object]] = []
    for item in map(object_of, list_of(part("items")(value))):
        match item.get("type"):
            case "message":
                content = "\n".join(text for text in list_of(item.get("content")) if isinstance(text, str))
                messages.append({"role": str(item.get("role") or "user"), "content": content})
            case "function_call":
                messages += answer_of(None, None, [item])
            case "function_call_output":
                call_id, output = item.get("call_id"), item.get("output")
                messages.append({"role": "tool", "tool_call_id": call_id, "content": output})
    return messages or None


def joined_text(value: object) -> object:
    """Returns the text of blocks `{"text": …}`, as in Bedrock; other values unchanged."""
    blocks = json_value(value)
    if (
        isinstance(blocks, list)
        and blocks
        and all(isinstance(one, Mapping) and one.keys() == {"text"} for one in blocks)
    ):
        return "\n".join(str(one["text"]) for one in blocks)
    return value


def message_of_error(value: object) -> object:
    """Returns the message of an error of the Agents SDK, with what its data says: `{"message": …, "data": {"error": …}}`."""
    texts = [part("message")(value), part("data", "error")(value)]
    return ": ".join(str(text) for text in texts if text) or None


_OF_FRAMEWORKS = frozenset({"page_content", "meta", "document_id"})


def documents_of(value: object) -> object:
    """Returns documents of LangChain, MLflow and Haystack as `{id, content, score, metadata}`; other values unchanged."""
    given = value.get("documents") if isinstance(value, Mapping) and isinstance(value.get("documents"), list) else value
    if (
        not isinstance(given, list)
        or not given
        or not all(isinstance(each, Mapping) and ("page_content" in each or "content" in each) for each in given)
        or not any(each.keys() & _OF_FRAMEWORKS for each in given)
    ):
        return value
    documents = []
    for each in given:
        metadata = object_of(each.get("metadata", each.get("meta")))
        document = {
            "id": each.get("id", each.get("document_id")),
            "content": each.get("page_content", each.get("content")),
            "score": each.get("score", metadata.get("score")),
            "metadata": metadata or None,
        }
        documents.append({key: inner for key, inner in document.items() if inner is not None})
    return documents


def with_ending(endings: Mapping[str, str]) -> Reader:
    """Looks up the meaning of a class name by its ending; None if no ending fits."""

    def read(value: object) -> str | None:
        return next((meaning for ending, meaning in endings.items() if str(value).endswith(ending)), None)

    return read


def total_of(value: object) -> object:
    """Returns the total of an object of numbers: as stated, else their sum."""
    numbers = json_value(value)
    if not isinstance(numbers, Mapping) or "total" in numbers:
        return numbers.get("total") if isinstance(numbers, Mapping) else None
    found = [number for number in numbers.values() if isinstance(number, int | float) and not isinstance(number, bool)]
    return sum(found) if found else None


def total_of_parts(value: object) -> object:
    """Returns the total of Langfuse's usage, whose parts are counted apart: `input` has no tokens of the cache."""
    return total_of(value) if "input" in object_of(json_value(value)) else None


def total_beginning(part_name: str) -> Reader:
    """Reads the total of Langfuse's parts of a usage that begin with this name: `input`, `input_cache_read`, `input_audio` and so on are
    counted apart, unless a stated total says that `input` and `output` are all. None if the name itself is not stated."""

    def read(value: object) -> object:
        counts = {name: n for name, n in object_of(json_value(value)).items() if isinstance(n, int)}
        if part_name not in counts:
            return None
        if counts.get("total") == counts.get("input", 0) + counts.get("output", 0):
            return counts[part_name]
        parts = (n for name, n in counts.items() if name.startswith(f"{part_name}_") and "priority" not in name)
        return counts[part_name] + sum(parts)

    return read


def offered_apart(value: object) -> object:
    """Returns messages without the tools offered to the model, which Langfuse's handler for LangChain adds as messages of a tool."""
    messages = json_value(value)
    if not isinstance(messages, list):
        return value
    said = [message for message in messages if not _is_offer(object_of(message))]
    return said if said and len(said) < len(messages) else value


def _is_offer(message: Mapping[str, object]) -> bool:
    content = object_of(message.get("content"))
    return message.get("role") == "tool" and content.get("type") == "function" and "function" in content


def above_zero(value: object) -> object:
    """For senders that write 0 for an unknown price."""
    return value or None


def usd(value: object) -> object:
    """Returns the number of an amount with its currency, `0.000024USD`; None for other currencies."""
    return value.removesuffix("USD") if isinstance(value, str) and value.endswith("USD") else None


def of_model(*path: str) -> Reader:
    """Like `part`, for a model's answer to Genkit; the enclosing step repeats it together with the request."""
    inner = part(*path)

    def read(value: object) -> object:
        value = json_value(value)
        return inner(value) if isinstance(value, Mapping) and "request" not in value else None

    return read


_RESPONSES = ("chat.completion", "chat.completion.chunk", "text_completion", "response", "list", "message")
"""What responses of OpenAI's API and Anthropic's say that they are."""


def of_response(*path: str | int) -> Reader:
    """Like `part`, for the response of a provider's API; None for other objects."""
    inner = part(*path)

    def read(value: object) -> object:
        value = json_value(value) if isinstance(value, str) and value[:1] == "{" else None
        is_one = isinstance(value, Mapping) and value.get("object", value.get("type")) in _RESPONSES
        return inner(value) if is_one else None

    return read


def of_pair(place: int) -> Reader:
    """Returns one half of `provider/model`."""
    return lambda value: value.split("/", 1)[place] if isinstance(value, str) and "/" in value else None


def python_object(value: object) -> object:
    """Returns the arguments of a tool that LangChain writes as a Python literal; None if it is none."""
    try:
        given = ast.literal_eval(value) if isinstance(value, str) and value[:2] == "{'" else None
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None
    return given if isinstance(given, dict) else None


def positional(value: object) -> object:
    """Parses the arguments of a call written as a Python tuple; a single argument is returned by itself."""
    try:
        given = ast.literal_eval(value) if isinstance(value, str) else None
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return value
    return given[0] if isinstance(given, tuple) and len(given) == 1 else value


def member(value: object) -> object:
    """Returns the name of an enum member from text such as `FinishReason.STOP`."""
    return value.rpartition(".")[2].lower() if isinstance(value, str) else value


def milliseconds(value: object) -> float | None:
    return _scaled(value, 1.0)


def seconds(value: object) -> float | None:
    """Converts seconds to milliseconds."""
    return _scaled(value, 1000.0)


def _scaled(value: Any, factor: float) -> float | None:
    try:
        return None if value is None or isinstance(value, bool) else float(value) * factor
    except (TypeError, ValueError):
        return None


def whole_number(value: object) -> int | None:
    """Returns a count, as a number or as text; None if it is none."""
    if type(value) is int:
        return value if 0 <= value < 2**62 else None
    number = number_in(value)
    return int(number) if number is not None and 0 <= number < 2**62 else None


def number_in(value: object) -> float | None:
    """Returns a finite number, which may be text; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        number = float(value)
    except ValueError:
        return None
    return number if abs(number) < float("inf") else None


# -- usage


_USAGE_NAMES: dict[str, tuple[str, ...]] = {
    "input_tokens": ("input_tokens", "prompt_tokens", "input", "inputTokens", "promptTokens"),
    "output_tokens": ("output_tokens", "completion_tokens", "output", "outputTokens", "completionTokens"),
    "cached_tokens": (
        "cache_read_input_tokens", "input_tokens_details.cached_tokens", "prompt_tokens_details.cached_tokens", "input_token_details.cache_read",
        "input_cached_tokens", "input_cache_read", "input_cache_read_input_tokens", "prompt_cached_tokens", "cached_tokens", "cached_input_tokens",
        "cacheReadInputTokens",
    ),
    "cache_write_tokens": (
        "cache_creation_input_tokens", "input_tokens_details.cache_write_tokens", "prompt_tokens_details.cache_write_tokens",
        "input_token_details.cache_creation", "input_cache_creation", "input_cache_write", "input_cache_creation_input_tokens",
        "prompt_cache_creation_tokens", "cacheWriteInputTokens",
    ),
    "total_tokens": ("total_tokens", "total", "tokens", "totalTokens"),
    "reasoning_tokens": (
        "output_tokens_details.reasoning_tokens", "completion_tokens_details.reasoning_tokens", "output_token_details.reasoning",
        "output_reasoning_tokens", "output_reasoning", "completion_reasoning_tokens", "reasoning_tokens",
    ),
}  # fmt: skip
"""The names that providers and senders give to the counts in an object `usage`."""


def usage_in(name: str, convention: Convention, read: Reader = json_value, scope: str = "") -> Iterator[Line]:
    """Yields a line for each count of an object `usage`, which `read` returns of the attribute's value."""
    for field, paths in _USAGE_NAMES.items():
        counts = first_of(*(part(*path.split(".")) for path in paths))
        yield Line(field, name, convention, then(read, counts), scope)


# -- what is spread over many attributes, and what belongs together

FLATTENED = (
    ("llm.input_messages.", "llm.output_messages."), ("llm.prompts.", "llm.choices."), ("llm.prompts.", "llm.completions."),
    ("gen_ai.prompt.", "gen_ai.completion."),
)  # fmt: skip
"""Prefixes of flattened messages, of OpenInference and of OpenLLMetry: input, output."""
FLATTENED_PREFIXES = tuple(prefix for pair in FLATTENED for prefix in pair)
DOCUMENTS = ("retrieval.documents.", "reranker.output_documents.")
"""Prefixes of flattened documents, of OpenInference."""
EMBEDDED = ("embedding.embeddings.", ".embedding.text")
"""Prefix and ending of each text that is embedded, of OpenInference."""
USAGE = frozenset(
    {"input_tokens", "output_tokens", "cached_tokens", "cache_write_tokens", "reasoning_tokens", "cost", "cost_part"}
)
MESSAGES = frozenset({"asked", "answered", "answer_text", "answer_calls", "answer_reasoning"})
