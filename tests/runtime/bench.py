"""A lab's runtime without the `Lab` around it: store, router, tools and runner, wired as the lab wires them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from agents import Model
from agents.testing import ScriptedModel, assistant_message, function_call

from timestep_lab.model.events import Event, RunEnded
from timestep_lab.model.ids import PERSONAL_ASSISTANT, WEATHER_ASSISTANT, new_id
from timestep_lab.model.records import AgentRecord, ThreadItem
from timestep_lab.runtime.mcp.toolbox import Toolbox
from timestep_lab.runtime.provider_errors import NO_RETRY, ErrorContext
from timestep_lab.runtime.routed_model import RoutedModel
from timestep_lab.runtime.router import Router
from timestep_lab.runtime.runner import Runner
from timestep_lab.runtime.settings import Settings
from timestep_lab.service.agents import ensure_default_agents
from timestep_lab.store.store import Store, open_store
from timestep_lab.store.trace_writer import TraceWriter

SETTINGS = Settings.load(env={"TIMESTEP_LAB_DEMO_DELAY_MS": "0", "WEATHER_GEOCODING_URL": "http://127.0.0.1:9/none"})


class ScriptRouter(Router):
    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self.scripts: dict[str, RoutedModel] = {}

    def get_model(self, model_name: str | None) -> RoutedModel:
        return self.scripts.get(model_name or "") or super().get_model(model_name)


class Bench:
    def __init__(self, store: Store, settings: Settings = SETTINGS) -> None:
        self.store = store
        self.writer = TraceWriter(store.db)
        self.toolbox = Toolbox(store.mcp_servers.find, settings)
        self.router = ScriptRouter(settings)
        self.runner = Runner(store, self.router, self.toolbox, settings, writer=self.writer)
        ensure_default_agents(store)

    @property
    def personal(self) -> AgentRecord:
        return self.store.agents.get(PERSONAL_ASSISTANT)

    @property
    def weather(self) -> AgentRecord:
        return self.store.agents.get(WEATHER_ASSISTANT)

    def script(self, *steps: Any) -> str:
        """A model, by name, that says these steps."""
        name = f"demo/script-{len(self.router.scripts)}"
        context = ErrorContext(provider="demo", model=name.removeprefix("demo/"))
        self.router.scripts[name] = RoutedModel(ScriptedModel(steps), full=name, context=context, retry=NO_RETRY)
        return name

    def policy(self, decide: Callable[[str, list[Any], list[Any]], list[Any]]) -> str:
        """A model, by name, that answers as `Policy` does."""
        name = f"demo/policy-{len(self.router.scripts)}"
        context = ErrorContext(provider="demo", model=name.removeprefix("demo/"))
        self.router.scripts[name] = RoutedModel(Policy(decide), full=name, context=context, retry=NO_RETRY)
        return name

    def agent(self, name: str, **fields: Any) -> AgentRecord:
        return self.store.agents.insert(AgentRecord(id=new_id("case"), user_id=self.store.user_id, name=name, **fields))

    async def run(self, prompt: Any, agent: Any = None, **options: Any) -> list[Event]:
        return [event async for event in self.runner.stream(prompt, agent=agent or self.personal, **options)]

    async def resume(self, run_id: str, decisions: Mapping[str, Any], **options: Any) -> list[Event]:
        return [event async for event in self.runner.resume(run_id, decisions, **options)]

    async def approve(self, run_id: str, **options: Any) -> list[Event]:
        waiting = self.store.run_states.get(run_id).interruptions
        return await self.resume(run_id, {call["call_id"]: "approved" for call in waiting}, **options)

    def items(self, thread_id: str, kind: str | None = None) -> list[ThreadItem]:
        return [i for i in self.store.threads.all_items(thread_id) if kind in (None, i.type)]

    def spans(self, kind: str | None = None) -> list[dict[str, Any]]:
        self.writer.flush()
        where = f"where kind = '{kind}'" if kind else ""
        return self.store.sql(f"select * from spans {where} order by started_at").dicts()

    async def aclose(self) -> None:
        await self.runner.aclose()
        await self.toolbox.aclose()
        self.writer.close()
        self.store.close()


@asynccontextmanager
async def open_bench(path: Path | str = ":memory:", **settings: Any) -> AsyncIterator[Bench]:
    bench = Bench(open_store(path), replace(SETTINGS, **settings))
    try:
        yield bench
    finally:
        await bench.aclose()


def last(events: list[Event]) -> RunEnded:
    """The one event that ends a run."""
    ends = [event for event in events if isinstance(event, RunEnded)]
    assert ends == events[-1:]
    return ends[0]


def says(text: str) -> list[Any]:
    return [assistant_message(text, item_id=new_id("message"))]


def calls(*wanted: tuple[str, dict[str, Any]]) -> list[Any]:
    return [function_call(name, arguments, call_id=new_id("call")) for name, arguments in wanted]


def scripted(*steps: Any) -> ScriptedModel:
    return ScriptedModel(steps, emit_traces=True)


class Policy(Model):
    """A model that answers by a function of what it is given: (instructions, input items, tools) to output items."""

    def __init__(self, decide: Callable[[str, list[Any], list[Any]], list[Any]]) -> None:
        self.decide = decide

    def _script(self, instructions: str | None, input: Any, tools: list[Any]) -> ScriptedModel:
        items = [{"role": "user", "content": input}] if isinstance(input, str) else list(input)
        return ScriptedModel([self.decide(instructions or "", items, tools)])

    async def get_response(
        self, system_instructions: Any, input: Any, model_settings: Any, tools: Any, *rest: Any, **more: Any
    ) -> Any:
        script = self._script(system_instructions, input, tools)
        return await script.get_response(system_instructions, input, model_settings, tools, *rest, **more)

    def stream_response(
        self, system_instructions: Any, input: Any, model_settings: Any, tools: Any, *rest: Any, **more: Any
    ) -> Any:
        script = self._script(system_instructions, input, tools)
        return script.stream_response(system_instructions, input, model_settings, tools, *rest, **more)
