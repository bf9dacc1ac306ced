"""Comparisons to look at: made of records, with no engine behind them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from timestep_lab.evals.grid import Grid
from timestep_lab.model.comparison import CaseRecord, CellRecord, ComparisonRecord, ScoreValue
from timestep_lab.model.records import Json

MODELS = (
    "openai/gpt-4.1",
    "anthropic/claude-sonnet-4",
    "ollama/gpt-oss:20b",
    "hf/qwen3-8b",
    "openai/gpt-4.1-mini",
    "local/smol",
)
CITIES = ("Berkeley", "Oakland", "Reykjavik", "Nairobi", "Lima", "Osaka", "Tromsø", "Perth", "Quito", "Cork")


def record(
    candidates: Sequence[str] = MODELS[:2], *, cases: int = 12, epochs: int = 1, status: str = "completed"
) -> ComparisonRecord:
    named: tuple[Json, ...] = tuple({"name": name, "model": name} for name in candidates)
    return ComparisonRecord(
        id="cmp_1", user_id="local", name="weather", candidates=named, epochs=epochs, n_cases=cases, status=status  # type: ignore[arg-type]
    )  # fmt: skip


def case(place: int, **changes: Json) -> CaseRecord:
    city = CITIES[place % len(CITIES)]
    asked = f"{place}: Do I need an umbrella in {city} this afternoon, and which coat would you take?"
    return replace(
        CaseRecord(comparison_id="cmp_1", case_id=f"case{place}", position=place, input=asked, expected=city), **changes
    )


def cell(
    place: int, column: int, *, candidates: Sequence[str] = MODELS[:2], epoch: int = 0, **changes: Json
) -> CellRecord:
    """Every third case is wrong in the second candidate, every seventh in all; case 5 fails in the first."""
    city = CITIES[place % len(CITIES)]
    right = place % 7 != 3 and not (column % 2 == 1 and place % 3 == 0)
    weather = "fog and 14 °C until four, then clear skies" if right else "bright sun and 31 °C the whole day long"
    said = "Take the light one." if column % 2 else "Take a light coat; an umbrella would only be in your way."
    failed = place == 5 and column == 0
    scores = (ScoreValue(scorer="contains", value=float(right), note=None if right else "The city is missing."), ScoreValue(scorer="fuzzy", value=0.9 if right else 0.62))  # fmt: skip
    made = CellRecord(
        comparison_id="cmp_1", case_id=f"case{place}", candidate=candidates[column], epoch=epoch, status="error" if failed else "done",
        output=None if failed else f"In {city} there is {weather}. {said} " + "The wind comes from the sea. " * (place % 4),
        error_type="ProviderTimeout" if failed else None, error="No answer within 120 s." if failed else None,
        latency_ms=400.0 + 37 * place + 180 * column, ttft_ms=90.0 + column * 20, input_tokens=210, output_tokens=60 + place, cost_usd=0.0004 * (column + 1),
        cached=place == 2, trace_id="a" * 32, scores=() if failed else scores,
        steps=({"type": "handoff", "from": "Personal Assistant", "to": "Weather Assistant"}, {"type": "tool", "name": "get_weather", "arguments": {"location": city}}),
    )  # fmt: skip
    return replace(made, **changes)


def grid(candidates: Sequence[str] = MODELS[:2], cases: int = 12, epochs: int = 1) -> Grid:
    cells = [
        cell(place, column, candidates=candidates, epoch=epoch)
        for place in range(cases) for column in range(len(candidates)) for epoch in range(epochs)
    ]  # fmt: skip
    return Grid(record(candidates, cases=cases, epochs=epochs), [case(place) for place in range(cases)], cells)


@dataclass
class Running:
    """A comparison of which nothing is answered yet."""

    record: ComparisonRecord
    cases: tuple[CaseRecord, ...]

    @cached_property
    def empty(self) -> Grid:
        return Grid(self.record, self.cases, ())


def running(candidates: Sequence[str] = MODELS[:2], cases: int = 12) -> Running:
    return Running(record(candidates, cases=cases, status="running"), tuple(case(place) for place in range(cases)))
