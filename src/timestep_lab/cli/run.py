"""`timestep-lab run`, `approve` and `demo`: run an agent and stream its output."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import click
from rich.console import Console
from rich.markup import escape

from timestep_lab.cli.context import Context, console, json_option, print_json, run_async, say, store_option, with_lab
from timestep_lab.cli.render import Renderer, print_rows, print_trace, run_object
from timestep_lab.lab import Lab, Run
from timestep_lab.lab.run import RunStream
from timestep_lab.model.codec import Json, list_of, object_of, objects_of
from timestep_lab.model.errors import UsageError
from timestep_lab.model.records import Interruption
from timestep_lab.runtime.approvals import filled_in

F = TypeVar("F", bound=Callable[..., object])

PAUSED = 3


def limit_options(command: F) -> F:
    """Adds `--budget-usd`, `--max-tokens-total`, `--timeout` and `--max-tool-calls`: the limits of a run."""
    for option in (
        click.option("--max-tool-calls", type=click.IntRange(0), help="Stop a run before it exceeds this number of tool calls."),
        click.option("--timeout", "timeout_s", type=click.FloatRange(0, min_open=True), help="Stop a run after this many seconds of active time."),
        click.option("--max-tokens-total", type=click.IntRange(1), help="Stop a run at this number of input plus output tokens."),
        click.option("--budget-usd", type=click.FloatRange(0, min_open=True), help="Stop a run at this cost, in US dollars."),
    ):  # fmt: skip
        command = option(command)
    return command


@click.command("run")
@click.argument("prompt")
@click.option("--agent", default="Personal Assistant", show_default=True, help="Name or id of an agent.")
@click.option("--model", help="prefix/name, instead of the agent's own, e.g. ollama/qwen3 or demo/assistant.")
@click.option("--thread", help="Id of a thread to continue.")
@click.option(
    "--setting", "settings", multiple=True, metavar="NAME=VALUE", help="A model setting, e.g. temperature=0.2."
)
@click.option(
    "--approve", type=click.Choice(["ask", "all", "none"]), default="ask", show_default=True,
    help="What to do when a tool needs approval: pause, approve, or reject.",
)  # fmt: skip
@click.option("--tools", metavar="TAPE", help="'tape' or 'tape:<trace filter>': answer tool calls from recorded runs.")
@click.option(
    "--on-miss", default="fail", show_default=True, metavar="WAY",
    help="For calls that are not on the tape: fail, live-if-readonly, ask or simulate:<model>.",
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

    Exit code 3 if the run waits for approval; approve it with: timestep-lab approve RUN_ID
    """
    stream = lab.stream(
        prompt, agent=agent, model=model, thread=thread, approve=approve, max_turns=max_turns,  # type: ignore[arg-type]
        model_settings=parse_settings(settings), tools=tools, on_miss=on_miss, **limits,
    )  # fmt: skip
    return finish(await followed(lab, stream, as_json), as_json)


async def followed(lab: Lab, stream: RunStream, as_json: bool) -> Run:
    """The run at its end, or at a call that needs approval. Questions of tools' servers are answered here: the call that asks would
    end with this process.
    """
    renderer = None if as_json else Renderer(console())
    while True:
        async for event in stream:
            if renderer:
                renderer.show(event)
        run = stream.run
        if run.status != "needs_approval" or not all(call.asks for call in run.interruptions):
            return run
        decisions = {call.call_id: await asyncio.to_thread(_answer, call) for call in run.interruptions}
        stream = lab.resume(run.id, decisions)


def finish(run: Run, as_json: bool) -> int:
    """Print the result of a run and return the exit code."""
    if as_json:
        print_json(run_object(run))
    if run.status == "needs_approval":
        if not as_json:
            say(f"Waiting for approval: timestep-lab approve {run.id}   (or with --reject)", err=True)
        return PAUSED
    if run.status != "completed":
        if not as_json:
            say(f"error: {run.error or run.status}", err=True)
        return 1
    return 0


def parse_settings(pairs: tuple[str, ...], option: str = "--setting") -> dict[str, Json] | None:
    """`("temperature=0.2",)` → `{"temperature": 0.2}`. A value that is not valid JSON is taken as text."""
    if not pairs:
        return None
    settings: dict[str, Json] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals:
            raise UsageError(f"{option} {pair!r} has no value.", f"Write it as {option} name=value.")
        try:
            settings[name] = json.loads(value)
        except ValueError:
            settings[name] = value
    return settings


# --- `timestep-lab approve`: decide about a paused run from any process


@click.command("approve")
@click.argument("run_id", required=False)
@click.option("--reject", is_flag=True, help="Reject instead of approving.")
@click.option("--dismiss", is_flag=True, help="Dismiss a question: neither accept nor decline it.")
@click.option("--message", default="", help="Message to the model when you reject.")
@click.option("--call", "call_id", help="Decide about this call only; default: all waiting calls.")
@click.option("--always", is_flag=True, help="Do not ask again for this tool in this thread.")
@click.option(
    "--answer",
    "answers",
    multiple=True,
    metavar="NAME=VALUE",
    help="A field of the form that the tool asks for; repeatable.",
)
@json_option
@store_option
@with_lab
async def approve_command(
    lab: Lab, run_id: str | None, reject: bool, dismiss: bool, message: str, call_id: str | None, always: bool, answers: tuple[str, ...], as_json: bool
) -> int:  # fmt: skip
    """Approve (or reject) the waiting calls of run RUN_ID and stream the rest of it. Without RUN_ID: list waiting runs."""
    if run_id is None:
        return _list(lab, as_json)
    waiting = lab.approvals[run_id]
    chosen = [i.call_id for i in waiting.interruptions if call_id in (None, i.call_id)]
    if reject and dismiss:
        raise UsageError("--reject and --dismiss exclude each other.", "Use one of them.")
    word = "dismissed" if dismiss else "rejected" if reject else "approved"
    decision: dict[str, Json] = {"decision": word, "message": message, "always": always}
    if answers:
        decision["answer"] = parse_settings(answers, "--answer")
    stream = lab.resume(run_id, dict.fromkeys(chosen, decision))
    return finish(await followed(lab, stream, as_json), as_json)


def _list(lab: Lab, as_json: bool) -> int:
    waiting = [
        {
            "run_id": run.id,
            "agent": call.agent,
            "tool": call.name,
            "arguments": call.arguments,
            "prompt": run.record.input,
            **({"asks": call.reason, "form": call.form} if call.asks else {}),
        }
        for run in lab.approvals
        for call in run.interruptions
    ]
    if as_json:
        print_json(waiting)
    else:
        columns = ["run_id", "agent", "tool", "arguments", "prompt"]
        print_rows(
            console(),
            columns,
            [[row[name] for name in columns] for row in waiting],
            empty="No run is waiting for approval.",
        )
    return 0


# --- Questions of tools' servers, answered in the terminal


def _answer(question: Interruption) -> dict[str, Json]:
    """Ask the person at the terminal. Without one, the question is dismissed, and the server is told so."""
    if not sys.stdin.isatty():
        say(
            f"{question.server} asks: {question.reason} It was dismissed, since there is no terminal to answer in. "
            "Run this in a terminal, in a notebook or in a served lab.",
            err=True,
        )
        return {"decision": "dismissed"}
    about = json.loads(question.arguments or "{}")
    say(f"{question.server} asks: {question.reason}", err=True)
    for line in (about.get("url"), *(json.dumps(one, ensure_ascii=False) for one in about.get("messages") or ())):
        if line:
            say(f"  {line}", err=True)
    words = {"accept": "approved", "decline": "rejected", "dismiss": "dismissed"}
    word = words[
        click.prompt(
            "Your decision", type=click.Choice(list(words)), default="accept" if question.form else None, err=True
        )
    ]
    form = question.form or {}
    fields = object_of(form.get("properties"))
    while word == "approved" and fields:
        given = {
            name: value for name, spec in fields.items() if (value := _field(name, object_of(spec), form)) is not None
        }
        try:
            return {"decision": word, "answer": filled_in(form, given)}
        except UsageError as error:
            say(f"  {error}", err=True)
    return {"decision": word}


def _field(name: str, spec: Mapping[str, Json], form: Mapping[str, Json]) -> Json:
    """Ask for the value of a field; None for none. Validated with the form."""
    inner = object_of(spec.get("items")) if spec.get("type") == "array" else spec
    options = objects_of(inner.get("oneOf") or inner.get("anyOf"))
    choices = [one.get("const") for one in options] or list_of(inner.get("enum"))
    labels = [str(spec.get("title") or name), str(spec.get("description") or ""), ", ".join(map(str, choices))]
    many = " (several, with , between them)" if spec.get("type") == "array" else ""
    default = spec.get("default", None if name in list_of(form.get("required")) else "")
    if isinstance(default, list):
        default = ", ".join(map(str, default))
    text = str(
        click.prompt("  " + " – ".join(part for part in labels if part) + many, default=default, err=True)
    ).strip()
    if not text:
        return None
    if spec.get("type") == "array":
        return [part.strip() for part in text.split(",") if part.strip()]
    if spec.get("type") == "boolean":
        return {"yes": True, "y": True, "true": True, "no": False, "n": False, "false": False}.get(text.lower(), text)
    if spec.get("type") in ("integer", "number"):
        try:
            number: Json = json.loads(text)
        except ValueError:
            return text
        return number
    return text


# --- `timestep-lab demo`: a tour in the terminal, without a key or network access


MODEL = "demo/assistant"
QUESTION = "What's the weather in Oakland and in Berkeley?"
PLACES = ("Oakland", "Tokyo", "London", "Paris", "Nairobi", "Sydney", "Reykjavik", "San Francisco")
CASES = [{"input": f"What's the weather in {place}?", "expected": "°F"} for place in PLACES]


@click.command("demo")
@store_option
@click.pass_obj
def demo_command(context: Context) -> int:
    """A conversation with a handoff, tools and an approval; its trace; and a comparison of two models.

    The demo models are deterministic programs, not language models, and the weather data is recorded, so no key or
    network is needed. Everything is stored; the commands printed at the end show it again.
    """

    async def run() -> int:
        # Use recorded weather even if the service is reachable: the output is the same everywhere, and nothing is sent.
        async with context.open(weather_mode="recorded") as lab:
            return await demonstrate(lab, console())

    return run_async(run())


async def demonstrate(lab: Lab, out: Console) -> int:
    out.print("[bold]1 · A conversation[/]  [dim]the model is a deterministic program, not a language model[/]\n")
    run = await converse(lab, out)
    out.print("\n[bold]2 · Its trace[/]\n")
    lab.writer.flush()
    print_trace(out, lab.store.traces.get(run.trace_id), lab.store.traces.spans(run.trace_id))
    out.print("\n[bold]3 · Two models side by side[/]\n")
    await compare(lab, out)
    out.print("\n[bold]Where to look next[/]")
    for line, what in (
        (f"timestep-lab traces show {run.trace_id[:8]}", "this trace again"),
        ('timestep-lab sql "select * from generations"', "everything is stored as rows"),
        ("timestep-lab serve", "chat, traces and comparisons in the browser"),
        ("timestep-lab lab", "the same in notebooks"),
        ("timestep-lab doctor", "which real models are ready"),
    ):
        out.print(f"  {escape(line):<48} [dim]{what}[/]")
    return 0 if run.status == "completed" else 1


async def converse(lab: Lab, out: Console) -> Run:
    """Run one turn: a handoff, `think` and `get_weather`. The call for Berkeley needs approval, which is given."""
    renderer = Renderer(out)
    stream = lab.stream(QUESTION, agent="Personal Assistant", model=MODEL)
    async for event in stream:
        renderer.show(event)
    run = stream.run
    while run.status == "needs_approval":
        out.print(f"  [bold yellow]approved[/] [dim]equivalent to:[/] timestep-lab approve {run.id}")
        decisions = {waiting.call_id: {"decision": "approved"} for waiting in run.interruptions}
        stream = lab.resume(run.id, decisions)
        async for event in stream:
            renderer.show(event)
        run = stream.run
    return run


async def compare(lab: Lab, out: Console) -> None:
    """Compare the assistant with a model that only repeats its input: which reports the temperature?"""
    grid = await lab.compare(
        CASES,
        models=[MODEL, "demo/echo"],
        scorers=["contains", "tool_used:get_weather"],
        approve="all",
        agents="Personal Assistant",
    )
    from timestep_lab.cli.compare import print_grid

    print_grid(out, grid)
