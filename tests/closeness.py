"""Comparison of what float32 networks compute."""

from __future__ import annotations

import torch
from numpy.typing import ArrayLike
from torch import Tensor


def assert_float32_close(got: ArrayLike | Tensor, want: ArrayLike | Tensor, rtol: float = 1e-5) -> None:
    """Each entry of ``got`` differs from ``want`` by at most ``rtol`` times the largest entry of ``want``.

    The order in which float32 sums are taken depends on the processor, the number of threads and the size of the
    batch, and each order rounds otherwise. The error of an entry is that of the terms it is made of, not of
    what they cancel to: so the tolerance scales with the largest entry and is the same for all. The default
    is some ten times the rounding of one evaluation of a network; chained evaluations need more.
    """
    got, want = torch.as_tensor(got), torch.as_tensor(want)
    largest = float(want.detach().abs().max())
    assert torch.isfinite(torch.tensor(largest)), "the wanted values are not finite"
    torch.testing.assert_close(got, want, rtol=0.0, atol=rtol * largest)
