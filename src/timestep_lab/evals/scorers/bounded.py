"""Regular expressions that end: a pattern that goes over its text again and again is given up after a second.

Patterns come from users, texts from models, and `re` neither stops nor lets other threads work while it looks. The package `regex`
does both. What counts as a pattern, and what it means, stays what `re` says.
"""

from __future__ import annotations

import re
import time
from functools import lru_cache
from typing import Any

from timestep_lab.model.errors import UsageError

LIMIT_S = 1.0
"""For all patterns of one scorer on one answer."""

MOST_WRITTEN_OUT = 100_000
"""How long a pattern may be with its counted repeats written out: that is how it is compiled, and a{999} in {999} in {999} fills the memory."""

_TOKEN = re.compile(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|\{(\d*)(?:,(\d*))?\}|.", re.DOTALL)
_BRACES = re.compile(r"\\N\{[^}]*\}|\\.|\{(?!(?:\d+|\d*,\d*)\})", re.DOTALL)


class TooSlowError(Exception):
    """A pattern was not done in time. `str` of it is the note of the score."""


class Deadline:
    """When the patterns of one answer have had their time."""

    def __init__(self, seconds: float = LIMIT_S) -> None:
        self._seconds, self._end = seconds, time.monotonic() + seconds

    def find(self, pattern: str, text: str, *, full: bool = False) -> bool:
        """The pattern is found in the text, or with `full` matches all of it. Raises `TooSlowError`."""
        compiled = compile_pattern(pattern)
        look = compiled.fullmatch if full else compiled.search
        try:
            # 0 or less would be no limit at all.
            return look(text, timeout=max(1e-3, self._end - time.monotonic()), concurrent=True) is not None
        except TimeoutError:
            raise TooSlowError(
                f"the pattern {pattern} was given up after {self._seconds:g} s on {len(text):,} characters; write it without repeats in repeats"
            ) from None


@lru_cache(256)
def compile_pattern(pattern: str) -> Any:
    """Raises `UsageError` for what is no pattern of `re`."""
    import regex  # type: ignore[import-untyped]

    try:
        if _written_out(pattern) > MOST_WRITTEN_OUT:
            raise UsageError(f"The repeats of {pattern!r} multiply to more than can be matched.", "Count to less.")
        re.compile(pattern)
        return regex.compile(_literal_braces(pattern), regex.VERSION0)
    except (re.error, regex.error, RecursionError, OverflowError, ValueError) as error:
        raise UsageError(f"{pattern!r} is no regular expression: {error}.", "Correct it.") from error


def _literal_braces(pattern: str) -> str:
    """To `re` a brace that counts nothing is a brace; to `regex` `x{e}` means "about x"."""
    return _BRACES.sub(lambda found: r"\{" if found[0] == "{" else found[0], pattern)


def _written_out(pattern: str) -> int:
    sizes, last = [0], 0
    for token in _TOKEN.finditer(pattern):
        counts = [int(count) for count in token.groups() if count]
        if token[0] == "(":
            sizes.append(0)
        elif token[0] == ")" and len(sizes) > 1:
            last = sizes.pop()
            sizes[-1] += last
        elif counts:
            sizes[-1] += last * (max(counts) - 1)
            last *= max(counts)
        else:
            last = 1
            sizes[-1] += 1
    return max(sizes)
