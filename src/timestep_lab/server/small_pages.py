"""Pages that stand alone, without the lab's navigation: for who is not signed in, and for addresses that lead nowhere."""

from __future__ import annotations

import html

_FRAME = """<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title} · Timestep Lab</title>
<meta name="viewport" content="width=device-width,initial-scale=1"><style>
:root{{color-scheme:light;--ink:#1c2127;--soft:#545d68;--bg:#fff;--line:#1c21273d;--accent:#1b6fc2;--on-accent:#fff}}
@media(prefers-color-scheme:dark){{:root{{color-scheme:dark;--ink:#e4e8ec;--soft:#a9b2bc;--bg:#16191d;--line:#e4e8ec3d;--accent:#6cb0f5;
--on-accent:#0b1722}}}}
body{{font:15px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--bg);display:grid;place-content:center;min-height:90vh;
max-width:44ch;margin:auto;padding:16px}}h1{{font-size:20px;line-height:1.3;margin:0 0 8px}}p{{margin:0 0 12px;overflow-wrap:anywhere}}
.of{{color:var(--soft)}}.do{{font:inherit;display:inline-grid;align-items:center;min-height:44px;padding:0 18px;border-radius:6px;
border:1px solid var(--line);color:var(--ink);background:none;text-decoration:none;cursor:pointer;box-sizing:border-box}}
.do.first{{background:var(--accent);border-color:var(--accent);color:var(--on-accent)}}
:focus-visible{{outline:2px solid var(--accent);outline-offset:2px}}</style></head>
<body><main><p class="of">Timestep Lab</p><h1>{title}</h1>{body}</main></body></html>"""


def sign_in() -> bytes:
    """What a browser sees on a server that does not sign it in by itself."""
    return _page(
        "Sign in",
        "<p>You are not signed in. Go on without an account: a signed cookie keeps your threads and traces yours.</p>"
        '<form method="post" action="/api/v1/auth/anonymous?then=/"><button class="do first">Continue without an account</button></form>',
    )


def expired_link(path: str) -> bytes:
    """For a sign-in link whose key is not that of the server that runs now."""
    return _page(
        "This link has expired",
        "<p>It signed in to an earlier start of the lab, is older than 12 hours, or was not copied whole. The link that the running server "
        "printed in its terminal signs you in; later, put what <code>timestep-lab token</code> prints behind <code>/?key=</code>.</p>"
        "<p>As a guest you see only what you do here, none of the lab's own chats and traces.</p>"
        f'<p><a class="do" href="{html.escape(path)}">Go on as a guest</a></p>',
    )


def nowhere(path: str) -> bytes:
    return _page(
        "There is no such page",
        f'<p>Nothing is at {html.escape(path)}.</p><p><a class="do first" href="/">Open the overview</a></p>',
    )


def _page(title: str, body: str) -> bytes:
    return _FRAME.format(title=title, body=body).encode()
