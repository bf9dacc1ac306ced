"""Records anew what each sender sends: `python -m tests.traces.senders.record [SENDER ...]`.

Each sender is installed in its newest version into an environment of its own, runs its script against `model_server`, and what its
exporter posted is written to `recorded/NAME.pb`, with the versions that sent it in `recorded/versions.json`. What the lab then shows of it
is in `recorded/rows.json`; where that changed, `--report FILE` says how. The table in the README is made of the same rows: `--table` prints it.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.traces.senders import RECORDED, SENDERS, Sender
from tests.traces.senders.model_server import ModelServer
from timestep_lab.runtime.interchange import import_file
from timestep_lab.store.store import open_store
from timestep_lab.ui.messages import plain_text, read_messages

HERE = Path(__file__).parent
VERSIONS, ROWS = RECORDED / "versions.json", RECORDED / "rows.json"
TIMEOUT_S = 180


def record(sender: Sender, home: Path) -> dict[str, str]:
    """The versions that sent it. `home`: its environment."""
    python = home / "bin" / "python"
    with ModelServer() as server:
        environment = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
        environment |= {
            "MODEL_SERVER": server.url, "OTEL_EXPORTER_OTLP_ENDPOINT": server.url, "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
            "OPENAI_BASE_URL": f"{server.url}/v1", "OPENAI_API_BASE": f"{server.url}/v1", "OPENAI_API_KEY": "none", "ANTHROPIC_BASE_URL": server.url,
            "ANTHROPIC_API_KEY": "none", "AWS_ACCESS_KEY_ID": "none", "AWS_SECRET_ACCESS_KEY": "none", "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ENDPOINT_URL_BEDROCK_RUNTIME": server.url, "OTEL_SERVICE_NAME": sender.name, "CREWAI_DISABLE_TELEMETRY": "true", "OTEL_RESOURCE_ATTRIBUTES": "",
            **sender.environment,
        }  # fmt: skip
        with tempfile.TemporaryDirectory() as folder:
            # Away from here, so that a recording names no place of this machine. JavaScript looks for modules beside the script.
            beside = home if sender.npm else Path(folder)
            script = shutil.copy(HERE / f"send_{sender.script or sender.name}{'.mjs' if sender.npm else '.py'}", beside)
            shutil.copy(HERE / "exporting.py", beside)
            command = ["node" if sender.npm else python, script]
            subprocess.run(command, env=environment, cwd=beside, check=True, timeout=TIMEOUT_S)
        if not server.requests:
            raise RuntimeError(f"{sender.name} sent nothing; asked was for {server.paths}.")
        # One message after another is one message: that is how protobuf joins lists.
        (RECORDED / f"{sender.name}.pb").write_bytes(b"".join(server.requests))
    if sender.npm:
        installed = {
            name: json.loads((home / "node_modules" / name / "package.json").read_text())["version"]
            for name in sender.npm
        }
        return dict(sorted(installed.items()))
    listed = "import json,importlib.metadata as m;print(json.dumps({d.name: d.version for d in m.distributions()}))"
    installed = json.loads(subprocess.run([python, "-c", listed], capture_output=True, check=True).stdout)
    named = {requirement.partition("[")[0].partition("=")[0].partition("<")[0] for requirement in sender.requirements}
    return {name: version for name, version in sorted(installed.items()) if name in named}


def install(sender: Sender, home: Path) -> Path:
    if sender.npm:
        (home / "package.json").write_text("{}")
        subprocess.run(["npm", "install", "--silent", "--no-audit", "--no-fund", *sender.npm], cwd=home, check=True)
    else:
        subprocess.run([sys.executable, "-m", "venv", home], check=True)
        subprocess.run([home / "bin" / "python", "-m", "pip", "install", "--quiet", *sender.requirements], check=True)
    return home


def rows_of(recording: Path) -> dict[str, Any]:
    """What the lab shows of a recording; null is what its sender did not tell."""
    store = open_store(":memory:")
    try:
        imported = import_file(recording, store)
        if imported.rejected:
            raise RuntimeError(f"{recording.name}: {imported.problem}")

        def rows(sql: str) -> list[tuple[Any, ...]]:
            return store.sql(sql).rows

        kinds = dict(rows("select kind, count(*) from spans group by 1 order by 1"))
        models = [model for (model,) in rows("select distinct model from spans where model is not null order by 1")]
        agents = [
            path for (path,) in rows("select distinct agent_path from traces where agent_path is not null order by 1")
        ]
        [(tokens_in, tokens_out, cost)] = rows(
            "select sum(input_tokens), sum(output_tokens), sum(cost_usd) from traces"
        )
        [(cached,)] = rows("select max(cached_tokens) from spans where kind in ('generation', 'agent')")
        spoken = rows(
            "select input, output from spans where kind in ('generation', 'agent', 'other') order by started_at, span_id"
        )
        asked = [
            message
            for given, _ in spoken
            for message in read_messages(_value(given)) or ()
            if message["role"] == "user"
        ]
        said = [text for _, gave in spoken if (text := plain_text(read_messages(_value(gave), role="assistant") or ()))]
        return {
            "kinds": {kind: kinds[kind] for kind in kinds if kind != "other"} or None,
            "agents": agents or None,
            "model": models or None,
            "tokens": None if tokens_in is None else [int(tokens_in), None if tokens_out is None else int(tokens_out)],
            "cached": cached,
            "cost": None if cost is None else round(cost, 9),
            "messages": [plain_text(asked[:1]), said[-1]] if asked and said else None,
            "tool calls": [[tool, _value(given), _value(gave)] for tool, given, gave in rows("select tool, arguments, result from tool_calls order by started_at")]
            or None,
            "errors": [error.splitlines()[0][:120] for (error,) in rows("select distinct error from spans where error is not null order by 1")] or None,
            "session": [thread for (thread,) in rows("select distinct thread_id from traces where thread_id is not null")] or None,
        }  # fmt: skip
    finally:
        store.close()


def _value(text: str | None) -> Any:
    try:
        return json.loads(text) if text and text[0] in '{["' else text
    except ValueError:
        return text


COLUMNS = ("kinds", "model", "tokens", "cached", "cost", "messages", "tool calls", "errors", "session")


def table() -> str:
    """Of the rows on record, in Markdown."""
    rows, versions = json.loads(ROWS.read_text()), json.loads(VERSIONS.read_text())
    lines = [f"| sender | {' | '.join(COLUMNS)} |", f"|---{'|---' * len(COLUMNS)}|"]
    for sender in SENDERS:
        version = versions[sender.name][sender.names_its_version]
        cells = ["not sent" if _is_untold(column, rows[sender.name][column]) else "✓" for column in COLUMNS]
        lines.append(f"| {sender.title} {version} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _is_untold(column: str, value: Any) -> bool:
    return value is None or (column == "tool calls" and all(given is None and gave is None for _, given, gave in value))


def changes(before: Mapping[str, Any], after: Mapping[str, Any], versions: Mapping[str, Any]) -> str:
    """What the lab shows otherwise now, in Markdown; empty when nothing."""
    lines = []
    for name, rows in after.items():
        was = before.get(name, {})
        differing = [column for column in rows if column != "session" and rows[column] != was.get(column)]
        differing += ["session"] if bool(rows["session"]) != bool(was.get("session")) else []
        if differing:
            lines += [f"### {name}", f"{versions.get(name)}", ""]
            lines += [f"- {column}: `{was.get(column)}` is now `{rows[column]}`" for column in differing] + [""]
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sender", nargs="*", help="all of them if none is named")
    parser.add_argument("--environments", type=Path, help="a folder with an environment for each sender, used as it is")
    parser.add_argument(
        "--report", type=Path, help="write what changed to this file; nothing is written when nothing did"
    )
    parser.add_argument("--rows", action="store_true", help="only read the recordings again")
    parser.add_argument("--table", action="store_true", help="only print the table for the README")
    arguments = parser.parse_args()
    if arguments.table:
        print(table())
        return 0
    chosen = [sender for sender in SENDERS if not arguments.sender or sender.name in arguments.sender]
    versions, before = (json.loads(path.read_text()) if path.exists() else {} for path in (VERSIONS, ROWS))
    failed = []
    for sender in chosen if not arguments.rows else ():
        try:
            if arguments.environments:
                versions[sender.name] = record(sender, arguments.environments / sender.environment_name)
            else:
                with tempfile.TemporaryDirectory() as folder:
                    versions[sender.name] = record(sender, install(sender, Path(folder)))
        except (subprocess.SubprocessError, RuntimeError) as error:
            print(f"{sender.name}: {error}", file=sys.stderr)
            failed.append(sender.name)
        else:
            print(f"{sender.name}: {versions[sender.name]}", flush=True)
    after = {
        **before,
        **{sender.name: rows_of(RECORDED / f"{sender.name}.pb") for sender in chosen if sender.name not in failed},
    }
    for path, found in ((VERSIONS, versions), (ROWS, after)):
        path.write_text(json.dumps(dict(sorted(found.items())), indent=1, ensure_ascii=False) + "\n")
    report = changes(before, after, versions)
    if failed:
        report += f"### Not recorded\n\n{', '.join(failed)}\n"
    if report and arguments.report:
        arguments.report.write_text(report)
    print(report)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
