#!/usr/bin/env python3
"""What a first reader does, timed: clone, empty home, fresh virtual environment, then every command and block of the README as printed.

usage: python .ci/first_run.py [ARTIFACTS]

It runs the shell lines of "Start", every command of its table, and the Python of the README cell by cell in a Jupyter kernel; then it
builds the wheel where there is no compiler and no node, and runs the wheel alone, in an empty folder of a second environment.
The README's test command is left to `.ci/run`. ARTIFACTS (default: test-artifacts) receives the notebook that was run, also as HTML.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
WHEEL_LIMIT = 1_000_000
KEPT = ("LANG", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "SYSTEMROOT")
PATIENCE_S = 120

RUN_CELLS = """
import ast, datetime, sys, nbformat
from nbclient import NotebookClient
from nbconvert import HTMLExporter
code, kept = open(sys.argv[1], encoding="utf-8").read(), sys.argv[2]
starts = [node.lineno for node in compile(code, "README.md", "exec", ast.PyCF_ONLY_AST | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT).body]
lines = code.splitlines()
cells = ["\\n".join(lines[a - 1 : b - 1]) for a, b in zip(starts, [*starts[1:], len(lines) + 1])]
book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
NotebookClient(book, timeout=120, record_timing=True, store_widget_state=False).execute()
nbformat.write(book, kept + ".ipynb")
open(kept + ".html", "w", encoding="utf-8").write(HTMLExporter().from_notebook_node(book)[0])
for cell in book.cells:
    if any("data-tl-static" in output.get("data", {}).get("text/html", "") for output in cell.outputs):
        shown = datetime.datetime.fromisoformat(cell.metadata.execution["shell.execute_reply"])
        print(f"picture {shown.timestamp()} {cell.source.split('#')[0].strip()}")
"""


class FirstReader:
    """A home, a virtual environment and a working folder, none of which anybody used before."""

    def __init__(self, place: Path, name: str, folder: Path) -> None:
        self.folder = folder
        self.home = place / f"{name}-home"
        self.home.mkdir()
        self.bin = place / f"{name}-env" / "bin"
        subprocess.run([sys.executable, "-m", "venv", str(self.bin.parent)], check=True)
        kept = {key: value for key, value in os.environ.items() if key in KEPT or key.startswith("PIP_")}
        self.env = {**kept, "HOME": str(self.home), "PATH": f"{self.bin}:{os.environ['PATH']}", "BROWSER": "true"}

    def sh(self, command: str, **more_env: str) -> str:
        """Run one line; what it printed. Ends the program when it fails."""
        began = time.monotonic()
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", command], cwd=self.folder, env={**self.env, **more_env}, text=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
        )  # fmt: skip
        said(command, began, done.returncode == 0)
        if done.returncode:
            sys.exit(done.stdout[-6000:])
        return done.stdout

    def visit(self, command: str, *pages: str) -> None:
        """Start what serves, open `pages` at the address it prints, stop it as Ctrl-C does."""
        began = time.monotonic()
        process = subprocess.Popen(
            ["bash", "-c", f"exec {command}"], cwd=self.folder, env=self.env, text=True, start_new_session=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        try:
            address = first_address(process, command)
            base, _, query = address.partition("?")
            base = base.split("/lab")[0].rstrip("/")
            for page in pages:
                opened(f"{base}{page}?{query}", process)
            said(command, began, True)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(60)


def said(what: str, began: float, well: bool) -> None:
    print(f"{'ok  ' if well else 'FAIL'} {time.monotonic() - began:6.1f} s  {what}", flush=True)


def first_address(process: subprocess.Popen[str], command: str) -> str:
    """The first printed address that carries a key: `serve` prints one to sign in with, JupyterLab one with its token."""
    assert process.stdout is not None
    printed = []
    for line in process.stdout:
        printed.append(line)
        if found := re.search(r"http://(?:127\.0\.0\.1|localhost):\d+\S*(?:key|token)=\w\S*", line):
            return found.group(0)
    sys.exit(f"{command}: it ended without printing an address.\n{''.join(printed)[-3000:]}")


def opened(address: str, process: subprocess.Popen[str]) -> None:
    """Read a page; while the server still starts, try again."""
    until = time.monotonic() + PATIENCE_S
    while True:
        try:
            with urllib.request.urlopen(address, timeout=PATIENCE_S) as answer:
                if answer.status == 200 and answer.read():
                    return
        except OSError as error:
            if time.monotonic() > until or process.poll() is not None:
                sys.exit(f"{address}: {error}")
        time.sleep(0.2)


def blocks(readme: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", readme, re.S | re.M)


def start_commands(readme: str) -> list[str]:
    """The commands in the table of "Start"."""
    return re.findall(r"^\| `(timestep-lab [^`]+)` \|", readme.split("## Start")[1].split("\n## ")[0], re.M)


def run_readme(place: Path, artifacts: Path) -> float:
    """Everything the README prints, in a clone. The seconds from the clone to the first picture."""
    cloned = time.time()
    subprocess.run(["git", "clone", "-q", str(ROOT), str(place / "project")], check=True)
    reader = FirstReader(place, "readme", place / "project")
    readme = (reader.folder / "README.md").read_text("utf-8")
    for line in blocks(readme, "bash")[0].strip().splitlines():
        reader.sh(line)
    artifacts.mkdir(parents=True, exist_ok=True)
    code, runner = place / "readme.txt", place / "run_cells.py"
    code.write_text("\n".join(blocks(readme, "python")), "utf-8")
    runner.write_text(RUN_CELLS, "utf-8")
    printed = reader.sh(
        f"python {runner} {code} {artifacts.resolve() / 'readme'}", TIMESTEP_LAB_STORE=str(place / "readme.duckdb")
    )
    pictures = [line.split(maxsplit=2)[1:] for line in printed.splitlines() if line.startswith("picture ")]
    if not pictures:
        sys.exit("The README's Python showed no picture.")
    print(f"     pictures: {', '.join(source for _, source in pictures)}")
    for command in start_commands(readme):
        tell(reader, command)
    return float(pictures[0][0]) - cloned


def tell(reader: FirstReader, command: str) -> None:
    kind = command.split()[1]
    if kind == "serve":
        reader.visit(command, "/", "/chat", "/traces", "/healthz")
    elif kind == "lab":
        reader.visit(command, "/lab", "/api/contents/00_tour.ipynb")
    else:
        reader.sh(command)


def run_wheel(place: Path) -> int:
    """Build the wheel and all it needs with no compiler and no node, install it alone, use it. The wheel's size in bytes."""
    builder = FirstReader(place, "build", place / "project")
    tools = place / "tools"
    tools.mkdir()
    for tool in ("bash", "env"):
        (tools / tool).symlink_to(str(shutil.which(tool)))
    bare = f"{builder.bin}:{tools}"
    assert not any(shutil.which(tool, path=bare) for tool in ("node", "npm", "cc", "gcc", "clang", "g++"))
    builder.sh(f"pip wheel --wheel-dir {place / 'wheels'} .", PATH=bare)
    wheel = next((place / "wheels").glob("timestep_lab-*.whl"))
    empty = place / "empty"
    empty.mkdir()
    user = FirstReader(place, "wheel", empty)
    user.sh(f"pip install --no-index --find-links {place / 'wheels'} timestep-lab")
    for command in ("timestep-lab demo", "timestep-lab serve", "timestep-lab lab"):
        tell(user, command)
    return wheel.stat().st_size


def main() -> None:
    artifacts = Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "test-artifacts")
    with tempfile.TemporaryDirectory(prefix="first-run-") as folder:
        first_picture = run_readme(Path(folder), artifacts)
        size = run_wheel(Path(folder))
    print(f"wheel: {size:,} bytes (at most {WHEEL_LIMIT:,})")
    print(f"clone to first picture: {first_picture:.0f} s")
    if size >= WHEEL_LIMIT:
        sys.exit("The wheel is too large.")


if __name__ == "__main__":
    main()
