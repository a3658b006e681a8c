"""Moments of a training, evenly spread over its steps."""

from __future__ import annotations


class StepGrid:
    """Says when to act: once in each of ``times`` equal parts of a training, at the first step that is asked about.

    The parts do not move when a training goes on after a kill.

    Args:
        total: env steps of the training.
        times: parts.
        done: env steps that are behind already; what was due by then has been done.
    """

    def __init__(self, total: int, times: int, done: int = 0) -> None:
        self.interval = max(total // times, 1)
        self._next = self._after(done) if done > 0 else 0

    def due(self, step: int) -> bool:
        """Whether to act at ``step``; if so, it counts as done."""
        if step < self._next:
            return False
        self._next = self._after(step)
        return True

    def _after(self, step: int) -> int:
        return (step // self.interval + 1) * self.interval
