"""Conversion and checking of arguments, with suggestions for mistyped names."""

from __future__ import annotations

import ast
import difflib
import functools
import inspect
import itertools
import os
from collections.abc import Callable, Collection, Coroutine, Iterable, Mapping, Sequence
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
        raise UsageError(f"{shown(given)} is not a trace.", "Pass a run, lab.trace(…), or a trace id.")
    return trace_id


def trace_ids_of(given: object) -> list[str]:
    """Returns the ids of several traces: ids, runs or views in any order, a DataFrame with a `trace_id` column, that column, or one trace.

    Raises `UsageError` for anything else."""
    traces = given if isinstance(given, str) else getattr(given, "trace_id", given)
    if isinstance(traces, str):
        return [traces]
    if isinstance(traces, Mapping) or not isinstance(traces, Iterable):
        raise UsageError(f"{shown(given)} is not a list of traces.", "Pass ids, runs, or a column such as df.trace_id.")
    return list(dict.fromkeys(map(trace_id_of, traces)))


def refuse_both(traces: object, filter: str) -> None:
    """Raises `UsageError` if traces are named and filtered at once."""
    if traces is not None and filter:
        raise UsageError(
            "Both traces and a filter were given, and only one of them can choose.",
            "Omit the filter, or pass the matching traces: lab.explorer(filter=…).df().trace_id",
            param="filter",
        )


def thread_id_of(given: object) -> str | None:
    """Returns the id of a thread; a string or None is returned unchanged. Raises `UsageError` for anything else."""
    if given is None or isinstance(given, str):
        return given
    # A run stands for its thread.
    thread_id = getattr(getattr(given, "thread", given), "id", None)
    if not isinstance(thread_id, str):
        raise UsageError(f"{shown(given)} is not a thread.", "Pass run.thread, lab.threads[…], or a thread id.")
    return thread_id


def messages_of(given: object) -> list[dict[str, Json]]:
    """Returns a non-text prompt as Responses input items. Raises `UsageError` for anything else."""
    if not isinstance(given, Sequence) or not all(isinstance(item, Mapping) for item in given):
        raise UsageError(
            f"{shown(given)} is not a valid prompt.", "Pass a string or a list of messages.", param="input"
        )
    for place, item in enumerate(given, 1):
        content = item.get("content")
        if isinstance(content, list | tuple) and not all(isinstance(part, Mapping) for part in content):
            raise UsageError(
                f"The content of message {place} is not a list of parts: {shown(content)}.", "Pass a string or a list of objects.", param="input"
            )  # fmt: skip
    return [dict(item) for item in given]


def shown(given: object) -> str:
    """A value as a message shows it: its `repr`, cut."""
    text = repr(given)
    return text if len(text) <= 80 else f"{text[:79]}…"


P = ParamSpec("P")
R = TypeVar("R")
F = TypeVar("F", bound=Callable[..., object])
N = TypeVar("N", bound=type)


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


def checks_arguments(of: str) -> Callable[[N], N]:
    """Class decorator for what users reach as `of`, such as `lab` or `lab.agents`: calling a public method with an unknown keyword raises a
    `UsageError` that names the method and the most similar keyword, and so does an argument of another type than the signature says,
    before the method is called. What `**options` takes is left to the method.

    Signatures are unchanged for help and type checkers.
    """

    def decorate(kind: N) -> N:
        for name, method in list(vars(kind).items()):
            if inspect.isfunction(method) and not name.startswith("_") and not hasattr(method, "checks_its_arguments"):
                setattr(kind, name, _checked(method, inspect.signature(method), of=of))
        return kind

    return decorate


def checks_options(*options: str, internal: Iterable[str] = ()) -> Callable[[F], F]:
    """Decorator for a method in which `checks_arguments` is to check what `**options` takes: their names, and those that only pages use."""

    def decorate(method: F) -> F:
        return cast("F", _checked(method, inspect.signature(method), options, frozenset(internal)))

    return decorate


def with_signature_of(
    like: Callable[P, object],
) -> Callable[[Callable[..., Coroutine[object, object, R]]], Callable[P, Coroutine[object, object, R]]]:
    """Decorator for a method with the parameters of `like`, collected in `**options` so that it knows which ones were passed.

    Help and type checkers see the signature of `like`; arguments are checked as in `checks_arguments`.
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
    passes_on = any(p.kind is p.VAR_KEYWORD for p in parameters) and not options

    def check(args: tuple[object, ...], keywords: dict[str, object]) -> tuple[object, ...]:
        """Checks the arguments, and makes a number of numpy in `keywords` and in the returned `args` one of Python."""
        args = tuple(map(_plain, args))
        keywords.update((name, _plain(value)) for name, value in keywords.items())
        if not passes_on and not keywords.keys() <= known:
            raise _no_keyword(f"{of}.{method.__name__}", keywords, names)
        for name, value in [*zip(unnamed, args[1:], strict=False), *keywords.items()]:
            kind = hints.get(name)
            if kind is not None and not kind.fits(value):
                raise UsageError(
                    f"{of}.{method.__name__} cannot use {name}={shown(value)}.", f"Pass {kind.words}.", param=name
                )
        return args

    @functools.wraps(method)
    def checked(*args: object, **keywords: object) -> object:
        return method(*check(args, keywords), **keywords)

    @functools.wraps(method)
    async def checked_async(*args: object, **keywords: object) -> object:
        return await method(*check(args, keywords), **keywords)

    known = internal.union(names)
    unnamed = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD and p.name != "self"]
    hints = {p.name: _Kind(str(p.annotation)) for p in parameters if p.annotation is not p.empty}
    wrapper: Any = checked_async if inspect.iscoroutinefunction(method) else checked
    wrapper.__signature__ = signature
    wrapper.checks_its_arguments = True
    return cast("Callable[..., object]", wrapper)


def _plain(value: Any) -> object:
    return value.item() if type(value).__module__ == "numpy" and getattr(value, "shape", None) == () else value


def _no_keyword(method: str, given: Iterable[str], names: Iterable[str]) -> UsageError:
    unknown = next(name for name in given if name not in names)
    return UsageError(
        f"{method} takes no {unknown!r}.{did_you_mean(unknown, names)}",
        f"It takes: {', '.join(names)}.",
        param=unknown,
    )


# --- The type of an argument, as far as its annotation says it with types of Python


class _Kind:
    """What an annotation such as `str | Sequence[str] | None` allows. Any name that is not a type of Python (a class of this package, an
    alias) allows everything: the method checks it."""

    def __init__(self, annotation: str) -> None:
        self._annotation = annotation

    def fits(self, value: object) -> bool:
        return _fits(value, self._tree)

    @functools.cached_property
    def _tree(self) -> ast.expr:
        return ast.parse(self._annotation, mode="eval").body

    @property
    def words(self) -> str:
        """What to pass, for a message."""
        *first, last = dict.fromkeys(one for one, _ in _words(self._tree))
        return f"{', '.join(first)} or {last}" if first else last


_MOST_CHECKED = 1_000
"""How many members of a list or dict are checked."""
_IN_WORDS = {
    "str": ("a string", "strings"), "bool": ("True or False", "True or False"), "int": ("a whole number", "whole numbers"),
    "float": ("a number", "numbers"), "Mapping": ("a dict", "dicts"), "Sequence": ("a list", "lists"), "Callable": ("a function", "functions"),
    "Path": ("a path", "paths"),
}  # fmt: skip
_ANYTHING = ("Any", "object", "Json")


def _fits(value: object, hint: ast.expr) -> bool:
    match hint:
        case ast.BinOp(left=left, right=right):
            return _fits(value, left) or _fits(value, right)
        case ast.Constant(value=None):
            return value is None
        case ast.Subscript(value=ast.Name(id="Literal"), slice=choices):
            return any(type(value) is type(choice) and value == choice for choice in _choices(choices))
        case ast.Subscript(value=ast.Name(id="Sequence"), slice=member):
            return _is("Sequence", value) and all(_fits(one, member) for one in _first(cast("Iterable[object]", value)))
        case ast.Subscript(value=ast.Name(id="Mapping"), slice=ast.Tuple(elts=[key, member])):
            return isinstance(value, Mapping) and all(
                _fits(k, key) and _fits(v, member) for k, v in _first(value.items())
            )
        case ast.Subscript(value=ast.Name(id=name)) | ast.Name(id=name):
            return _is(name, value)
    return True


def _first(members: Iterable[R]) -> Iterable[R]:
    return itertools.islice(members, _MOST_CHECKED)


def _choices(hint: ast.expr) -> tuple[object, ...]:
    chosen = ast.literal_eval(hint)
    return chosen if isinstance(chosen, tuple) else (chosen,)


def _is(name: str, value: object) -> bool:
    """Whether the value is of this type of Python, or of another library's type that is used like it: an array of numpy, a column of a
    DataFrame."""
    match name:
        case "str":
            return isinstance(value, str)
        case "bool":
            return isinstance(value, bool)
        case "int":
            return isinstance(value, int) and not isinstance(value, bool)
        case "float":
            return isinstance(value, int | float) and not isinstance(value, bool)
        case "Mapping":
            return isinstance(value, Mapping)
        case "Sequence":
            return isinstance(value, Collection) and not isinstance(value, str | bytes | Mapping)
        case "Callable":
            return callable(value)
        case "Path":
            return isinstance(value, os.PathLike)
    return True


def _words(hint: ast.expr) -> list[tuple[str, str]]:
    """What to pass: one, and several of them."""
    match hint:
        case ast.BinOp(left=left, right=right):
            return [*_words(left), *_words(right)]
        case ast.Subscript(value=ast.Name(id="Literal"), slice=choices):
            return [(repr(choice), repr(choice)) for choice in _choices(choices)]
        case ast.Subscript(value=ast.Name(id="Sequence"), slice=member) if not (
            isinstance(member, ast.Name) and member.id in _ANYTHING
        ):
            several = f"of {' or '.join(many for _, many in _words(member))}"
            return [(f"a list {several}", f"lists {several}")]
        case ast.Subscript(value=ast.Name(id=name)) | ast.Name(id=name) if name in _IN_WORDS:
            return [_IN_WORDS[name]]
    return [(ast.unparse(hint), ast.unparse(hint))]
