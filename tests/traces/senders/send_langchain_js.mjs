import { LangChainInstrumentation } from "@arizeai/openinference-instrumentation-langchain";
import * as CallbackManager from "@langchain/core/callbacks/manager";
import { tool } from "@langchain/core/tools";
import { ChatOpenAI } from "@langchain/openai";
import { OTLPTraceExporter } from "@opentelemetry/exporter-trace-otlp-proto";
import { resourceFromAttributes } from "@opentelemetry/resources";
import { BatchSpanProcessor, NodeTracerProvider } from "@opentelemetry/sdk-trace-node";
import { createAgent } from "langchain";
import { z } from "zod";

const exporter = new OTLPTraceExporter({ url: `${process.env.MODEL_SERVER}/v1/traces` });
const provider = new NodeTracerProvider({
  resource: resourceFromAttributes({ "service.name": "recorded" }), spanProcessors: [new BatchSpanProcessor(exporter)],
});
provider.register();
const watched = new LangChainInstrumentation({ tracerProvider: provider });
watched.manuallyInstrument(CallbackManager);
const getWeather = tool(async () => "sunny in Paris", {
  name: "get_weather", description: "The weather of a city.", schema: z.object({ city: z.string() }),
});
for (const name of ["gpt-4o-mini", "gpt-4o-mini-wrong"]) {
  const model = new ChatOpenAI({ model: name, apiKey: "none", maxRetries: 0, configuration: { baseURL: `${process.env.MODEL_SERVER}/v1` } });
  const agent = createAgent({ model, tools: [getWeather], systemPrompt: "brief", name: "weather_agent" });
  await agent.invoke({ messages: [{ role: "user", content: "weather in Paris?" }] }, { metadata: { session_id: "sess-1" } }).catch(() => {});
}
await provider.forceFlush();
await provider.shutdown();
