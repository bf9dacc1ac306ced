import contextlib
import os

from azure.ai.inference import ChatCompletionsClient
from azure.ai.inference.models import (
    AssistantMessage,
    ChatCompletionsToolDefinition,
    FunctionDefinition,
    SystemMessage,
    ToolMessage,
    UserMessage,
)
from azure.ai.inference.tracing import AIInferenceInstrumentor
from azure.core.credentials import AzureKeyCredential
from azure.core.exceptions import HttpResponseError
from azure.core.settings import settings
from exporting import INSTRUCTIONS, QUESTION, SUNNY, TOOL, provider

tracing = provider()
settings.tracing_implementation = "opentelemetry"
AIInferenceInstrumentor().instrument(enable_content_recording=True)
client = ChatCompletionsClient(f"{os.environ['MODEL_SERVER']}/v1", AzureKeyCredential("none"), retry_total=0)
tools = [ChatCompletionsToolDefinition(function=FunctionDefinition(**TOOL))]
said = [SystemMessage(INSTRUCTIONS), UserMessage(QUESTION)]
calls = client.complete(model="gpt-4o-mini", messages=said, tools=tools).choices[0].message.tool_calls
said += [AssistantMessage(tool_calls=calls), ToolMessage(SUNNY, tool_call_id=calls[0].id)]
for _ in client.complete(model="gpt-4o-mini", messages=said, tools=tools, stream=True):
    pass
with contextlib.suppress(HttpResponseError):
    client.complete(model="gpt-4o-mini-wrong", messages=said)
tracing.force_flush()
