"""From a model's name to a model. `prefix/name`; without a prefix it is OpenAI's, without a name the default model.

The prefix is the name of a file in `providers/` (or of an entry point), split off at the first slash, so that
`hf_inference_providers/org/model:provider` keeps its slashes.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from functools import cached_property
from importlib.metadata import entry_points

from agents import ModelProvider

from timestep_lab.runtime import providers as providers_package
from timestep_lab.runtime.limiter import AdaptiveLimiter
from timestep_lab.runtime.provider import ModelRef, Provider, ProviderStatus
from timestep_lab.runtime.provider_errors import as_provider_error
from timestep_lab.runtime.retry import NO_RETRY, RetryPolicy
from timestep_lab.runtime.routed_model import RoutedModel
from timestep_lab.runtime.settings import Settings
from timestep_lab.runtime.timing import GenerationTiming
from timestep_lab.types.errors import ProviderError, UnknownPrefixError
from timestep_lab.types.suggest import did_you_mean

__all__ = ["ModelRef", "ProviderStatus", "Router"]

ENTRY_POINTS = "timestep_lab.providers"
DEFAULT_PREFIX = "openai"


class Router(ModelProvider):
    """The Agents SDK's `ModelProvider` over all providers. Pass it as `RunConfig(model_provider=router)`."""

    def __init__(self, settings: Settings | None = None, *, retry: RetryPolicy | None = None) -> None:
        self.settings = settings if settings is not None else Settings.load()
        self.limiters: dict[str, AdaptiveLimiter] = {}
        """Prefix to limiter. None by default; the comparison engine puts its own here while it works."""
        self.observers: list[Callable[[GenerationTiming], None]] = []
        """Called with the times of each generation as it ends, well or badly. Must be quick and must not raise."""
        self._retry = retry if retry is not None else RetryPolicy()
        self._providers: dict[str, Provider] = {}
        self._models: dict[str, RoutedModel] = {}

    @cached_property
    def prefixes(self) -> list[str]:
        """Every known prefix, ours and those of entry points. Looked up once: it reads the metadata of every installed package."""
        ours = {module.name for module in pkgutil.iter_modules(providers_package.__path__)}
        return sorted(ours | {point.name for point in entry_points(group=ENTRY_POINTS)})

    def add(self, kind: type[Provider]) -> None:
        """Take a provider of your own for this router, under its `prefix`; one of ours of that name gives way to it."""
        self._providers[kind.prefix] = kind(self.settings)
        if kind.prefix not in self.prefixes:
            self.prefixes.append(kind.prefix)
            self.prefixes.sort()

    def resolve(self, name: str | None) -> ModelRef:
        """Raises `UnknownPrefixError`, also for a name that ends after its prefix."""
        full = (name or "").strip() or self.settings.default_model
        prefix, slash, model = full.partition("/")
        if not slash:
            prefix, model = DEFAULT_PREFIX, full
        known = self.prefixes
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
        """Raises `UnknownPrefixError`, `MissingKeyError`, `ModelNotFoundError`, `SettingsError`. Touches no network."""
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

    def provider(self, prefix: str) -> Provider:
        """The provider of a known prefix."""
        if prefix not in self._providers:
            outside = next(iter(entry_points(group=ENTRY_POINTS, name=prefix)), None)
            if outside is not None:
                kind = outside.load()
            else:
                kind = importlib.import_module(f"{providers_package.__name__}.{prefix}").Provider
            self._providers[prefix] = kind(self.settings)
        return self._providers[prefix]

    def providers(self) -> list[ProviderStatus]:
        """Which are set up, and what the others lack. Asks no server."""
        return [self.provider(prefix).status() for prefix in self.prefixes]

    async def list_models(self, prefix: str | None = None) -> list[str]:
        """Full names. With a prefix, its server is asked and its error is raised; without, only those that are ready are asked,
        and one that does not answer is left out (`providers()` tells of it)."""
        if prefix is not None:
            self.resolve(f"{prefix}/-")
            return [f"{prefix}/{name}" for name in await self._listed(prefix)]
        found = []
        for status in self.providers():
            if status.ready:
                found += await self._listed_or_none(status.prefix)
        return found

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
        """Close the connections that this event loop opened."""
        for provider in self._providers.values():
            await provider.aclose()
