"""`timestep-lab agents`: stored agents."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import click

from timestep_lab.cli.context import console, json_option, print_json, say, store_option, with_lab
from timestep_lab.cli.render import print_rows
from timestep_lab.cli.run import limit_options, parse_settings
from timestep_lab.lab import Lab
from timestep_lab.model.clock import iso
from timestep_lab.model.records import differences


@click.group("agents")
def command() -> None:
    """List, show, add and remove agents, and their versions."""


@command.command("list")
@json_option
@store_option
@with_lab
async def list_agents(lab: Lab, as_json: bool) -> int:
    """List all agents, oldest first."""
    if as_json:
        print_json([asdict(agent) for agent in lab.agents.list()])
        return 0
    names = {agent.id: agent.name for agent in lab.agents.list()}
    print_rows(
        console(),
        ["name", "version", "model", "tools", "hands off to", "id"],
        [
            [
                a.name, a.version, a.model or f"({lab.default_model})", ", ".join(t.partition(".")[2] or t for t in a.tool_ids),
                ", ".join(names.get(h, h) for h in a.handoff_ids), a.id,
            ]
            for a in lab.agents.list()
        ],
    )  # fmt: skip
    return 0


@command.command("show")
@click.argument("agent")
@store_option
@with_lab
async def show_agent(lab: Lab, agent: str) -> int:
    """Print AGENT (a name, an id, or a version such as NAME@3) as JSON."""
    print_json(asdict(lab.agents.get(agent)))
    return 0


@command.command("versions")
@click.argument("agent")
@json_option
@store_option
@with_lab
async def list_versions(lab: Lab, agent: str, as_json: bool) -> int:
    """List all versions of AGENT, newest first, and what each changed. Refer to one as NAME@3."""
    versions = lab.agents.versions(agent)
    if as_json:
        print_json([asdict(version) for version in versions])
        return 0
    before = {version.version: version for version in versions}
    rows = [
        [
            version.version, iso(version.updated_at), version.saved_by,
            ", ".join(differences(before[version.version - 1], version)) if version.version - 1 in before else "",
        ]
        for version in versions
    ]  # fmt: skip
    print_rows(console(), ["version", "saved", "by", "changed"], rows)
    return 0


@command.command("diff")
@click.argument("before")
@click.argument("after")
@json_option
@store_option
@with_lab
async def diff_agents(lab: Lab, before: str, after: str, as_json: bool) -> int:
    """Show the differences between two versions, such as: agents diff "Front desk@3" "Front desk@7"."""
    rows = lab.agents.diff(before, after).values.tolist()
    if as_json:
        print_json([dict(zip(("part", "before", "after"), row, strict=True)) for row in rows])
        return 0
    print_rows(console(), ["part", "before", "after"], rows, empty="No differences.")
    return 0


@command.command("restore")
@click.argument("version")
@store_option
@with_lab
async def restore_agent(lab: Lab, version: str) -> int:
    """Save an earlier VERSION, such as "Front desk@3", as the newest."""
    agent = lab.agents.restore(version)
    say(f"{agent.name}@{agent.version}")
    return 0


@command.command("add")
@click.argument("name")
@click.option("--instructions", default="", help="The agent's instructions.")
@click.option("--description", default="", help="Description for other agents that may hand off to it.")
@click.option("--model", help="prefix/name; default: the lab's default model.")
@click.option("--tool", "tools", multiple=True, help="get_weather, think, switch_theme, or server.tool; repeatable.")
@click.option("--handoff", "handoffs", multiple=True, help="An agent it may hand off to; repeatable.")
@click.option("--setting", "settings", multiple=True, metavar="NAME=VALUE", help="A model setting; repeatable.")
@limit_options
@store_option
@with_lab
async def add_agent(
    lab: Lab, /, name: str, instructions: str, description: str, model: str | None, tools: tuple[str, ...],
    handoffs: tuple[str, ...], settings: tuple[str, ...], **limits: Any,
) -> int:  # fmt: skip
    """Store a new agent called NAME."""
    agent = lab.agents.create(
        name=name, instructions=instructions, description=description, model=model, tools=tools, handoffs=handoffs,
        model_settings=parse_settings(settings), **limits,
    )  # fmt: skip
    say(agent.id)
    return 0


@command.command("remove")
@click.argument("agent")
@store_option
@with_lab
async def remove_agent(lab: Lab, agent: str) -> int:
    """Remove AGENT (a name or an id). Its threads and traces are kept."""
    lab.agents.delete(agent)
    return 0
