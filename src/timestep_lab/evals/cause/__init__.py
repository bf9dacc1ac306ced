"""Root-cause analysis of a run by replay: see `search`."""

from timestep_lab.evals.cause.blame import Blame
from timestep_lab.evals.cause.findings import BlamePlan, Decision, Outlook, Share, Suspect, Why, WhyPlan, describe
from timestep_lab.evals.cause.repairs import asked_again
from timestep_lab.evals.cause.search import Question, ask, outlook, why

__all__ = [
    "Blame",
    "BlamePlan",
    "Decision",
    "Outlook",
    "Question",
    "Share",
    "Suspect",
    "Why",
    "WhyPlan",
    "ask",
    "asked_again",
    "describe",
    "outlook",
    "why",
]
