"""One message of a live duel, and the two sides that answer it."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace

from timestep_lab.types.arena import VoteOutcome
from timestep_lab.types.events import ItemUpdated
from timestep_lab.types.records import RunRecord, ThreadItem

WORDS_BEHIND = 4
"""The longest names of models and makers have fewer words."""
LOOK_EVERY = 24
"""Characters between two looks for names: each look reads the whole text."""
_WORD = re.compile(r"\S+\s*")


@dataclass(slots=True, eq=False)
class Side:
    candidate: str
    items: dict[str, ThreadItem] = field(default_factory=dict)
    told: dict[str, str] = field(default_factory=dict)
    """Item to the text of it that blind browsers have, while it grows."""
    _looked: dict[str, int] = field(default_factory=dict)
    run_id: str | None = None
    """While it runs."""
    run: RunRecord | None = None
    """When it ended, or paused."""
    done: bool = False
    problem: str | None = None

    @property
    def answer(self) -> str:
        texts = [str(item.data.get("text", "")) for item in self.items.values() if item.type == "assistant_message"]
        return texts[-1] if texts else ""

    def grow(self, event: ItemUpdated) -> ThreadItem:
        """Append what an update brings; the item then."""
        item = self.items[event.item_id]
        grown = str(item.data.get(event.field) or "") + event.delta
        self.items[item.id] = replace(item, data={**item.data, event.field: grown})
        return self.items[item.id]

    def settled(self, item: ThreadItem) -> str | None:
        """The text without its last words, which may be the beginning of a name; None while that is hardly more than was told."""
        text = str(item.data.get("text") or "")
        if len(text) - self._looked.get(item.id, 0) < LOOK_EVERY:
            return None
        self._looked[item.id] = len(text)
        words = [match.end() for match in _WORD.finditer(text)]
        return text[: words[-1 - WORDS_BEHIND]] if len(words) > WORDS_BEHIND else None

    def forget(self, item_id: str) -> None:
        """The item is told as a whole."""
        self.told.pop(item_id, None)
        self._looked.pop(item_id, None)


@dataclass(slots=True, eq=False)
class Round:
    id: str
    """The case's."""
    text: str
    sides: tuple[Side, Side]
    """Left and right, as shown."""
    outcome: VoteOutcome | None = None

    @property
    def finished(self) -> bool:
        return all(side.done for side in self.sides)
