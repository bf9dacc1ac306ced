"""`timestep-lab serve`, `token` and `lab`: the served app, tokens for it, and JupyterLab."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import threading
from datetime import timedelta
from pathlib import Path

import click

from timestep_lab.cli.context import Context, say, store_option
from timestep_lab.model.errors import StoreReadOnlyError
from timestep_lab.resources import data_path, notebooks_path

# --- `timestep-lab token`: a token for a served lab, for anyone who can open its store


@click.command("token")
@click.option("--user", default=None, metavar="ID", help="User of the token; default: the lab's own user.")
@click.option("--days", type=click.IntRange(1, 3650), default=30, show_default=True, help="Validity in days.")
@store_option
@click.pass_obj
def token_command(context: Context, user: str | None, days: int) -> int:
    """Print a token for Lab("http://…", token=…) and the API. Works while the lab is served."""
    from timestep_lab.runtime.settings import Settings
    from timestep_lab.server.gate import Tokens
    from timestep_lab.store.store import secret_of

    with context.open_store() as store:
        tokens = Tokens(secret_of(store.db, Settings.load().secret))
        say(tokens.issue(user or store.user_id, anonymous=False, lifetime=timedelta(days=days)))
    return 0


# --- `timestep-lab lab`: JupyterLab with a copy of the notebooks


@click.command("lab", context_settings={"ignore_unknown_options": True})
@click.option(
    "--folder", type=click.Path(path_type=Path, file_okay=False), default=Path("timestep-notebooks"), show_default=True,
    help="Folder to copy the notebooks to. Existing files are not overwritten.",
)  # fmt: skip
@click.option("--no-open", is_flag=True, help="Only copy the notebooks; do not start JupyterLab.")
@click.argument("jupyter_options", nargs=-1, type=click.UNPROCESSED)
def lab_command(folder: Path, no_open: bool, jupyter_options: tuple[str, ...]) -> int:
    """Copy the notebooks to a folder and open JupyterLab there.

    Options after `--` are passed to JupyterLab, for example: -- --no-browser
    """
    copied = copy_notebooks(folder)
    say(f"{len(copied)} new files in {folder.resolve()}")
    if no_open:
        return 0
    tour = folder / "00_tour.ipynb"
    where = ["--ServerApp.root_dir", str(folder.resolve())]
    start = [f"--LabApp.default_url=/lab/tree/{tour.name}"] if tour.exists() else []
    # JupyterLab refuses to run as root, often the only user in a container. It listens on loopback and requires a token.
    root = ["--allow-root"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
    os.execv(sys.executable, [sys.executable, "-m", "jupyterlab", *where, *start, *root, *jupyter_options])


def copy_notebooks(folder: Path) -> list[Path]:
    """Copy the notebooks and their data, without overwriting. Raises `StoreReadOnlyError` if the folder is not
    writable.
    """
    wanted = {path: folder / path.name for path in sorted(notebooks_path().glob("*.ipynb"))}
    for path in sorted(data_path().rglob("*")):
        if path.is_file() and not path.name.startswith("."):
            wanted[path] = folder / "data" / path.relative_to(data_path())
    copied = []
    try:
        for source, target in wanted.items():
            if not target.exists():
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source, target)
                copied.append(target)
    except OSError as error:
        raise StoreReadOnlyError(
            f"The notebooks could not be copied to {folder}: {error.strerror}.", "Choose another folder with --folder."
        ) from error
    return copied


@click.command("serve")
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", type=click.IntRange(0, 65535), default=8765, show_default=True, help="0: a free one.")
@click.option(
    "--workers",
    type=click.IntRange(1, 64),
    default=1,
    show_default=True,
    help="Worker processes, for a lab in Postgres; for example the number of CPU cores.",
)
@click.option(
    "--with-input",
    is_flag=True,
    hidden=True,
    help="Stop when standard input is closed (when the parent process ends).",
)
@store_option
@click.pass_obj
def serve_command(context: Context, host: str, port: int, workers: int, with_input: bool) -> int:
    """Serve the lab: chat, traces, comparisons and the API. Stops cleanly on SIGTERM or Ctrl-C."""
    from timestep_lab.server.server import serve

    if with_input:
        threading.Thread(target=_stop_with_input, daemon=True).start()
    with context.open() as lab:
        serve(lab, host=host, port=port, announce=say, ends_process=True, workers=workers)
    return 0


def _stop_with_input() -> None:
    # Not through sys.stdin: a waiting thread would hold its lock when the interpreter exits.
    while os.read(0, 4096):
        pass
    signal.raise_signal(signal.SIGINT)
