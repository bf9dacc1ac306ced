"""What models and tools said, as the text that a reader sees."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from timestep_lab.model.records import Json
from timestep_lab.runtime.span_records import jsonable


def output_text(value: object) -> str:
    """A tool's result, or a run's final output. Text stays as it is; text parts are joined; anything else becomes JSON."""
    if isinstance(value, str):
        return value
    plain = jsonable(value)
    parts = plain if isinstance(plain, list) else [plain]
    texts = [_part_text(part) for part in parts]
    if parts and all(text is not None for text in texts):
        return "".join(text for text in texts if text is not None)
    return json.dumps(plain, ensure_ascii=False)


def message_text(item: Any) -> str:
    """An assistant message of the Responses API; a refusal is what it says too."""
    return "".join(getattr(part, "text", None) or getattr(part, "refusal", None) or "" for part in item.content)


def message_annotations(item: Any) -> list[Json]:
    return [jsonable(note) for part in item.content for note in getattr(part, "annotations", None) or ()]


def reasoning_text(item: Any) -> str:
    parts = item.summary or item.content or []
    return "\n\n".join(part.text for part in parts)


CUT_SHORT = frozenset({"length", "content_filter", "incomplete"})
"""Why an answer may have ended before it was whole. `incomplete`: the server closed it without a word."""
ANY_MODEL = "*"
"""In a reasoning item's provider data instead of the model that thought it: whoever is asked did, says the caller."""
INVALID_JSON = "INVALID_JSON"


def arguments_object(given: Any) -> dict[str, Any]:
    """A call's arguments as the object that they have to be. What is none (cut off at a limit, a list) is kept under a name that
    says so, and models were taught: <https://docs.claude.com/en/docs/agents-and-tools/tool-use/fine-grained-tool-streaming>."""
    value = given
    if isinstance(given, str):
        try:
            value = json.loads(given or "{}", parse_constant=_no_json)
        except (ValueError, RecursionError):
            return {INVALID_JSON: given}
    return value if isinstance(value, dict) else {INVALID_JSON: given}


def _no_json(constant: str) -> Any:
    raise ValueError(f"{constant} is no JSON")


def _part_text(part: Json) -> str | None:
    if isinstance(part, Mapping) and part.get("type") in ("text", "input_text", "output_text"):
        text = part.get("text")
        return text if isinstance(text, str) else None
    return None
