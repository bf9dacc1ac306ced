"""The models that the router can reach."""

from __future__ import annotations

from fastapi import APIRouter

from timestep_lab.model.errors import NotFoundError
from timestep_lab.server.labs import CurrentLab
from timestep_lab.server.openai_api.shared import Object, listed

router = APIRouter()


@router.get("/models", response_model=Object)
async def list_models(lab: CurrentLab) -> Object:
    """Those of every provider that is ready and answers."""
    return listed([_model(name) for name in await lab.router.list_models()])


@router.get("/models/{name:path}", response_model=Object)
async def get_model(name: str, lab: CurrentLab) -> Object:
    ref = lab.router.resolve(name)
    if ref.full not in await lab.router.list_models(ref.prefix):
        raise NotFoundError(
            f"{ref.prefix}/ lists no model {ref.model!r}.", "GET /openai/v1/models lists what there is."
        )
    return _model(ref.full)


def _model(name: str) -> Object:
    # No provider but OpenAI says when a model was made, and 0 is how others say that they do not know.
    return {"id": name, "object": "model", "created": 0, "owned_by": name.partition("/")[0]}
