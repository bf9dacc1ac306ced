"""The conventions of the senders whose spans are read, each with the version whose names were used, and their instrumentation scopes."""

from __future__ import annotations

from timestep_lab.runtime.interchange.attribute_readers import Convention

OURS = Convention("timestep-lab", "1")
OTEL = Convention("OpenTelemetry GenAI", "0.1.0, and back to 1.27 of the general conventions")
OI = Convention("OpenInference", "0.1.30")
OPENLLMETRY = Convention("OpenLLMetry", "0.62")
LANGFUSE = Convention("Langfuse", "5.0")
LOGFIRE = Convention("Logfire, OpenAI Agents SDK", "5.4")
PYDANTIC_AI = Convention("pydantic-ai", "2.68, formats 1 to 5")
VERCEL = Convention("Vercel AI SDK", "4 to 7")
MLFLOW = Convention("MLflow", "3.17")
LITELLM = Convention("LiteLLM", "1.110")
STRANDS = Convention("Strands Agents", "1.62")
ADK = Convention("Google ADK", "2.13")
AUTOGEN = Convention("AutoGen", "0.7")
ANTHROPIC = Convention("Anthropic SDK", "2.14")
LANGSMITH = Convention("LangSmith", "0.14")
OPENLIT = Convention("OpenLIT", "1.45")
SEMANTIC_KERNEL = Convention("Semantic Kernel", "1.45")
GENKIT = Convention("Genkit", "1.42")
BEEAI = Convention("OpenInference, BeeAI", "0.1.30")
AGENTOPS = Convention("AgentOps", "0.4")
LAMINAR = Convention("Laminar", "0.8")
WEAVE = Convention("Weave", "0.54")
AZURE = Convention("Azure AI Inference and Agents", "1.0")
SPRING = Convention("Spring AI", "2.0")
MASTRA = Convention("Mastra", "1.0 to 1.71")
CLAUDE_CODE = Convention("Claude Code", "2.1")
CODEX = Convention("Codex", "0.137 to 0.171")
AG2 = Convention("AG2", "1.2")
LANGWATCH = Convention("LangWatch", "0.10")
BRAINTRUST = Convention("Braintrust", "0.3")
LOONGSUITE = Convention("LoongSuite, Dify", "1.0")
LIVEKIT = Convention("LiveKit Agents", "1.4 to 1.8")
PIPECAT = Convention("Pipecat", "0.0.100 to 1.14")
HAYSTACK = Convention("Haystack", "3.4")
LANGTRACE = Convention("Langtrace", "3.8")
MISTRAL = Convention("mistralai", "1.12")
CLOUDFLARE = Convention("Cloudflare AI Gateway", "2026")
GEMINI_CLI = Convention("Gemini CLI", "0.61")
VLLM = Convention("vLLM", "0.12")
QUARKUS = Convention("Quarkus LangChain4j", "1.5")

MCP_SCOPE = "opentelemetry.instrumentation.mcp"
CODEX_SCOPE = "codex"
CLAUDE_CODE_SCOPE = "com.anthropic.claude_code"
AGENTS_SCOPE = "logfire.openai_agents"
OI_SCOPES = "openinference.instrumentation."
"""The output of several instrumentations is the provider's response as it is; older versions state no more of it."""
STRANDS_SCOPE = "strands-agents"
LIVEKIT_PREFIXES = ("lk.pii", "lk")
"""Of what is said, in LiveKit Agents from 1.8 and before."""
