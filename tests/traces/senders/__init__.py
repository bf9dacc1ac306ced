"""The senders whose bytes are recorded: what to install, and the script `send_SCRIPT.py` that runs it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

RECORDED = Path(__file__).parents[1] / "recorded"
_OTLP = ("opentelemetry-sdk", "opentelemetry-exporter-otlp-proto-http")


@dataclass(frozen=True)
class Sender:
    name: str
    title: str
    """As the table in the README names it."""
    requirements: tuple[str, ...] = ()
    script: str | None = None
    """Where two share one."""
    environment: Mapping[str, str] = field(default_factory=dict)
    npm: tuple[str, ...] = ()
    """Packages of a sender in JavaScript."""

    @property
    def names_its_version(self) -> str:
        """The package whose version is the sender's: the instrumentation, where there is one."""
        packages = [name.partition("[")[0] for name in (*self.requirements, *self.npm)]
        return next((name for name in packages if "instrumentation" in name), packages[0])

    @property
    def environment_name(self) -> str:
        return (self.script or self.name).replace("_", "-")


SENDERS = (
    Sender("agent_framework", "Microsoft Agent Framework", ("agent-framework-core", "agent-framework-openai", *_OTLP)),
    Sender("autogen", "AutoGen", ("autogen-agentchat", "autogen-ext[openai]", *_OTLP)),
    Sender("bedrock_botocore", "OpenTelemetry, Bedrock", ("boto3", "opentelemetry-instrumentation-botocore", *_OTLP), "bedrock",
           {"INSTRUMENTATION": "botocore", "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT": "true"}),
    Sender("bedrock_openinference", "OpenInference, Bedrock", ("boto3", "openinference-instrumentation-bedrock", *_OTLP), "bedrock", {"INSTRUMENTATION": "openinference"}),
    Sender("bedrock_openllmetry", "OpenLLMetry, Bedrock", ("boto3", "opentelemetry-instrumentation-bedrock", *_OTLP), "bedrock", {"INSTRUMENTATION": "openllmetry"}),
    Sender("claude_agent_sdk", "OpenInference, Claude Agent SDK", ("claude-agent-sdk", "openinference-instrumentation-claude-agent-sdk", *_OTLP)),
    Sender("crewai", "OpenInference, CrewAI", ("crewai", "openinference-instrumentation-crewai", "openinference-instrumentation-openai", *_OTLP)),
    Sender("google_adk", "Google ADK", ("google-adk", "litellm", *_OTLP),
           environment={"OTEL_SEMCONV_STABILITY_OPT_IN": "gen_ai_latest_experimental", "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT": "SPAN_ONLY"}),
    Sender("langfuse", "Langfuse", ("langfuse", "openai")),
    Sender("langgraph_openinference", "OpenInference, LangGraph", ("langgraph", "langchain", "langchain-openai", "openinference-instrumentation-langchain", *_OTLP), "langgraph", {"INSTRUMENTATION": "openinference"}),
    Sender("langgraph_openllmetry", "OpenLLMetry, LangGraph", ("langgraph", "langchain", "langchain-openai", "opentelemetry-instrumentation-langchain", *_OTLP), "langgraph", {"INSTRUMENTATION": "openllmetry"}),
    Sender("litellm", "LiteLLM", ("litellm", *_OTLP)),
    Sender("llama_index_openinference", "OpenInference, LlamaIndex", ("llama-index-core", "llama-index-llms-openai", "openinference-instrumentation-llama-index", *_OTLP), "llama_index", {"INSTRUMENTATION": "openinference"}),
    Sender("llama_index_openllmetry", "OpenLLMetry, LlamaIndex", ("llama-index-core", "llama-index-llms-openai", "opentelemetry-instrumentation-llamaindex", *_OTLP), "llama_index", {"INSTRUMENTATION": "openllmetry"}),
    Sender("logfire_agents_chat", "Logfire, OpenAI Agents SDK", ("logfire", "openai-agents")),
    Sender("logfire_agents_responses", "Logfire, OpenAI Agents SDK (Responses)", ("logfire", "openai-agents"), "logfire_agents_chat", {"PROTOCOL": "responses"}),
    Sender("mlflow", "MLflow", ("mlflow", "openai", *_OTLP)),
    Sender("openinference_agents", "OpenInference, OpenAI Agents SDK", ("openai-agents", "openinference-instrumentation-openai-agents", *_OTLP)),
    Sender("openinference_openai", "OpenInference, OpenAI and Anthropic", ("openai", "anthropic", "openinference-instrumentation-openai", "openinference-instrumentation-anthropic", *_OTLP)),
    Sender("openllmetry", "OpenLLMetry, OpenAI and Anthropic", ("openai", "anthropic", "opentelemetry-instrumentation-openai", "opentelemetry-instrumentation-anthropic", *_OTLP)),
    Sender("pydantic_ai", "pydantic-ai", ("pydantic-ai-slim[openai,anthropic]", *_OTLP)),
    Sender("pydantic_ai_2", "pydantic-ai, format 2", ("pydantic-ai-slim[openai,anthropic]", *_OTLP), "pydantic_ai", {"FORMAT": "2"}),
    Sender("smolagents", "OpenInference, smolagents", ("smolagents[openai]", "openinference-instrumentation-smolagents", *_OTLP)),
    Sender("vercel_ai", "Vercel AI SDK", npm=("ai", "@ai-sdk/openai", "zod", "@opentelemetry/sdk-trace-node", "@opentelemetry/exporter-trace-otlp-proto", "@opentelemetry/resources")),
    Sender("strands", "Strands Agents", ("strands-agents[openai]", *_OTLP)),
)  # fmt: skip
