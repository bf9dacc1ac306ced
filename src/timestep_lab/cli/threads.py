"""`timestep-lab threads`: conversations."""

from __future__ import annotations

from dataclasses import asdict

import click

from timestep_lab.cli.context import console, json_option, print_json, say, store_option, with_lab
from timestep_lab.cli.render import print_rows
from timestep_lab.lab import Lab


@click.group("threads")
def command() -> None:
    """List, show and remove conversations."""


@command.command("list")
@click.option("--limit", type=click.IntRange(1), default=20, show_default=True)
@json_option
@store_option
@with_lab
async def list_threads(lab: Lab, limit: int, as_json: bool) -> int:
    """List conversations, newest first."""
    threads = lab.threads.list(limit)
    if as_json:
        print_json([asdict(thread.record) for thread in threads])
    else:
        print_rows(console(), ["id", "title", "created"], [[t.id, t.title, t.record.created_at] for t in threads])
    return 0


@command.command("show")
@click.argument("thread_id")
@json_option
@store_option
@with_lab
async def show_thread(lab: Lab, thread_id: str, as_json: bool) -> int:
    """Print the conversation THREAD_ID as Markdown, or its items as JSON."""
    thread = lab.threads[thread_id]
    if as_json:
        print_json([asdict(item) for item in thread.items])
    else:
        say(thread.transcript())
    return 0


@command.command("remove")
@click.argument("thread_id")
@store_option
@with_lab
async def remove_thread(lab: Lab, thread_id: str) -> int:
    """Delete THREAD_ID with its items and pending approvals. Its traces are kept."""
    lab.threads[thread_id].delete()
    return 0
