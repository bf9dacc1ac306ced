"""Is it alive, is it ready, and how is it doing."""

from __future__ import annotations

from fastapi import APIRouter, Request
from pydantic import BaseModel
from starlette.responses import PlainTextResponse, Response

from timestep_lab.model.errors import StoreUnavailableError
from timestep_lab.server.api.schemas import ERRORS
from timestep_lab.server.labs import Labs
from timestep_lab.server.metrics import Metrics
from timestep_lab.store.base import in_thread

router = APIRouter(tags=["health"])


class Health(BaseModel):
    status: str


@router.get("/healthz", response_model=Health)
async def is_alive() -> Health:
    """The process answers."""
    return Health(status="ok")


@router.get("/readyz", response_model=Health, responses={503: ERRORS[503]})
async def is_ready(request: Request) -> Health:
    """The store answers too, and the server is not shutting down."""
    labs: Labs = request.app.state.labs
    if request.app.state.stopping:
        raise StoreUnavailableError("The server is shutting down.", "Try again in a few seconds.")
    await in_thread(labs.root.store.db.query, labs.root.store.user_id, "select 1")
    return Health(status="ready")


@router.get("/metrics", response_class=PlainTextResponse, responses={c: ERRORS[c] for c in (401, 429)})
async def metrics(request: Request) -> Response:
    """Prometheus text exposition format 0.0.4."""
    counted: Metrics = request.app.state.metrics
    return PlainTextResponse(counted.text(), media_type="text/plain; version=0.0.4; charset=utf-8")
