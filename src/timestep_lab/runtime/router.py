"""Resolves model names to models: `prefix/name`. A name without a prefix is OpenAI's; without a name it is the default model.

The prefix is the name of a file in `providers/` (or of an entry point) and ends at the first slash, so that
`hf_inference_providers/org/model:provider` keeps its slashes.
"""

from __future__ import annotations

import abc
import asyncio
import importlib
import pkgutil
import sys
from collections.abc import Awaitable, Callable
from functools import cached_property
from importlib.metadata import entry_points
from typing import ClassVar, Generic, TypeVar
from weakref import WeakKeyDictionary

from agents import Model, ModelProvider

from timestep_lab.model.arguments import did_you_mean
from timestep_lab.model.display import without_credentials
from timestep_lab.model.errors import MissingKeyError, ProviderError, UnknownPrefixError, UsageError
from timestep_lab.model.records import ModelRef, ProviderStatus
from timestep_lab.runtime import providers as providers_package
from timestep_lab.runtime.provider_errors import NO_RETRY, AdaptiveLimiter, ErrorContext, RetryPolicy, as_provider_error
from timestep_lab.runtime.routed_model import RoutedModel
from timestep_lab.runtime.settings import Settings
from timestep_lab.runtime.span_records import GenerationTiming

# --- Providers: a prefix, a status, and models by name. Each is in `providers/<prefix>.py`


C = TypeVar("C")


class Provider(abc.ABC):
    """Base class of providers. Creating one is cheap and makes no request."""

    prefix: ClassVar[str] = ""
    key_variable: ClassVar[str] = ""
    """Environment variable of its key; empty when it needs none."""
    retries: ClassVar[bool] = True
    """False for a provider that produces errors on purpose: they are raised without retries."""
    most_at_once: ClassVar[int | None] = None
    """Number of calls it processes concurrently; more would only queue inside it. None: unknown."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    @abc.abstractmethod
    def status(self) -> ProviderStatus:
        """Returns whether it can be used, and what to do if not. Makes no request."""

    @abc.abstractmethod
    def model(self, name: str) -> Model:
        """Returns the SDK model for the name after the prefix. Raises `MissingKeyError`, `ModelNotFoundError`, `SettingsError`."""

    async def list_models(self) -> list[str]:
        """Returns the names of its models, without the prefix. May request them from its server; raises `ProviderError`."""
        return []

    async def aclose(self) -> None:
        """Closes the connections of the running event loop."""
        return None

    def context(self, model: str) -> ErrorContext:
        """Returns what its error messages should mention."""
        return ErrorContext(
            provider=self.prefix, model=model, key_variable=self.key_variable, secrets=self.settings.secrets
        )

    def ready(self, detail: str, badge: str = "") -> ProviderStatus:
        """Returns a ready status with the endpoint; credentials are removed from addresses."""
        return ProviderStatus(prefix=self.prefix, ready=True, detail=without_credentials(detail), badge=badge)

    def not_ready(self, detail: str, next_step: str, badge: str = "") -> ProviderStatus:
        """Returns a status with what is missing and the next step."""
        detail = without_credentials(detail)
        return ProviderStatus(prefix=self.prefix, ready=False, detail=detail, next_step=next_step, badge=badge)

    def missing_key(self, model: str) -> MissingKeyError:
        """Returns the error for a model whose key is not set."""
        return MissingKeyError(
            f"{self.prefix}/{model} needs {self.key_variable}, which is not set.",
            f"Set {self.key_variable} (or put it in .env), or use a model without a key: "
            "`demo/assistant`, or `local/smollm2-135m` after `timestep-lab models pull smollm2-135m`.",
            provider=self.prefix,
        )


class PerLoop(Generic[C]):
    """One client per event loop, because an HTTP client belongs to the loop on which it first ran.

    `library` is imported by `prepare` in a thread, since some take more than a second.
    """

    def __init__(self, make: Callable[[], C], close: Callable[[C], Awaitable[None]], library: str = "") -> None:
        self._make, self._close, self._library = make, close, library
        self._of: WeakKeyDictionary[asyncio.AbstractEventLoop, C] = WeakKeyDictionary()

    async def prepare(self) -> None:
        """Creates the client, so that a timer started afterwards measures the provider and not the import."""
        if self._library and self._library not in sys.modules:
            await asyncio.to_thread(importlib.import_module, self._library)
        self.get()

    def get(self) -> C:
        """Returns the running loop's client, created on first use."""
        loop = asyncio.get_running_loop()
        if loop not in self._of:
            self._of[loop] = self._make()
        return self._of[loop]

    async def aclose(self) -> None:
        """Closes the running loop's client, if there is one."""
        client = self._of.pop(asyncio.get_running_loop(), None)
        if client is not None:
            await self._close(client)


__all__ = ["ModelRef", "ProviderStatus", "Router"]

ENTRY_POINTS = "timestep_lab.providers"
DEFAULT_PREFIX = "openai"
OBJECT = "object"
"""Prefix of models that are objects of this process."""


class _Objects(Provider):
    """Models that are objects of this process, with generated names."""

    prefix = OBJECT
    retries = False

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self.models: dict[str, Model] = {}

    def status(self) -> ProviderStatus:
        return self.ready("models of the Agents SDK that were passed as objects")

    def model(self, name: str) -> Model:
        return self.models[name]

    def name_of(self, model: Model) -> str:
        for name, known in self.models.items():
            if known is model:
                return name
        model_name = getattr(model, "model", None)
        base = name = model_name if isinstance(model_name, str) and model_name else type(model).__name__
        n = 1
        while name in self.models:
            n += 1
            name = f"{base}#{n}"
        self.models[name] = model
        return name


class Router(ModelProvider):
    """The Agents SDK's `ModelProvider` for all providers. Pass it as `RunConfig(model_provider=router)`."""

    def __init__(self, settings: Settings | None = None, *, retry: RetryPolicy | None = None) -> None:
        self.settings = settings if settings is not None else Settings.load()
        self.limiters: dict[str, AdaptiveLimiter] = {}
        """Limiters by prefix. Empty by default; the comparison engine adds its own while it runs."""
        self.observers: list[Callable[[GenerationTiming], None]] = []
        """Called with the timing of each generation when it ends, successful or not. Must be fast and must not raise."""
        self._retry = retry if retry is not None else RetryPolicy()
        self._providers: dict[str, Provider] = {}
        self._models: dict[str, RoutedModel] = {}
        self._objects = _Objects(self.settings)
        self._providers[OBJECT] = self._objects

    @cached_property
    def prefixes(self) -> list[str]:
        """All known prefixes, built-in and from entry points. Cached, because it reads the metadata of every installed package."""
        ours = {module.name for module in pkgutil.iter_modules(providers_package.__path__)}
        return sorted(ours | {point.name for point in entry_points(group=ENTRY_POINTS)})

    def add(self, kind: type[Provider]) -> None:
        """Registers a custom provider under its `prefix`; it replaces a built-in one with that prefix."""
        self._providers[kind.prefix] = kind(self.settings)
        if kind.prefix not in self.prefixes:
            self.prefixes.append(kind.prefix)
            self.prefixes.sort()

    def resolve(self, name: str | None) -> ModelRef:
        """Resolves a model name. Raises `UnknownPrefixError`, also for a prefix without a model."""
        full = (name or "").strip() or self.settings.default_model
        prefix, slash, model = full.partition("/")
        if not slash:
            prefix, model = DEFAULT_PREFIX, full
        known = self.prefixes
        if prefix == OBJECT:
            if model in self._objects.models:
                return ModelRef(prefix=prefix, model=model)
            raise UnknownPrefixError(
                f"{full!r} was a model object of another process, or of this one before it was restarted.",
                "Create it again and pass it: model=…",
                param="model",
            )
        if prefix not in known:
            raise UnknownPrefixError(
                f"There is no provider {prefix!r} (in {full!r}).{did_you_mean(prefix, known)}",
                f"Known: {', '.join(known)}. Without a key, use `demo/assistant`.",
                param="model",
            )
        if not model:
            raise UnknownPrefixError(
                f"{full!r} names a provider but no model.",
                f"Its models: await lab.router.list_models({prefix!r})",
                command=f"`timestep-lab models list {prefix}` lists its models.",
                param="model",
            )
        return ModelRef(prefix=prefix, model=model)

    def get_model(self, model_name: str | None) -> RoutedModel:
        """Returns a model. Raises `UnknownPrefixError`, `MissingKeyError`, `ModelNotFoundError`, `SettingsError`. Makes no request."""
        ref = self.resolve(model_name)
        if ref.full not in self._models:
            provider = self.provider(ref.prefix)
            self._models[ref.full] = RoutedModel(
                provider.model(ref.model),
                full=ref.full,
                context=provider.context(ref.model),
                retry=self._retry if provider.retries else NO_RETRY,
                limiter=lambda: self.limiters.get(ref.prefix),
                observers=self.observers,
            )
        return self._models[ref.full]

    def add_model(self, model: object) -> str:
        """Registers an Agents SDK model object and returns its name; the same object always has the same name.

        It is timed, traced and given ids like any other model, but not retried, and its price is unknown. Raises `UsageError` for other
        objects.
        """
        if isinstance(model, RoutedModel) and self._models.get(model.full) is model:
            return model.full
        if not isinstance(model, Model):
            raise UsageError(
                f"{model!r} is not a model.", "Pass prefix/name, or a Model of the Agents SDK.", param="model"
            )
        return f"{OBJECT}/{self._objects.name_of(model)}"

    def is_object(self, full: str) -> bool:
        """Returns whether a name was created by `add_model`; such a name is valid in this process only."""
        return full.partition("/")[0] == OBJECT

    def provider(self, prefix: str) -> Provider:
        """Returns the provider of a known prefix."""
        if prefix not in self._providers:
            outside = next(iter(entry_points(group=ENTRY_POINTS, name=prefix)), None)
            if outside is not None:
                kind = outside.load()
            else:
                kind = importlib.import_module(f"{providers_package.__name__}.{prefix}").Provider
            self._providers[prefix] = kind(self.settings)
        return self._providers[prefix]

    def providers(self) -> list[ProviderStatus]:
        """Returns the status of every provider. Makes no request."""
        return [self.provider(prefix).status() for prefix in self.prefixes]

    async def list_models(self, prefix: str | None = None) -> list[str]:
        """Returns full model names. With a prefix, its server is queried and its error is raised; without one, all ready providers are
        queried, and those that fail are omitted (see `providers()`)."""
        if prefix is not None:
            self.resolve(f"{prefix}/-")
            return [f"{prefix}/{name}" for name in await self._listed(prefix)]
        names = []
        for status in self.providers():
            if status.ready:
                names += await self._listed_or_none(status.prefix)
        return names

    async def _listed(self, prefix: str) -> list[str]:
        provider = self.provider(prefix)
        try:
            return await provider.list_models()
        except Exception as error:
            failure = as_provider_error(error, provider.context("models"), started=False)
            if failure is None or failure is error:
                raise
            raise failure from error

    async def _listed_or_none(self, prefix: str) -> list[str]:
        try:
            return [f"{prefix}/{name}" for name in await self._listed(prefix)]
        except ProviderError:
            return []

    async def aclose(self) -> None:
        """Closes the connections opened on this event loop."""
        for provider in self._providers.values():
            await provider.aclose()
