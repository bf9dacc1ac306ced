"""Operations: typed methods of a service class, each with an HTTP method and path.

    @op.noun("threads")
    class Threads:
        @op.post("/threads", status=201)
        def create(self, title: Title | None = None) -> ThreadRecord: ...

The signature defines the request. The arguments of every call, local or remote, are validated by the same pydantic
model that the HTTP route uses for its body and query. `server/api/operations.py` generates the routes,
`service/client.py` the remote classes.

A path parameter (`/threads/{thread_id}`) is always an id, never a name: names may contain slashes. A method that takes
a name is a plain method that looks up the id and calls the operation. `**changes: Unpack[SomeTypedDict]` stands for
optional fields. Plain methods call only operations, so that remote classes can inherit them.

A stream (`op.stream`) is an async generator of events. Over HTTP it is sent as server-sent events if the body has
`"stream": true`, else as one response when it has ended. `bytes` is not JSON: a `bytes` parameter is the whole request
body, a `bytes` result the whole response.
"""

from __future__ import annotations

import functools
import inspect
import re
import typing
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any, Literal, Protocol, TypedDict, TypeVar, Unpack, cast

from annotated_types import Len

from timestep_lab.model.arguments import checks_arguments, did_you_mean
from timestep_lab.model.codec import MOST_TEXT
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


# --- The environment of a user's operations. A `Lab` in this process implements it


class Scope(Protocol):
    """The user's view of the store, and the parts shared by all users. It identifies the user, so operations do not
    take a user argument.
    """

    settings: Settings
    store: Store
    agents: Agents

    def flush(self) -> None:
        """Wait until all spans recorded so far are stored."""
        ...

    @property
    def router(self) -> Router:
        """Resolves model names to models."""
        ...

    @property
    def runner(self) -> Runner:
        """Runs agents."""
        ...

    @property
    def toolbox(self) -> Toolbox:
        """Connections to the user's MCP servers."""
        ...

    @property
    def writer(self) -> TraceWriter:
        """Writes spans to the store."""
        ...

    @property
    def files(self) -> Files:
        """The user's files."""
        ...


F = TypeVar("F", bound=Callable[..., object])
N = TypeVar("N", bound=type)
Ended = Callable[[Any, Event], Awaitable[object]]
TraceId = Annotated[str, Len(1, 200)]
NONE: Mapping[str, str] = {}
Method = Literal["GET", "POST", "PUT", "DELETE"]


@dataclass(eq=False)
class Operation:
    """The metadata of one operation, for the HTTP routes and the client."""

    function: Callable[..., object]
    method: Method
    path: str
    """Path below `/api/v1`, with `{parameter}` for each path parameter."""
    status: int
    local: Mapping[str, str] = field(default_factory=dict)
    """Parameters that only a caller in this process may pass, each with the alternative for remote callers."""
    alias: str | None = None
    """A second path, for older clients."""
    costly: bool = False
    """Whether the caller determines the cost; the server then schedules users fairly."""
    ended: Ended | None = None
    """For a stream: computes the response for callers that do not stream, from the service object and the last event."""
    noun: str = ""
    """The attribute of the lab that has this operation, such as `agents`."""

    @property
    def name(self) -> str:
        """The name in messages, such as `agents.create`."""
        return f"{self.noun}.{self.function.__name__}"

    @cached_property
    def signature(self) -> inspect.Signature:
        """The signature without `self`, with every field of `**changes` as a parameter."""
        return inspect.Signature(list(self._parameters()))

    @cached_property
    def answer(self) -> Any:
        """The return type; for a stream, the type of the non-streamed response."""
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
        """The parameter that is the whole request body, if any."""
        return next((name for name, one in self.signature.parameters.items() if one.annotation is bytes), None)

    @property
    def has_query(self) -> bool:
        """Whether parameters that are not in the path are sent in the query string."""
        return self.method in ("GET", "DELETE") or self.content is not None

    @cached_property
    def request(self) -> type[BaseModel]:
        """A pydantic model of all arguments. Unknown arguments, NaN and infinity are rejected."""
        return self.model(self.signature.parameters)

    @cached_property
    def body(self) -> type[BaseModel]:
        """A pydantic model of the HTTP request body: all arguments except path parameters and local ones."""
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
            name, __config__=ConfigDict(extra="forbid", allow_inf_nan=False, str_max_length=MOST_TEXT),
            __doc__=f"The arguments of `lab.{self.name}`.", **fields,
        )  # fmt: skip

    def checked(self, args: tuple[object, ...], keywords: Mapping[str, object]) -> BaseModel:
        """The validated arguments; only those passed are set. Raises `UsageError` that names an invalid argument."""
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
            takes = f"It takes: {', '.join(names) or 'nothing'}."
            unnamed = sum(p.kind is not p.KEYWORD_ONLY for p in self.signature.parameters.values())
            if unnamed < len(args) <= len(names):
                shown = "…, " * unnamed + f"{names[unnamed]}={args[unnamed]!r:.40}"
                takes = f"Name each argument: lab.{self.name}({shown}, …). {takes}"
            raise UsageError(f"lab.{self.name}: {error}.", takes) from None
        try:
            return self.request.model_validate(given)
        except ValidationError as error:
            raise self._wrong(error) from None

    def call(self, noun: object, request: BaseModel) -> Any:
        """Call the method with validated arguments. The caller awaits an async result and iterates over a stream."""
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
    def _hints(self) -> dict[str, object]:
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
    """The default of a field that is left unchanged unless it is passed."""

    def __repr__(self) -> str:
        return "<unchanged>"


LEFT_OUT = _LeftOut()


def operations(noun: type) -> dict[str, Operation]:
    """The operations of a service class by method name, in source order."""
    written = {name: value for base in reversed(noun.__mro__) for name, value in vars(base).items()}
    marked = {name: getattr(value, "__operation__", None) for name, value in written.items()}
    return {name: operation for name, operation in marked.items() if operation is not None}


def get(path: str, *, alias: str | None = None, costly: bool = False) -> Callable[[F], F]:
    """Marks a method that reads; its parameters are the query string. `alias`: a second path, for older clients.
    `costly`: the caller determines the cost, by a filter or by the amount of data."""
    return _mark("GET", path, 200, alias=alias, costly=costly)


def post(path: str, *, status: int = 200, local: Mapping[str, str] = NONE) -> Callable[[F], F]:
    """Marks a method that creates or does something; its parameters are the JSON body, or the query string if the body
    is `bytes`. `local`: parameters that a served lab does not accept, each with the alternative."""
    return _mark("POST", path, status, local=local)


def put(path: str) -> Callable[[F], F]:
    """Marks a method that changes the resource at its path."""
    return _mark("PUT", path, 200)


def delete(path: str) -> Callable[[F], F]:
    """Marks a method that deletes the resource at its path."""
    return _mark("DELETE", path, 204)


def stream(path: str, *, ended: Ended, local: Mapping[str, str] = NONE) -> Callable[[F], F]:
    """Marks an async generator of events; its parameters are the body, plus `stream`. `ended(noun, last_event)`
    computes the response for callers that do not stream."""
    return _mark("POST", path, 200, ended=ended, local=local)


def noun(name: str) -> Callable[[N], N]:
    """Marks a class that has operations. `name`: its attribute of a lab, used in messages: `agents` for `lab.agents`.
    The arguments of its plain methods are checked as well."""

    def named(of: N) -> N:
        for operation in operations(of).values():
            operation.noun = name
        return checks_arguments(f"lab.{name}")(of)

    return named


class _Rest(TypedDict, total=False):
    """The other fields of an `Operation`."""

    local: Mapping[str, str]
    alias: str | None
    costly: bool
    ended: Ended


def _mark(method: Method, path: str, status: int, **rest: Unpack[_Rest]) -> Callable[[F], F]:
    def mark(function: F) -> F:
        operation = Operation(function, method, path, status, **rest)
        return cast("F", wrapped(operation, operation.call))

    return mark


def wrapped(operation: Operation, call: Callable[[object, BaseModel], Any]) -> Callable[..., object]:
    """The method with validated arguments, executed by `call`. Help and type checkers see the original signature."""
    function = operation.function

    @functools.wraps(function)
    def method(self: object, *args: object, **keywords: object) -> object:
        return call(self, operation.checked(args, keywords))

    @functools.wraps(function)
    async def method_async(self: object, *args: object, **keywords: object) -> object:
        return await call(self, operation.checked(args, keywords))

    made: Any = method_async if operation.is_async else method
    made.__operation__ = operation
    made.checks_its_arguments = True
    return cast("Callable[..., object]", made)
