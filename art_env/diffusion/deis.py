"""DEIS (Zhang and Chen 2022, arXiv 2204.13902): the slopes as a polynomial in log sigma, integrated exactly."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from art_env.diffusion.denoiser import Denoiser, append_dims
from art_env.diffusion.newton import bend, by_steps_used, falling_moments, nodes_of, steps_made
from art_env.diffusion.steps import NO_STATE, SolverState, to_d


@dataclass(frozen=True)
class DEIS:
    """DEIS of order p with a polynomial in log sigma, as diffusers has it.

    The paper's tAB is a polynomial in the time of a variance-preserving process instead, which a list of noise levels
    does not have. The order grows by one a step from 1 on, and a step to 0 is an Euler step. The first one, of order
    1, makes the whole of order 2.

    Attributes:
        p: how many slopes the polynomial goes through.
    """

    p: int

    def step(
        self, denoiser: Denoiser, x: Tensor, sigma: Tensor, sigma_next: Tensor, state: SolverState = NO_STATE
    ) -> tuple[Tensor, SolverState]:
        """One step, one evaluation."""
        d = to_d(denoiser, x, sigma) if state.d is None else state.d
        past, ahead = state.past[: self.p - 1], sigma_next > 0
        made = [there & ahead for there in steps_made(sigma, past)]
        nodes = nodes_of(sigma, past, made)
        # dsigma = -sigma_0 exp(-u) du
        one = torch.ones_like(sigma)
        h = torch.log(torch.where(ahead, sigma, one) / torch.where(ahead, sigma_next, one))
        moments = [-sigma * m for m in falling_moments(h, self.p)]
        values = [d, *(slope for slope, _ in past)]
        bent = by_steps_used(made, lambda n: bend(nodes[: n + 1], values[: n + 1], moments), x)
        straight = x + append_dims(sigma_next - sigma, x) * d
        return straight + bent, SolverState(past=((d, sigma), *past)[: self.p - 1])
