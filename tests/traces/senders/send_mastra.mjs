import { createOpenAI } from "@ai-sdk/openai";
import { Agent } from "@mastra/core/agent";
import { Mastra } from "@mastra/core/mastra";
import { createTool } from "@mastra/core/tools";
import { Observability } from "@mastra/observability";
import { OtelExporter } from "@mastra/otel-exporter";
import { z } from "zod";
const openai = createOpenAI({ baseURL: process.env.OPENAI_BASE_URL, apiKey: "none" });
const getWeather = createTool({
  id: "get_weather", description: "The weather of a city.", inputSchema: z.object({ city: z.string() }), outputSchema: z.string(),
  execute: async () => "sunny in Paris",
});
const agentOf = (model) =>
  new Agent({ id: model, name: "weather_agent", instructions: "brief", model: openai(model), maxRetries: 0, tools: { get_weather: getWeather } });
const custom = { endpoint: `${process.env.MODEL_SERVER}/v1/traces`, protocol: "http/protobuf" };
const mastra = new Mastra({
  agents: { right: agentOf("gpt-4o-mini"), wrong: agentOf("gpt-4o-mini-wrong") },
  observability: new Observability({ configs: { otel: { serviceName: "recorded", exporters: [new OtelExporter({ provider: { custom } })] } } }),
});
const tracingOptions = { metadata: { sessionId: "sess-1", userId: "ann" } };
await mastra.getAgent("right").generate("weather in Paris?", { tracingOptions });
await mastra.getAgent("wrong").generate("weather in Paris?", { tracingOptions }).catch(() => {});
await mastra.shutdown();
process.exit(0);
