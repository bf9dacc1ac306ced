"""`timestep-lab demo`: the whole story in the terminal, with no key and no network."""

from __future__ import annotations

import click
from rich.console import Console
from rich.markup import escape

from timestep_lab.cli.context import Context, console, run_async, store_option
from timestep_lab.cli.render import Renderer, print_trace
from timestep_lab.lab import Lab, Run

MODEL = "demo/assistant"
QUESTION = "What's the weather in Oakland and in Berkeley?"
PLACES = ("Oakland", "Tokyo", "London", "Paris", "Nairobi", "Sydney", "Reykjavik", "San Francisco")
CASES = [{"input": f"What's the weather in {place}?", "expected": "°F"} for place in PLACES]


@click.command("demo")
@store_option
@click.pass_obj
def command(context: Context) -> int:
    """A conversation with a handoff, tools and an approval; its trace; and two models side by side.

    The models are deterministic and no language models, and the weather was recorded earlier, so this needs no key and no network. All of it
    is stored: look at it again with the commands printed at the end.
    """

    async def run() -> int:
        # Recorded even where the weather service could be reached: the story is the same everywhere, and nothing is sent.
        async with context.open(weather_mode="recorded") as lab:
            return await tell(lab, console())

    return run_async(run())


async def tell(lab: Lab, out: Console) -> int:
    out.print("[bold]1 · A conversation[/]  [dim]the model is deterministic and no language model[/]\n")
    run = await converse(lab, out)
    out.print("\n[bold]2 · Its trace[/]\n")
    lab.writer.flush()
    print_trace(out, lab.store.traces.get(run.trace_id), lab.store.traces.spans(run.trace_id))
    out.print("\n[bold]3 · Two models side by side[/]\n")
    await compare(lab, out)
    out.print("\n[bold]Where to look next[/]")
    for line, what in (
        (f"timestep-lab traces show {run.trace_id[:8]}", "this trace again"),
        ('timestep-lab sql "select * from generations"', "everything is rows"),
        ("timestep-lab serve", "chat, traces and comparisons in the browser"),
        ("timestep-lab lab", "the same in notebooks"),
        ("timestep-lab doctor", "which real models are ready"),
    ):
        out.print(f"  {escape(line):<48} [dim]{what}[/]")
    return 0 if run.status == "completed" else 1


async def converse(lab: Lab, out: Console) -> Run:
    """One turn: handoff, `think`, `get_weather`; a place in Berkeley asks first, and is approved as a person would."""
    renderer = Renderer(out)
    stream = lab.stream(QUESTION, agent="Personal Assistant", model=MODEL)
    async for event in stream:
        renderer.show(event)
    run = stream.run
    while run.status == "needs_approval":
        out.print(f"  [bold yellow]approved[/] [dim]as you would with:[/] timestep-lab approve {run.id}")
        decisions = {waiting.call_id: {"decision": "approved"} for waiting in run.interruptions}
        stream = lab.resume(run.id, decisions)
        async for event in stream:
            renderer.show(event)
        run = stream.run
    return run


async def compare(lab: Lab, out: Console) -> None:
    """The assistant against a model that only repeats what it is told: who says how warm it is?"""
    grid = await lab.compare(
        CASES,
        models=[MODEL, "demo/echo"],
        scorers=["contains", "tool_used:get_weather"],
        approve="all",
        agents="Personal Assistant",
    )
    from timestep_lab.cli.compare import print_grid

    print_grid(out, grid)
