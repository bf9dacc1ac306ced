import { createOpenAI } from "@ai-sdk/openai";
import { OTLPTraceExporter } from "@opentelemetry/exporter-trace-otlp-proto";
import { resourceFromAttributes } from "@opentelemetry/resources";
import { BatchSpanProcessor, NodeTracerProvider } from "@opentelemetry/sdk-trace-node";
import { embedMany, generateText, stepCountIs, streamText, tool } from "ai";
import { z } from "zod";

const exporter = new OTLPTraceExporter({ url: `${process.env.MODEL_SERVER}/v1/traces` });
const provider = new NodeTracerProvider({
  resource: resourceFromAttributes({ "service.name": "recorded" }), spanProcessors: [new BatchSpanProcessor(exporter)],
});
provider.register();
const openai = createOpenAI({ baseURL: `${process.env.MODEL_SERVER}/v1`, apiKey: "none" });
const telemetry = { isEnabled: true, functionId: "weather_agent", metadata: { sessionId: "sess-1", userId: "ann" } };
const tools = {
  get_weather: tool({
    description: "The weather of a city.", inputSchema: z.object({ city: z.string() }), execute: async () => "sunny in Paris",
  }),
};
const asked = { system: "brief", prompt: "weather in Paris?", experimental_telemetry: telemetry, maxRetries: 0 };
await generateText({ ...asked, model: openai("gpt-4o-mini"), tools, stopWhen: stepCountIs(3) });
await streamText({ ...asked, model: openai.chat("gpt-4o-mini") }).consumeStream();
await embedMany({ model: openai.embedding("text-embedding-3-small"), values: ["a", "b"], experimental_telemetry: telemetry });
await generateText({ ...asked, model: openai("gpt-4o-mini-broken") }).catch(() => {});
await provider.forceFlush();
await provider.shutdown();
