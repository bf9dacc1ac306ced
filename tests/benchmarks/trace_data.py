"""Rows for benchmarks: traces of ten spans (two agents, a handoff, tools, generations) over thirty days, about 1 kB of text a span."""

from __future__ import annotations

import random
from collections.abc import Iterator
from datetime import datetime, timedelta
from hashlib import blake2b

from timestep_lab.store.spans import Row

NOW = datetime(2026, 11, 22, 12)
MODELS = ("gpt-4.1", "claude-sonnet-4", "qwen3:8b", "gpt-oss:20b")
_WORDS = [
    "weather",
    "forecast",
    "umbrella",
    "oakland",
    "berkeley",
    "sunny",
    "rain",
    "model",
    "agent",
    "handoff",
    "table",
    "water",
    "river",
    "mountain",
    "question",
    "answer",
    "compare",
    "report",
    "number",
    "train",
    "market",
    "garden",
    "window",
    "letter",
    "summer",
    "winter",
    "paper",
    "science",
    "history",
    "music",
    "travel",
    "kitchen",
]


class TraceData:
    """`seed` makes it the same each time. Rare words `needle0…` let a search have a known answer."""

    def __init__(self, user_id: str, seed: int = 7) -> None:
        self.user_id = user_id
        self._random = random.Random(seed)
        self._texts = [" ".join(self._random.choices(_WORDS, k=70)) for _ in range(2000)]

    @staticmethod
    def trace_id(number: int) -> str:
        """As random as real ones."""
        return blake2b(str(number).encode(), digest_size=16).hexdigest()

    @staticmethod
    def span_id(number: int, place: int) -> str:
        return blake2b(f"{number}/{place}".encode(), digest_size=8).hexdigest()

    def traces(
        self, n_traces: int, n_spans: int = 10, *, days: float = 30, first: int = 0
    ) -> Iterator[tuple[Row, list[Row]]]:
        """Trace row and its span rows, oldest first."""
        for number in range(first, first + n_traces):
            age = timedelta(days=days * (1 - (number - first + 1) / (n_traces + 1)))
            yield self.trace(number, NOW - age, n_spans)

    def trace(self, number: int, start: datetime, n_spans: int) -> tuple[Row, list[Row]]:
        draw = self._random.random
        trace_id = self.trace_id(number)
        failed = draw() < 0.05
        model = MODELS[number % len(MODELS)]
        spans: list[Row] = []
        for place in range(n_spans):
            kind = (
                "task",
                "agent",
                "generation",
                "tool",
                "handoff",
                "agent",
                "generation",
                "tool",
                "generation",
                "tool",
            )[place % 10]
            begin = start + timedelta(milliseconds=place * 100 + draw() * 50)
            parent = (
                None if place == 0 else 0 if place % 10 in (1, 5) else (place // 10) * 10 + (1 if place % 10 < 5 else 5)
            )
            spans.append(
                self._span(
                    trace_id, place, parent, kind, begin, model, failed=failed and place in (0, 3), number=number
                )
            )
        started = (self.user_id, trace_id, "Agent workflow", f"thr_{number // 5}", start, "{}", None, None)
        return started, spans

    def _span(
        self,
        trace_id: str,
        place: int,
        parent: int | None,
        kind: str,
        begin: datetime,
        model: str,
        *,
        failed: bool,
        number: int,
    ) -> Row:
        draw = self._random.random
        generation = kind == "generation"
        agent = "Personal Assistant" if place % 10 < 5 else "Weather Assistant"
        needle = f" needle{number}" if place == 3 else ""
        text_in = self._texts[int(draw() * 2000)] + needle
        text_out = self._texts[int(draw() * 2000)]
        return (
            self.user_id, trace_id, self.span_id(number, place), None if parent is None else self.span_id(number, parent),
            kind, "get_weather" if kind == "tool" else agent if kind == "agent" else kind, agent,
            "error" if failed else "ok", "it broke" if failed else None, model if generation else None,
            "demo" if generation else None, begin, begin + timedelta(milliseconds=50 + draw() * 1000),
            int(draw() * 2000) if generation else None, int(draw() * 300) if generation else None, None, None,
            draw() / 100 if generation else None, None, None, draw() * 300 if generation else None,
            "stop" if generation else None, "weather" if kind == "tool" else None, None,
            "Weather Assistant" if kind == "handoff" else None, 0, None,
            f'{{"gen_ai.operation.name":"chat","place":{place}}}', text_in, text_out,
        )  # fmt: skip
