"""The one counter of network evaluations: rows that pass a model's network, by what they are for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from art_env.diffusion.denoiser import Denoiser


class CountedDenoiser:
    """A denoiser that counts its network's evaluations: the rows that pass the network.

    A call on a batch of B counts B, with classifier-free guidance 2 B (``nfe_per_call``). An adapter of this package
    counts itself what passes its network, further passes for differences in place of derivatives among them. A
    backward pass counts nothing. All other attributes are those of the denoiser.

    Args:
        denoiser: the model.

    Attributes:
        inner: that model.
        nfe: network evaluations per sample since the last ``reset``: one call on a batch of B adds 1.
        rows: rows since then, for each purpose.
        purpose: of the rows that are counted next; set by ``counting``.
    """

    def __init__(self, denoiser: Denoiser) -> None:
        self.inner = denoiser
        self.shape: tuple[int, ...] = tuple(denoiser.shape)
        self.sigma_data = float(denoiser.sigma_data)
        self.nfe_per_call = int(getattr(denoiser, "nfe_per_call", 1))
        self.purpose = "other"
        self.reset()

    def reset(self) -> None:
        """Set the counters to zero."""
        self.nfe = 0
        self.rows: Counter[str] = Counter()

    @property
    def evals(self) -> int:
        """Rows of all purposes."""
        return self.rows.total()

    def __call__(self, x: Tensor, sigma: Tensor | float) -> Tensor:
        """Denoise, as the model does; a call that fails counts too."""
        before = _own_count(self.inner)
        try:
            return self.inner(x, sigma)
        finally:
            after = _own_count(self.inner)
            rows = self.nfe_per_call * len(x) if before is None or after is None else after - before
            self.rows[self.purpose] += rows
            self.nfe += rows // max(len(x), 1)

    def add(self, rows: int) -> None:
        """Count rows that have passed a copy of the network elsewhere."""
        self.rows[self.purpose] += rows
        if isinstance(self.inner, CountedDenoiser):
            self.inner.add(rows)

    # To a cache of exact trajectories it is the model itself.
    def __eq__(self, other: object) -> bool:
        return bool(self.inner == (other.inner if isinstance(other, CountedDenoiser) else other))

    def __hash__(self) -> int:
        return hash(self.inner)

    def __getattr__(self, name: str) -> Any:
        if name == "inner" or name.startswith("__"):  # not there yet in a copy
            raise AttributeError(name)
        return getattr(self.inner, name)


def _own_count(denoiser: object) -> int | None:
    count = getattr(denoiser, "evals", None)
    return count if isinstance(count, int) else None


@contextmanager
def counting(denoiser: object, purpose: str) -> Iterator[None]:
    """Count the rows of a block for a purpose; the innermost block has the say. Nothing, if nobody counts.

    Args:
        denoiser: perhaps a ``CountedDenoiser``.
        purpose: as in the results: ``"training"``, ``"references"``, ...
    """
    if not isinstance(denoiser, CountedDenoiser):
        yield
        return
    before, denoiser.purpose = denoiser.purpose, purpose
    try:
        yield
    finally:
        denoiser.purpose = before


def uncounted(denoiser: Denoiser) -> Denoiser:
    """The model itself."""
    return uncounted(denoiser.inner) if isinstance(denoiser, CountedDenoiser) else denoiser
