"""Build, watch and compare AI agents without leaving the notebook.

    from timestep_lab import Lab

    lab = Lab()
    run = await lab.run("Umbrella in Oakland?")

Nothing heavy is imported until it is used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from timestep_lab.lab import Lab as Lab
    from timestep_lab.types.errors import LabError as LabError

__version__ = "0.1.0"

_HOME_OF = {"Lab": "timestep_lab.lab", "LabError": "timestep_lab.types.errors"}
__all__ = ["Lab", "LabError", "__version__"]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME_OF[name]), name)


def load_ipython_extension(shell: Any) -> None:
    """`%load_ext timestep_lab`: `%%trace` above a cell, and `%trace on` for all of them; see `timestep_lab.lab.cells`."""
    importlib.import_module("timestep_lab.lab.cells").load(shell)


def unload_ipython_extension(shell: Any) -> None:
    """`%unload_ext timestep_lab`."""
    importlib.import_module("timestep_lab.lab.cells").unload(shell)


def __dir__() -> list[str]:
    return sorted(__all__)
