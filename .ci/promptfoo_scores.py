"""Whether promptfoo's files score here as promptfoo scores them: runs promptfoo itself on the cases that the tests have recorded of it.

    python .ci/promptfoo_scores.py [--keep FOLDER] [--write]

promptfoo is installed from npm into FOLDER, or one that is thrown away. Prints each case that it scores otherwise than recorded, and ends
with 1 if there is one; `--write` records anew. A case is a configuration and an answer, which a provider in JavaScript gives.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

RECORDED = Path(__file__).resolve().parent.parent / "tests" / "evals" / "promptfoo_scores.json"
PER_CASE_S = 120
PROVIDER = """
const fs = require("fs"), path = require("path");
module.exports = class {
  id() { return "recorded"; }
  async callApi() {
    await new Promise((resolve) => setTimeout(resolve, 100));
    return { output: fs.readFileSync(path.join(__dirname, "answer.txt"), "utf8"), cost: 0.001 };
  }
};
"""
OFFLINE = {
    "PROMPTFOO_DISABLE_TELEMETRY": "1",
    "PROMPTFOO_DISABLE_UPDATE": "1",
    "PROMPTFOO_DISABLE_REMOTE_GENERATION": "1",
}
QUIETLY = ("--no-cache", "--no-write", "--no-table", "--no-progress-bar")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--keep", type=Path, help="a folder for promptfoo, to be used again")
    parser.add_argument("--write", action="store_true", help="record what promptfoo gives")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as thrown_away:
        folder = (options.keep or Path(thrown_away)).resolve()
        version = installed(folder)
        recorded = json.loads(RECORDED.read_text("utf-8"))
        now = [{**case, **scored(folder, case)} for case in recorded["cases"]]
    changed = [(was, case) for was, case in zip(recorded["cases"], now, strict=True) if was != case]
    for was, case in changed:
        print(
            f"{case['config']}\n  on {case['output']!r}: {case['score']}, {case['passes']}; recorded: {was['score']}, {was['passes']}"
        )
    print(f"promptfoo {version}: {len(now)} cases, {len(changed)} otherwise than recorded of {recorded['promptfoo']}")
    if options.write:
        RECORDED.write_text(
            json.dumps({"promptfoo": version, "cases": now}, indent=1, ensure_ascii=False) + "\n", "utf-8"
        )
    return int(bool(changed) and not options.write)


def installed(folder: Path) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    package = folder / "node_modules" / "promptfoo" / "package.json"
    if not package.exists():
        subprocess.run(["npm", "install", "--no-audit", "--no-fund", "promptfoo"], cwd=folder, check=True)
    return str(json.loads(package.read_text("utf-8"))["version"])


def scored(promptfoo: Path, case: Mapping[str, Any]) -> dict[str, object]:
    """What promptfoo gives for the first test of a case: its score, and whether it passes."""
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        config = f"prompts: ['{{{{q}}}}']\nproviders: [file://provider.js]\n{case['config']}"
        (folder / "promptfooconfig.yaml").write_text(config, "utf-8")
        (folder / "provider.js").write_text(PROVIDER, "utf-8")
        (folder / "answer.txt").write_text(case["output"], "utf-8")
        command = [
            str(promptfoo / "node_modules" / ".bin" / "promptfoo"),
            "eval",
            "-c",
            "promptfooconfig.yaml",
            "-o",
            "out.json",
        ]
        environment = {**os.environ, **OFFLINE, "PROMPTFOO_CONFIG_DIR": made}
        # It ends with 100 where a test fails.
        told = subprocess.run(
            [*command, *QUIETLY],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=PER_CASE_S,
            check=False,
        )
        if not (folder / "out.json").exists():
            raise SystemExit(f"promptfoo gave no result for\n{config}\n{told.stdout}{told.stderr}")
        result = json.loads((folder / "out.json").read_text("utf-8"))["results"]["results"][0]
    return {"score": round(result["score"], 9), "passes": "pass" if result["success"] else "fail"}


if __name__ == "__main__":
    sys.exit(main())
