"""What a candidate is asked: the case as it is, or its own prompt filled from the case."""

from __future__ import annotations

from typing import Any

from timestep_lab.evals.datasets.case import Case
from timestep_lab.evals.datasets.template import render
from timestep_lab.types.comparison import CandidateRecord
from timestep_lab.types.errors import DataError


def asked_of(candidate: CandidateRecord, case: Case) -> str | list[Any]:
    """Text, or Responses input items. Raises `DataError` when the prompt names what the case lacks, or there is nothing to ask."""
    if candidate.prompt is not None:
        return render(candidate.prompt, case.template_vars())
    if case.messages:
        return [dict(message) for message in case.messages]
    if not case.input.strip():
        raise DataError(
            f"Case {case.id} has no question, only variables ({', '.join(case.vars)}).",
            'Give a prompt that uses them: prompts=["… {{name}} …"].',
        )
    return case.input
