"""`lab`: a really served lab, one for all tests of a worker. Every test is a new user of it, or two."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.browser.conftest import browser, pages
from tests.server.lab_process import LabProcess, start, stop

__all__ = ["browser", "pages"]


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LabProcess]:
    served = start(tmp_path_factory.mktemp("lab") / "lab.duckdb")
    yield served
    stop(served)
