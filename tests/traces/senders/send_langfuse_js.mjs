import { observeOpenAI } from "@langfuse/openai";
import { LangfuseSpanProcessor } from "@langfuse/otel";
import { propagateAttributes, startActiveObservation } from "@langfuse/tracing";
import { OTLPTraceExporter } from "@opentelemetry/exporter-trace-otlp-proto";
import { resourceFromAttributes } from "@opentelemetry/resources";
import { NodeTracerProvider } from "@opentelemetry/sdk-trace-node";
import OpenAI from "openai";

const exporter = new OTLPTraceExporter({ url: `${process.env.MODEL_SERVER}/v1/traces` });
const provider = new NodeTracerProvider({
  resource: resourceFromAttributes({ "service.name": "recorded" }), spanProcessors: [new LangfuseSpanProcessor({ exporter, publicKey: "none", secretKey: "none" })],
});
provider.register();
const client = observeOpenAI(new OpenAI({ maxRetries: 0 }));
const tools = [{ type: "function", function: { name: "get_weather", parameters: { type: "object", properties: { city: { type: "string" } } } } }];
const messages = [{ role: "system", content: "brief" }, { role: "user", content: "weather in Paris?" }];
await propagateAttributes({ sessionId: "sess-1", userId: "ann" }, () => startActiveObservation("weather_agent", async (agent) => {
  agent.update({ input: "weather in Paris?" });
  const first = (await client.chat.completions.create({ model: "gpt-4o-mini", messages, tools })).choices[0].message;
  const sunny = await startActiveObservation("get_weather", async (tool) => {
    tool.update({ input: { city: "Paris" }, output: "sunny in Paris" });
    return "sunny in Paris";
  }, { asType: "tool" });
  messages.push(first, { role: "tool", tool_call_id: first.tool_calls[0].id, content: sunny });
  await client.embeddings.create({ model: "text-embedding-3-small", input: ["a", "b"] });
  await client.chat.completions.create({ model: "gpt-4o-mini-broken", messages }).catch(() => {});
  const answer = (await client.chat.completions.create({ model: "gpt-4o-mini", messages, tools })).choices[0].message.content;
  agent.update({ output: answer });
}, { asType: "agent" }));
await provider.forceFlush();
await provider.shutdown();
