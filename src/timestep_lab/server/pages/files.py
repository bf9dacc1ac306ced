"""Files and vector stores."""

from __future__ import annotations

from typing import Any

from timestep_lab.server.views.files import FilesPage


def page(lab: Any, *, is_owner: bool) -> Any:
    return FilesPage(lab).panel()
