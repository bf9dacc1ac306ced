"""A text in passages for search: long enough to mean something, short enough for one vector, cut where sentences end."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from timestep_lab.types.errors import SettingsError
from timestep_lab.types.records import Json

CHARS_PER_TOKEN = 4
"""Of English prose, roughly; sizes are given in tokens by OpenAI's interface and cut in characters here."""

_ENDS = (re.compile(r"\n\s*\n"), re.compile(r"(?<=[.!?…。！？])\s+"), re.compile(r"\n"), re.compile(r"\s+"))
"""Where a passage may end, best first: paragraph, sentence, line, word."""


@dataclass(frozen=True, slots=True)
class Chunking:
    """Characters in a passage, at most, and how many of them it has in common with the one before, about."""

    size: int = 900
    overlap: int = 150

    @classmethod
    def from_strategy(cls, strategy: Mapping[str, Json] | None) -> Chunking:
        """OpenAI's `chunking_strategy`: None and `{"type": "auto"}` are ours. Raises `SettingsError`."""
        if not strategy or strategy.get("type") == "auto":
            return cls()
        sizes = strategy.get("static")
        if strategy.get("type") != "static" or not isinstance(sizes, Mapping):
            raise SettingsError(
                f"The chunking strategy {dict(strategy)!r} is not known.",
                'Use {"type": "auto"}, or {"type": "static", "static": {"max_chunk_size_tokens", "chunk_overlap_tokens"}}.',
                param="chunking_strategy",
            )
        size, overlap = sizes.get("max_chunk_size_tokens", 800), sizes.get("chunk_overlap_tokens", 400)
        if not (
            isinstance(size, int) and isinstance(overlap, int) and 100 <= size <= 4096 and 0 <= overlap <= size // 2
        ):
            raise SettingsError(
                f"Passages of {size} tokens that share {overlap} cannot be made.",
                "Give 100 to 4096 tokens, and an overlap of at most half of that.",
                param="chunking_strategy",
            )
        return cls(size * CHARS_PER_TOKEN, overlap * CHARS_PER_TOKEN)

    def as_strategy(self) -> dict[str, Json]:
        tokens = {
            "max_chunk_size_tokens": self.size // CHARS_PER_TOKEN,
            "chunk_overlap_tokens": self.overlap // CHARS_PER_TOKEN,
        }
        return {"type": "static", "static": tokens}

    def split(self, text: str) -> list[str]:
        """The passages in order; none for a text of nothing but space."""
        text = text.strip()
        passages: list[str] = []
        start = 0
        while start < len(text):
            end = len(text) if len(text) - start <= self.size else self._end(text, start)
            passage = text[start:end].strip()
            if passage:
                passages.append(passage)
            if end == len(text):
                break
            start = self._next_start(text, start, end)
        return passages

    def _end(self, text: str, start: int) -> int:
        """The last good end in the second half of the room there is."""
        earliest, latest = start + self.size // 2, start + self.size
        for boundary in _ENDS:
            ends = [match.end() for match in boundary.finditer(text, earliest, latest)]
            if ends:
                return ends[-1]
        return latest

    def _next_start(self, text: str, start: int, end: int) -> int:
        """The first word that begins within the overlap."""
        if not self.overlap:
            return end
        space = re.compile(r"\s+").search(text, max(start + 1, end - self.overlap), end)
        return space.end() if space else max(start + 1, end - self.overlap)
