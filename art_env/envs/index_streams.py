"""``IndexStreams``: a stream of random whole numbers for each row, drawn in blocks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

# Numbers drawn at once: one call a number costs as much as ten numbers.
BLOCK = 64


class IndexStreams:
    """Which initial noise each row meets next.

    Row ``i`` gives what ``generators[i].integers(bound)`` gives call after call.

    Args:
        generators: one for each row; nobody else may draw from them. A row whose generator is replaced needs
            ``restart``.
        bound: numbers are below it.
    """

    def __init__(self, generators: Sequence[np.random.Generator], bound: int) -> None:
        self._generators, self._bound = generators, bound
        self._ahead = np.zeros((len(generators), BLOCK), dtype=np.int64)
        self._used = np.full(len(generators), BLOCK)

    def restart(self, rows: np.ndarray) -> None:
        """Forget what was drawn ahead in these rows."""
        self._used[rows] = BLOCK

    def save_state(self) -> dict[str, np.ndarray]:
        """What was drawn ahead, and how much of it is used; the generators have states of their own."""
        return {"ahead": self._ahead, "used": self._used}

    def load_state(self, state: dict[str, np.ndarray]) -> None:
        """Put back what ``save_state`` gave."""
        self._ahead, self._used = state["ahead"].copy(), state["used"].copy()

    def draw(self, rows: np.ndarray) -> np.ndarray:
        """The next number of each of these rows."""
        empty = rows[self._used[rows] == BLOCK]
        for i in empty:
            self._ahead[i] = self._generators[i].integers(self._bound, size=BLOCK)
        self._used[empty] = 0
        drawn = self._ahead[rows, self._used[rows]]
        self._used[rows] += 1
        return drawn
