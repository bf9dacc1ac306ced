"""`lab.models`: the models and providers that a lab can reach, and single model calls."""

from __future__ import annotations

import builtins
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Annotated, NoReturn

from annotated_types import Interval, Len

from timestep_lab.model.codec import JsonObject
from timestep_lab.model.events import AnswerCompleted, Event
from timestep_lab.model.records import ModelAnswer, ModelRef, ProviderStatus
from timestep_lab.service import operation as op
from timestep_lab.service.agents import Instructions, ModelName
from timestep_lab.service.model_call import ModelCall, answer, read_format, read_items, read_tools
from timestep_lab.service.operation import Scope
from timestep_lab.store.base import in_thread

ONE_ANSWER = "One answer"
"""The workflow name of traces of `lab.ask`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Providers:
    """The status of each provider, and the default model."""

    default_model: str
    providers: list[ProviderStatus]


async def _answered(models: Models, last: Event) -> ModelAnswer:
    assert isinstance(last, AnswerCompleted)
    return last.answer


async def whole_answer(events: AsyncGenerator[Event, None]) -> ModelAnswer:
    """The completed answer of a stream of `Models.ask`."""
    async with aclosing(events):
        async for event in events:
            last = event
    assert isinstance(last, AnswerCompleted)
    return last.answer


@op.noun("models")
class Models:
    """The models known to the router, by name."""

    def __init__(self, scope: Scope) -> None:
        self._scope = scope
        self._asking = 0

    @op.get("/providers")
    def status(self) -> Providers:
        """The status of each provider."""
        return Providers(
            default_model=self._scope.settings.default_model, providers=self._scope.router.providers()
        )  # fmt: skip

    @op.get("/providers/{prefix}/models")
    async def of_provider(self, prefix: Annotated[str, Len(1, 100)]) -> list[str]:
        """The provider's models, queried now. Raises `UnknownPrefixError`, `ProviderError`."""
        return await self._scope.router.list_models(prefix)

    @op.get("/models")
    async def list(self) -> builtins.list[str]:
        """Full names of the models of all providers that are set up and answer."""
        return await self._scope.router.list_models()

    @op.stream("/models/ask", ended=_answered)
    async def ask(
        self,
        prompt: Annotated[str, Len(0, 1_000_000)] | Annotated[Sequence[JsonObject], Len(0, 10_000)],
        *,
        model: ModelName | None = None,
        instructions: Instructions = "",
        tools: Annotated[Sequence[JsonObject], Len(0, 500)] = (),
        response_format: JsonObject | None = None,
        model_settings: JsonObject | None = None,
        timeout_s: Annotated[float, Interval(gt=0, le=3600)] = 120.0,
        metadata: Mapping[str, str] | None = None,
    ) -> AsyncGenerator[Event, None]:
        """Call a model once, without an agent. With `stream`, the answer is streamed, and closing the stream ends the
        call. The call is traced.

        `prompt`: a text, or Responses API input items. `tools`: functions that the model may request; they are not
        executed. `response_format`: `{"type": "json_schema", "name", "schema"}` or `{"type": "json_object"}`.
        `timeout_s`: in seconds. `metadata` is stored with the trace.

        Raises `UnknownPrefixError`, `MissingKeyError`, `SettingsError`, `UsageError`; during the call `ProviderError`,
        and `BudgetError` after `timeout_s`.
        """
        scope = self._scope
        call = ModelCall(
            model=scope.router.resolve(model or scope.settings.default_model).full,
            input=read_items(prompt), instructions=instructions or None,
            settings=model_settings or {}, functions=read_tools(tools), format=read_format(response_format, "response_format"),
            metadata=metadata or {}, workflow=ONE_ANSWER,
        )  # fmt: skip
        if scope.store.quota:
            scope.store.quota.check_runs(self._asking)
            await in_thread(scope.store.quota.take_traces)
        self._asking += 1
        try:
            async with aclosing(answer(scope, call, timeout_s=timeout_s)) as events:
                async for event in events:
                    yield event
        finally:
            self._asking -= 1

    @op.get("/models/{name:path}")
    def read(self, name: Annotated[str, Len(1, 500)], *, usable: bool = False) -> ModelRef:
        """Resolve a model name. Whether the provider has the model is only known when it is called.

        `usable`: also check that it could be called now. Raises `UnknownPrefixError`; with `usable` also
        `MissingKeyError`, `ModelNotFoundError`, `SettingsError`.
        """
        if usable:
            self._scope.router.get_model(name)
        return self._scope.router.resolve(name)

    def __repr__(self) -> str:
        listed = [f"  {p.prefix}/  {'ready' if p.ready else p.detail}" for p in self.providers()]
        return "\n".join(
            ["Model providers (await lab.models.list() lists the models of those that are ready):", *listed]
        )

    # -- aliases with the names of the router's methods

    def providers(self) -> builtins.list[ProviderStatus]:
        """The status of each provider: whether it is set up, and what is missing. Sends no requests."""
        return self.status().providers

    def resolve(self, name: str | None) -> ModelRef:
        """Resolve a model name; without one, the default model. Raises `UnknownPrefixError`."""
        return self.read(name or self.status().default_model)

    async def list_models(self, prefix: str | None = None) -> builtins.list[str]:
        """Full names of one provider's models, or of all providers that are ready."""
        return await (self.list() if prefix is None else self.of_provider(prefix))

    async def check(self, name: str) -> str:
        """The full name of a model, checked to be usable now. Raises as `read`."""
        return (await in_thread(self.read, name, usable=True)).full

    def add(self, kind: object) -> NoReturn:
        """Not supported: a provider is a class in the process that serves the lab."""
        from timestep_lab.service.client import unsupported_remotely

        raise unsupported_remotely("A custom provider", "Install it as an entry point where the lab is served.")
