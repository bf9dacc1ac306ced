"""The few distributions the tests and intervals need. SciPy's special functions load in a fifth of `scipy.stats`' time."""

from __future__ import annotations

from statistics import NormalDist
from typing import Any

_NORMAL = NormalDist()


def normal_cdf(z: float) -> float:
    return _NORMAL.cdf(z)


def normal_cdf_array(z: Any) -> Any:
    """The same for a whole array."""
    return _special().ndtr(z)


def normal_quantile(p: float) -> float:
    return _NORMAL.inv_cdf(p)


def two_sided_z(level: float) -> float:
    """The z that a two-sided interval of this level needs: 1.96 for 0.95."""
    return _NORMAL.inv_cdf(0.5 + level / 2.0)


def two_sided_t(level: float, degrees: float) -> float:
    """The same for Student's distribution."""
    return float(_special().stdtrit(degrees, 0.5 + level / 2.0))


def t_cdf(t: float, degrees: float) -> float:
    return float(_special().stdtr(degrees, t))


def beta_cdf(x: Any, a: float, b: float) -> Any:
    """Of a whole array."""
    return _special().betainc(a, b, x)


def binomial_cdf(k: int, n: int, p: float) -> float:
    return float(_special().bdtr(k, n, p))


def _special() -> Any:
    import scipy.special  # type: ignore[import-untyped]

    return scipy.special
