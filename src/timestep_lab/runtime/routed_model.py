"""A model as returned by the router: with timing, tracing, retries, the lab's errors and unique ids.

The wrapped model is called with tracing off, so that each call has exactly one generation span, which includes the waits.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, aclosing, nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from agents import AgentOutputSchemaBase, Handoff, Model, ModelResponse, ModelSettings, ModelTracing
from agents.items import TResponseInputItem, TResponseStreamEvent
from agents.retry import ModelRetryAdvice, ModelRetryAdviceRequest, ModelRetryNormalizedError
from agents.tool import Tool
from agents.tracing import GenerationSpanData, Span, SpanError, generation_span
from agents.usage import _mark_request_completed_without_usage

from timestep_lab.model.errors import (
    ProviderError,
    ProviderTimeoutError,
    ProviderUnavailableError,
    RateLimitError,
    RunError,
    StreamCutError,
)
from timestep_lab.model.records import Usage
from timestep_lab.model.spans import GenAI, Lab
from timestep_lab.runtime.adapters.base import COST, SET_ASIDE, AdapterModel, response_format_of, whole_response
from timestep_lab.runtime.emitter import with_unique_ids
from timestep_lab.runtime.pricing import WATCH
from timestep_lab.runtime.provider_errors import (
    NO_RETRY,
    PAUSABLE_TIMEOUT,
    WITHHELD,
    AdaptiveLimiter,
    ErrorContext,
    RetryPolicy,
    Waited,
    as_provider_error,
    cut_stream,
    from_code,
)
from timestep_lab.runtime.span_records import GenerationTiming, Stopwatch, offer, publish
from timestep_lab.runtime.stream_items import CUT_SHORT, message_text
from timestep_lab.runtime.tracing import note

if TYPE_CHECKING:
    from openai.types.responses import Response, ResponseCompletedEvent, ResponseIncompleteEvent
    from openai.types.responses.response_prompt_param import ResponsePromptParam

_CONTENT = frozenset(
    {
        "response.output_text.delta", "response.refusal.delta", "response.reasoning_summary_text.delta",
        "response.reasoning_text.delta", "response.function_call_arguments.delta",
    }
)  # fmt: skip
_OPENING = frozenset({"response.created", "response.in_progress", "response.queued"})
"""Events without content: held back until the answer starts, so that a retry is not visible."""
_PARTIAL_TEXT: Final = "response.output_text.delta"


class RoutedModel(Model):
    """Wraps a model. `provider` and `model` are the two parts of `full`, the name given by the user."""

    def __init__(
        self,
        inner: Model,
        *,
        full: str,
        context: ErrorContext,
        retry: RetryPolicy,
        limiter: Callable[[], AdaptiveLimiter | None] = lambda: None,
        observers: Sequence[Callable[[GenerationTiming], None]] = (),
    ) -> None:
        self.inner = inner
        self.full = full
        self.provider, self.model = context.provider, context.model
        self._context = context
        self._retry = retry
        self._limiter = limiter
        self.observers = observers
        self._last_settings: tuple[ModelSettings, dict[str, object]] | None = None

    def __repr__(self) -> str:
        return f"RoutedModel({self.full!r})"

    async def close(self) -> None:
        await self.inner.close()

    async def _cleanup_on_run_end(self, owner: object) -> None:
        await self.inner._cleanup_on_run_end(owner)

    def get_retry_advice(self, request: ModelRetryAdviceRequest) -> ModelRetryAdvice | None:
        """Returns retry information about a lab error, for agents whose settings leave retries to the SDK's runner."""
        error = request.error
        if not isinstance(error, ProviderError):
            return None
        facts = ModelRetryNormalizedError(
            status_code=error.status,
            message=error.message,
            retry_after=getattr(error, "retry_after", None),
            is_network_error=isinstance(error, ProviderUnavailableError) and error.status is None,
            is_timeout=isinstance(error, ProviderTimeoutError),
        )
        return ModelRetryAdvice(
            suggested=error.retryable,
            retry_after=facts.retry_after,
            normalized=facts,
            response_started=isinstance(error, StreamCutError),
        )

    async def get_response(self, *args: Any, **kwargs: Any) -> ModelResponse:
        """Returns the complete answer. It is streamed internally, so that its first token is timed."""
        return await whole_response(self._respond(*args, **kwargs, brief=isinstance(self.inner, AdapterModel)))

    def stream_response(self, *args: Any, **kwargs: Any) -> AsyncIterator[TResponseStreamEvent]:
        return self._respond(*args, **kwargs)

    async def _respond(
        self,
        system_instructions: str | None,
        input: str | list[TResponseInputItem],
        model_settings: ModelSettings,
        tools: list[Tool],
        output_schema: AgentOutputSchemaBase | None,
        handoffs: list[Handoff],
        tracing: ModelTracing,
        *,
        previous_response_id: str | None = None,
        conversation_id: str | None = None,
        prompt: ResponsePromptParam | None = None,
        brief: bool = False,
    ) -> AsyncIterator[TResponseStreamEvent]:
        if watch_of_run := WATCH.get():
            watch_of_run.check()

        def call() -> AsyncGenerator[TResponseStreamEvent, None]:
            events: Any = self.inner.stream_response(
                system_instructions, input, model_settings, tools, output_schema, handoffs, ModelTracing.DISABLED,
                previous_response_id=previous_response_id, conversation_id=conversation_id, prompt=prompt,
                **({"brief": True} if brief else {}),
            )  # fmt: skip
            # The lab's adapters give every item a unique id.
            return events if isinstance(self.inner, AdapterModel) else with_unique_ids(events)

        policy = NO_RETRY if model_settings.retry is not None else self._retry
        config = self._traceable_settings(model_settings)
        with generation_span(model=self.full, model_config=config, disabled=tracing.is_disabled()) as span:
            watch = Stopwatch(self.provider, self.model)
            with_data = tracing.include_data()
            if with_data:
                if output_schema is not None and not output_schema.is_plain_text():
                    config["response_format"] = response_format_of(output_schema)
                offer(span, tools)
                show_input(span, system_instructions, input)
            partial: list[str] = []
            try:
                async with aclosing(self._attempts(call, policy, watch)) as events:
                    async for event in events:
                        if event.type == "response.completed":
                            reason = self._record(span, watch, event.response, with_data)
                            if watch_of_run and (cut := _cut_off(self.full, reason, event.response)):
                                watch_of_run.cut_off(event.response.id, cut)
                        elif event.type == _PARTIAL_TEXT:
                            partial.append(event.delta)
                        yield event
            except BaseException as error:
                cancelled = isinstance(error, (asyncio.CancelledError, GeneratorExit))
                if span.span_data.usage is None:
                    self._publish(span, watch.read("cancelled" if cancelled else "error"))
                    if with_data and partial:
                        span.span_data.output = [{"type": "message", "role": "assistant", "status": "incomplete",
                                                  "content": [{"type": "output_text", "text": "".join(partial)}]}]  # fmt: skip
                    words = "Cancelled before the answer was complete." if cancelled else str(error)
                    span.set_error(
                        SpanError(message=words if with_data or cancelled else type(error).__name__, data={})
                    )
                    if not cancelled:
                        note(span, {GenAI.ERROR_TYPE: type(error).__name__})
                raise

    def _traceable_settings(self, settings: ModelSettings) -> dict[str, object]:
        """Returns settings as shown in traces. Most calls repeat the previous settings, and comparing is cheaper than converting."""
        if self._last_settings is None or self._last_settings[0] != settings:
            self._last_settings = settings, settings.to_traceable_dict()
        return dict(self._last_settings[1])

    async def _attempts(
        self, call: Callable[[], AsyncGenerator[TResponseStreamEvent, None]], policy: RetryPolicy, watch: Stopwatch
    ) -> AsyncGenerator[TResponseStreamEvent, None]:
        """Yields the events of the first attempt that produces content."""
        prepare = getattr(self.inner, "prepare", None)  # only the lab's own adapters have it
        if prepare is not None:
            before, timeout = time.perf_counter(), PAUSABLE_TIMEOUT.get()
            with timeout.held() if timeout else nullcontext():
                await prepare()
            watch.waited(queue_ms=(time.perf_counter() - before) * 1000.0)
        limiter = self._limiter()
        repeats = {True: 0, False: 0}
        refused_at: float | None = None
        while True:
            slot: AbstractAsyncContextManager[Waited] = limiter.slot() if limiter else nullcontext(Waited(0.0, 0.0))
            async with slot as waited:
                # After a 429, all time until the next request counts as rate limit, including delays of a busy machine.
                since_ms = 0.0 if refused_at is None else (time.perf_counter() - refused_at) * 1000.0 - waited.queue_ms
                watch.waited(queue_ms=waited.queue_ms, rate_limit_ms=max(waited.rate_limit_ms, since_ms))
                refused_at = None
                watch.sent()
                sent_at = time.monotonic()
                begun = False
                try:
                    async with aclosing(self._one_attempt(call, watch)) as events:
                        async for event in events:
                            begun = True
                            yield event
                    if limiter:
                        limiter.succeeded()
                    return
                except Exception as error:
                    failed_at = time.perf_counter()
                    failure = as_provider_error(error, self._context, started=begun)
                    if failure is None:
                        raise
                    if not isinstance(failure, ProviderError):
                        raise failure from error
                    limited = isinstance(failure, RateLimitError)
                    if limited and limiter:
                        refused_at = failed_at
                    delay = None if begun else policy.delay_after(failure, repeats[limited])
                    _report(limiter, failure, sent_at)
                    if delay is None:
                        if failure is error:
                            raise
                        raise failure from error
            repeats[limited] += 1
            if limiter and limited:
                continue  # the limiter pauses all requests, including this one, and counts the wait
            before = time.perf_counter()
            await asyncio.sleep(delay)
            spent = (time.perf_counter() - before) * 1000.0
            watch.waited(rate_limit_ms=spent) if limited else watch.waited(backoff_ms=spent)

    async def _one_attempt(
        self, call: Callable[[], AsyncGenerator[TResponseStreamEvent, None]], watch: Stopwatch
    ) -> AsyncGenerator[TResponseStreamEvent, None]:
        held: list[TResponseStreamEvent] = []
        async with aclosing(call()) as events:
            async for event in events:
                kind = event.type
                if kind in _CONTENT or (
                    event.type == "response.output_item.added" and event.item.type == "function_call"
                ):
                    watch.content()
                elif kind in _OPENING:
                    held.append(event)
                    continue
                elif event.type in ("response.incomplete", "response.completed", "response.failed"):
                    # The status counts: vLLM sends `response.completed` for every answer.
                    if event.type == "response.failed" or event.response.status == "failed":
                        raise _failure(event, self._context)
                    if event.type == "response.incomplete" or event.response.status == "incomplete":
                        event = _completed_although_cut(event)
                        kind = event.type
                elif kind in ("error", "response.error"):
                    raise _failure(event, self._context)
                for early in held:
                    yield early
                held.clear()
                yield event
                if kind == "response.completed":
                    return
        raise cut_stream(self._context)

    def _record(self, span: Span[GenerationSpanData], watch: Stopwatch, response: Response, with_data: bool) -> str:
        metadata = dict(response.metadata or {})
        usage = _usage_of(response)
        reason = metadata.get("stop_reason") or _stop_reason(response)
        timing = replace(
            watch.read(reason, usage),
            usage_is_estimate=metadata.get("token_count") == "estimate",
            cost_usd=float(metadata[COST]) if COST in metadata and isinstance(self.inner, AdapterModel) else None,
            set_aside=tuple(filter(None, metadata.get(SET_ASIDE, "").split(","))),
        )
        self._publish(span, timing)
        data = span.span_data
        data.usage = {"requests": 1} if usage is None else _usage_dict(usage)
        if usage is None:
            _mark_request_completed_without_usage(response)
        if with_data:
            data.output = [item.model_dump(exclude_none=True, warnings=False) for item in response.output]
        return reason

    def _publish(self, span: object, timing: GenerationTiming) -> None:
        publish(span, timing)
        for observer in tuple(self.observers):
            observer(timing)


def _report(limiter: AdaptiveLimiter | None, failure: ProviderError, sent_at: float) -> None:
    if limiter is None:
        return
    if isinstance(failure, RateLimitError):
        limiter.rate_limited(failure.retry_after, sent_at=sent_at)
    elif failure.retryable:
        limiter.unavailable()


def _failure(event: object, context: ErrorContext) -> ProviderError:
    error = getattr(getattr(event, "response", None), "error", None) or event
    return from_code(getattr(error, "code", None), str(getattr(error, "message", "") or ""), context)


def _completed_although_cut(event: ResponseIncompleteEvent | ResponseCompletedEvent) -> ResponseCompletedEvent:
    """Converts a truncated answer to a completed one, because the SDK would discard it."""
    from openai.types.responses import ResponseCompletedEvent

    why = getattr(event.response.incomplete_details, "reason", None)
    reason = {"max_output_tokens": "length"}.get(why or "", why or "length")
    response = event.response
    response.metadata = {**(response.metadata or {}), "stop_reason": reason}
    response.status = "completed"
    return ResponseCompletedEvent(type="response.completed", response=response, sequence_number=event.sequence_number)


def _stop_reason(response: Response) -> str:
    return "tool_calls" if any(item.type == "function_call" for item in response.output) else "stop"


def _cut_off(model: str, reason: str, response: Response) -> RunError | None:
    """Returns the error of an answer that ended before it said or called anything, usually because its model was still reasoning."""
    if reason not in CUT_SHORT or any(
        item.type != "reasoning" and (item.type != "message" or message_text(item).strip()) for item in response.output
    ):
        return None
    if reason == "content_filter":
        return RunError(f"{model}: {WITHHELD}", "Rephrase the input, or try another model.", code="refusal")
    if reason == "incomplete":
        return RunError(
            f"{model} ended its answer without a reason, before it said anything.", "Run it again.", code=reason
        )
    used = response.usage
    after = f" ({used.output_tokens:,} tokens)" if used and used.output_tokens else ""
    reasoned = response.output or (used and used.output_tokens_details.reasoning_tokens)
    return RunError(
        f"{model} reached its output limit{after} {'while it was still reasoning, ' if reasoned else ''}before it began its answer.",
        "Increase max_tokens (or the server's context length), or lower the reasoning effort, in model_settings.",
        code=reason,
    )


def _usage_of(response: Response) -> Usage | None:
    used = response.usage
    if used is None:
        return None
    into, out = used.input_tokens_details, used.output_tokens_details
    return replace(
        Usage(requests=1, input_tokens=used.input_tokens, output_tokens=used.output_tokens),
        cached_tokens=getattr(into, "cached_tokens", 0) or 0,
        cache_write_tokens=getattr(into, "cache_write_tokens", 0) or 0,
        reasoning_tokens=getattr(out, "reasoning_tokens", 0) or 0,
    )


def _usage_dict(usage: Usage) -> dict[str, object]:
    return {
        "requests": usage.requests, "input_tokens": usage.input_tokens, "output_tokens": usage.output_tokens,
        "total_tokens": usage.input_tokens + usage.output_tokens,
        "input_tokens_details": {"cached_tokens": usage.cached_tokens, "cache_write_tokens": usage.cache_write_tokens},
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
    }  # fmt: skip


def show_input(
    span: Span[GenerationSpanData], instructions: str | None, given: str | Sequence[Mapping[str, object]]
) -> None:
    """Records what a model is asked; `recorded.asked` reads it."""
    items = [{"role": "user", "content": given}] if isinstance(given, str) else list(given)
    span.span_data.input = [{"role": "system", "content": instructions}, *items] if instructions else items
    if not instructions and items and items[0].get("role") == "system":
        note(span, {Lab.NO_INSTRUCTIONS: True})
