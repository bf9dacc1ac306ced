import { trace } from "@opentelemetry/api";
import { OTLPTraceExporter } from "@opentelemetry/exporter-trace-otlp-proto";
import { resourceFromAttributes } from "@opentelemetry/resources";
import { BatchSpanProcessor, NodeTracerProvider } from "@opentelemetry/sdk-trace-node";
import { OpenAIInstrumentation } from "@traceloop/instrumentation-openai";
import OpenAI from "openai";

const exporter = new OTLPTraceExporter({ url: `${process.env.MODEL_SERVER}/v1/traces` });
const provider = new NodeTracerProvider({
  resource: resourceFromAttributes({ "service.name": "recorded" }), spanProcessors: [new BatchSpanProcessor(exporter)],
});
provider.register();
const instrumentation = new OpenAIInstrumentation({ traceContent: true });
instrumentation.setTracerProvider(provider);
instrumentation.manuallyInstrument(OpenAI);
const client = new OpenAI({ maxRetries: 0 });
const tools = [{ type: "function", function: { name: "get_weather", parameters: { type: "object", properties: { city: { type: "string" } } } } }];
const messages = [{ role: "system", content: "brief" }, { role: "user", content: "weather in Paris?" }];
await trace.getTracer("app").startActiveSpan("POST /chat", async (root) => {
  const first = (await client.chat.completions.create({ model: "gpt-4o-mini", messages, tools })).choices[0].message;
  messages.push(first, { role: "tool", tool_call_id: first.tool_calls[0].id, content: "sunny in Paris" });
  await client.chat.completions.create({ model: "gpt-4o-mini-broken", messages }).catch(() => {});
  const parts = await client.chat.completions.create({ model: "gpt-4o-mini", messages, tools, stream: true, stream_options: { include_usage: true } });
  for await (const _ of parts);
  root.end();
});
await provider.forceFlush();
await provider.shutdown();
