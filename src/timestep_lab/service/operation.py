"""An operation: one typed method of a noun's class, marked with its HTTP method and path.

    @op.noun("threads")
    class Threads:
        @op.post("/threads", status=201)
        def create(self, title: Title | None = None) -> ThreadRecord: ...

The signature is the request: its parameters are checked on every call, local or remote, by the same model that the HTTP route reads its
body and its query with. `server/api/operations.py` makes the routes, `service/client.py` the remote noun.

A parameter named in the path (`/threads/{thread_id}`) holds an id, never a name: names may contain a slash. What takes a name is a plain
method that looks the id up and calls the operation. `**changes: Unpack[SomeTypedDict]` stands for fields of which any may be left out.
A plain method calls operations only, so that a remote noun inherits it.

A stream (`op.stream`) is an async generator of events: server-sent events over HTTP when the body says `"stream": true`, else one answer
when it has ended. `bytes` are no JSON: a parameter of that type is the whole body of the request, an answer of that type the whole answer.
"""

from __future__ import annotations

import functools
import inspect
import re
import typing
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any, Literal, Protocol, TypeVar, cast

from annotated_types import Len

from timestep_lab.model.arguments import did_you_mean
from timestep_lab.model.errors import UsageError
from timestep_lab.model.events import Event

if TYPE_CHECKING:
    from pydantic import BaseModel, ValidationError

    from timestep_lab.runtime.mcp.toolbox import Toolbox
    from timestep_lab.runtime.router import Router
    from timestep_lab.runtime.runner import Runner
    from timestep_lab.runtime.settings import Settings
    from timestep_lab.service.agents import Agents
    from timestep_lab.service.files import Files
    from timestep_lab.store.store import Store
    from timestep_lab.store.trace_writer import TraceWriter


# --- What the operations of one user work on. A `Lab` in this process is one


class Scope(Protocol):
    """The user's view of the store, and the parts that all users share. Who calls an operation is here, not an argument of each."""

    settings: Settings
    store: Store
    agents: Agents

    def flush(self) -> None:
        """Wait until every span so far can be read."""
        ...

    @property
    def router(self) -> Router:
        """From a model's name to a model."""
        ...

    @property
    def runner(self) -> Runner:
        """Runs agents."""
        ...

    @property
    def toolbox(self) -> Toolbox:
        """The connections to the user's MCP servers."""
        ...

    @property
    def writer(self) -> TraceWriter:
        """Puts spans into the store."""
        ...

    @property
    def files(self) -> Files:
        """The user's files."""
        ...


F = TypeVar("F", bound=Callable[..., Any])
N = TypeVar("N", bound=type)
Ended = Callable[[Any, Event], Awaitable[Any]]
TraceId = Annotated[str, Len(1, 200)]
NONE: Mapping[str, str] = {}
Method = Literal["GET", "POST", "PUT", "DELETE"]


@dataclass(eq=False)
class Operation:
    """What the doors need to know of one."""

    function: Callable[..., Any]
    method: Method
    path: str
    """Below `/api/v1`, with `{parameter}` for each that stands in it."""
    status: int
    local: Mapping[str, str] = field(default_factory=dict)
    """Parameters that only a caller in this process may give, and what others do instead."""
    alias: str | None = None
    """A second path, of an older client."""
    costly: bool = False
    """Whether the caller decides what it costs: a server then lets users take turns."""
    ended: Ended | None = None
    """Of a stream: what is answered to who wants no events, from the noun and the last event."""
    noun: str = ""
    """Where in a lab it is found: `agents`."""

    @property
    def name(self) -> str:
        """As people call it: `agents.create`."""
        return f"{self.noun}.{self.function.__name__}"

    @cached_property
    def signature(self) -> inspect.Signature:
        """Without `self`, every field of `**changes` by its name."""
        return inspect.Signature(list(self._parameters()))

    @cached_property
    def answer(self) -> Any:
        """The type of what it returns; of a stream, of what is answered when it has ended."""
        return typing.get_type_hints(self.ended, include_extras=True)["return"] if self.ended else self._hints["return"]

    @property
    def is_async(self) -> bool:
        return inspect.iscoroutinefunction(self.function)

    @property
    def is_stream(self) -> bool:
        return inspect.isasyncgenfunction(self.function)

    @cached_property
    def in_path(self) -> tuple[str, ...]:
        return tuple(re.findall(r"{(\w+)", self.path))

    @cached_property
    def content(self) -> str | None:
        """The parameter that is the whole body of the request."""
        return next((name for name, one in self.signature.parameters.items() if one.annotation is bytes), None)

    @property
    def has_query(self) -> bool:
        """Whether what is not in the path stands in the query."""
        return self.method in ("GET", "DELETE") or self.content is not None

    @cached_property
    def request(self) -> type[BaseModel]:
        """A model of all arguments. Unknown ones are refused, and numbers that JSON does not have."""
        return self.model(self.signature.parameters)

    @cached_property
    def body(self) -> type[BaseModel]:
        """A model of what stands in the body of the HTTP request: all but the path's, and what only this process may give."""
        away = {*self.in_path, *self.local, self.content}
        fields = {name: one for name, one in self.signature.parameters.items() if name not in away}
        if self.is_stream:
            fields["stream"] = inspect.Parameter(
                "stream", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=bool
            )
        return self.model(fields)

    def model(self, parameters: Mapping[str, inspect.Parameter]) -> type[BaseModel]:
        """A pydantic model with these parameters as its fields."""
        from pydantic import ConfigDict, Field, create_model

        fields: dict[str, Any] = {}
        for name, parameter in parameters.items():
            if parameter.default is parameter.empty:
                fields[name] = (parameter.annotation, ...)
            elif parameter.default is LEFT_OUT:
                fields[name] = (parameter.annotation, Field(default_factory=lambda: LEFT_OUT))
            else:
                fields[name] = (parameter.annotation, parameter.default)
        name = "".join(part.capitalize() for part in self.name.replace("_", ".").split("."))
        return create_model(
            name, __config__=ConfigDict(extra="forbid", allow_inf_nan=False), __doc__=f"What `lab.{self.name}` takes.", **fields
        )  # fmt: skip

    def checked(self, args: tuple[Any, ...], keywords: Mapping[str, Any]) -> BaseModel:
        """The arguments as the model; only those given are set. Raises `UsageError`, which names the one that is wrong."""
        from pydantic import ValidationError

        names = list(self.signature.parameters)
        for name in keywords:
            if name not in names:
                raise UsageError(
                    f"lab.{self.name} takes no {name!r}.{did_you_mean(name, names)}", f"It takes: {', '.join(names) or 'nothing'}.", param=name
                )  # fmt: skip
        try:
            given = self.signature.bind(*args, **keywords).arguments
        except TypeError as error:
            raise UsageError(f"lab.{self.name}: {error}.", f"It takes: {', '.join(names) or 'nothing'}.") from None
        try:
            return self.request.model_validate(given)
        except ValidationError as error:
            raise self._wrong(error) from None

    def call(self, noun: object, request: BaseModel) -> Any:
        """Run it with checked arguments; what is async is awaited by the caller, a stream read."""
        return self.function(noun, **{name: getattr(request, name) for name in request.model_fields_set})

    def _wrong(self, error: ValidationError) -> UsageError:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        shown = repr(first.get("input"))
        message = first["msg"].removeprefix("Value error, ")
        return UsageError(
            f"lab.{self.name}: {where}: {message}, not {shown if len(shown) <= 80 else shown[:79] + '…'}.",
            f"See help(lab.{self.name}).",
            param=where,
        )

    @cached_property
    def _hints(self) -> dict[str, Any]:
        return typing.get_type_hints(self.function, include_extras=True)

    def _parameters(self) -> Iterator[inspect.Parameter]:
        for name, parameter in list(inspect.signature(self.function).parameters.items())[1:]:
            hint = self._hints.get(name, Any)
            if parameter.kind is not parameter.VAR_KEYWORD:
                yield parameter.replace(annotation=hint)
                continue
            [fields] = typing.get_args(hint)  # Unpack[SomeTypedDict]
            for name, of_field in typing.get_type_hints(fields, include_extras=True).items():
                yield inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=LEFT_OUT, annotation=of_field)


class _LeftOut:
    """The default of a field that stays as it is unless it is given."""

    def __repr__(self) -> str:
        return "<unchanged>"


LEFT_OUT = _LeftOut()


def operations(noun: type) -> dict[str, Operation]:
    """Those of a noun by the name of their method, in the order in which they are written."""
    written = {name: value for base in reversed(noun.__mro__) for name, value in vars(base).items()}
    marked = {name: getattr(value, "__operation__", None) for name, value in written.items()}
    return {name: operation for name, operation in marked.items() if operation is not None}


def get(path: str, *, alias: str | None = None, costly: bool = False) -> Callable[[F], F]:
    """Marks a method that reads: its parameters are the query. `alias`: a second path, of an older client. `costly`: its cost is for the
    caller to decide, by a filter or by the size of what is read."""
    return _mark("GET", path, 200, alias=alias, costly=costly)


def post(path: str, *, status: int = 200, local: Mapping[str, str] = NONE) -> Callable[[F], F]:
    """Marks a method that makes or does something: its parameters are the body; beside `bytes`, which are the body themselves, the query.
    `local`: those that a served lab does not take, and what to do instead."""
    return _mark("POST", path, status, local=local)


def put(path: str) -> Callable[[F], F]:
    """Marks a method that changes what its path names."""
    return _mark("PUT", path, 200)


def delete(path: str) -> Callable[[F], F]:
    """Marks a method that deletes what its path names."""
    return _mark("DELETE", path, 204)


def stream(path: str, *, ended: Ended, local: Mapping[str, str] = NONE) -> Callable[[F], F]:
    """Marks an async generator of events: its parameters are the body, with `stream` besides. `ended(noun, last event)` gives what is
    answered to who does not ask for the events."""
    return _mark("POST", path, 200, ended=ended, local=local)


def noun(name: str) -> Callable[[N], N]:
    """Marks the class whose methods are operations. `name`: where a lab has it, as messages say it: `agents` of `lab.agents`."""

    def named(of: N) -> N:
        for operation in operations(of).values():
            operation.noun = name
        return of

    return named


def _mark(method: Method, path: str, status: int, **rest: Any) -> Callable[[F], F]:
    def mark(function: F) -> F:
        operation = Operation(function, method, path, status, **rest)
        return cast("F", wrapped(operation, operation.call))

    return mark


def wrapped(operation: Operation, call: Callable[[Any, BaseModel], Any]) -> Callable[..., Any]:
    """The method itself, as `call` does it with checked arguments. Help and type checkers see the function's own signature."""
    function = operation.function

    @functools.wraps(function)
    def method(self: Any, *args: Any, **keywords: Any) -> Any:
        return call(self, operation.checked(args, keywords))

    @functools.wraps(function)
    async def method_async(self: Any, *args: Any, **keywords: Any) -> Any:
        return await call(self, operation.checked(args, keywords))

    made: Any = method_async if operation.is_async else method
    made.__operation__ = operation
    return cast("Callable[..., Any]", made)
