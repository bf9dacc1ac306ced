"""The frame of every page: navigation, title, theme, and the web app manifest."""

from __future__ import annotations

import gzip
import hashlib
import html
import importlib
import re
import struct
import zlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, Protocol

from fastapi import APIRouter, Request
from fastapi import Path as PathParameter
from starlette.responses import JSONResponse, Response

from timestep_lab.model.arguments import closest
from timestep_lab.model.clock import iso
from timestep_lab.server.pages.page_view import Notice, Shown, clipped
from timestep_lab.ui.assets import build

if TYPE_CHECKING:
    from panel.template import Template

    from timestep_lab.server.labs import UserLab
    from timestep_lab.ui.view import View

STATIC = Path(__file__).parents[1] / "static"


# --- Static assets: manifest, service worker, icons, styles, and the module of each view. All are part of the package.
#
# Scripts and styles are compressed once and cached; pages refer to them by content hash (`?v=`), so browsers may cache them indefinitely.


router = APIRouter(include_in_schema=False)
CACHED = {"Cache-Control": "public, max-age=3600"}
CACHED_FOR_GOOD = {"Cache-Control": "public, max-age=31536000, immutable"}
MEDIA = {".css": "text/css", ".js": "text/javascript"}
VIEW = re.compile(r"[a-z_]+(?:/[a-z_]+)?")
"""The name of a view's module."""


@dataclass(frozen=True, slots=True)
class Asset:
    body: bytes
    packed: bytes
    version: str


@cache
def asset_of(name: str) -> Asset:
    """`shell.js`, `keys.js`, or `view/<name>.js`, the module of a view. Raises `FileNotFoundError`."""
    stem = name.removeprefix("view/").removesuffix(".js")
    body = build(stem, "served").encode() if name.startswith("view/") else (STATIC / name).read_bytes()
    return Asset(body, gzip.compress(body, 9, mtime=0), hashlib.sha256(body).hexdigest()[:16])


def address_of(name: str) -> str:
    """The address with a content hash, which a browser may cache indefinitely."""
    return f"/assets/{name}?v={asset_of(name).version}"


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
async def asset(request: Request, name: Literal["shell.js", "keys.js"]) -> Response:
    return _sent(request, asset_of(name))


@router.get("/assets/view/{stem:path}.js")
async def view_module(request: Request, stem: str) -> Response:
    if not VIEW.fullmatch(stem):
        return Response(status_code=404)
    try:
        return _sent(request, asset_of(f"view/{stem}.js"))
    except FileNotFoundError:
        return Response(status_code=404)


def _sent(request: Request, found: Asset) -> Response:
    caching = CACHED_FOR_GOOD if request.query_params.get("v") == found.version else CACHED
    headers = {**caching, "Vary": "Accept-Encoding"}
    media = MEDIA[Path(request.url.path).suffix]
    if "gzip" in request.headers.get("accept-encoding", ""):
        return Response(found.packed, media_type=media, headers={**headers, "Content-Encoding": "gzip"})
    return Response(found.body, media_type=media, headers=headers)


@cache
def draw_icon(size: int) -> bytes:
    """The lab's icon, a white zigzag on blue, as a generated PNG (W3C PNG, third edition)."""
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


class PageFunction(Protocol):
    """The function `page` of a page's module: its view for one user."""

    def __call__(self, lab: UserLab, *, is_owner: bool) -> Shown | View: ...


@dataclass(frozen=True, slots=True)
class Entry:
    path: str
    title: str
    icon: str
    """SVG path data of a 16 × 16 icon."""
    things: tuple[str, str] = ("page", "pages")
    """What `?id=` opens: singular and plural."""
    key: str = ""
    """Keyboard shortcut: `g`, then this key."""

    @property
    def make(self) -> PageFunction:
        """The function `page(lab, is_owner=…)` of the module named after the page."""
        function: PageFunction = importlib.import_module(f"timestep_lab.server.pages.{self.title.lower()}").page
        return function


ON_A_PHONE = ("/", "/chat", "/traces", "/approvals")
"""In the bottom bar of a small screen; the others are in its “More” menu."""


@cache
def entries() -> tuple[Entry, ...]:
    return (
        Entry("/", "Overview", "M2.5 2.5h4.5v5H2.5zM9 2.5h4.5v3H9zM9 7.5h4.5v6H9zM2.5 9.5h4.5v4H2.5z", key="o"),
        Entry("/chat", "Chat", "M2.5 3h11v8H7l-3 2.5V11H2.5z", ("conversation", "conversations"), key="c"),
        Entry("/traces", "Traces", "M2.5 3.5h6M5 7h6M8 10.5h5.5M4 14h4", ("trace", "traces"), key="t"),
        Entry("/sql", "SQL", "M5 4 1.5 8 5 12M11 4l3.5 4L11 12M9.2 2.8 6.8 13.2", key="q"),
        Entry("/playground", "Playground", "M2.5 3h6.5v10H2.5zM11 5.5l2.8 2.5L11 10.5M4.5 6h2.5M4.5 8.5h2.5", ("step", "steps"), key="y"),
        Entry("/compare", "Compare", "M2.5 2.5h4.5v11H2.5zM9 2.5h4.5v11H9z", ("comparison", "comparisons"), key="m"),
        Entry("/agents", "Agents", "M8 2.2v1.6M3.5 5.6a1.8 1.8 0 0 1 1.8-1.8h5.4a1.8 1.8 0 0 1 1.8 1.8v4.6a1.8 1.8 0 0 1-1.8 1.8H5.3a1.8 1.8 0 0 1-1.8-1.8zM6.2 7.4v.8M9.8 7.4v.8", ("agent", "agents"), key="a"),
        Entry("/tools", "Tools", "M9.9 2.3a3.4 3.4 0 0 0-3.6 4.6L2.2 11a1.6 1.6 0 0 0 0 2.3l.5.5a1.6 1.6 0 0 0 2.3 0l4.1-4.1a3.4 3.4 0 0 0 4.6-3.6l-2 2-2.3-.5-.5-2.3z", key="l"),
        Entry("/files", "Files", "M4 1.8h5l3.2 3.2v9.2H4zM9 1.8V5h3.2", key="f"),
        Entry("/approvals", "Approvals", "M8 1.8 13 3.6v4c0 3.2-2.1 5.4-5 6.6-2.9-1.2-5-3.4-5-6.6v-4zM5.8 8l1.6 1.6 2.8-3", key="p"),
        Entry("/settings", "Settings", "M8 5.5a2.5 2.5 0 1 0 0 5 2.5 2.5 0 0 0 0-5zM8 1.5v2M8 12.5v2M1.5 8h2M12.5 8h2M3.4 3.4l1.4 1.4M11.2 11.2l1.4 1.4M12.6 3.4l-1.4 1.4M4.8 11.2l-1.4 1.4", key="s"),
    )  # fmt: skip


def around(entry: Entry, shown: Shown | Notice, key: str, *, guest: bool = False) -> Template:
    """The page as a Panel template. User data is passed as variables, since the template itself is code."""
    import panel

    template = panel.Template(_page(entry), nb_template="")
    notice = shown if isinstance(shown, Notice) else None
    name = shown.title if isinstance(shown, Notice) else clipped(shown.name or "") or entry.title
    heading = shown.heading if isinstance(shown, Shown) else None
    template.add_variable("tab_title", f"{name} · Timestep Lab")
    template.add_variable("guest", guest)
    template.add_variable("is_landing", entry.path == "/")
    template.add_variable("notice", notice)
    template.add_variable("heading", heading)
    template.add_variable("spoken", shown.spoken if isinstance(shown, Shown) else None)
    template.add_variable("heading_at", iso(heading.at) if heading else "")
    template.add_variable("key", key)
    template.add_variable("module", address_of(f"view/{shown.view.stem}.js") if isinstance(shown, Shown) else "")
    return template


def nowhere(path: str, *, guest: bool) -> str:
    """The page for an unknown address, with the navigation around it."""
    from jinja2 import Template

    meant = closest(f"/{path.strip('/').partition('/')[0]}", [entry.path for entry in entries() if entry.path != "/"])
    to = next((entry for entry in entries() if entry.path == meant), entries()[0])
    words = [
        f"There is no page at {path}.",
        "Choose a page in the navigation, or press Find to search agents, conversations and traces.",
    ]
    notice = Notice("Page not found", words, (to.path, f"Open {to.title}"), 404)
    rendered: str = Template(_page(None)).render(
        tab_title=f"{notice.title} · Timestep Lab", guest=guest, is_landing=False, notice=notice, heading=None, spoken=None, heading_at="", key="", module=""
    )  # fmt: skip
    return rendered


@cache
def _page(entry: Entry | None) -> str:
    """The template of a page, or of a notice."""
    links = "".join(_link(other, current=other == entry) for other in entries())
    more = "".join(
        _link(other, current=other == entry).replace(" data-page=", " data-of=")
        for other in entries()
        if other.path not in ON_A_PHONE
    )
    is_more = "" if entry is None or entry.path in ON_A_PHONE else ' data-current="true"'
    title = "" if entry is None else entry.title
    source = (STATIC / "shell.html").read_text("utf-8")
    for name, value in {
        "$NAVIGATION": links,
        "$TITLE": html.escape(title or "Timestep Lab"),
        "$STYLE": (STATIC / "shell.css").read_text("utf-8"),  # In the page: the first paint waits for nothing else.
        "$SCRIPT": address_of("shell.js"),
        "$KEYS": address_of("keys.js"),
        "$PAGE": title.lower(),
        "$MORE": more,
        "$IS_MORE": is_more,
    }.items():
        source = source.replace(name, value)
    return source


def _link(entry: Entry, *, current: bool) -> str:
    here = ' aria-current="page"' if current else ""
    drawing = f'<svg viewBox="0 0 16 16" aria-hidden="true"><path d="{entry.icon}"/></svg>'
    rest = "" if entry.path in ON_A_PHONE else " data-more"
    return f'<a href="{entry.path}"{here}{rest} data-page="{entry.title.lower()}" data-key="{entry.key}">{drawing}<span>{entry.title}</span></a>'
