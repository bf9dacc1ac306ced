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


_NEWEST = {
    "OTEL_SEMCONV_STABILITY_OPT_IN": "gen_ai_latest_experimental",
    "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT": "SPAN_ONLY",
}
_NODE = ("@opentelemetry/sdk-trace-node", "@opentelemetry/exporter-trace-otlp-proto", "@opentelemetry/resources")

SENDERS = (
    Sender("agent_framework", "Microsoft Agent Framework", ("agent-framework-core", "agent-framework-openai", *_OTLP)),
    Sender("agents_openllmetry", "OpenLLMetry, OpenAI Agents SDK", ("openai-agents", "opentelemetry-instrumentation-openai-agents", *_OTLP), "agents_sdk"),
    Sender("agentops", "AgentOps", ("agentops", "openai", "opentelemetry-sdk<1.39", "opentelemetry-exporter-otlp-proto-http<1.39")),
    Sender("ag2", "AG2", ("ag2[openai,tracing]", *_OTLP)),
    Sender("agno", "OpenInference, Agno", ("agno", "openai", "openinference-instrumentation-agno", *_OTLP)),
    Sender("autogen", "AutoGen", ("autogen-agentchat", "autogen-ext[openai]", *_OTLP)),
    Sender("azure", "Azure AI Inference", ("azure-ai-inference", "azure-core-tracing-opentelemetry", *_OTLP)),
    Sender("beeai", "OpenInference, BeeAI", ("beeai-framework", "openinference-instrumentation-beeai", *_OTLP)),
    Sender("bedrock_botocore", "OpenTelemetry, Bedrock", ("boto3", "opentelemetry-instrumentation-botocore", *_OTLP), "bedrock",
           {"INSTRUMENTATION": "botocore", "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT": "true"}),
    Sender("bedrock_openinference", "OpenInference, Bedrock", ("boto3", "openinference-instrumentation-bedrock", *_OTLP), "bedrock", {"INSTRUMENTATION": "openinference"}),
    Sender("bedrock_openllmetry", "OpenLLMetry, Bedrock", ("boto3", "opentelemetry-instrumentation-bedrock", *_OTLP), "bedrock", {"INSTRUMENTATION": "openllmetry"}),
    Sender("claude_agent_sdk", "OpenInference, Claude Agent SDK", ("claude-agent-sdk", "openinference-instrumentation-claude-agent-sdk", *_OTLP)),
    Sender("cohere_openllmetry", "OpenLLMetry, Cohere", ("cohere<6", "opentelemetry-instrumentation-cohere", *_OTLP), "clients", {"INSTRUMENTATION": "openllmetry cohere"}),
    Sender("crewai", "OpenInference, CrewAI", ("crewai", "openinference-instrumentation-crewai", "openinference-instrumentation-openai", *_OTLP)),
    Sender("dspy", "OpenInference, DSPy", ("dspy", "openinference-instrumentation-dspy", *_OTLP)),
    Sender("genkit", "Genkit", npm=("genkit", "@genkit-ai/compat-oai", *_NODE)),
    Sender("google_adk", "Google ADK", ("google-adk", "litellm", *_OTLP),
           environment=_NEWEST),
    Sender("google_genai_opentelemetry", "OpenTelemetry, Google GenAI", ("google-genai<3", "opentelemetry-instrumentation-google-genai", *_OTLP), "google_genai",
           {"INSTRUMENTATION": "opentelemetry", **_NEWEST}),
    Sender("google_genai_openinference", "OpenInference, Google GenAI", ("google-genai", "openinference-instrumentation-google-genai", *_OTLP), "google_genai", {"INSTRUMENTATION": "openinference"}),
    Sender("google_genai_openllmetry", "OpenLLMetry, Google GenAI", ("google-genai", "opentelemetry-instrumentation-google-generativeai", *_OTLP), "google_genai", {"INSTRUMENTATION": "openllmetry"}),
    Sender("groq_openinference", "OpenInference, Groq", ("groq", "openinference-instrumentation-groq", *_OTLP), "clients", {"INSTRUMENTATION": "openinference groq"}),
    Sender("groq_openllmetry", "OpenLLMetry, Groq", ("groq", "opentelemetry-instrumentation-groq", *_OTLP), "clients", {"INSTRUMENTATION": "openllmetry groq"}),
    Sender("haystack", "OpenInference, Haystack", ("haystack-ai", "openinference-instrumentation-haystack", *_OTLP)),
    Sender("laminar", "Laminar", ("lmnr", "openai")),
    Sender("langchain_js", "OpenInference, LangChain.js", npm=("@arizeai/openinference-instrumentation-langchain", "langchain", "@langchain/openai", "@langchain/core", "zod", *_NODE)),
    Sender("langfuse", "Langfuse", ("langfuse", "openai")),
    Sender("langfuse_js", "Langfuse, JavaScript", npm=("@langfuse/tracing", "@langfuse/otel", "@langfuse/openai", "openai", *_NODE)),
    Sender("langgraph_openinference", "OpenInference, LangGraph", ("langgraph", "langchain", "langchain-openai", "openinference-instrumentation-langchain", *_OTLP), "langgraph", {"INSTRUMENTATION": "openinference"}),
    Sender("langgraph_openllmetry", "OpenLLMetry, LangGraph", ("langgraph", "langchain", "langchain-openai", "opentelemetry-instrumentation-langchain", *_OTLP), "langgraph", {"INSTRUMENTATION": "openllmetry"}),
    Sender("langsmith", "LangSmith", ("langsmith[otel]", "langchain", "langchain-openai", "langgraph", *_OTLP)),
    Sender("langwatch", "LangWatch", ("langwatch", "openai"), "openai_client", {"INSTRUMENTATION": "langwatch"}),
    Sender("litellm", "LiteLLM", ("litellm", *_OTLP)),
    Sender("livekit", "LiveKit Agents", ("livekit-agents[openai]", *_OTLP)),
    Sender("llama_index_openinference", "OpenInference, LlamaIndex", ("llama-index-core", "llama-index-llms-openai", "openinference-instrumentation-llama-index", *_OTLP), "llama_index", {"INSTRUMENTATION": "openinference"}),
    Sender("llama_index_openllmetry", "OpenLLMetry, LlamaIndex", ("llama-index-core", "llama-index-llms-openai", "opentelemetry-instrumentation-llamaindex", *_OTLP), "llama_index", {"INSTRUMENTATION": "openllmetry"}),
    Sender("logfire_agents_chat", "Logfire, OpenAI Agents SDK", ("logfire", "openai-agents")),
    Sender("logfire_agents_responses", "Logfire, OpenAI Agents SDK (Responses)", ("logfire", "openai-agents"), "logfire_agents_chat", {"PROTOCOL": "responses"}),
    Sender("logfire_openai", "Logfire, OpenAI", ("logfire", "openai"), "openai_client", {"INSTRUMENTATION": "logfire"}),
    Sender("mastra", "Mastra", npm=("@mastra/core", "@mastra/observability", "@mastra/otel-exporter", "@ai-sdk/openai", "@opentelemetry/exporter-trace-otlp-proto", "zod")),
    Sender("mistral_openinference", "OpenInference, Mistral", ("mistralai", "openinference-instrumentation-mistralai", *_OTLP), "clients", {"INSTRUMENTATION": "openinference mistralai"}),
    Sender("mistral_openllmetry", "OpenLLMetry beside the client's own spans, Mistral", ("mistralai<2", "opentelemetry-instrumentation-mistralai", *_OTLP), "clients", {"INSTRUMENTATION": "openllmetry mistralai"}),
    Sender("mlflow", "MLflow", ("mlflow", "openai", *_OTLP)),
    Sender("ollama_openllmetry", "OpenLLMetry, Ollama", ("ollama", "opentelemetry-instrumentation-ollama", *_OTLP), "clients", {"INSTRUMENTATION": "openllmetry ollama"}),
    Sender("openinference_agents", "OpenInference, OpenAI Agents SDK", ("openai-agents", "openinference-instrumentation-openai-agents", *_OTLP)),
    Sender("openinference_autogen", "OpenInference, AutoGen", ("autogen-agentchat", "autogen-ext[openai]", "openinference-instrumentation-autogen-agentchat", *_OTLP)),
    Sender("openinference_litellm", "OpenInference, LiteLLM", ("litellm", "openinference-instrumentation-litellm", *_OTLP), "clients", {"INSTRUMENTATION": "openinference litellm"}),
    Sender("openinference_openai", "OpenInference, OpenAI and Anthropic", ("openai", "anthropic", "openinference-instrumentation-openai", "openinference-instrumentation-anthropic", *_OTLP)),
    Sender("openinference_pydantic_ai", "OpenInference, pydantic-ai", ("pydantic-ai-slim[openai]", "openinference-instrumentation-pydantic-ai", *_OTLP)),
    Sender("openlit", "OpenLIT", ("openlit", "openai"), "openai_client", {"INSTRUMENTATION": "openlit"}),
    Sender("openllmetry", "OpenLLMetry, OpenAI and Anthropic", ("openai", "anthropic", "opentelemetry-instrumentation-openai", "opentelemetry-instrumentation-anthropic", *_OTLP)),
    Sender("openllmetry_js", "OpenLLMetry, OpenAI in JavaScript", npm=("@traceloop/instrumentation-openai", "openai", *_NODE)),
    Sender("pipecat", "Pipecat", ("pipecat-ai[openai,tracing]", *_OTLP)),
    Sender("pydantic_ai", "pydantic-ai", ("pydantic-ai-slim[openai,anthropic]", *_OTLP)),
    Sender("pydantic_ai_2", "pydantic-ai, format 2", ("pydantic-ai-slim[openai,anthropic]", *_OTLP), "pydantic_ai", {"FORMAT": "2"}),
    Sender("semantic_kernel", "Semantic Kernel", ("semantic-kernel", *_OTLP)),
    Sender("smolagents", "OpenInference, smolagents", ("smolagents[openai]", "openinference-instrumentation-smolagents", *_OTLP)),
    Sender("vercel_ai", "Vercel AI SDK", npm=("ai", "@ai-sdk/openai", "zod", *_NODE)),
    Sender("strands", "Strands Agents", ("strands-agents[openai]", *_OTLP)),
    Sender("weave", "Weave, OpenAI Agents SDK", ("weave", "openai-agents", *_OTLP)),
)  # fmt: skip
