"""What a comparison needs of a lab."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from timestep_lab.runtime.mcp.toolbox import Toolbox
    from timestep_lab.runtime.router import Router
    from timestep_lab.runtime.settings import Settings
    from timestep_lab.store.store import Store
    from timestep_lab.store.trace_writer import TraceWriter


@dataclass(frozen=True, slots=True)
class Bench:
    store: Store
    router: Router
    toolbox: Toolbox
    settings: Settings
    writer: TraceWriter

    @property
    def user_id(self) -> str:
        return self.store.user_id
