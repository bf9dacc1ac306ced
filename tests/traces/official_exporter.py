"""Runs two agents, a handoff and a tool offline, traced by the official OpenInference instrumentation and exported by the official
OTLP exporter over HTTP. Each request that arrives becomes a file in the folder given: `python -m tests.traces.official_exporter FOLDER`."""

from __future__ import annotations

import asyncio
import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

from agents import Agent, Runner, function_tool, generation_span, set_trace_processors, trace
from agents.items import ModelResponse
from agents.testing import ModelStep, ScriptedModel, assistant_message, function_call
from agents.usage import Usage
from openinference.instrumentation.openai_agents._processor import OpenInferenceTracingProcessor
from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor


@function_tool
def get_weather(location: str) -> str:
    """The weather somewhere."""
    return f"Sunny in {location}"


class TracedModel(ScriptedModel):
    """Says on its span what a real model's client would say."""

    async def get_response(
        self, system_instructions: str | None, input: Any, *args: Any, **kwargs: Any
    ) -> ModelResponse:
        asked = [{"role": "user", "content": input}] if isinstance(input, str) else [dict(item) for item in input]
        messages = [message for message in asked if "role" in message]
        with generation_span(input=messages, model="gpt-4.1", model_config={"temperature": 0}) as span:
            response = await super().get_response(system_instructions, input, *args, **kwargs)
            span.span_data.output = [{"role": "assistant", "content": str(response.output[0].model_dump())}]
            span.span_data.usage = {"input_tokens": 1000, "output_tokens": 100}
        return response


def agents() -> Agent:
    usage = Usage(requests=1, input_tokens=1000, output_tokens=100, total_tokens=1100)
    weather = Agent(
        name="Weather Assistant",
        tools=[get_weather],
        model=TracedModel([
            ModelStep(output=[function_call("get_weather", {"location": "Berkeley"}, call_id="c2")], usage=usage),
            ModelStep(output=[assistant_message("It is sunny in Berkeley.")], usage=usage),
        ]),
    )  # fmt: skip
    script = [ModelStep(output=[function_call("transfer_to_weather_assistant", {}, call_id="c1")], usage=usage)]
    return Agent(name="Personal Assistant", handoffs=[weather], model=TracedModel(script))


def main(folder: Path) -> None:
    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            number = len(list(folder.iterdir())) // 2
            (folder / f"{number:03}.bin").write_bytes(body)
            headers = {
                "content_type": self.headers["Content-Type"],
                "content_encoding": self.headers["Content-Encoding"],
            }
            (folder / f"{number:03}.json").write_text(json.dumps(headers))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Receiver)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    provider = TracerProvider()
    exporter = OTLPSpanExporter(f"http://127.0.0.1:{server.server_port}/v1/traces", compression=Compression.Gzip)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    set_trace_processors(
        [OpenInferenceTracingProcessor(provider.get_tracer("openinference.instrumentation.openai_agents"))]
    )
    with trace("Weather workflow", group_id="thread-7"):
        asyncio.run(Runner.run(agents(), "Do I need an umbrella in Berkeley?"))
    provider.shutdown()
    server.shutdown()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
