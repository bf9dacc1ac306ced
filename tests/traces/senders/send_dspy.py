import contextlib

from exporting import QUESTION, SUNNY, provider

tracing = provider()
import dspy  # noqa: E402
from openinference.instrumentation import using_session  # noqa: E402
from openinference.instrumentation.dspy import DSPyInstrumentor  # noqa: E402

DSPyInstrumentor().instrument(tracer_provider=tracing)


def get_weather(city: str) -> str:
    """The weather of a city."""
    return SUNNY


class Weather(dspy.Signature):
    """brief"""

    question: str = dspy.InputField()
    answer: str = dspy.OutputField()


dspy.configure(lm=dspy.LM("openai/gpt-4o-mini", cache=False, num_retries=0), adapter=dspy.JSONAdapter())
with using_session("sess-1"):
    dspy.ReAct(Weather, tools=[get_weather], max_iters=1)(question=QUESTION)
dspy.configure(lm=dspy.LM("openai/gpt-4o-mini-wrong", cache=False, num_retries=0))
with contextlib.suppress(Exception), using_session("sess-1"):
    dspy.Predict(Weather)(question=QUESTION)
tracing.force_flush()
