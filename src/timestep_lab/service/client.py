"""A noun of a served lab: the same class, with every operation asked of the server."""

from __future__ import annotations

from functools import cache, partial
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote

from timestep_lab.model.codec import decoded, encoded
from timestep_lab.service.failures import only_here
from timestep_lab.service.operation import Operation, operations, wrapped
from timestep_lab.store.base import in_thread

if TYPE_CHECKING:
    from pydantic import BaseModel

    from timestep_lab.service.connection import Connection

N = TypeVar("N")
PREFIX = "/api/v1"


def remote(noun: type[N], connection: Connection, **parts: Any) -> N:
    """The noun as this connection's user sees it. Its plain methods are inherited, its operations raise what the server raised.

    `parts` are set as attributes, for methods that are no operations.
    """
    made: N = object.__new__(_remote_class(noun))  # type: ignore[arg-type]  # mypy: a type[N] is hashable
    vars(made).update(parts, _connection=connection)
    return made


@cache
def _remote_class(noun: type) -> type[Any]:
    asking = {name: wrapped(one, partial(_ask, one)) for name, one in operations(noun).items()}
    return type(f"Remote{noun.__name__}", (noun,), {**asking, "__doc__": noun.__doc__, "__module__": noun.__module__})


def _ask(operation: Operation, noun: Any, request: BaseModel) -> Any:
    """Send checked arguments, read the answer; awaitable where the operation is async."""
    given = {name: getattr(request, name) for name in request.model_fields_set}
    for name in operation.local:
        if given.pop(name, None) is not None:
            raise only_here(f"{name!r} of lab.{operation.name}", f"Leave {name} away: the served lab gives its own.")
    path = PREFIX + operation.path.format(**{name: quote(str(given.pop(name)), safe="") for name in operation.in_path})
    fields = {name: encoded(value, type(request).model_fields[name].annotation) for name, value in given.items()}
    if operation.method in ("GET", "DELETE"):
        options = {"params": {name: value for name, value in fields.items() if value is not None}}
    else:
        options = {"json": fields}

    def ask(connection: Connection) -> Any:
        answer = connection.ask(operation.method, path, **options)
        return None if operation.answer in (None, type(None)) else decoded(operation.answer, answer)

    return in_thread(ask, noun._connection) if operation.is_async else ask(noun._connection)
