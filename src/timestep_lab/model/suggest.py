"""Help for people who mistype a name."""

from __future__ import annotations

import difflib
import functools
import inspect
from collections.abc import Callable, Coroutine, Iterable, Mapping
from typing import Any, ParamSpec, TypeVar, cast

from timestep_lab.model.errors import UsageError

P = ParamSpec("P")
R = TypeVar("R")
F = TypeVar("F", bound=Callable[..., Any])


def closest(word: str, known: Iterable[str]) -> str | None:
    """The known word most like `word`, or None when none is like it."""
    by_folded = {name.casefold(): name for name in known}
    match = difflib.get_close_matches(word.casefold(), list(by_folded), n=1, cutoff=0.6)
    return by_folded[match[0]] if match else None


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """` Did you mean 'x'?` with a leading space, or nothing."""
    match = closest(word, known)
    return f" Did you mean {match!r}?" if match else ""


def checks_keywords(method: F) -> F:
    """Decorates a method of `Lab`: a keyword that it does not take is a `UsageError` that names the nearest one and the method.

    The signature stays as it is written, for help and for type checkers.
    """
    return cast("F", _checked(method, inspect.signature(method)))


def with_signature_of(
    like: Callable[P, Any],
) -> Callable[[Callable[..., Coroutine[Any, Any, R]]], Callable[P, Coroutine[Any, Any, R]]]:
    """Decorates a method that takes what `like` takes, and must know which of it was given: it has `**options` for all of that.

    Help and type checkers see the signature of `like`; keywords are checked as `checks_keywords` does.
    """

    def decorate(method: Callable[..., Coroutine[Any, Any, R]]) -> Callable[P, Coroutine[Any, Any, R]]:
        signature = inspect.signature(like).replace(return_annotation=inspect.signature(method).return_annotation)
        return cast("Callable[P, Coroutine[Any, Any, R]]", _checked(method, signature))

    return decorate


def _checked(method: Callable[..., Any], signature: inspect.Signature) -> Callable[..., Any]:
    names = [name for name, parameter in signature.parameters.items() if name != "self"]
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in signature.parameters.values()):
        raise TypeError(f"{method.__qualname__} takes any keyword; there is nothing to check.")

    @functools.wraps(method)
    def checked(*args: Any, **keywords: Any) -> Any:
        if not keywords.keys() <= known:
            raise _no_keyword(method.__name__, keywords, names)
        return method(*args, **keywords)

    @functools.wraps(method)
    async def checked_async(*args: Any, **keywords: Any) -> Any:
        if not keywords.keys() <= known:
            raise _no_keyword(method.__name__, keywords, names)
        return await method(*args, **keywords)

    known = frozenset(names)
    wrapper: Any = checked_async if inspect.iscoroutinefunction(method) else checked
    wrapper.__signature__ = signature
    return cast("Callable[..., Any]", wrapper)


def _no_keyword(method: str, given: Mapping[str, Any], names: Iterable[str]) -> UsageError:
    strange = next(name for name in given if name not in names)
    return UsageError(
        f"lab.{method} takes no {strange!r}.{did_you_mean(strange, names)}",
        f"It takes: {', '.join(names)}.",
        param=strange,
    )
