"""`think`: a place for a model to write a thought down. It changes nothing and fetches nothing."""

from __future__ import annotations

from timestep_lab.types.errors import UsageError

DESCRIPTION = (
    "Think about something before acting: what was asked, what is known, which tool or agent fits. "
    "It obtains no information and changes nothing; it only writes the thought down."
)


def think(thought: str) -> str:
    """The thought, taken down. Raises `UsageError` for an empty one."""
    if not thought.strip():
        raise UsageError("There is no thought to write down.", "Give thought as a text.", param="thought")
    return "Noted."
