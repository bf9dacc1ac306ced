"""The models of the router, and embeddings."""

from __future__ import annotations

import base64
import struct
from typing import Annotated, Literal

from fastapi import APIRouter, Path
from pydantic import Field

from timestep_lab.model.errors import NotFoundError
from timestep_lab.runtime.files.embeddings import embed
from timestep_lab.server.api.operations import Strict
from timestep_lab.server.labs import CurrentLab
from timestep_lab.server.openai_api.calling import Object, listed

router = APIRouter()


# --- Embeddings with any embedding model of the lab; `local/wordllama` needs no key and no network


Text = Annotated[str, Field(max_length=100_000)]
CHARS_PER_TOKEN = 4


class EmbeddingsBody(Strict):
    model: str = Field(min_length=1, max_length=500)
    input: Text | Annotated[list[Text], Field(min_length=1, max_length=2048)]
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = Field(None, ge=1)
    user: str | None = None


@router.post("/embeddings", response_model=Object)
async def create_embeddings(body: EmbeddingsBody, lab: CurrentLab) -> Object:
    """Create embeddings. `usage` is estimated from the lengths of the texts, since these models do not report it."""
    texts = [body.input] if isinstance(body.input, str) else body.input
    vectors = await embed(lab.settings, body.model, texts, dimensions=body.dimensions)
    tokens = sum(-(-len(text) // CHARS_PER_TOKEN) for text in texts)
    data = [
        {"object": "embedding", "index": n, "embedding": _encoded(v) if body.encoding_format == "base64" else v}
        for n, v in enumerate(vectors)
    ]
    return {
        "object": "list", "data": data, "model": body.model, "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }  # fmt: skip


def _encoded(vector: list[float]) -> str:
    """Little-endian 32-bit floats in base64, the format that the client decodes."""
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()


@router.get("/models", response_model=Object)
async def list_models(lab: CurrentLab) -> Object:
    """The models of all providers that are ready and respond."""
    return listed([_model(name) for name in await lab.router.list_models()])


@router.get("/models/{name:path}", response_model=Object)
async def get_model(name: Annotated[str, Path(min_length=1, max_length=500)], lab: CurrentLab) -> Object:
    ref = lab.router.resolve(name)
    if ref.full not in await lab.router.list_models(ref.prefix):
        raise NotFoundError(f"{ref.prefix}/ has no model {ref.model!r}.", "GET /openai/v1/models lists the models.")
    return _model(ref.full)


def _model(name: str) -> Object:
    # Only OpenAI reports when a model was created; 0 is the convention for unknown.
    return {"id": name, "object": "model", "created": 0, "owned_by": name.partition("/")[0]}
