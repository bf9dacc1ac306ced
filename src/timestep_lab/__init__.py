"""Build, watch and compare AI agents without leaving the notebook.

    from timestep_lab import Lab

    lab = Lab()
    run = await lab.run("Umbrella in Oakland?")

Nothing heavy is imported until it is used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

    from timestep_lab.evals.cause import Outlook as Outlook
    from timestep_lab.evals.cause import Why as Why
    from timestep_lab.evals.engine import Comparison as Comparison
    from timestep_lab.evals.grid import Grid as Grid
    from timestep_lab.evals.pipelines import Endpoint as Endpoint
    from timestep_lab.evals.plan import Plan as Plan
    from timestep_lab.lab.lab import Lab as Lab
    from timestep_lab.lab.run import Approvals as Approvals
    from timestep_lab.lab.run import Run as Run
    from timestep_lab.lab.run import RunStream as RunStream
    from timestep_lab.lab.serving import Serving as Serving
    from timestep_lab.model.comparison import ComparisonRecord as ComparisonRecord
    from timestep_lab.model.errors import AuthError as AuthError
    from timestep_lab.model.errors import BudgetError as BudgetError
    from timestep_lab.model.errors import BusyError as BusyError
    from timestep_lab.model.errors import ConflictError as ConflictError
    from timestep_lab.model.errors import ContextLengthError as ContextLengthError
    from timestep_lab.model.errors import DataError as DataError
    from timestep_lab.model.errors import FilterError as FilterError
    from timestep_lab.model.errors import ForbiddenError as ForbiddenError
    from timestep_lab.model.errors import LabError as LabError
    from timestep_lab.model.errors import MissingExtraError as MissingExtraError
    from timestep_lab.model.errors import MissingKeyError as MissingKeyError
    from timestep_lab.model.errors import ModelNotFoundError as ModelNotFoundError
    from timestep_lab.model.errors import NotFoundError as NotFoundError
    from timestep_lab.model.errors import NotServedError as NotServedError
    from timestep_lab.model.errors import ProviderAuthError as ProviderAuthError
    from timestep_lab.model.errors import ProviderError as ProviderError
    from timestep_lab.model.errors import ProviderRequestError as ProviderRequestError
    from timestep_lab.model.errors import ProviderTimeoutError as ProviderTimeoutError
    from timestep_lab.model.errors import ProviderUnavailableError as ProviderUnavailableError
    from timestep_lab.model.errors import QueryError as QueryError
    from timestep_lab.model.errors import RateLimitError as RateLimitError
    from timestep_lab.model.errors import RunError as RunError
    from timestep_lab.model.errors import SettingsError as SettingsError
    from timestep_lab.model.errors import StoreCorruptError as StoreCorruptError
    from timestep_lab.model.errors import StoreError as StoreError
    from timestep_lab.model.errors import StoreReadOnlyError as StoreReadOnlyError
    from timestep_lab.model.errors import StoreTooNewError as StoreTooNewError
    from timestep_lab.model.errors import StoreUnavailableError as StoreUnavailableError
    from timestep_lab.model.errors import StreamCutError as StreamCutError
    from timestep_lab.model.errors import TapeMissError as TapeMissError
    from timestep_lab.model.errors import TooLargeError as TooLargeError
    from timestep_lab.model.errors import ToolError as ToolError
    from timestep_lab.model.errors import TooSlowError as TooSlowError
    from timestep_lab.model.errors import UnknownPrefixError as UnknownPrefixError
    from timestep_lab.model.errors import UsageError as UsageError
    from timestep_lab.model.events import Event as Event
    from timestep_lab.model.records import AgentRecord as AgentRecord
    from timestep_lab.model.records import Interruption as Interruption
    from timestep_lab.model.records import RunRecord as RunRecord
    from timestep_lab.model.records import ThreadItem as ThreadItem
    from timestep_lab.model.records import ThreadRecord as ThreadRecord
    from timestep_lab.model.records import Usage as Usage
    from timestep_lab.runtime.files.files import Files as Files
    from timestep_lab.runtime.files.vector_stores import VectorStores as VectorStores
    from timestep_lab.runtime.interchange.files import Imported as Imported
    from timestep_lab.runtime.settings import Settings as Settings
    from timestep_lab.runtime.span_records import read_only as read_only
    from timestep_lab.runtime.tape import Tape as Tape
    from timestep_lab.service.agents import Agents as Agents
    from timestep_lab.service.threads import Thread as Thread
    from timestep_lab.service.threads import Threads as Threads
    from timestep_lab.ui.chat import Chat as Chat
    from timestep_lab.ui.duel import ArenaView as ArenaView
    from timestep_lab.ui.duel import Duel as Duel
    from timestep_lab.ui.explorer import TraceExplorer as TraceExplorer
    from timestep_lab.ui.grid import GridView as GridView
    from timestep_lab.ui.handoff_graph import HandoffGraph as HandoffGraph
    from timestep_lab.ui.trace_view import TraceView as TraceView

__version__ = "0.1.0"

_NAMES = {
    "lab.lab": "Lab",
    "lab.run": "Run RunStream Approvals",
    "service.threads": "Thread Threads",
    "service.agents": "Agents",
    "lab.serving": "Serving",
    "evals.cause": "Outlook Why",
    "evals.engine": "Comparison",
    "evals.grid": "Grid",
    "evals.pipelines": "Endpoint",
    "evals.plan": "Plan",
    "runtime.interchange.files": "Imported",
    "runtime.settings": "Settings",
    "runtime.files.files": "Files",
    "runtime.files.vector_stores": "VectorStores",
    "runtime.span_records": "read_only",
    "runtime.tape": "Tape",
    "model.records": "AgentRecord Interruption RunRecord ThreadItem ThreadRecord Usage",
    "model.comparison": "ComparisonRecord",
    "model.events": "Event",
    "ui.duel": "ArenaView Duel",
    "ui.chat": "Chat",
    "ui.explorer": "TraceExplorer",
    "ui.grid": "GridView",
    "ui.handoff_graph": "HandoffGraph",
    "ui.trace_view": "TraceView",
    "model.errors": (
        "AuthError BudgetError BusyError ConflictError ContextLengthError DataError FilterError ForbiddenError "
        "LabError MissingExtraError MissingKeyError ModelNotFoundError NotFoundError NotServedError "
        "ProviderAuthError ProviderError ProviderRequestError ProviderTimeoutError ProviderUnavailableError QueryError "
        "RateLimitError RunError SettingsError StoreCorruptError StoreError StoreReadOnlyError "
        "StoreTooNewError StoreUnavailableError StreamCutError TapeMissError TooLargeError TooSlowError ToolError UnknownPrefixError "
        "UsageError "
    ),
}
"""Module to what it has of the public names: `Lab`, what its methods return, and every error."""
_HOME_OF = {name: f"timestep_lab.{module}" for module, names in _NAMES.items() for name in names.split()}
__all__ = ["__version__", *_HOME_OF]


def __getattr__(name: str) -> object:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME_OF[name]), name)


def load_ipython_extension(shell: InteractiveShell) -> None:
    """`%load_ext timestep_lab`: `%%trace` above a cell, and `%trace on` for all of them; see `timestep_lab.lab.cells`."""
    importlib.import_module("timestep_lab.lab.cells").load(shell)


def unload_ipython_extension(shell: InteractiveShell) -> None:
    """`%unload_ext timestep_lab`."""
    importlib.import_module("timestep_lab.lab.cells").unload(shell)


def __dir__() -> list[str]:
    return sorted(__all__)
