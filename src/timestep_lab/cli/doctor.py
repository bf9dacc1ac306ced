"""`timestep-lab doctor`: is everything ready, and if not, what to do."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click
from rich.markup import escape

from timestep_lab import __version__
from timestep_lab.cli.context import Context, console, json_option, print_json, store_option
from timestep_lab.model.errors import LabError, SettingsError
from timestep_lab.runtime.settings import Settings

if TYPE_CHECKING:
    from timestep_lab.store.store import Store

EXTRAS = {
    "local": ("xllamacpp", "models in this process (local/…)"),
    "postgres": ("psycopg", "a lab in PostgreSQL"),
    "files": ("wordllama", "search in files by meaning, offline"),
    "scale": ("distributed", "comparisons on a Dask cluster"),
}


@dataclass(frozen=True)
class Finding:
    what: str
    state: str
    """ready, missing (something optional), broken."""
    detail: str
    next_step: str = ""


@click.command("doctor")
@json_option
@store_option
@click.pass_obj
def command(context: Context, as_json: bool) -> int:
    """Each provider, the store and the parts in the browser: ready, or what is missing and what to do. Ends with 1 if something is broken."""
    findings = list(examine(context))
    if as_json:
        print_json([finding.__dict__ for finding in findings])
    else:
        out = console()
        signs = {"ready": "[green]✓[/]", "missing": "[dim]–[/]", "broken": "[red]✕[/]"}
        for finding in findings:
            then = f"  [dim]{escape(finding.next_step)}[/]" if finding.next_step else ""
            out.print(f"{signs[finding.state]} {escape(finding.what)}: {escape(finding.detail)}{then}")
    return int(any(finding.state == "broken" for finding in findings))


def examine(context: Context) -> Iterator[Finding]:
    python = ".".join(str(part) for part in sys.version_info[:3])
    yield Finding("timestep-lab", "ready", f"{__version__} on Python {python}")
    try:
        Settings.load()
    except SettingsError as error:
        # All that follows depends on them.
        yield Finding("settings", "broken", error.message, error.next_step)
        return
    try:
        with context.open_store() as store:
            yield Finding("store", "ready", f"{store.db.url} ({store.db.dialect})")
            if store.db.dialect == "postgres":
                yield _vectors(store)
    except LabError as error:
        yield Finding("store", "broken", error.message, error.next_step)
    yield from _providers()
    yield _browser_assets()
    for extra, (module, what) in EXTRAS.items():
        if importlib.util.find_spec(module):
            yield Finding(f"extra [{extra}]", "ready", what)
        else:
            yield Finding(
                f"extra [{extra}]", "missing", f"not installed: {what}", f"pip install 'timestep-lab[{extra}]'"
            )


def _vectors(store: Store) -> Finding:
    found = store.db.query(store.user_id, "select extversion from pg_extension where extname = 'vector'").one()
    if found:
        return Finding("pgvector", "ready", f"{found[0]}, compares the passages of files")
    return Finding(
        "pgvector", "missing", "passages of files are compared by plain SQL, slower and as exact",
        "Install the extension on the server before the lab is made.",
    )  # fmt: skip


def _providers() -> Iterator[Finding]:
    from timestep_lab.runtime.router import Router
    from timestep_lab.runtime.settings import Settings

    settings = Settings.load()
    yield Finding("default model", "ready", settings.default_model)
    for status in Router(settings).providers():
        state = "ready" if status.ready else "missing"
        yield Finding(f"{status.prefix}/", state, status.detail, "" if status.ready else status.next_step)


def _browser_assets() -> Finding:
    from timestep_lab.ui.assets import STATIC, build

    try:
        sizes = [len(build(stem, host)) for stem in ("chat", "explorer") for host in ("notebook", "panel")]
    except (OSError, ValueError) as error:
        return Finding("browser parts", "broken", str(error), "Install timestep-lab again.")
    return Finding(
        "browser parts",
        "ready",
        f"{sum(sizes) // 1000} kB of scripts and styles in {STATIC.name}/, none from the network",
    )
