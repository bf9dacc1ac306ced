from __future__ import annotations

import pytest

from tests.browser.conftest import browser, pages
from tests.server.lab_process import LabProcess

__all__ = ["browser", "pages"]


@pytest.fixture(scope="session")
def lab(served_lab: LabProcess) -> LabProcess:
    return served_lab
