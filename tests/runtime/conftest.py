from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.runtime.bench import Bench, open_bench


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    async with open_bench() as bench:
        yield bench
