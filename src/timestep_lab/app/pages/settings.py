"""What is set up, and what is missing."""

from __future__ import annotations

from typing import Any

from timestep_lab.app.views.settings import SettingsPage


def page(lab: Any, *, is_owner: bool) -> Any:
    return SettingsPage(lab, is_owner=is_owner).panel()
