"""Processes that run a lab and are killed. What they `tell` they have acknowledged."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine
from itertools import count
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import agents as sdk
from agents import Agent, function_tool
from agents.tracing.processors import BackendSpanExporter, BatchTraceProcessor

from tests.runtime.bench import Bench, calls, last, open_bench, says, scripted
from timestep_lab.model.events import ItemAdded, ItemDone, RunEnded

_mouth: Connection


def tell(**what: Any) -> None:
    _mouth.send(what)


def main(
    mouth: Connection, env: dict[str, str], job: Callable[..., Coroutine[Any, Any, None]], *arguments: str
) -> None:
    global _mouth
    _mouth = mouth
    os.environ.update(env)
    asyncio.run(job(*arguments))


def errand_agent(file: Path, *, hang: bool) -> Agent[Any]:
    """Writes a line for each time a tool ran."""

    @function_tool(needs_approval=True)
    async def quick() -> str:
        with file.open("a") as log:
            log.write("quick\n")
        return "quick is done"

    @function_tool(needs_approval=True)
    async def long() -> str:
        while hang:
            await asyncio.sleep(1)
        with file.open("a") as log:
            log.write("long\n")
        return "long is done"

    return Agent(
        name="Errand", tools=[quick, long], model=scripted(calls(("quick", {}), ("long", {})), says("Both done."))
    )


async def talk(path: str) -> None:
    """One thing after the other in new threads, for ever."""
    agent = Agent(name="Talker", model="demo/slow?ttft=0&tps=400&n=30")
    async with open_bench(path) as bench:
        for number in count():
            async for event in bench.runner.stream(f"message {number}", agent=agent):
                if isinstance(event, ItemDone):
                    tell(item=event.item.id, text=event.item.data["text"])
                elif isinstance(event, RunEnded):
                    tell(run=event.run.id, status=event.run.status)


async def ramble(path: str) -> None:
    """One long answer, slowly; tells when it has begun."""
    async with open_bench(path) as bench:
        async for event in bench.runner.stream("go", agent=Agent(name="Talker", model="demo/slow?ttft=0&tps=50&n=999")):
            if isinstance(event, ItemAdded):
                tell(begun=event.item.id)


async def ask(path: str) -> None:
    """Ask for the weather in Berkeley, pause, and stay."""
    async with open_bench(path) as bench:
        end = last(await bench.run("What is the weather in Berkeley?"))
        bench.writer.flush()
        tell(run=end.run.id, trace=end.run.trace_id, status=end.run.status)
        await asyncio.sleep(60)


async def errand(path: str, file: str) -> None:
    """Start a run of two tools that ask first, and stay."""
    async with open_bench(path) as bench:
        end = last(await bench.run("go", errand_agent(Path(file), hang=True)))
        tell(run=end.run.id, status=end.run.status)
        await asyncio.sleep(60)


async def errand_approve(path: str, file: str, run_id: str) -> None:
    """Approve both; the second never ends."""
    async with open_bench(path) as bench:
        agent = errand_agent(Path(file), hang=True)
        waiting = bench.store.run_states.get(run_id).interruptions
        decisions = {call["call_id"]: "approved" for call in waiting}
        async for event in bench.runner.resume(run_id, decisions, agent=agent):
            item = getattr(event, "item", None)
            if item is not None and item.data.get("status") == "completed":
                tell(done=item.data["name"])


def till_agent(file: Path, model: str) -> Agent[Any]:
    """Writes a line for each refund that really happened."""

    @function_tool(needs_approval=True)
    def refund(order: str) -> str:
        with file.open("a") as log:
            log.write(f"{order}\n")
        return f"Refunded {order}."

    @function_tool(needs_approval=True)
    def write(text: str) -> str:
        return f"Wrote {text}."

    return Agent(name="Till", tools=[refund, write], model=model)


PAYS, LIVE = "recorded", "live"


def counter(bench: Bench, file: Path, front: Any, till: Any, other: Any = ()) -> tuple[Agent[Any], list[Any]]:
    """A front desk that hands off to a till, and the models of both, and of another, by the same names in every process."""
    models = [bench.script(*steps) for steps in (front, till, other)]
    pays = till_agent(file, models[1])
    return Agent(name="Front", model=models[0], handoffs=[pays]), [bench.router.scripts[name].inner for name in models]


TO_TILL = calls(("transfer_to_till", {}))
CHANGES: dict[str, dict[str, Any]] = {
    "tool": {"tools": {"refund": "DENIED"}},
    "prompt": {"prompt": "Refund it, please."},
    "model": {"model": {"Till": "demo/script-2"}},
    "instructions": {"instructions": {"Till": "Be brief."}},
}


async def fork_of_a_refund(bench: Bench, file: Path, change: str, *live: Any) -> tuple[Any, Any, list[list[Any]]]:
    """Refund once, with a handoff before it; fork that, and have the till say `live` from where it is live. The agent; how the fork ended; and
    what each model was asked by the fork."""
    till = calls(("refund", {"order": PAYS})), says("Done.")
    own, others = ((), live) if change == "model" else (live, ())
    front = [TO_TILL, TO_TILL] if change == "prompt" else [TO_TILL]
    agent, models = counter(bench, file, front, [*till, *own], others)
    end = last(await bench.run("refund", agent))
    run = last(await bench.approve(end.run.id)).run
    before = [len(model.calls) for model in models]
    end = last([event async for event in bench.runner.fork(run.trace_id, **CHANGES[change])])
    return agent, end, [model.calls[n:] for model, n in zip(models, before, strict=True)]


async def fork_and_wait(path: str, file: str, change: str) -> None:
    """Fork a refund, pause at another call, and stay."""
    async with open_bench(path) as bench:
        _, end, asked = await fork_of_a_refund(bench, Path(file), change, calls(("write", {"text": "x"})))
        tell(run=end.run.id, status=end.run.status, asked=[len(calls) for calls in asked])
        await asyncio.sleep(60)


async def speak(how: str) -> None:
    """One run, with the bare SDK or in a lab; then everything that wants to be exported is."""
    # The SDK's default exporter, made anew: this process was forked from one that knew no proxy.
    sdk.tracing.set_trace_processors([BatchTraceProcessor(BackendSpanExporter(max_retries=1, base_delay=0))])
    model = scripted(says("Hello."))
    if how == "bare":
        await sdk.Runner.run(Agent(name="Bare", model=model), "hi")
    else:
        async with open_bench() as bench:
            await bench.run("hi", Agent(name="Traced", model=model))
    await asyncio.to_thread(sdk.flush_traces)
    tell(spoken=how)
