"""What a tool's server asks in the middle of a call is answered in the terminal; the call would end with the process."""

from __future__ import annotations

import os
import pty
import select
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from tests.cli.conftest import Done

ASKING = str(Path(__file__).parents[1] / "mcp" / "servers" / "asking.py")
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")


@pytest.fixture
def host(cli: Callable[..., Done]) -> None:
    cli("mcp", "add", "asking", "--", sys.executable, ASKING)
    cli("agents", "add", "Host", "--tool", "asking.*", "--model", "demo/assistant")


def in_a_terminal(answers: Sequence[str], *arguments: str) -> tuple[int, str]:
    """Exit code and output of a command, whose prompts are answered in order."""
    ours, theirs = pty.openpty()
    env = {**os.environ, "TERM": "dumb", "COLUMNS": "160", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    program = subprocess.Popen(
        [sys.executable, "-m", "timestep_lab", *arguments], stdin=theirs, stdout=theirs, stderr=theirs, env=env
    )
    os.close(theirs)
    said, left, until = "", list(answers), time.monotonic() + 60
    try:
        while time.monotonic() < until:
            if not select.select([ours], [], [], 0.2)[0]:
                if left and said.endswith(": "):
                    os.write(ours, f"{left.pop(0)}\n".encode())
                continue
            try:
                said += os.read(ours, 65536).decode(errors="replace")
            except OSError:  # The program has ended.
                break
        return program.wait(10), said
    finally:
        program.kill()
        os.close(ours)


@pytest.mark.usefixtures("host")
def test_a_form_is_filled_in_in_the_terminal_until_it_is_valid() -> None:
    answers = ["accept", "A", "3", "pasta", "yes", "", "Ada", "3", "pasta", "yes", ""]
    code, said = in_a_terminal(answers, "run", "call dine {}", "--agent", "Host")
    assert "asking asks: What shall we prepare?" in said
    assert "The form is not valid: name: 'A' is too short" in said
    assert '{"name":"Ada","guests":3,"meal":"pasta","garden":true,"note":null}' in said.replace("\r\n", "")
    assert code == 0


@pytest.mark.usefixtures("host")
def test_a_model_is_only_asked_for_a_server_when_the_person_says_so() -> None:
    code, said = in_a_terminal(["decline"], "run", "call consult {}", "--agent", "Host")
    assert "Say yes." in said
    assert "it said" not in said
    assert code == 0


@pytest.mark.usefixtures("host")
def test_without_a_terminal_a_question_is_dismissed_and_said_to_be(cli: Callable[..., Done]) -> None:
    done = cli("run", "call book {}", "--agent", "Host")
    assert "nothing booked (cancel)" in done.out
    assert "asking asks: Whose table? It was dismissed, since there is no terminal to answer in." in done.err
    assert done.code == 0
