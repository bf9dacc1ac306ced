"""What a user may give where a trace, a conversation or a prompt is asked for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from timestep_lab.model.awaiting import NotAwaited
from timestep_lab.model.errors import UsageError


def trace_id_of(given: Any) -> str:
    """Of a run, of a trace's view, or the id as it is. Raises `UsageError` for anything else."""
    if isinstance(given, NotAwaited):
        raise UsageError(repr(given))
    found = given if isinstance(given, str) else getattr(given, "trace_id", None)
    if not isinstance(found, str):
        raise UsageError(f"{_shown(given)} is no trace.", "Give a run, lab.trace(…), or a trace's id.")
    return found


def trace_ids_of(given: Any) -> list[str]:
    """Of several: ids, runs or views in any order, a DataFrame with a column `trace_id`, that column, or one trace alone.

    Raises `UsageError` for anything else."""
    found = given if isinstance(given, str) else getattr(given, "trace_id", given)
    if isinstance(found, str):
        return [found]
    if isinstance(found, Mapping) or not isinstance(found, Iterable):
        raise UsageError(f"{_shown(given)} is no list of traces.", "Give ids, runs, or a column such as df.trace_id.")
    return list(dict.fromkeys(map(trace_id_of, found)))


def thread_id_of(given: Any) -> str | None:
    """Of a thread, or the id as it is; None stays. Raises `UsageError` for anything else."""
    if given is None or isinstance(given, str):
        return given
    # A run's `thread` is meant by the run, too.
    found = getattr(getattr(given, "thread", given), "id", None)
    if not isinstance(found, str):
        raise UsageError(f"{_shown(given)} is no thread.", "Give run.thread, lab.threads[…], or a thread's id.")
    return found


def messages_of(given: Any) -> list[dict[str, Any]]:
    """A prompt that is no text: Responses input items. Raises `UsageError` for anything else."""
    if not isinstance(given, Sequence) or not all(isinstance(item, Mapping) for item in given):
        raise UsageError(f"{_shown(given)} is nothing to say.", "Give a text, or a list of messages.", param="input")
    return [dict(item) for item in given]


def _shown(given: Any) -> str:
    text = repr(given)
    return text if len(text) <= 80 else f"{text[:79]}…"
