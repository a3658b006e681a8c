"""Tables of schedules that suit many models: fitted once to random mixtures, used on models never seen."""

from __future__ import annotations

import json
from functools import lru_cache
from importlib.resources import files
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
FILE = "universal.json"
# What the table's levels are: multiples of the data's standard deviation, or times on the model's own clock.
LIST, CLOCK = "list", "clock"
STEPS, WEIGHTS = range(2, 13), (1, 2)


class UniversalTable(NamedTuple):
    """K steps that suit many models.

    Attributes:
        levels: ``[K - 1]``, the noise levels between the first and the last: as multiples of the standard deviation
            of the data (``list``), or as times between 0 and 1 on the model's own clock (``clock``).
        weights: ``[K, m]``.
        meta: how it was made.
    """

    levels: Array
    weights: Array
    meta: dict[str, Any]


def universal_table(kind: str, num_steps: int, num_weights: int) -> UniversalTable:
    """The table for K steps of ``num_weights`` weights.

    ``python -m benchmarks.universal_fit`` makes the file.

    Args:
        kind: ``"list"`` or ``"clock"``.
        num_steps: K, 2 to 12.
        num_weights: 1 or 2.

    Raises:
        ValueError: there is no such table.
    """
    for name, value, known in (
        ("kind", kind, (LIST, CLOCK)),
        ("num_steps", num_steps, STEPS),
        ("num_weights", num_weights, WEIGHTS),
    ):
        if value not in known:
            what = f"{known[0]} to {known[-1]}" if name == "num_steps" else " or ".join(map(repr, known))
            raise ValueError(f"{name} = {value!r}: there are universal schedules for {what} alone")
    body = _read()
    entry = body["tables"][f"{kind}:{num_steps}:{num_weights}"]
    return UniversalTable(
        np.asarray(entry["levels"], dtype=np.float64),
        np.asarray(entry["weights"], dtype=np.float64),
        {**body["made_by"], "kind": kind, "training": entry["training"], "held_out": entry["held_out"]},
    )


@lru_cache(maxsize=1)
def _read() -> dict[str, Any]:
    body: dict[str, Any] = json.loads(files("art_env.schedules").joinpath(FILE).read_text("utf-8"))
    return body
