"""DuckDB's numpy columns in the form of `store.base.Columns`: no masks, unknown numbers NaN, other unknown values None."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from timestep_lab.store.base import Columns

if TYPE_CHECKING:
    import numpy


def plain_columns(found: Mapping[str, numpy.ndarray[Any, Any]]) -> Columns:
    import numpy as np

    plain: dict[str, Any] = {}
    for name, values in found.items():
        mask = np.ma.getmask(values)
        column = np.ma.getdata(values)
        if mask is not np.ma.nomask and mask.any():
            is_number = column.dtype.kind in "iuf"
            column = column.astype("f8" if is_number else object)
            column[mask] = np.nan if is_number else None
        plain[name] = column
    return plain
