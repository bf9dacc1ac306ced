"""Health checks and metrics."""

from __future__ import annotations

import os
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from typing import TYPE_CHECKING

from fastapi import APIRouter, Request
from pydantic import BaseModel
from starlette.responses import PlainTextResponse, Response

from timestep_lab.model.errors import StoreUnavailableError
from timestep_lab.server.api.operations import ERRORS
from timestep_lab.server.labs import Labs
from timestep_lab.store.base import in_thread

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send


# --- Metrics in Prometheus' text format. A client library would be more code than this


BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Metrics:
    """Requests by method, route and status, and the time to first byte. Each worker reports its own metrics, with its
    pid.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._requests: dict[tuple[str, str, int], int] = defaultdict(int)
        self._seconds: dict[float, int] = defaultdict(int)
        self._sum, self._count = 0.0, 0
        self._started = time.time()
        self.page_sessions: Callable[[], int] = lambda: 0
        """Number of open pages."""

    def count(self, method: str, route: str, status: int, seconds: float) -> None:
        with self._lock:
            self._requests[method, route, status] += 1
            self._sum += seconds
            self._count += 1
            for bound in BUCKETS:
                if seconds <= bound:
                    self._seconds[bound] += 1

    def text(self) -> str:
        with self._lock:
            lines = ["# TYPE timestep_lab_requests_total counter"]
            lines += [
                f'timestep_lab_requests_total{{method="{method}",route="{route}",status="{status}"}} {n}'
                for (method, route, status), n in sorted(self._requests.items())
            ]
            lines.append("# TYPE timestep_lab_request_seconds histogram")
            lines += [f'timestep_lab_request_seconds_bucket{{le="{b}"}} {self._seconds[b]}' for b in BUCKETS]
            lines += [
                f'timestep_lab_request_seconds_bucket{{le="+Inf"}} {self._count}',
                f"timestep_lab_request_seconds_sum {self._sum:.6f}",
                f"timestep_lab_request_seconds_count {self._count}",
                "# TYPE timestep_lab_start_time_seconds gauge",
                f"timestep_lab_start_time_seconds {self._started:.3f}",
                "# TYPE timestep_lab_page_sessions gauge",
                f"timestep_lab_page_sessions {self.page_sessions()}",
                "# TYPE timestep_lab_process gauge",
                f'timestep_lab_process{{pid="{os.getpid()}"}} 1',
            ]
        return "\n".join(lines) + "\n"


class Counting:
    """ASGI middleware that updates `Metrics`. It uses the route pattern, not the path: ids would create a time series
    each.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app, self.metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began = time.perf_counter()

        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                route = getattr(scope.get("route"), "path", "other")
                self.metrics.count(scope["method"], route, message["status"], time.perf_counter() - began)
            await send(message)

        await self.app(scope, receive, counted)


router = APIRouter(tags=["health"])


class Health(BaseModel):
    status: str


@router.get("/healthz", response_model=Health)
async def is_alive() -> Health:
    """Liveness: the process responds."""
    return Health(status="ok")


@router.get("/readyz", response_model=Health, responses={503: ERRORS[503]})
async def is_ready(request: Request) -> Health:
    """Readiness: the store responds, and the server is not shutting down."""
    labs: Labs = request.app.state.labs
    if request.app.state.stopping:
        raise StoreUnavailableError("The server is shutting down.", "Try again in a few seconds.")
    await in_thread(labs.root.store.db.query, labs.root.store.user_id, "select 1")
    return Health(status="ready")


@router.get("/metrics", response_class=PlainTextResponse, responses={c: ERRORS[c] for c in (401, 429)})
async def metrics(request: Request) -> Response:
    """Metrics in the Prometheus text exposition format 0.0.4."""
    counted: Metrics = request.app.state.metrics
    return PlainTextResponse(counted.text(), media_type="text/plain; version=0.0.4; charset=utf-8")
