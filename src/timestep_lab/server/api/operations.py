"""The HTTP routes of a noun, made from its operations: path, validation, OpenAPI entry and answer follow from the signature."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Body, Path, Query, Request
from starlette.responses import JSONResponse, Response

from timestep_lab.server.api.schemas import ERRORS
from timestep_lab.server.fair_reads import in_turn
from timestep_lab.server.labs import CurrentLab
from timestep_lab.service.agents import Agents
from timestep_lab.service.client import PREFIX
from timestep_lab.service.datasets import Datasets
from timestep_lab.service.operation import Operation, operations
from timestep_lab.service.threads import Threads
from timestep_lab.service.traces import Traces
from timestep_lab.store.base import in_thread

KEYWORD = inspect.Parameter.KEYWORD_ONLY


def _routes(tag: str, noun: type, of: Callable[[Any], Any]) -> APIRouter:
    router = APIRouter(prefix=PREFIX, tags=[tag], responses=ERRORS)
    for name, operation in operations(noun).items():
        summary, _, rest = inspect.cleandoc(operation.function.__doc__ or "").partition("\n")
        empty = operation.status == 204
        for path in filter(None, (operation.alias, operation.path)):
            router.add_api_route(
                path,
                _endpoint(of, operation),
                methods=[operation.method],
                status_code=operation.status,
                response_model=None if empty else operation.answer,
                response_class=Response if empty else JSONResponse,
                operation_id=f"{tag}_{name}",
                include_in_schema=path == operation.path,
                summary=re.sub(r" ?Raises .*", "", summary).rstrip("."),
                description=" ".join(rest.split()),
            )
    return router


def _endpoint(of: Callable[[Any], Any], operation: Operation) -> Callable[..., Any]:
    """A function whose signature FastAPI reads: what is in the path, then the query or one body, then the caller's lab."""
    parameters = operation.signature.parameters
    in_path = [
        inspect.Parameter(name, KEYWORD, annotation=Annotated[parameters[name].annotation, Path()])
        for name in operation.in_path
    ]
    fields = operation.body.model_fields
    if operation.method in ("GET", "DELETE"):
        given = [
            parameters[name].replace(kind=KEYWORD, annotation=Annotated[parameters[name].annotation, Query()])
            for name in fields
        ]
    elif fields:
        optional = all(not field.is_required() for field in fields.values())
        default: Any = {} if optional else inspect.Parameter.empty
        given = [inspect.Parameter("body", KEYWORD, annotation=Annotated[operation.body, Body()], default=default)]
    else:
        given = []

    async def endpoint(request: Request, lab: Any, **arguments: Any) -> Any:
        body = arguments.pop("body", {})
        sent = body if isinstance(body, dict) else {name: getattr(body, name) for name in body.model_fields_set}
        checked = operation.checked((), {**arguments, **sent})
        noun = of(lab)
        if operation.is_async:
            return await operation.call(noun, checked)
        if operation.costly:
            return await in_turn(request, lab, partial(operation.call, noun, checked))
        return await in_thread(operation.call, noun, checked)

    of_lab = inspect.Parameter("lab", KEYWORD, annotation=CurrentLab)
    of_request = inspect.Parameter("request", KEYWORD, annotation=Request)
    endpoint.__signature__ = inspect.Signature([*in_path, *given, of_request, of_lab])  # type: ignore[attr-defined]
    return endpoint


ROUTERS = (
    _routes("agents", Agents, lambda lab: lab.agents),
    _routes("threads", Threads, lambda lab: lab.threads),
    _routes("traces", Traces, lambda lab: lab.trace_source),
    _routes("datasets", Datasets, lambda lab: lab.datasets),
)
"""One a noun. A path without a parameter must stand in its class before one with a parameter in that place."""
