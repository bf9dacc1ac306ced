"""`timestep-lab run`: one turn, streamed."""

from __future__ import annotations

import json
from typing import Any

import click

from timestep_lab.cli.context import console, json_option, print_json, say, store_option, with_lab
from timestep_lab.cli.render import Renderer, run_object
from timestep_lab.lab import Lab, Run
from timestep_lab.model.errors import UsageError

PAUSED = 3


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
@click.option("--budget-usd", type=click.FloatRange(0, min_open=True), help="Stop the run at this cost, in US dollars.")
@click.option("--max-tokens-total", type=click.IntRange(1), help="Stop it at so many tokens, input and output.")
@click.option(
    "--timeout", "timeout_s", type=click.FloatRange(0, min_open=True), help="Stop it after so many seconds of work."
)
@click.option("--max-tool-calls", type=click.IntRange(0), help="Stop it before it calls a tool more often.")
@json_option
@store_option
@with_lab
async def command(
    lab: Lab, prompt: str, agent: str, model: str | None, thread: str | None, settings: tuple[str, ...], approve: str,
    tools: str | None, on_miss: str, max_turns: int, budget_usd: float | None, max_tokens_total: int | None, timeout_s: float | None,
    max_tool_calls: int | None, as_json: bool,
) -> int:  # fmt: skip
    """Send PROMPT to an agent and stream the answer.

    Ends with 3 when the run waits for approval; approve it from here or from anywhere with `timestep-lab approve RUN_ID`.
    """
    stream = lab.stream(
        prompt, agent=agent, model=model, thread=thread, approve=approve, max_turns=max_turns,  # type: ignore[arg-type]
        model_settings=parse_settings(settings), budget_usd=budget_usd, max_tokens_total=max_tokens_total, timeout_s=timeout_s,
        max_tool_calls=max_tool_calls, tools=tools, on_miss=on_miss,
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


def parse_settings(pairs: tuple[str, ...]) -> dict[str, Any] | None:
    """`("temperature=0.2",)` → `{"temperature": 0.2}`; a value is JSON if it can be read as JSON, else text."""
    if not pairs:
        return None
    settings: dict[str, Any] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals:
            raise UsageError(f"--setting {pair!r} has no value.", "Write it as --setting name=value.")
        try:
            settings[name] = json.loads(value)
        except ValueError:
            settings[name] = value
    return settings
