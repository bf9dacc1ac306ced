"""What a person said and what was answered, out of the payload shapes that traces carry.

Chat Completions messages (`role`, `content`), Responses items (`type`, `content[].text`), OpenTelemetry GenAI messages
(`role`, `parts[].content`), and plain objects that wrap one of these. Shapes are known by their keys; an unknown one is JSON text.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from timestep_lab.store.json_text import to_json

WRAPPERS = ("messages", "input", "output", "choices", "value", "query", "question", "answer", "content", "text", "raw")


def asked(payload: Any) -> str | None:
    """The last thing the user said, for an input; None when there is nothing to show."""
    return _said(payload, "user")


def answered(payload: Any) -> str | None:
    """The last thing the assistant said, for an output."""
    return _said(payload, "assistant")


def _said(payload: Any, role: str) -> str | None:
    if payload is None or payload == "" or payload == []:
        return None
    if isinstance(payload, str):
        return payload
    turns = list(_turns(payload))
    for speaker, text in reversed(turns):
        if speaker == role and text:
            return text
    for _, text in reversed(turns):
        if text:
            return text
    return to_json(payload)


def _turns(payload: Any) -> Iterator[tuple[str, str]]:
    """(role, text) in order. The role of a text without one is that of an assistant (Responses output items)."""
    if isinstance(payload, str):
        yield "assistant", payload
    elif isinstance(payload, list):
        if all(isinstance(part, Mapping) and part.keys().isdisjoint(("role", "message", "type")) for part in payload):
            yield "assistant", "\n".join(text for part in payload for _, text in _turns(part) if text)  # Documents.
            return
        for part in payload:
            yield from _turns(part)
    elif isinstance(payload, Mapping):
        if isinstance(payload.get("message"), Mapping):
            yield from _turns(payload["message"])
        elif "role" in payload:
            yield str(payload["role"]), content_text(payload.get("content", payload.get("parts")))
        else:
            for key in WRAPPERS:
                if payload.get(key):
                    yield from _turns(payload[key])
                    return


def content_text(content: Any) -> str:
    """The text of a message's content: a string, or a list of parts of which some hold text."""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return "\n".join(text for part in content if (text := content_text(part)))
    if isinstance(content, Mapping):
        for key in ("text", "content", "value"):
            if key in content:
                return content_text(content[key])
    return ""
