"""What a wheel does otherwise than the source tree: the hundred small scripts and styles of the views travel as one file.

Each file of a zip is compressed by itself and costs some 250 bytes of bookkeeping; as one they take two thirds of the room, which keeps the
wheel under 1 MB. `timestep_lab/ui/assets.py` reads either form.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

STATIC = "src/timestep_lab/ui/static"
PACKED = "timestep_lab/ui/static/sources.json"


class PackSources(BuildHookInterface):  # type: ignore[type-arg]
    """Run by hatchling for each wheel, not for an editable installation."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if version == "editable":
            return
        folder = Path(self.root) / STATIC
        files = sorted(file for file in folder.rglob("*") if file.suffix in (".js", ".css"))
        texts = {file.relative_to(folder).as_posix(): file.read_text("utf-8") for file in files}
        self.place = tempfile.TemporaryDirectory()
        packed = Path(self.place.name) / "sources.json"
        packed.write_text(json.dumps(texts, ensure_ascii=False), "utf-8")
        build_data["force_include"][str(packed)] = PACKED

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        if version != "editable":
            self.place.cleanup()
