import asyncio

from exporting import INSTRUCTIONS, QUESTION, SUNNY, TOOL
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from pipecat.adapters.schemas.function_schema import FunctionSchema
from pipecat.adapters.schemas.tools_schema import ToolsSchema
from pipecat.frames.frames import EndFrame, LLMRunFrame
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.runner import PipelineRunner
from pipecat.pipeline.task import PipelineParams, PipelineTask
from pipecat.processors.aggregators.llm_context import LLMContext
from pipecat.processors.aggregators.llm_response_universal import LLMContextAggregatorPair
from pipecat.services.openai.llm import OpenAILLMService
from pipecat.utils.tracing.setup import setup_tracing

setup_tracing(service_name="recorded", exporter=OTLPSpanExporter())


async def get_weather(call):
    await call.result_callback(SUNNY)


async def talk(model):
    llm = OpenAILLMService(settings=OpenAILLMService.Settings(model=model))
    llm.register_function("get_weather", get_weather)
    parameters = TOOL["parameters"]
    schema = FunctionSchema("get_weather", TOOL["description"], parameters["properties"], parameters["required"])
    said = [{"role": "system", "content": INSTRUCTIONS}, {"role": "user", "content": QUESTION}]
    both = LLMContextAggregatorPair(LLMContext(said, ToolsSchema(standard_tools=[schema])))
    measured = PipelineParams(enable_metrics=True, enable_usage_metrics=True)
    pipeline = Pipeline([both.user(), llm, both.assistant()])
    task = PipelineTask(pipeline, params=measured, enable_tracing=True, conversation_id="conv-1", idle_timeout_secs=10)

    async def ask():
        await task.queue_frames([LLMRunFrame()])
        await asyncio.sleep(4)
        await task.queue_frames([EndFrame()])

    asking = asyncio.create_task(ask())
    await PipelineRunner(handle_sigint=False).run(task)
    await asking


async def main():
    for model in ("gpt-4o-mini", "gpt-4o-mini-wrong"):
        await talk(model)


asyncio.run(main())
trace.get_tracer_provider().force_flush()
