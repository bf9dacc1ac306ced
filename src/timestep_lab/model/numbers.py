"""Numbers as people read them: `1.24 s`, `312 ms`, `4.1k tok`, `$0.0031`, and `unknown` instead of a false zero.

`ui/static/shared/format.js` writes the same texts in the browser; one table of cases holds the two together.
"""

from __future__ import annotations

import math
from decimal import ROUND_HALF_UP, Decimal


def duration_text(ms: float | None) -> str:
    """Milliseconds to `5.3 ms`, `312 ms`, `1.24 s`, `2 min 05 s`, `3 h 12 min`; empty while unknown."""
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
    """How long ago: `now`, `12 s ago`, `3 min ago`, `5 h ago`, `4 d ago`."""
    for size, word in ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s")):
        if seconds >= 5 and seconds >= size:
            return f"{int(seconds / size)} {word} ago"
    return "now"


def count_text(n: float | None) -> str:
    """`950`, `4.1k`, `12k`, `2.3M`."""
    if n is None or not math.isfinite(n):
        return "unknown"
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        # What is rounded up to the next unit is written in it: 999,600 is 1M.
        if n >= size * 0.9995:
            return _fixed(n / size, 1 if n < size * 9.95 else 0).removesuffix(".0") + letter
    return _fixed(n, 0)


def tokens_text(n: int | None) -> str:
    """`4.1k tok`, `tokens unknown`."""
    return "tokens unknown" if n is None else f"{count_text(n)} tok"


def cost_text(usd: float | None, n_unpriced: int | None = 0) -> str:
    """US dollars: `$0.0031`, `$1.24`, `$1,235`, `<$0.0001`. `free` is said only when it is known to be; else `cost unknown`.

    `n_unpriced` calls have no known price: `at least $0.0031`."""
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
    """Half is rounded up, as JavaScript does; Python's own formatting rounds it to even."""
    return f"{Decimal(float(x)).quantize(Decimal(1).scaleb(-digits), ROUND_HALF_UP):f}"
