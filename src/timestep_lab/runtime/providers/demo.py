"""`demo/…`: deterministic models without key, network or language model.

    demo/assistant?delay=12           follows rules, using the agent's tools and handoffs (adapters/demo.py)
    demo/echo?bare=0&delay=12         repeats the user's message
    demo/slow?ttft=300&tps=20&n=30    n pieces; ttft in ms, tps in pieces per second
    demo/flaky?rate=0.3&seed=0&error=&delay=12    fails randomly; error: one of rate_limit unavailable timeout cut auth request

`demo/assistant` follows instructions in the message, with any tool and handoff of its agent:

    call refund {"order": "7712"}     calls that tool once with those arguments, and reports its result
    hand off to Billing               hands off to the agent of that name
    What's the weather in Oslo?       calls `get_weather`, or hands off to an agent that has it
    Switch to the dark theme.         `switch_theme`

so that one message can test a tool, its approval and a handoff: `hand off to Billing, then call refund {"order": "7712"}`.

`delay` is the pause between chunks in ms. Times can have a unit: `300ms`, `0.3s`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar
from urllib.parse import parse_qsl

from timestep_lab.model.arguments import did_you_mean
from timestep_lab.model.errors import ModelNotFoundError, SettingsError
from timestep_lab.model.records import ProviderStatus
from timestep_lab.runtime.router import Provider as BaseProvider

if TYPE_CHECKING:
    from agents import Model

OPTIONS: Mapping[str, tuple[str, ...]] = {
    "assistant": ("delay",),
    "echo": ("bare", "delay"),
    "slow": ("ttft", "tps", "n"),
    "flaky": ("rate", "seed", "error", "delay"),
}


class Provider(BaseProvider):
    prefix: ClassVar[str] = "demo"
    retries: ClassVar[bool] = False

    def status(self) -> ProviderStatus:
        return self.ready(
            "deterministic answers by fixed rules; no key, no network, no language model", "no language model"
        )

    async def list_models(self) -> list[str]:
        return list(OPTIONS)

    def model(self, name: str) -> Model:
        from timestep_lab.runtime.adapters.demo import FAULTS, DemoAssistant, DemoEcho, DemoFlaky, DemoSlow

        kind, options = _parsed(name)
        delay = options.time_ms("delay", self.settings.demo_delay_ms)
        if kind == "echo":
            return DemoEcho(name, delay_ms=delay, bare=options.number("bare", 0, high=1) == 1)
        if kind == "slow":
            tps, n = options.number("tps", 20.0, low=0.001, high=1e6), options.number("n", 30, low=1, high=100_000)
            return DemoSlow(name, ttft_ms=options.time_ms("ttft", 300.0), tps=tps, n=int(n))
        if kind == "flaky":
            rate, seed = options.number("rate", 0.3, high=1), options.number("seed", 0, high=2**53)
            error = options.one_of("error", FAULTS)
            return DemoFlaky(name, delay_ms=delay, rate=rate, seed=int(seed), error=error)
        return DemoAssistant(name, delay_ms=delay)


class _Options:
    def __init__(self, name: str, given: Mapping[str, str]) -> None:
        self._name, self._given = name, given

    def number(self, option: str, default: float, *, low: float = 0.0, high: float) -> float:
        text = self._given.get(option)
        if not text:
            return default
        try:
            value = float(text)
        except ValueError:
            value = float("nan")
        if not low <= value <= high:
            raise self._wrong(option, f"a number from {low:g} to {high:g}")
        return value

    def time_ms(self, option: str, default: float) -> float:
        text = self._given.get(option)
        if not text:
            return default
        match = re.fullmatch(r"(\d+(?:\.\d*)?|\.\d+)(ms|s)?", text.strip())
        if match is None:
            raise self._wrong(option, "a time in ms, or with its unit (300ms, 0.3s)")
        return float(match.group(1)) * (1000.0 if match.group(2) == "s" else 1.0)

    def one_of(self, option: str, known: tuple[str, ...]) -> str | None:
        text = self._given.get(option)
        if text and text not in known:
            raise self._wrong(option, f"one of {', '.join(known)}{did_you_mean(text, known)}")
        return text or None

    def _wrong(self, option: str, wanted: str) -> SettingsError:
        return SettingsError(
            f"demo/{self._name}: {option} must be {wanted}, not {self._given[option]!r}.", param="model"
        )


def _parsed(name: str) -> tuple[str, _Options]:
    kind, _, query = name.partition("?")
    if kind not in OPTIONS:
        raise ModelNotFoundError(
            f"There is no model demo/{kind}.{did_you_mean(kind, OPTIONS)}",
            f"Available: {', '.join(f'demo/{known}' for known in OPTIONS)}.",
            provider="demo",
        )
    given = dict(parse_qsl(query, keep_blank_values=True))
    for option in given:
        if option not in OPTIONS[kind]:
            raise SettingsError(
                f"demo/{kind} has no option {option!r}.{did_you_mean(option, OPTIONS[kind])}",
                f"Options: {', '.join(OPTIONS[kind])}.",
                param="model",
            )
    return kind, _Options(kind, given)
