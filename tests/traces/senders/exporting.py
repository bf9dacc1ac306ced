"""What every script of a sender begins with: OpenTelemetry set up to send at once to the collector that the environment names."""

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

QUESTION = "weather in Paris?"
INSTRUCTIONS = "brief"
SUNNY = "sunny in Paris"
TOOL = {
    "name": "get_weather", "description": "The weather of a city.",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"], "additionalProperties": False},
}  # fmt: skip


def provider() -> TracerProvider:
    made = TracerProvider(resource=Resource({"service.name": "recorded"}))
    made.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(made)
    return made
