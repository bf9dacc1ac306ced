"""Everything that waits for a person."""

from __future__ import annotations

from typing import Any

from timestep_lab.app.views.approvals import ApprovalsPage


def page(lab: Any, *, is_owner: bool) -> Any:
    return ApprovalsPage(lab).panel()
