"""`think`: a place for a model to write a thought down. It changes nothing and fetches nothing."""

from __future__ import annotations

from typing import Any

from timestep_lab.model.errors import UsageError

DESCRIPTION = (
    "Think about something before acting: what was asked, what is known, which tool or agent fits. "
    "It obtains no information and changes nothing; it only writes the thought down."
)

INPUT_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"thought": {"type": "string", "description": "The thought, as a text."}},
    "required": ["thought"],
    "additionalProperties": False,
}


def think(thought: str) -> str:
    """The thought, taken down. Raises `UsageError` for an empty one."""
    if not thought.strip():
        raise UsageError("There is no thought to write down.", "Give thought as a text.", param="thought")
    return "Noted."
