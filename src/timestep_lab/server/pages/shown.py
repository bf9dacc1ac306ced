"""What the function of a page gives: a view, and what is said of it around it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from timestep_lab.model.errors import LabError, NotFoundError

NAME_LENGTH = 60


class NotHere(Exception):
    """What the page's address names is not there for this user."""


@dataclass(frozen=True, slots=True)
class Heading:
    """For a view that has none of its own: what it is, since when, the way back, and files to take along."""

    title: str
    facts: str
    at: datetime
    back: tuple[str, str]
    """Address and words."""
    files: Sequence[tuple[str, str]] = ()
    """Address and words of each."""


@dataclass(frozen=True, slots=True)
class Shown:
    view: Any
    name: str | None = None
    """Of the one thing that is opened, for the title of the browser's tab."""
    heading: Heading | None = None


@dataclass(frozen=True, slots=True)
class Notice:
    """In the place of a view that cannot be shown."""

    title: str
    words: Sequence[str]
    link: tuple[str, str]
    """Address and words."""


@contextmanager
def looked_up() -> Iterator[None]:
    """Around looking for what the address names, so that its absence is told apart from any other failure."""
    try:
        yield
    except NotFoundError as error:
        raise NotHere from error


def clipped(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= NAME_LENGTH else f"{line[: NAME_LENGTH - 1].rstrip()}…"


def not_here(kind: str, many: str, path: str, *, guest: bool) -> Notice:
    why = f"It may have been deleted, or you are signed in as somebody else: everybody sees only their own {many}."
    hint = ["You are a guest here. The link in the terminal signs you in as the lab's owner."] if guest else []
    return Notice(f"This {kind} is not here", [why, *hint], (path, f"All {many}"))


def trouble(error: Exception, path: str) -> Notice:
    """A `LabError` says itself what happened; of any other only the server's log tells."""
    if isinstance(error, LabError):
        return Notice("This page cannot be shown", [error.message, error.next_step], (path, "Open it anew"))
    words = ["The lab met a fault of its own. Nothing was lost; the server's log says more."]
    return Notice("Something went wrong", words, (path, "Open it anew"))
