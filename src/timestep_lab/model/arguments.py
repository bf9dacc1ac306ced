"""Conversion and checking of arguments, with suggestions for mistyped names."""

from __future__ import annotations

import difflib
import functools
import inspect
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from typing import Any, ParamSpec, TypeVar, cast

from timestep_lab.model.awaiting import NotAwaited
from timestep_lab.model.codec import Json
from timestep_lab.model.errors import UsageError

# --- Values accepted in place of a trace, a thread or a prompt


def trace_id_of(given: object) -> str:
    """Returns the trace id of a run or a trace view; a string is returned unchanged. Raises `UsageError` for anything else."""
    if isinstance(given, NotAwaited):
        raise UsageError(repr(given))
    trace_id = given if isinstance(given, str) else getattr(given, "trace_id", None)
    if not isinstance(trace_id, str):
        raise UsageError(f"{_shown(given)} is not a trace.", "Pass a run, lab.trace(…), or a trace id.")
    return trace_id


def trace_ids_of(given: object) -> list[str]:
    """Returns the ids of several traces: ids, runs or views in any order, a DataFrame with a `trace_id` column, that column, or one trace.

    Raises `UsageError` for anything else."""
    traces = given if isinstance(given, str) else getattr(given, "trace_id", given)
    if isinstance(traces, str):
        return [traces]
    if isinstance(traces, Mapping) or not isinstance(traces, Iterable):
        raise UsageError(
            f"{_shown(given)} is not a list of traces.", "Pass ids, runs, or a column such as df.trace_id."
        )
    return list(dict.fromkeys(map(trace_id_of, traces)))


def thread_id_of(given: object) -> str | None:
    """Returns the id of a thread; a string or None is returned unchanged. Raises `UsageError` for anything else."""
    if given is None or isinstance(given, str):
        return given
    # A run stands for its thread.
    thread_id = getattr(getattr(given, "thread", given), "id", None)
    if not isinstance(thread_id, str):
        raise UsageError(f"{_shown(given)} is not a thread.", "Pass run.thread, lab.threads[…], or a thread id.")
    return thread_id


def messages_of(given: object) -> list[dict[str, Json]]:
    """Returns a non-text prompt as Responses input items. Raises `UsageError` for anything else."""
    if not isinstance(given, Sequence) or not all(isinstance(item, Mapping) for item in given):
        raise UsageError(
            f"{_shown(given)} is not a valid prompt.", "Pass a string or a list of messages.", param="input"
        )
    for place, item in enumerate(given, 1):
        content = item.get("content")
        if isinstance(content, list | tuple) and not all(isinstance(part, Mapping) for part in content):
            raise UsageError(
                f"The content of message {place} is not a list of parts: {_shown(content)}.", "Pass a string or a list of objects.", param="input"
            )  # fmt: skip
    return [dict(item) for item in given]


def _shown(given: object) -> str:
    text = repr(given)
    return text if len(text) <= 80 else f"{text[:79]}…"


P = ParamSpec("P")
R = TypeVar("R")
F = TypeVar("F", bound=Callable[..., object])


def closest(word: str, known: Iterable[str]) -> str | None:
    """Returns the known word most similar to `word`, or None when none is similar."""
    by_folded = {name.casefold(): name for name in known}
    match = difflib.get_close_matches(word.casefold(), list(by_folded), n=1, cutoff=0.6)
    return by_folded[match[0]] if match else None


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Returns ` Did you mean 'x'?` with a leading space, or an empty string."""
    match = closest(word, known)
    return f" Did you mean {match!r}?" if match else ""


def check_whole(least: int, **given: object) -> None:
    """Raises `UsageError` unless each is a whole number of at least so much."""
    for name, value in given.items():
        if type(value) is not int or value < least:
            raise UsageError(f"{name}={value!r} is too little.", f"Give a whole number from {least} up.", param=name)


def checks_keywords(method: F, *, of: str = "lab") -> F:
    """Decorator for methods of `Lab`, or of what users reach as `of`: an unknown keyword raises a `UsageError` that names the method and the most similar keyword.

    The signature is unchanged for help and type checkers.
    """
    return cast("F", _checked(method, inspect.signature(method), of=of))


def checks_options(*options: str, internal: Iterable[str] = ()) -> Callable[[F], F]:
    """Like `checks_keywords`, for a method that passes `**options` on: their names, and those that only pages use."""

    def decorate(method: F) -> F:
        return cast("F", _checked(method, inspect.signature(method), options, frozenset(internal)))

    return decorate


def with_signature_of(
    like: Callable[P, object],
) -> Callable[[Callable[..., Coroutine[object, object, R]]], Callable[P, Coroutine[object, object, R]]]:
    """Decorator for a method with the parameters of `like`, collected in `**options` so that it knows which ones were passed.

    Help and type checkers see the signature of `like`; keywords are checked as in `checks_keywords`.
    """

    def decorate(method: Callable[..., Coroutine[object, object, R]]) -> Callable[P, Coroutine[object, object, R]]:
        signature = inspect.signature(like).replace(return_annotation=inspect.signature(method).return_annotation)
        return cast("Callable[P, Coroutine[object, object, R]]", _checked(method, signature))

    return decorate


def _checked(
    method: Callable[..., Any], signature: inspect.Signature, options: Sequence[str] = (), internal: frozenset[str] = frozenset(), of: str = "lab"
) -> Callable[..., object]:  # fmt: skip
    parameters = signature.parameters.values()
    names = [p.name for p in parameters if p.name != "self" and p.kind is not p.VAR_KEYWORD] + list(options)
    if any(p.kind is p.VAR_KEYWORD for p in parameters) and not options:
        raise TypeError(f"{method.__qualname__} accepts any keyword; there is nothing to check.")

    @functools.wraps(method)
    def checked(*args: object, **keywords: object) -> object:
        if not keywords.keys() <= known:
            raise _no_keyword(f"{of}.{method.__name__}", keywords, names)
        return method(*args, **keywords)

    @functools.wraps(method)
    async def checked_async(*args: object, **keywords: object) -> object:
        if not keywords.keys() <= known:
            raise _no_keyword(f"{of}.{method.__name__}", keywords, names)
        return await method(*args, **keywords)

    known = internal.union(names)
    wrapper: Any = checked_async if inspect.iscoroutinefunction(method) else checked
    wrapper.__signature__ = signature
    return cast("Callable[..., object]", wrapper)


def _no_keyword(method: str, given: Iterable[str], names: Iterable[str]) -> UsageError:
    unknown = next(name for name in given if name not in names)
    return UsageError(
        f"{method} takes no {unknown!r}.{did_you_mean(unknown, names)}",
        f"It takes: {', '.join(names)}.",
        param=unknown,
    )
