import contextlib
import os

import boto3
from exporting import INSTRUCTIONS, QUESTION, SUNNY, TOOL, provider

tracing = provider()
match os.environ["INSTRUMENTATION"]:
    case "openinference":
        from openinference.instrumentation.bedrock import BedrockInstrumentor as Instrumentor
    case "openllmetry":
        from opentelemetry.instrumentation.bedrock import BedrockInstrumentor as Instrumentor
    case _:
        from opentelemetry.instrumentation.botocore import BotocoreInstrumentor as Instrumentor
Instrumentor().instrument(tracer_provider=tracing)
client = boto3.client("bedrock-runtime", endpoint_url=os.environ["MODEL_SERVER"])
messages = [{"role": "user", "content": [{"text": QUESTION}]}]
schema = {"json": TOOL["parameters"]}
offered = {"tools": [{"toolSpec": {"name": TOOL["name"], "description": TOOL["description"], "inputSchema": schema}}]}
for _ in range(2):
    answer = client.converse(
        modelId="anthropic.claude-sonnet-4-5-20250929-v1:0",
        system=[{"text": INSTRUCTIONS}],
        messages=messages,
        toolConfig=offered,
    )
    said = answer["output"]["message"]
    used = [block["toolUse"] for block in said["content"] if "toolUse" in block]
    results = [{"toolResult": {"toolUseId": use["toolUseId"], "content": [{"text": SUNNY}]}} for use in used]
    messages += [said, {"role": "user", "content": results}]
with contextlib.suppress(client.exceptions.ClientError):
    client.converse(modelId="anthropic.broken", messages=messages[:1])
tracing.force_flush()
