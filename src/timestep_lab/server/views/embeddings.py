"""Whether texts can be turned into vectors here, before anything is asked of a model."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

from timestep_lab.model.errors import LabError, MissingExtraError
from timestep_lab.model.records import Json
from timestep_lab.runtime.files.embeddings import OFFLINE_MODEL, embedder


def default_embeddings(settings: Any) -> dict[str, Json]:
    """The model of new vector stores, and why it cannot be had. A server that does not answer is not noticed here."""
    model = settings.default_embedding_model or OFFLINE_MODEL
    problem: dict[str, Json] | None = None
    try:
        embedder(settings, model)
        if model == OFFLINE_MODEL and find_spec("wordllama") is None:
            raise MissingExtraError("The offline embedding model", "files")
    except LabError as error:
        problem = {"message": error.message, "next_step": error.next_step}
    return {"model": model, "problem": problem}
