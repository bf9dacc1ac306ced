"""Numbers as people read them: `1.24 s`, `312 ms`, `4.1k tok`, `$0.0031`, and `unknown` instead of a false zero."""

from __future__ import annotations


def duration_text(ms: float | None) -> str:
    """Milliseconds to `312 ms`, `1.24 s`, `2 min 05 s`; empty while unknown."""
    if ms is None:
        return ""
    if ms < 1:
        return f"{ms:.2f} ms"
    if ms < 1000:
        return f"{ms:.0f} ms"
    seconds = ms / 1000
    if seconds < 60:
        return f"{seconds:.2f} s" if seconds < 10 else f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min"


def ago_text(seconds: float) -> str:
    """How long ago: `now`, `12 s ago`, `3 min ago`, `5 h ago`, `4 d ago`."""
    for size, word in ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s")):
        if seconds >= 5 and seconds >= size:
            return f"{int(seconds / size)} {word} ago"
    return "now"


def count_text(n: float | None) -> str:
    """`950`, `4.1k`, `2.3M`."""
    if n is None:
        return "unknown"
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if n >= size:
            return f"{n / size:.3g}{letter}"
    return f"{n:g}"


def tokens_text(n: int | None) -> str:
    return "tokens unknown" if n is None else f"{count_text(n)} tok"


def cost_text(usd: float | None) -> str:
    """Dollars with two significant digits below a cent. Zero is said only when it is known to be free."""
    if usd is None:
        return "cost unknown"
    if usd == 0:
        return "free"
    if usd < 0.0001:
        return "<$0.0001"
    return f"${usd:.4f}" if usd < 0.1 else f"${usd:.2f}"
