from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from types import ModuleType
from typing import Any

import pytest

from tests.providers.cases import CASES, Case
from tests.wire import WireServer
from timestep_lab.runtime.provider_errors import RetryPolicy
from timestep_lab.runtime.router import Router
from timestep_lab.runtime.settings import Settings

QUICK = RetryPolicy(first_delay_s=0.01, max_delay_s=0.02)


@pytest.fixture(scope="session")
def _running() -> Iterator[Callable[[ModuleType], WireServer]]:
    servers: dict[str, WireServer] = {}

    def of(protocol: ModuleType) -> WireServer:
        if protocol.__name__ not in servers:
            servers[protocol.__name__] = WireServer(protocol).__enter__()
        return servers[protocol.__name__]

    yield of
    for server in servers.values():
        server.__exit__()


@pytest.fixture
def server_for(_running: Callable[[ModuleType], WireServer]) -> Callable[[ModuleType], WireServer]:
    """The server of a protocol, ready for a new script."""
    return lambda protocol: _running(protocol).forget()


@pytest.fixture(params=CASES, ids=str)
def case(request: pytest.FixtureRequest) -> Case:
    return request.param


@pytest.fixture
def server(case: Case, server_for: Callable[[ModuleType], WireServer]) -> WireServer:
    return server_for(case.protocol)


@pytest.fixture
async def router_for() -> AsyncIterator[Callable[..., Router]]:
    """Makes routers and closes them. Repeats wait hundredths of a second, not seconds."""
    made: list[Router] = []

    def make(settings: Settings, retry: RetryPolicy = QUICK) -> Router:
        made.append(Router(settings, retry=retry))
        return made[-1]

    yield make
    for router in made:
        await router.aclose()


@pytest.fixture
async def model(case: Case, server: WireServer, router_for: Callable[..., Router]) -> Any:
    return router_for(case.configure(server.url)).get_model(case.model)
