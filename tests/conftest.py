from __future__ import annotations

from collections.abc import Iterator

import hypothesis
import pytest

# How long an example takes to make or to run says nothing on a machine that does other things as well.
hypothesis.settings.register_profile("lab", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("lab")


@pytest.fixture(scope="session", autouse=True)
def _postgres_stops_with_the_tests() -> Iterator[None]:
    yield
    from tests.postgres.server import stop_shared_server

    stop_shared_server()
