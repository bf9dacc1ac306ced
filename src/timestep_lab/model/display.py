"""Text for people: numbers with units, URLs without credentials, and conversations as Markdown."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from decimal import ROUND_HALF_UP, Decimal
from urllib.parse import parse_qsl, unquote, urlsplit

from timestep_lab.model.records import ThreadItem

# --- Numbers: `1.24 s`, `312 ms`, `4.1k tok`, `$0.0031`, and `unknown` instead of a false zero
#
# `ui/static/shared/format.js` formats the same texts in the browser; both are tested against one table of cases.


def duration_text(ms: float | None) -> str:
    """Formats milliseconds as `5.3 ms`, `312 ms`, `1.24 s`, `2 min 05 s` or `3 h 12 min`; empty when unknown."""
    if ms is None or not math.isfinite(ms):
        return ""
    if ms < 0.9995:
        return f"{ms:#.2g} ms" if ms else "0 ms"
    if ms < 999.5:
        return f"{_fixed(ms, 1 if ms < 9.95 else 0)} ms"
    if ms < 59_950:
        return f"{_fixed(ms / 1000, 2 if ms < 9_995 else 1)} s"
    seconds = int(_fixed(ms / 1000, 0))
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60:02d} s"
    minutes = int(_fixed(ms / 60_000, 0))
    return f"{minutes // 60} h {minutes % 60:02d} min"


def ago_text(seconds: float) -> str:
    """Formats an age in seconds as `now`, `12 s ago`, `3 min ago`, `5 h ago` or `4 d ago`."""
    for size, word in ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s")):
        if seconds >= 5 and seconds >= size:
            return f"{int(seconds / size)} {word} ago"
    return "now"


def count_text(n: float | None) -> str:
    """Formats a count as `950`, `4.1k`, `12k` or `2.3M`."""
    if n is None or not math.isfinite(n):
        return "unknown"
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        # A value that rounds up to the next unit is written in that unit: 999,600 is 1M.
        if n >= size * 0.9995:
            return _fixed(n / size, 1 if n < size * 9.95 else 0).removesuffix(".0") + letter
    return _fixed(n, 0)


def tokens_text(n: int | None) -> str:
    """Formats a number of tokens as `4.1k tok`, or `tokens unknown`."""
    return "tokens unknown" if n is None else f"{count_text(n)} tok"


def cost_text(usd: float | None, n_unpriced: int | None = 0) -> str:
    """Formats US dollars as `$0.0031`, `$1.24`, `$1,235` or `<$0.0001`; `free` for a known 0, `cost unknown` otherwise.

    `n_unpriced` calls have no known price, which gives `at least $0.0031`."""
    if usd is None or not math.isfinite(usd) or (n_unpriced and usd == 0):
        return "cost unknown"
    if n_unpriced:
        return f"at least {cost_text(usd)}"
    if usd == 0:
        return "free"
    if usd < 0.00005:
        return "<$0.0001"
    if usd < 100:
        return f"${_fixed(usd, 4 if usd < 0.1 else 2)}"
    return f"${int(_fixed(usd, 0)):,}"


def _fixed(x: float, digits: int) -> str:
    """Rounds half up, as JavaScript does; Python's own formatting rounds half to even."""
    return f"{Decimal(float(x)).quantize(Decimal(1).scaleb(-digits), ROUND_HALF_UP):f}"


# --- URLs without their credentials, for messages, traces and pages


_ADDRESS = re.compile(r"((?:[A-Za-z][A-Za-z0-9+.-]*:)?//)([^\s'\"<>]*)")
_VALUE = re.compile(r"(?<=[?&])([^=&#\s]*)=[^&#\s]*")


def without_credentials(text: str) -> str:
    """Returns `text` with the user, password and query values removed from every URL in it."""
    return _ADDRESS.sub(lambda found: found[1] + _shown(found[2]), text)


def redact_url(url: str) -> str:
    """Same as `without_credentials` for text that is a single URL, with or without a scheme."""
    return without_credentials(url) if "//" in url else without_credentials(f"//{url}")[2:]


def credentials_in(url: str) -> tuple[str, ...]:
    """Returns the secrets that `without_credentials` removes from a URL, raw and decoded, if long enough not to be an ordinary word."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return ()
    # A username without a password is a key; with one it is a name, which may be an ordinary word.
    values = [parts.password or parts.username or "", *(value for _, value in parse_qsl(parts.query))]
    return tuple(sorted({v for value in values for v in (value, unquote(value)) if len(v) >= 4}, key=len, reverse=True))


def _shown(rest: str) -> str:
    """Redacts the part of a URL that follows `//`."""
    end = re.search(r"[/?#]", rest)
    host = rest[: end.start()] if end else rest
    # A password with an unescaped slash ends the host too early; then everything up to the last @ is removed.
    cut = host.rfind("@") if _is_host(host.rpartition("@")[2]) else rest.rfind("@")
    rest = rest[cut + 1 :]
    return _VALUE.sub(r"\1=***", rest)


def _is_host(host: str) -> bool:
    return re.fullmatch(r"(\[[^\]]*\]|[^:\[\]]*)(:\d*)?", host) is not None


def transcript(items: Iterable[ThreadItem], title: str | None = None) -> str:
    lines = [f"# {title}"] if title else []
    return "\n\n".join([*lines, *(line for item in items if (line := transcript_line(item)))])


def transcript_line(item: ThreadItem) -> str:
    data = item.data
    if item.type == "user_message":
        return f"**You:** {data.get('text', '')}"
    if item.type == "assistant_message":
        cut = " *(incomplete)*" if data.get("status") == "incomplete" else ""
        return f"**{item.agent or 'Assistant'}:** {data.get('text', '')}{cut}"
    if item.type == "tool_call":
        return f"- `{data.get('name')}({data.get('arguments') or ''})` → {data.get('status')}"
    if item.type == "handoff":
        return f"- {data.get('from_agent')} handed off to {data.get('to_agent')}"
    if item.type == "approval":
        return f"- approval of `{data.get('name')}`: {data.get('decision') or 'waiting'}"
    if item.type == "widget":
        return str(data.get("copy_text") or "")
    return ""
