"""The checkpoint of a search: everything it has been told, in order."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from art_env._util.files import atomic_path
from art_env._util.termination import stop_if_asked


class Record:
    """Remembers what evaluations gave, and gives it again.

    A search is a function of its settings, its seed and these numbers, and all else in it is cheap. So nothing else
    is saved: a search that was killed runs again from the top, gets the first answers from here, and goes on to the
    same result to the bit.

    Args:
        path: of the file (npz), read if it is there; None: only in memory.

    Attributes:
        evaluations: of the denoiser, those before the kill among them.

    Raises:
        ValueError: a file that cannot be read.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path, self._began = path, time.monotonic()
        self._sums: list[float] = []
        self._answers: list[np.ndarray] = []
        self._place, self.evaluations, self._seconds = 0, 0, 0.0
        if path is not None and path.is_file():
            try:
                with np.load(path, allow_pickle=False) as file:
                    self._sums = file["sums"].tolist()
                    self._answers = np.split(file["answers"], np.cumsum(file["sizes"])[:-1])
                    self.evaluations, self._seconds = int(file["evaluations"]), float(file["seconds"])
            except (OSError, KeyError, ValueError, BadZipFile) as error:
                raise ValueError(
                    f"{path} cannot be read ({error!r}); start a new run, or delete it to begin again in this folder"
                ) from error

    @property
    def replaying(self) -> bool:
        """Whether the next answer is known already."""
        return self._place < len(self._answers)

    @property
    def seconds(self) -> float:
        """Of all parts of the search together."""
        return self._seconds + time.monotonic() - self._began

    def ask(self, actions: np.ndarray, evaluate: Callable[[], tuple[np.ndarray, int]]) -> np.ndarray:
        """The answer to ``actions``: what ``evaluate`` gives now (with the denoiser's evaluations), or gave before.

        Raises:
            ValueError: the search asks for something else than it did when this was recorded.
        """
        asked = float(actions.sum())
        if not self.replaying:
            answer, evaluations = evaluate()
            self._sums.append(asked)
            self._answers.append(answer)
            self.evaluations += evaluations
        elif abs(asked - self._sums[self._place]) > 1e-6:
            raise ValueError(f"{self.path} is of another search; start a new one")
        self._place += 1
        stop_if_asked(self.save)
        return self._answers[self._place - 1]

    def save(self) -> None:
        """Write the file in one piece."""
        if self.path is None or self.replaying or not self._answers:
            return
        with atomic_path(self.path) as temporary, temporary.open("wb") as file:
            np.savez(
                file,
                sums=np.array(self._sums),
                answers=np.concatenate(self._answers),
                sizes=np.array([len(answer) for answer in self._answers]),
                evaluations=self.evaluations,
                seconds=self.seconds,
            )
