"""`timestep-lab approve`: decide about a paused run, from any process."""

from __future__ import annotations

import click

from timestep_lab.cli.context import console, json_option, print_json, store_option, with_lab
from timestep_lab.cli.render import Renderer, print_rows
from timestep_lab.cli.run import finish
from timestep_lab.lab import Lab


@click.command("approve")
@click.argument("run_id", required=False)
@click.option("--reject", is_flag=True, help="Refuse instead.")
@click.option("--message", default="", help="What the model is told when you refuse.")
@click.option("--call", "call_id", help="Decide about this call only; default: all that wait.")
@click.option("--always", is_flag=True, help="Do not ask again for this tool in this thread.")
@json_option
@store_option
@with_lab
async def command(
    lab: Lab, run_id: str | None, reject: bool, message: str, call_id: str | None, always: bool, as_json: bool
) -> int:
    """Approve (or reject) what run RUN_ID waits for, and stream the rest of it. Without RUN_ID: list what waits."""
    if run_id is None:
        return _list(lab, as_json)
    waiting = lab.approvals[run_id]
    chosen = [i.call_id for i in waiting.interruptions if call_id in (None, i.call_id)]
    decision = {"decision": "rejected" if reject else "approved", "message": message, "always": always}
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
