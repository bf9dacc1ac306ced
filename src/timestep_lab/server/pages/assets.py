"""What a browser needs besides the pages: manifest, service worker, icons, styles. All of it comes from the package."""

from __future__ import annotations

import struct
import zlib
from functools import cache
from pathlib import Path
from typing import Annotated, Literal

from fastapi import APIRouter
from fastapi import Path as PathParameter
from starlette.responses import JSONResponse, Response

STATIC = Path(__file__).parents[1] / "static"
router = APIRouter(include_in_schema=False)
CACHED = {"Cache-Control": "public, max-age=3600"}
MEDIA = {".css": "text/css", ".js": "text/javascript"}


@router.get("/app.webmanifest")
async def manifest() -> Response:
    icons = [{"src": f"/assets/icon-{n}.png", "sizes": f"{n}x{n}", "type": "image/png"} for n in (192, 512)]
    body = {
        "name": "Timestep Lab", "short_name": "Lab", "start_url": "/", "scope": "/", "display": "standalone",
        "theme_color": "#1b6fc2", "background_color": "#ffffff", "icons": icons,
    }  # fmt: skip
    return JSONResponse(body, media_type="application/manifest+json")


@router.get("/sw.js")
async def service_worker() -> Response:
    return Response(
        (STATIC / "sw.js").read_text("utf-8"), media_type="text/javascript", headers={"Cache-Control": "no-cache"}
    )


@router.get("/assets/icon-{size}.png")
async def app_icon(size: Annotated[Literal["192", "512"], PathParameter()]) -> Response:
    return Response(draw_icon(int(size)), media_type="image/png", headers=CACHED)


@router.get("/favicon.ico")
async def favicon() -> Response:
    return Response(draw_icon(48), media_type="image/png", headers=CACHED)


@router.get("/assets/{name}")
async def asset(name: Annotated[Literal["shell.css", "shell.js"], PathParameter()]) -> Response:
    return Response((STATIC / name).read_bytes(), media_type=MEDIA[Path(name).suffix], headers=CACHED)


@cache
def draw_icon(size: int) -> bytes:
    """The mark of the lab, a white zigzag on blue, as a PNG (W3C PNG, third edition) made here rather than shipped."""
    import numpy as np

    points = np.array([(0.12, 0.78), (0.34, 0.31), (0.53, 0.63), (0.66, 0.41), (0.88, 0.78)])
    grid = (np.arange(size) + 0.5) / size
    place = np.stack(np.meshgrid(grid, grid), axis=-1)
    near = np.full((size, size), np.inf)
    for start, way in zip(points[:-1], np.diff(points, axis=0), strict=True):
        along = np.clip((place - start) @ way / (way @ way), 0, 1)
        near = np.minimum(near, np.linalg.norm(place - start - along[..., None] * way, axis=-1))
    white = np.clip((0.055 - near) * size + 0.5, 0, 1)[..., None]
    blue = np.array([27, 111, 194])
    pixels = np.round(blue + (255 - blue) * white).astype(np.uint8).reshape(size, -1)
    rows = np.concatenate([np.zeros((size, 1), np.uint8), pixels], axis=1).tobytes()
    header = struct.pack(">IIBBBBB", size, size, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(rows, 9)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )
