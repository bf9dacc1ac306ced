"""Calling a model the way the SDK's runner does, and keeping all that came."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from agents import Agent, AgentOutputSchema, FunctionTool, ModelSettings, ModelTracing, RunConfig, Runner, function_tool

from timestep_lab.runtime.router import Router
from timestep_lab.runtime.span_records import GenerationTiming


@dataclass
class Answer:
    events: list[Any] = field(default_factory=list)
    timing: GenerationTiming | None = None

    @property
    def response(self) -> Any:
        return self.events[-1].response

    @property
    def types(self) -> list[str]:
        return [event.type for event in self.events]

    @property
    def text(self) -> str:
        return "".join(
            part.text
            for item in self.response.output
            if item.type == "message"
            for part in item.content
            if part.type == "output_text"
        )

    @property
    def items(self) -> list[dict[str, Any]]:
        """The output as it is kept in a session and sent back in the next turn."""
        return [item.model_dump(exclude_unset=True) for item in self.response.output]


async def ask(
    model: Any,
    input: str | list[Any] = "Say hello.",
    *,
    instructions: str | None = None,
    settings: ModelSettings | None = None,
    tools: Sequence[FunctionTool] = (),
    output_type: type[Any] | None = None,
    into: Answer | None = None,
) -> Answer:
    """`into` keeps what had come when the call fails."""
    answer = Answer() if into is None else into
    schema = AgentOutputSchema(output_type) if output_type else None
    stream = model.stream_response(
        instructions, input, settings or ModelSettings(), list(tools), schema, [], ModelTracing.DISABLED,
        previous_response_id=None, conversation_id=None, prompt=None,
    )  # fmt: skip

    def note(timing: GenerationTiming) -> None:
        answer.timing = timing

    model.observers.append(note)
    try:
        async for event in stream:
            answer.events.append(event)
    finally:
        await stream.aclose()
        model.observers.remove(note)
    return answer


@function_tool
def get_weather(location: str) -> str:
    """The weather in a place."""
    return f'{{"location": "{location}", "temperature": 18, "unit": "celsius", "condition": "Fog"}}'


@function_tool
def get_time(zone: str) -> str:
    """The time in a zone."""
    return f'{{"zone": "{zone}", "time": "12:00"}}'


async def run(
    router: Router,
    model: str,
    prompt: Any,
    *,
    tools: Sequence[Any] = (),
    handoffs: Sequence[Any] = (),
    session: Any = None,
    **options: Any,
) -> Any:
    """A whole streamed run of the SDK's runner, to its end."""
    agent = Agent(
        name="Tester", instructions="Be brief.", model=model, tools=list(tools), handoffs=list(handoffs), **options
    )
    result = Runner.run_streamed(
        agent, prompt, session=session, run_config=RunConfig(model_provider=router, tracing_disabled=True)
    )
    async for _ in result.stream_events():
        pass
    return result
