"""Data sets: from user data to cases with ids, versioned by content."""

from __future__ import annotations

from timestep_lab.evals.datasets.case import Case, Dataset
from timestep_lab.evals.datasets.load import load_dataset
from timestep_lab.evals.datasets.template import render

__all__ = ["Case", "Dataset", "load_dataset", "render"]
