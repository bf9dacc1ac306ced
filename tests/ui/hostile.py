"""Contents that have broken viewers elsewhere."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from tests.ui.sample_traces import SampleSource, weather_run
from timestep_lab.model.clock import utc_now

HOSTILE: dict[str, Any] = {
    "markup": '<img src=x onerror="window.hacked=1"><svg onload=window.hacked=1>',
    "script end": "</script><script>window.hacked=1</script><!-- </style></textarea>",
    "quotes": "\"' onmouseover=window.hacked=1 x='",
    "right to left": "\u202eevil\u2066\u2067 \u05e9\u05dc\u05d5\u05dd \u0645\u0631\u062d\u0628\u0627",
    "nul": "a\0b",
    "lone surrogates": "\ud800 \udfff half",
    "markdown link": "[click](javascript:window.hacked=1) ![x](https://evil.example/x.png) <https://evil.example>",
    "a megabyte": "x" * 1_000_000,
    "not a number": [float("nan"), float("inf"), {"deep": (1, 2, b"raw")}],
}


def hostile_source() -> SampleSource:
    """One trace whose every text is hostile."""
    row, spans = weather_run(3, utc_now() - timedelta(minutes=1))
    text = "".join(str(value) for name, value in HOSTILE.items() if name not in ("a megabyte", "not a number"))
    for span in spans:
        attributes = {text: text, "timestep.handoff.from": text, "timestep.handoff.to": text}
        span.update(name=text, agent=text, error=text if span["kind"] == "tool" else None, attributes=attributes)
        is_generation = span["kind"] == "generation"
        span["input"] = [{"role": "user", "content": text}] if is_generation else text
        span["output"] = [{"role": "assistant", "content": text}] if is_generation else text
        if span["kind"] == "tool":
            span["output"], span["attributes"] = HOSTILE["a megabyte"], {**attributes, "values": HOSTILE}
    row.update(input=text, output=text, agent_path=f"{text} → {text}", model=text, workflow=text)
    return SampleSource([(row, spans)])
