"""`lab.models`: which models a lab reaches, and by which providers."""

from __future__ import annotations

import builtins
from dataclasses import dataclass
from typing import Annotated, NoReturn

from annotated_types import Len

from timestep_lab.model.records import ModelRef, ProviderStatus
from timestep_lab.service import operation as op
from timestep_lab.service.operation import Scope
from timestep_lab.store.base import in_thread


@dataclass(frozen=True, slots=True, kw_only=True)
class Providers:
    """Each provider and whether it is ready, and the model that answers where none is named."""

    default_model: str
    providers: list[ProviderStatus]


@op.noun("models")
class Models:
    """The names that a router knows. Nothing is asked of a provider but for its list of models."""

    def __init__(self, scope: Scope) -> None:
        self._scope = scope

    @op.get("/providers")
    def status(self) -> Providers:
        """Each provider and whether it is ready."""
        return Providers(
            default_model=self._scope.settings.default_model, providers=self._scope.router.providers()
        )  # fmt: skip

    @op.get("/providers/{prefix}/models")
    async def of_provider(self, prefix: Annotated[str, Len(1, 100)]) -> list[str]:
        """Asked of the provider now. Raises `UnknownPrefixError`, `ProviderError`."""
        return await self._scope.router.list_models(prefix)

    @op.get("/models")
    async def list(self) -> builtins.list[str]:
        """Of all providers that are ready and answer now, by their full names."""
        return await self._scope.router.list_models()

    @op.get("/models/{name:path}")
    def read(self, name: Annotated[str, Len(1, 500)], *, usable: bool = False) -> ModelRef:
        """What a model's name means here. Whether its provider has it is known when it is asked.

        `usable`: also that it could be asked now. Raises `UnknownPrefixError`; with `usable` also `MissingKeyError`,
        `ModelNotFoundError`, `SettingsError`.
        """
        if usable:
            self._scope.router.get_model(name)
        return self._scope.router.resolve(name)

    # -- by the names that a router has for them

    def providers(self) -> builtins.list[ProviderStatus]:
        """Which are set up, and what the others lack. Asks no server."""
        return self.status().providers

    def resolve(self, name: str | None) -> ModelRef:
        """What a model's name means; without one, the default model. Raises `UnknownPrefixError`."""
        return self.read(name or self.status().default_model)

    async def list_models(self, prefix: str | None = None) -> builtins.list[str]:
        """Full names of one provider's models, or of all that are ready."""
        return await (self.list() if prefix is None else self.of_provider(prefix))

    async def check(self, name: str) -> str:
        """The full name of a model that could be asked now. Raises as `read`."""
        return (await in_thread(self.read, name, usable=True)).full

    def add(self, kind: object) -> NoReturn:
        """A provider is a class of the process that asks it."""
        from timestep_lab.service.client import unsupported_remotely

        raise unsupported_remotely("A provider of your own", "Install it as an entry point where the lab is served.")
