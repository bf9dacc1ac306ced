"""`lab.import_traces`, `lab.export`: traces from files and to files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from timestep_lab.types.errors import NotFoundError, UsageError

if TYPE_CHECKING:
    import pandas

    from timestep_lab.lab.lab import Lab
    from timestep_lab.store.trace_diff import DiffRow


def export(lab: Lab, path: Path, trace_ids: Sequence[str] | None, filter: str) -> int:
    """Write the traces; how many. Raises `NotFoundError` when none match, `UsageError` for a name that cannot be."""
    if not path.parent.is_dir():
        raise UsageError(f"The folder {path.parent} does not exist.", f"Create it with: mkdir -p {path.parent}")
    if path.is_dir():
        raise UsageError(f"{path} is a folder.", f"Name a file in it, such as: {path / 'traces.html'}")
    lab.flush()
    if trace_ids is None:
        trace_ids = list(lab.store.traces.frame(filter)["trace_id"])
    if not trace_ids:
        raise NotFoundError(
            "No trace matches, so nothing was written.",
            "Look at lab.traces.",
            command="Look with: timestep-lab traces list",
        )
    if path.suffix == ".html":
        from timestep_lab.ui.html_export import export_html

        export_html(lab.trace_source, path, trace_ids=trace_ids, title=f"{len(trace_ids)} traces · Timestep Lab")
        return len(trace_ids)
    from timestep_lab.runtime.interchange.export import export_file

    export_file(path, lab.store, trace_ids)
    return len(trace_ids)


def diff_frame(lab: Lab, left: str, right: str) -> pandas.DataFrame:
    """One row a step: change, depth, kind, name, first_divergence, what differs, and the differences of time, tokens and cost."""
    import pandas

    lab.flush()
    rows = [
        {
            "change": row.change, "depth": row.depth, "kind": row.kind, "name": row.name, "first_divergence": row.first_divergence,
            "fields": ", ".join(row.fields), "duration_ms": _change(row, "duration_ms"), "input_tokens": _change(row, "input_tokens"),
            "output_tokens": _change(row, "output_tokens"), "cost_usd": _change(row, "cost_usd"),
        }
        for row in lab.trace_source.diff(left, right)
    ]  # fmt: skip
    return pandas.DataFrame(rows)


def _change(row: DiffRow, name: str) -> float | None:
    """Right minus left; None where one side is missing or unknown."""
    left, right = (getattr(side, name) if side else None for side in (row.left, row.right))
    return None if left is None or right is None else float(right - left)
