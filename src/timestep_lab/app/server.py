"""One process, one port: the API, the ChatKit endpoint, the OpenAI-compatible layer and the Panel pages, behind one gate."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from fastapi import FastAPI

from timestep_lab import __version__
from timestep_lab.app import error_response
from timestep_lab.app.api import agents, auth, health, mcp, runs, sql, threads
from timestep_lab.app.gate import Gate
from timestep_lab.app.labs import Labs
from timestep_lab.app.limits import RateLimits
from timestep_lab.app.metrics import Counting, Metrics
from timestep_lab.app.tokens import Tokens, secret_of

if TYPE_CHECKING:
    from starlette.types import ASGIApp

    from timestep_lab.types.protocols import LabLike

ROUTERS = (health, auth, agents, threads, runs, sql, mcp)


class Served:
    """The ASGI app of a lab, and the key that signs its owner in."""

    def __init__(self, lab: LabLike, *, loopback: bool, pages: bool = True, limits: RateLimits | None = None) -> None:
        self.owner_key = secrets.token_urlsafe(24)
        self.labs = Labs(lab)
        self.tokens = Tokens(secret_of(lab.store, lab.settings.secret))
        self.api = self._api(pages)
        metrics: Metrics = self.api.state.metrics
        self.app: ASGIApp = Counting(
            Gate(self.api, self.tokens, anonymous_pages=loopback, limits=limits, owner_key=self._owner_of), metrics
        )

    def _owner_of(self, key: str) -> str | None:
        """The lab's own user, for who holds the link printed in the terminal."""
        owner: str = self.labs.root.store.user_id
        return owner if secrets.compare_digest(key.encode(), self.owner_key.encode()) else None

    def _api(self, pages: bool) -> FastAPI:
        @asynccontextmanager
        async def lifespan(app: FastAPI) -> AsyncIterator[None]:
            yield
            app.state.stopping = True
            await self.labs.aclose()

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
        error_response.install(api)
        for module in ROUTERS:
            api.include_router(module.router)
        if pages:
            from timestep_lab.app.pages import add_pages

            add_pages(api, self.labs)
        return api
