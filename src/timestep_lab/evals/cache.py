"""Answers and judgements used again. An answer's key holds everything that can change it, the epoch included: repeats are honest."""

from __future__ import annotations

from typing import Any

from timestep_lab.evals.datasets.case import Case, digest
from timestep_lab.evals.plan import Candidate, Options
from timestep_lab.model.comparison import CellRecord

VERSION = 1
"""Raised when answers of an earlier form can no longer be used."""


def cache_key(
    candidate: Candidate, asked: str | list[Any], epoch: int, options: Options, own: str | None = None
) -> str | None:
    """None: this answer is not to be used again. `own`: on tape, the trace that is preferred."""
    if options.cache == "off" or (options.cache == "models" and candidate.has_tools):
        return None
    # The fingerprint covers agents, tools, handoffs, model, settings, prompt and tape; `asked` is the prompt as it was filled.
    return digest(
        [
            VERSION,
            candidate.record.fingerprint,
            asked,
            epoch,
            options.max_turns,
            options.approve,
            *([own] if own else []),
        ]
    )


def reply_key(model: str, instructions: str, prompt: str) -> str:
    """Of what a judge replies. The prompt holds the rubric and the answer: the same answer is judged once, whichever epoch gave it."""
    return digest([VERSION, "judge", model, instructions, prompt])


def cell_from_cache(stored: dict[str, Any], comparison_id: str, case: Case, candidate: str, epoch: int) -> CellRecord:
    values = {**stored, "steps": tuple(stored.get("steps") or ())}
    return CellRecord(
        comparison_id=comparison_id,
        case_id=case.id,
        candidate=candidate,
        epoch=epoch,
        status="done",
        cached=True,
        attempts=0,
        **values,
    )
