"""`timestep-lab run`: one turn, streamed."""

from __future__ import annotations

import json
from typing import Any

import click
from rich.console import Console
from rich.markup import escape

from timestep_lab.cli.context import Context, console, json_option, print_json, run_async, say, store_option, with_lab
from timestep_lab.cli.render import Renderer, print_rows, print_trace, run_object
from timestep_lab.lab import Lab, Run
from timestep_lab.model.errors import UsageError

PAUSED = 3


def limit_options(command: Any) -> Any:
    """The options `--budget-usd`, `--max-tokens-total`, `--timeout` and `--max-tool-calls`: what a run may take."""
    for option in (
        click.option("--max-tool-calls", type=click.IntRange(0), help="Stop a run before it calls a tool more often."),
        click.option("--timeout", "timeout_s", type=click.FloatRange(0, min_open=True), help="Stop a run after so many seconds of work."),
        click.option("--max-tokens-total", type=click.IntRange(1), help="Stop a run at so many tokens, input and output."),
        click.option("--budget-usd", type=click.FloatRange(0, min_open=True), help="Stop a run at this cost, in US dollars."),
    ):  # fmt: skip
        command = option(command)
    return command


@click.command("run")
@click.argument("prompt")
@click.option("--agent", default="Personal Assistant", show_default=True, help="Name or id of an agent.")
@click.option("--model", help="prefix/name, over the agent's own, e.g. ollama/qwen3 or demo/assistant.")
@click.option("--thread", help="Id of a thread to go on in.")
@click.option(
    "--setting", "settings", multiple=True, metavar="NAME=VALUE", help="A model setting, e.g. temperature=0.2."
)
@click.option(
    "--approve", type=click.Choice(["ask", "all", "none"]), default="ask", show_default=True,
    help="What to do when a tool needs approval: pause, approve, or reject.",
)  # fmt: skip
@click.option("--tools", metavar="TAPE", help="'tape' or 'tape:<filter of traces>': tools answer from recorded runs.")
@click.option(
    "--on-miss", default="fail", show_default=True, metavar="WAY",
    help="On tape, what becomes of a call that was never recorded: fail, live-if-readonly, ask or simulate:<model>.",
)  # fmt: skip
@click.option("--max-turns", type=click.IntRange(1), default=10, show_default=True)
@limit_options
@json_option
@store_option
@with_lab
async def run_command(
    lab: Lab, /, prompt: str, agent: str, model: str | None, thread: str | None, settings: tuple[str, ...], approve: str,
    tools: str | None, on_miss: str, max_turns: int, as_json: bool, **limits: Any,
) -> int:  # fmt: skip
    """Send PROMPT to an agent and stream the answer.

    Ends with 3 when the run waits for approval; approve it from here or from anywhere with `timestep-lab approve RUN_ID`.
    """
    stream = lab.stream(
        prompt, agent=agent, model=model, thread=thread, approve=approve, max_turns=max_turns,  # type: ignore[arg-type]
        model_settings=parse_settings(settings), tools=tools, on_miss=on_miss, **limits,
    )  # fmt: skip
    renderer = None if as_json else Renderer(console())
    async for event in stream:
        if renderer:
            renderer.show(event)
    return finish(stream.run, as_json)


def finish(run: Run, as_json: bool) -> int:
    """Print what came of a run and give the exit code."""
    if as_json:
        print_json(run_object(run))
    if run.status == "needs_approval":
        if not as_json:
            say(f"Waits for approval: timestep-lab approve {run.id}   (or with --reject)", err=True)
        return PAUSED
    if run.status != "completed":
        if not as_json:
            say(f"error: {run.error or run.status}", err=True)
        return 1
    return 0


def parse_settings(pairs: tuple[str, ...], option: str = "--setting") -> dict[str, Any] | None:
    """`("temperature=0.2",)` → `{"temperature": 0.2}`; a value is JSON if it can be read as JSON, else text."""
    if not pairs:
        return None
    settings: dict[str, Any] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals:
            raise UsageError(f"{option} {pair!r} has no value.", f"Write it as {option} name=value.")
        try:
            settings[name] = json.loads(value)
        except ValueError:
            settings[name] = value
    return settings


# --- `timestep-lab approve`: decide about a paused run, from any process


@click.command("approve")
@click.argument("run_id", required=False)
@click.option("--reject", is_flag=True, help="Refuse instead.")
@click.option("--message", default="", help="What the model is told when you refuse.")
@click.option("--call", "call_id", help="Decide about this call only; default: all that wait.")
@click.option("--always", is_flag=True, help="Do not ask again for this tool in this thread.")
@click.option(
    "--answer",
    "answers",
    multiple=True,
    metavar="NAME=VALUE",
    help="A field of the form that is asked for; may be repeated.",
)
@json_option
@store_option
@with_lab
async def approve_command(
    lab: Lab, run_id: str | None, reject: bool, message: str, call_id: str | None, always: bool, answers: tuple[str, ...], as_json: bool
) -> int:  # fmt: skip
    """Approve (or reject) what run RUN_ID waits for, and stream the rest of it. Without RUN_ID: list what waits."""
    if run_id is None:
        return _list(lab, as_json)
    waiting = lab.approvals[run_id]
    chosen = [i.call_id for i in waiting.interruptions if call_id in (None, i.call_id)]
    decision: dict[str, Any] = {"decision": "rejected" if reject else "approved", "message": message, "always": always}
    if answers:
        decision["answer"] = parse_settings(answers, "--answer")
    stream = lab.resume(run_id, dict.fromkeys(chosen, decision))
    renderer = None if as_json else Renderer(console())
    async for event in stream:
        if renderer:
            renderer.show(event)
    return finish(stream.run, as_json)


def _list(lab: Lab, as_json: bool) -> int:
    waiting = [
        {
            "run_id": run.id,
            "agent": call.agent,
            "tool": call.name,
            "arguments": call.arguments,
            "prompt": run.record.input,
        }
        for run in lab.approvals
        for call in run.interruptions
    ]
    if as_json:
        print_json(waiting)
    else:
        columns = ["run_id", "agent", "tool", "arguments", "prompt"]
        print_rows(console(), columns, [list(row.values()) for row in waiting], empty="Nothing waits for approval.")
    return 0


# --- `timestep-lab demo`: the whole story in the terminal, with no key and no network


MODEL = "demo/assistant"
QUESTION = "What's the weather in Oakland and in Berkeley?"
PLACES = ("Oakland", "Tokyo", "London", "Paris", "Nairobi", "Sydney", "Reykjavik", "San Francisco")
CASES = [{"input": f"What's the weather in {place}?", "expected": "°F"} for place in PLACES]


@click.command("demo")
@store_option
@click.pass_obj
def demo_command(context: Context) -> int:
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
