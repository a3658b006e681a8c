"""Contiguous shares of rows."""

from __future__ import annotations

from itertools import pairwise

import numpy as np


def places_of(rows: int, count: int) -> list[slice]:
    """Where ``count`` contiguous shares of about equal size are, or as many as there are rows."""
    borders = np.linspace(0, rows, min(count, rows) + 1).round().astype(int).tolist()
    return [slice(a, b) for a, b in pairwise(borders)]
