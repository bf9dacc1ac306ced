"""What a provider is: a prefix, whether it is ready, and models by name. `providers/<prefix>.py` each hold one."""

from __future__ import annotations

import abc
import asyncio
import importlib
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Generic, TypeVar
from weakref import WeakKeyDictionary

from timestep_lab.model.errors import MissingKeyError
from timestep_lab.model.shown_url import without_credentials
from timestep_lab.runtime.provider_errors import ErrorContext
from timestep_lab.runtime.settings import Settings

if TYPE_CHECKING:
    from agents import Model

C = TypeVar("C")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelRef:
    """A model's name, resolved. `prefix/model` is what resolves to the same again."""

    prefix: str
    model: str

    @property
    def full(self) -> str:
        """`prefix/model`."""
        return f"{self.prefix}/{self.model}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderStatus:
    """What `doctor`, `lab` and the settings page show of a provider."""

    prefix: str
    ready: bool
    """Its settings are complete. Whether its server answers is known only by asking it (`list_models`)."""
    detail: str
    """Where it goes, or what is missing."""
    next_step: str = ""
    """Empty when ready."""
    badge: str = ""
    """A word to show beside its models, such as `no language model` or `tiny local model`."""


class Provider(abc.ABC):
    """Base class. Making one is cheap and touches no network."""

    prefix: ClassVar[str] = ""
    key_variable: ClassVar[str] = ""
    """The environment variable that holds its key; empty when it needs none."""
    retries: ClassVar[bool] = True
    """False: errors are shown as they come (a provider that makes them on purpose)."""
    most_at_once: ClassVar[int | None] = None
    """How many calls it works on at a time; more would only wait inside it. None: no such limit is known."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    @abc.abstractmethod
    def status(self) -> ProviderStatus:
        """Whether it could be used now, and what to do if not. Touches no network."""

    @abc.abstractmethod
    def model(self, name: str) -> Model:
        """The SDK model for what follows the prefix. Raises `MissingKeyError`, `ModelNotFoundError`, `SettingsError`."""

    async def list_models(self) -> list[str]:
        """Names of models it offers, without the prefix. May ask its server, and then raises `ProviderError`."""
        return []

    async def aclose(self) -> None:
        """Close connections of the running event loop."""
        return None

    def context(self, model: str) -> ErrorContext:
        """What its error messages should name."""
        return ErrorContext(
            provider=self.prefix, model=model, key_variable=self.key_variable, secrets=self.settings.secrets
        )

    def ready(self, detail: str, badge: str = "") -> ProviderStatus:
        """A status that says yes, and where it goes: by addresses without their credentials."""
        return ProviderStatus(prefix=self.prefix, ready=True, detail=without_credentials(detail), badge=badge)

    def not_ready(self, detail: str, next_step: str, badge: str = "") -> ProviderStatus:
        """A status that says no, what is missing, and the next step."""
        detail = without_credentials(detail)
        return ProviderStatus(prefix=self.prefix, ready=False, detail=detail, next_step=next_step, badge=badge)

    def missing_key(self, model: str) -> MissingKeyError:
        """The error for a model whose key is not set."""
        return MissingKeyError(
            f"{self.prefix}/{model} needs {self.key_variable}, which is not set.",
            f"Set {self.key_variable} (or put it in .env), or go on without a key: "
            "`demo/assistant`, or `local/smollm2-135m` after `timestep-lab models pull smollm2-135m`.",
            provider=self.prefix,
        )


class PerLoop(Generic[C]):
    """One client for each event loop: an http client belongs to the loop that it first ran on.

    `library` is imported by `prepare`, in a thread: some take more than a second.
    """

    def __init__(self, make: Callable[[], C], close: Callable[[C], Awaitable[None]], library: str = "") -> None:
        self._make, self._close, self._library = make, close, library
        self._of: WeakKeyDictionary[asyncio.AbstractEventLoop, C] = WeakKeyDictionary()

    async def prepare(self) -> None:
        """Have the client ready, so that a clock started afterwards measures the provider and not the import."""
        if self._library and self._library not in sys.modules:
            await asyncio.to_thread(importlib.import_module, self._library)
        self.get()

    def get(self) -> C:
        """The running loop's client, made when first asked for."""
        loop = asyncio.get_running_loop()
        if loop not in self._of:
            self._of[loop] = self._make()
        return self._of[loop]

    async def aclose(self) -> None:
        """Close the running loop's client, if it has one."""
        client = self._of.pop(asyncio.get_running_loop(), None)
        if client is not None:
            await self._close(client)
