"""What a search means, in every store alike.

    oakland umbrella          spans in which both words occur, each as the beginning of a word, upper and lower case alike
    "umbrella in oakland"     … in which this phrase occurs as it stands, upper and lower case alike

All words of a search must be in one span: in its name, error, input or output. A trace is found when one of its spans is.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from timestep_lab.store.json_text import clean

MOST_WORDS = 16
_PIECE = re.compile(r'"([^"]*)"?|(\S+)')
_WORD = re.compile(r"[^\W_]+")


@dataclass(frozen=True, slots=True)
class Search:
    words: tuple[str, ...]
    """In lower case; those of the phrases too."""
    phrases: tuple[str, ...]

    def __bool__(self) -> bool:
        return bool(self.words or self.phrases)


def read_search(text: str) -> Search:
    """Never fails: what is no word is left out."""
    words: list[str] = []
    phrases: list[str] = []
    for piece in _PIECE.finditer(clean(text)):
        phrase = piece[1]
        words += _WORD.findall((phrase if phrase is not None else piece[2]).lower())
        if phrase and phrase.strip():
            phrases.append(phrase.strip().lower())
    return Search(tuple(dict.fromkeys(words))[:MOST_WORDS], tuple(dict.fromkeys(phrases))[:MOST_WORDS])
