"""`timestep-lab models`: providers and models."""

from __future__ import annotations

import click

from timestep_lab.cli.context import console, json_option, print_json, say, store_option, with_lab
from timestep_lab.cli.render import print_rows
from timestep_lab.lab import Lab


@click.group("models")
def command() -> None:
    """List providers and models; download a small local model."""


@command.command("list")
@click.option("--provider", help="A provider's prefix: list its models. Default: list the providers.")
@json_option
@store_option
@with_lab
async def list_models(lab: Lab, provider: str | None, as_json: bool) -> int:
    """List the providers and whether each is ready, or one provider's models."""
    if provider is not None:
        models = await lab.router.list_models(provider)
        if as_json:
            print_json(models)
        else:
            say("\n".join(models))
        return 0
    states = lab.router.providers()
    columns = ["prefix", "ready", "detail", "next step"]
    rows = [[s.prefix + "/", s.ready, s.detail, "" if s.ready else s.next_step] for s in states]
    if as_json:
        print_json([dict(zip(["prefix", "ready", "detail", "next_step"], row, strict=True)) for row in rows])
    else:
        print_rows(console(), columns, [[row[0], "yes" if row[1] else "no", *row[2:]] for row in rows])
    return 0


@command.command("pull")
@click.argument("name")
def pull(name: str) -> int:
    """Download the weights of a small local model (smollm2-135m, 98 MB, Apache-2.0), to use as local/NAME."""
    from timestep_lab.runtime.adapters.local import pull as fetch

    say(fetch(name))
    return 0
