import contextlib
import os

from exporting import INSTRUCTIONS, QUESTION, SUNNY, TOOL, provider

tracing = provider()
match os.environ["INSTRUMENTATION"]:
    case "openinference":
        from openinference.instrumentation.google_genai import GoogleGenAIInstrumentor as Instrumentor
    case "openllmetry":
        from opentelemetry.instrumentation.google_generativeai import GoogleGenerativeAiInstrumentor as Instrumentor
    case _:
        from opentelemetry.instrumentation.google_genai import GoogleGenAiSdkInstrumentor as Instrumentor
Instrumentor().instrument(tracer_provider=tracing)
from google import genai  # noqa: E402
from google.genai import errors, types  # noqa: E402

client = genai.Client(api_key="none", http_options=types.HttpOptions(base_url=os.environ["MODEL_SERVER"]))
tools = [
    types.Tool(
        function_declarations=[
            types.FunctionDeclaration(
                name=TOOL["name"], description=TOOL["description"], parameters_json_schema=TOOL["parameters"]
            )
        ]
    )
]
config = types.GenerateContentConfig(system_instruction=INSTRUCTIONS, tools=tools)
contents = [types.Content(role="user", parts=[types.Part(text=QUESTION)])]
with tracing.get_tracer("app").start_as_current_span("POST /chat"):
    first = client.models.generate_content(model="gemini-2.5-flash", contents=contents, config=config)
    contents += [
        first.candidates[0].content,
        types.Content(
            role="user", parts=[types.Part.from_function_response(name="get_weather", response={"result": SUNNY})]
        ),
    ]
    for _ in client.models.generate_content_stream(model="gemini-2.5-flash", contents=contents, config=config):
        pass
    with contextlib.suppress(errors.APIError):
        client.models.generate_content(model="gemini-2.5-flash-broken", contents=QUESTION)
tracing.force_flush()
