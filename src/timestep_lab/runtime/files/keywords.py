"""The keyword half of a search: which of a query's words a passage has, rare words counting more (inverse document frequency)."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Sequence

MAX_TERMS = 12
_WORD = re.compile(r"[^\W_]+")


def words_column(text: str) -> str:
    """The words of a passage as stored: lower case, no accents, each after one space."""
    return "".join(f" {word}" for word in words(text))


def terms_of(query: str) -> list[str]:
    """The query's words to look for, the longest first, at most `MAX_TERMS`."""
    found = dict.fromkeys(words(query))
    return sorted(found, key=lambda word: (-len(word), word))[:MAX_TERMS]


def words(text: str) -> list[str]:
    plain = unicodedata.normalize("NFKD", text.casefold())
    return _WORD.findall("".join(letter for letter in plain if not unicodedata.combining(letter)))


def weights(n_passages: int, hits: Sequence[int]) -> list[float]:
    """A weight a term, adding up to 1 (all 0 when no term is in any passage): idf as in BM25, ln(1 + (N - n + 0.5) / (n + 0.5)).

    Source: Robertson and Zaragoza, The Probabilistic Relevance Framework: BM25 and Beyond, 2009, equation 3.4 (kept above 0).
    """
    idf = [math.log(1 + (n_passages - n + 0.5) / (n + 0.5)) for n in hits]
    total = sum(idf)
    return [value / total for value in idf] if any(hits) and total > 0 else [0.0] * len(idf)
