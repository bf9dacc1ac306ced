"""The command group, and the only place where errors become a line on stderr and an exit code.

0 success · 1 failure · 2 wrong usage · 3 paused for approval · 100 a `--fail-under` rule not met · 130 interrupted
"""

from __future__ import annotations

import atexit
import gc
import importlib
import io
import sys
import traceback
from collections.abc import Sequence

import click

from timestep_lab import __version__
from timestep_lab.cli.context import Context, say
from timestep_lab.model.errors import LabError

COMMANDS = {
    "demo": "timestep_lab.cli.run:demo_command",
    "lab": "timestep_lab.cli.serve:lab_command",
    "serve": "timestep_lab.cli.serve:serve_command",
    "token": "timestep_lab.cli.serve:token_command",
    "run": "timestep_lab.cli.run:run_command",
    "approve": "timestep_lab.cli.run:approve_command",
    "compare": "timestep_lab.cli.compare",
    "traces": "timestep_lab.cli.traces:traces_command",
    "why": "timestep_lab.cli.traces:why_command",
    "blame": "timestep_lab.cli.traces:blame_command",
    "sql": "timestep_lab.cli.traces:sql_command",
    "agents": "timestep_lab.cli.agents",
    "threads": "timestep_lab.cli.stored:threads_command",
    "datasets": "timestep_lab.cli.stored:datasets_command",
    "mcp": "timestep_lab.cli.mcp",
    "models": "timestep_lab.cli.stored:models_command",
    "files": "timestep_lab.cli.stored:files_command",
    "doctor": "timestep_lab.cli.db:doctor_command",
    "db": "timestep_lab.cli.db:db_command",
}
"""The location of each command: a module, and the name in it unless that is `command`. Commands are imported when used."""
NEW_OBJECTS = 50_000
"""New objects after which a command's process looks for garbage; Python's default is 700."""


class LazyGroup(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, _, name = COMMANDS[cmd_name].partition(":")
        command = getattr(importlib.import_module(module), name or "command")
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        from timestep_lab.model.arguments import did_you_mean

        if args and not args[0].startswith("-") and args[0] not in COMMANDS:
            raise click.UsageError(f"There is no command {args[0]!r}.{did_you_mean(args[0], COMMANDS)}", ctx)
        return super().resolve_command(ctx, args)


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option(
    "--store", metavar="STORE", help="A path, or postgresql://…; default: TIMESTEP_LAB_STORE or ./lab.duckdb."
)
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
@click.version_option(__version__, prog_name="timestep-lab")
@click.pass_context
def root(ctx: click.Context, store: str | None, debug: bool) -> None:
    """Build, run and compare AI agents. Start with: timestep-lab demo"""
    ctx.obj = Context(store=store, debug=debug)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    if argv is None:
        _collect_seldom()
    arguments = list(sys.argv[1:] if argv is None else argv)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A Windows pipe or a C locale cannot encode every character: replace those instead of failing.
            stream.reconfigure(errors="replace")
    debug = "--debug" in arguments
    try:
        result = root.main(args=arguments, prog_name="timestep-lab", standalone_mode=False)
        return result if isinstance(result, int) else 0
    except click.exceptions.Exit as exit:
        return exit.exit_code
    except click.ClickException as error:
        say(f"error: {_one_line(_usage(error))}", err=True)
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        say("Interrupted. The output so far is kept.", err=True)
        return 130
    except BrokenPipeError:
        # The reader of the pipe has closed it (`| head`), which is not an error.
        sys.stderr.close()
        return 0
    except LabError as error:
        if debug:
            traceback.print_exc()
        say(
            f"error: {_one_line(f'{error.message} {error.next_step if error.command is None else error.command}')}",
            err=True,
        )
        return error.exit_code
    except Exception as error:  # noqa: BLE001 - last resort: users never see a bare traceback
        if debug:
            traceback.print_exc()
        text = _one_line(f"{type(error).__name__}: {error}")
        say(f"error: internal error: {text}. Run again with --debug for the traceback.", err=True)
        return 1


def _collect_seldom() -> None:
    """Run the garbage collector less often in a process that is one command.

    The modules of the SDKs are some 300,000 objects that stay. Looking through them again and again took a third of a
    command's time to start, and once more at its end.
    """
    gc.set_threshold(NEW_OBJECTS, 10, 10)
    atexit.register(gc.freeze)


def _usage(error: click.ClickException) -> str:
    """The message of a usage error, and where to find the command's help."""
    context = error.ctx if isinstance(error, click.UsageError) else None
    return f"{error.format_message()} See: {context.command_path if context else 'timestep-lab'} --help"


def _one_line(text: str) -> str:
    return " ".join(text.split())
