"""Settings."""

from __future__ import annotations

from typing import Any


def page(lab: Any) -> Any:
    return lab.chat(trace_base="/traces/").panel(sizing_mode="stretch_width")
