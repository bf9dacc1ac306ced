import { OTLPTraceExporter } from "@opentelemetry/exporter-trace-otlp-proto";
import { resourceFromAttributes } from "@opentelemetry/resources";
import { BatchSpanProcessor, NodeTracerProvider } from "@opentelemetry/sdk-trace-node";
process.env.GENKIT_TELEMETRY_SERVER = "";
const exporter = new OTLPTraceExporter({ url: `${process.env.MODEL_SERVER}/v1/traces` });
const provider = new NodeTracerProvider({
  resource: resourceFromAttributes({ "service.name": "recorded" }), spanProcessors: [new BatchSpanProcessor(exporter)],
});
provider.register();
const { genkit, z } = await import("genkit");
const { openAI } = await import("@genkit-ai/compat-oai/openai");
const ai = genkit({ plugins: [openAI({ baseURL: `${process.env.MODEL_SERVER}/v1`, apiKey: "none" })] });
const getWeather = ai.defineTool(
  { name: "get_weather", description: "The weather of a city.", inputSchema: z.object({ city: z.string() }), outputSchema: z.string() },
  async () => "sunny in Paris",
);
const weather = ai.defineFlow("weather_agent", async (question) => {
  const answer = await ai.generate({ model: openAI.model("gpt-4o-mini"), system: "brief", prompt: question, tools: [getWeather] });
  await ai.embed({ embedder: openAI.embedder("text-embedding-3-small"), content: "a" }).catch(() => {});
  return answer.text;
});
await weather("weather in Paris?");
await ai.generate({ model: openAI.model("gpt-4o-mini-wrong"), prompt: "weather in Paris?" }).catch(() => {});
await provider.forceFlush();
await provider.shutdown();
process.exit(0);
