"""What models, traces and other users say reaches a terminal as text, never as commands to it (CWE-150)."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

CLI = Path(__file__).parents[2] / "src" / "timestep_lab" / "cli"
NASTY = "hi\x1b]52;c;cHduZWQ=\x07\x1b]0;pwned\x1b\\\x1b[2J\x9b2J\x7f\rover"
HARMFUL = re.compile(r"\x1b\]|\x1b\[\d*J|[\x07\x7f\x80-\x9f]|\r(?!\n)")
"""Commands that Rich does not write itself: clipboard and title, clear the screen, C1, going back to the line's start."""


def on_a_terminal(command: Sequence[str], folder: Path) -> str:
    """What a command writes to a terminal of its own."""
    ours, theirs = pty.openpty()
    env = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "200", "TIMESTEP_LAB_DEMO_DELAY_MS": "0"}
    full = [sys.executable, "-m", "timestep_lab", "--store", "lab.duckdb", *command]
    process = subprocess.Popen(full, cwd=folder, env=env, stdin=subprocess.DEVNULL, stdout=theirs, stderr=theirs)
    os.close(theirs)
    said = b""
    while True:
        try:
            part = os.read(ours, 65536)
        except OSError:  # Linux's word for the end of a terminal.
            break
        if not part:
            break
        said += part
    os.close(ours)
    process.wait(60)
    return said.decode("utf-8")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A lab with one conversation and one imported trace, whose every text is hostile."""
    folder = tmp_path_factory.mktemp("terminal")
    attributes = [
        {"key": key, "value": {"stringValue": NASTY}}
        for key in ("gen_ai.request.model", "gen_ai.agent.name", "input.value", "output.value", "session.id")
    ]
    attributes.append({"key": "gen_ai.operation.name", "value": {"stringValue": "chat"}})
    span = {
        "traceId": "5" * 32, "spanId": "6" * 16, "name": NASTY, "startTimeUnixNano": "1790000000000000000", "endTimeUnixNano": "1790000001000000000",
        "attributes": attributes, "status": {"code": 2, "message": NASTY},
    }  # fmt: skip
    (folder / "nasty.json").write_text(json.dumps({"resourceSpans": [{"scopeSpans": [{"spans": [span]}]}]}), "utf-8")
    on_a_terminal(["traces", "import", "nasty.json"], folder)
    return folder


def test_an_answer_is_shown_with_its_control_characters_escaped(folder: Path) -> None:
    said = on_a_terminal(["run", NASTY, "--model", "demo/echo"], folder)
    assert r"\x1b]52;c;cHduZWQ=" in said
    assert HARMFUL.search(said) is None


@pytest.mark.parametrize(
    "command",
    [
        ["traces", "list"],
        ["traces", "show", "5" * 32],
        ["traces", "show", "5" * 32, "--json"],
        ["sql", "select name, model, error, input, output from spans"],
        ["sql", "select name, model, error, input, output from spans", "--json"],
        ["threads", "list"],
        ["threads", "show", NASTY],
        ["traces", "diff", "5" * 32, "5" * 32],
        ["traces", "list", "--filter", NASTY],
    ],
    ids=" ".join,
)
def test_no_command_lets_text_command_the_terminal(folder: Path, command: list[str]) -> None:
    said = on_a_terminal(command, folder)
    assert said.strip()
    assert HARMFUL.search(said) is None, repr(said)


def test_json_stays_json_that_says_the_same(folder: Path) -> None:
    said = on_a_terminal(["sql", f"select name from spans where trace_id = '{'5' * 32}'", "--json"], folder)
    assert json.loads(said) == [{"name": NASTY}]


def test_everything_is_printed_by_the_functions_that_escape() -> None:
    others = [file for file in CLI.rglob("*.py") if file.name != "context.py"]
    assert not [
        file.name for file in others if re.search(r"click\.s?echo|(?<![\w.])print\(|Console\(", file.read_text("utf-8"))
    ]
