"""A name that is safe to show, to store and to put in a header, from whatever a sender called a file."""

from __future__ import annotations

import unicodedata

MAX_BYTES = 200
"""Most file systems take 255."""


def safe_name(name: str) -> str:
    """`..\\evil\\r\\n.txt` → `evil.txt`. Never empty, no folders, no control or direction-changing characters."""
    last = name.replace("\\", "/").rsplit("/", 1)[-1]
    plain = unicodedata.normalize("NFC", last)
    # C*: control, format (such as right-to-left override, which hides a file's true ending), private, surrogates.
    kept = "".join(letter for letter in plain if not unicodedata.category(letter).startswith("C"))
    kept = " ".join(kept.split()).strip(". ")
    stem, dot, ending = kept.rpartition(".")
    if not dot or len(ending) > 16:
        stem, dot, ending = kept, "", ""
    room = MAX_BYTES - len(f"{dot}{ending}".encode())
    return f"{_cut(stem, room)}{dot}{ending}" or "file"


def _cut(text: str, size: int) -> str:
    return text.encode()[:size].decode(errors="ignore").strip()
