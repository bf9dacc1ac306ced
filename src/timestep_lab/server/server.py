"""One process, one port: the API, the ChatKit endpoint, the OpenAI-compatible layer and the Panel pages, behind one gate."""

from __future__ import annotations

import asyncio
import importlib
import secrets
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from fastapi import FastAPI

from timestep_lab import __version__
from timestep_lab.model.errors import AuthError
from timestep_lab.server import error_response, openai_api
from timestep_lab.server.api import (
    auth,
    changes,
    compare,
    health,
    mcp,
    models,
    operations,
    runs,
    sql,
    trace_files,
    traces,
)
from timestep_lab.server.chatkit import routes as chatkit
from timestep_lab.server.fair_reads import FairReads
from timestep_lab.server.gate import API_PREFIXES, OPEN_PATHS, Gate
from timestep_lab.server.host_names import answers_to
from timestep_lab.server.labs import Labs
from timestep_lab.server.limits import RateLimits
from timestep_lab.server.metrics import Counting, Metrics
from timestep_lab.server.otlp_decoder import OtlpDecoder
from timestep_lab.server.tokens import Caller, Tokens, secret_of

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

    from timestep_lab.model.protocols import LabLike

ROUTERS = (
    health.router, auth.router, traces.router, *operations.ROUTERS, runs.client_tools, runs.router, runs.traces, trace_files.router,
    compare.router, models.router, sql.router, mcp.router, changes.router, chatkit.router, openai_api.router,
)  # fmt: skip
"""In the order in which their paths are tried: `/traces/suggest` and `/traces/score` before `/traces/{trace_id}`."""
IMPORT_S = 90.0
"""For traces that somebody sends, reading and storing together."""
LINK_HOURS = 12
"""How long the sign-in link in the terminal works. Later `/?key=` takes what `timestep-lab token` prints."""


class Served:
    """The ASGI app of a lab, and the key that signs its owner in."""

    def __init__(self, lab: LabLike, *, loopback: bool, pages: bool = True, limits: RateLimits | None = None) -> None:
        self.owner_key = secrets.token_urlsafe(24)
        self._key_until = time.monotonic() + LINK_HOURS * 3600
        self._loopback = loopback
        lab.settings = replace(lab.settings, is_served=True)
        self.labs = Labs(lab)
        self._secret = secret_of(lab.store, lab.settings.secret)
        self.tokens = Tokens(self._secret)
        self.api = self._api(pages)
        metrics: Metrics = self.api.state.metrics
        self.app: ASGIApp = Counting(
            Gate(
                PagesWait(self.api, self.api),
                self.tokens,
                anonymous_pages=loopback,
                limits=limits,
                owner_key=self._owner_of,
                answers_to=answers_to(lab.settings.hosts, loopback=loopback),
            ),
            metrics,
        )

    def _owner_of(self, key: str) -> str | None:
        """The lab's own user, for who holds the link printed in the terminal, or a token of theirs (`timestep-lab token`)."""
        owner: str = self.labs.root.store.user_id
        if secrets.compare_digest(key.encode(), self.owner_key.encode()):
            return owner if time.monotonic() < self._key_until else None
        try:
            caller = self.tokens.verify(key)
        except AuthError:
            return None
        return owner if caller == Caller(owner, anonymous=False) else None

    def _api(self, pages: bool) -> FastAPI:
        @asynccontextmanager
        async def lifespan(app: FastAPI) -> AsyncIterator[None]:
            preparing = asyncio.create_task(self._prepare(app, pages))
            yield
            app.state.stopping = True
            preparing.cancel()
            with suppress(asyncio.CancelledError):
                await preparing
            await self.labs.aclose()
            api.state.reads.close()
            api.state.imports.close()
            await asyncio.to_thread(api.state.otlp.close)

        api = FastAPI(
            title="Timestep Lab", version=__version__, lifespan=lifespan, openapi_url="/api/openapi.json",
            docs_url=None, redoc_url=None, separate_input_output_schemas=False,
        )  # fmt: skip
        api.state.labs, api.state.tokens, api.state.metrics, api.state.stopping = (
            self.labs,
            self.tokens,
            Metrics(),
            False,
        )
        api.state.otlp = OtlpDecoder()
        api.state.reads = FairReads(lambda: bool(api.state.stopping))
        api.state.imports = FairReads(lambda: bool(api.state.stopping), threads=4, waiting=50, time_limit_s=IMPORT_S)
        api.state.pages_ready, api.state.prepared = asyncio.Event(), asyncio.Event()
        error_response.install(api)
        for router in ROUTERS:
            api.include_router(router)
        return api

    async def _prepare(self, api: FastAPI, pages: bool) -> None:
        """What takes seconds to import comes after the first answers: the pages, then the Agents SDK for the first message."""
        if pages:
            await asyncio.to_thread(importlib.import_module, "panel.io.fastapi")
            from timestep_lab.server.pages import add_pages

            served = add_pages(api, self.labs, secret=self._secret, loopback=self._loopback)
        api.state.pages_ready.set()
        await asyncio.to_thread(importlib.import_module, "timestep_lab.runtime.runner")
        api.state.prepared.set()
        if pages:
            await served.forget_unused()


class PagesWait:
    """Holds a request for a page until the pages are there. The API does not wait."""

    def __init__(self, app: ASGIApp, api: FastAPI) -> None:
        self.app, self.api = app, api

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan" and not scope["path"].startswith((*API_PREFIXES, *OPEN_PATHS)):
            await self.api.state.pages_ready.wait()
        await self.app(scope, receive, send)
