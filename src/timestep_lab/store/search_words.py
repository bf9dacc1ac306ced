"""What a search means, in every store alike.

    oakland umbrella          spans in which both words occur; the last may be half typed, from its second letter on
    umbr* oakland             … a word that begins so
    "umbrella in oakland"     … this phrase, as it stands, its last word whole

Upper and lower case are alike; letters and digits make words, all else stands between them. Of a search without any word (an emoji,
`!!!`) what stands there must occur.

All of a search must be in one span: in its name, error, input, output or events. A trace is found when one of its spans is.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from timestep_lab.store.json_text import clean

MOST_WORDS = 16
LEAST_BEGUN = 2
"""Letters of a last word that may go on. A single letter begins too many words to be of use."""
_PIECE = re.compile(r'"([^"]*)"?|(\S+)')
_WORD = re.compile(r"([^\W_]+)(\*?)")


@dataclass(frozen=True, slots=True)
class Word:
    text: str
    """In lower case."""
    is_beginning: bool = False


@dataclass(frozen=True, slots=True)
class Search:
    words: tuple[Word, ...]
    """Those of the phrases too. None: the phrases are signs, which no index knows."""
    phrases: tuple[str, ...]
    """In lower case."""

    def __bool__(self) -> bool:
        return bool(self.words or self.phrases)


def read_search(text: str) -> Search:
    """Never fails: beside words, what is no word is left out."""
    words: list[Word] = []
    phrases: list[str] = []
    signs: list[str] = []
    is_phrase = False
    for piece in _PIECE.finditer(clean(text)):
        phrase = piece[1]
        found = [
            Word(word.lower(), bool(star)) for word, star in _WORD.findall(phrase if phrase is not None else piece[2])
        ]
        words += found
        is_phrase = phrase is not None
        if phrase is not None and found:
            phrases.append(phrase.strip().lower())
        elif not found:
            signs.append((phrase if phrase is not None else piece[2]).strip().lower())
    if not words:
        phrases = [sign for sign in signs if sign]
    if words and not is_phrase and len(words[-1].text) >= LEAST_BEGUN:
        words[-1] = Word(words[-1].text, is_beginning=True)
    return Search(tuple(dict.fromkeys(words))[:MOST_WORDS], tuple(dict.fromkeys(phrases))[:MOST_WORDS])
