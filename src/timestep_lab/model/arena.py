"""The blind arena as records: two answers to one case, and what a person thought of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from timestep_lab.model.clock import utc_now
from timestep_lab.model.records import Json

VoteOutcome = Literal["left", "right", "tie", "both_bad"]


@dataclass(frozen=True, slots=True, kw_only=True)
class DuelRecord:
    """What a voter sees. Nothing in it tells which candidate answered: names, model words, prices and times are gone."""

    id: str
    """Names the duel to `vote`; says nothing about who fights it."""
    input: str
    left: str
    right: str
    left_steps: tuple[Mapping[str, Json], ...] = ()
    right_steps: tuple[Mapping[str, Json], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class VoteRecord:
    """One vote between the answers of two candidates to one case."""

    id: str
    user_id: str
    comparison_id: str
    case_id: str
    epoch: int
    left_candidate: str
    right_candidate: str
    outcome: VoteOutcome
    length: float = 0.0
    """(words left − words right) / (words of both)."""
    source: Literal["human", "judge"] = "human"
    created_at: datetime = field(default_factory=utc_now)
