"""UniPC (Zhao et al. 2023, arXiv 2302.04867): a predictor and a corrector that share one evaluation a step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from art_env.diffusion.denoiser import Denoiser, append_dims
from art_env.diffusion.newton import Past, bend, by_steps_used, growing_moments, nodes_of, steps_made
from art_env.diffusion.steps import NO_STATE, SolverState, to_d, to_denoised


@dataclass(frozen=True)
class UniPC:
    """UniPC-p in its variant B2, on denoised samples.

    A step is exact for a denoised sample that is a polynomial in log sigma: the predictor's goes through the last p
    ones, the corrector's through that of the step's end too. With two values both take the mean of the ends for the
    integral, as theirs do, so that UniPC-2 predicts as DPM-Solver++(2M). What the network says at the end of a step
    also starts the next one: a step first corrects where the last one has led, and then predicts. Nothing corrects
    the end of the last step.

    The order grows by one a step from 1 on, and falls to 1 in the last steps, as theirs does: far down steps are long
    in log sigma, and extrapolation errs.

    Attributes:
        p: order of the predictor, and the number of denoised samples that are kept.
    """

    p: int

    def step(
        self, denoiser: Denoiser, x: Tensor, sigma: Tensor, sigma_next: Tensor, state: SolverState = NO_STATE
    ) -> tuple[Tensor, SolverState]:
        """One step, one evaluation."""
        d = to_d(denoiser, x, sigma) if state.d is None else state.d
        denoised = to_denoised(x, sigma, d)
        past = state.past[: self.p]
        made, left = steps_made(sigma, past), state.steps_left
        straight = x + append_dims(sigma_next - sigma, x) * d
        known = [there & (sigma_next > 0) for there in made[: self.p - 1]]
        if left is not None:
            known = [there & (left > n) for n, there in enumerate(known, 1)]
        ahead = _prediction(denoised, sigma, sigma_next, past, known)
        if past and not state.exact:
            # With the denoised sample held, a difference shrinks with sigma.
            shrunk = sigma_next / torch.where(sigma > 0, sigma, torch.ones_like(sigma))
            if left is not None:
                made = [there & (left >= n) for n, there in enumerate(made)]
            straight = straight + append_dims(shrunk, x) * _correction(denoised, sigma, past, made)
        return straight + ahead, SolverState(past=((denoised, sigma), *past)[: self.p])


def _correction(denoised: Tensor, sigma: Tensor, past: Past, used: Sequence[Tensor]) -> Tensor:
    """How far the corrector's end of the last step is from the predictor's; ``used``: by that step."""
    one = torch.ones_like(sigma)
    start = torch.where(used[0], past[0][1], 2 * one)
    # Levels before the last step count from its start.
    nodes = nodes_of(start, past[1:], used[1:])
    h = torch.log(start / torch.where(used[0], sigma, one))
    values = [value for value, _ in past]

    def part(n: int) -> Tensor:
        predicted = _bend(nodes[:n], values[:n], h)
        return _bend([*nodes[:n], h], [*values[:n], denoised], h) - predicted

    return by_steps_used(used, part, denoised)


def _prediction(
    denoised: Tensor, sigma: Tensor, sigma_next: Tensor, past: Past, used: Sequence[Tensor]
) -> Tensor:
    """What the predictor adds to the step with the denoised sample held."""
    past = past[: len(used)]
    nodes = nodes_of(sigma, past, used)
    ahead = sigma_next > 0
    one = torch.ones_like(sigma)
    h = torch.log(torch.where(ahead, sigma, one) / torch.where(ahead, sigma_next, one))
    values = [denoised, *(value for value, _ in past)]
    return by_steps_used(used, lambda n: _bend(nodes[: n + 1], values[: n + 1], h), denoised)


def _bend(nodes: Sequence[Tensor], values: Sequence[Tensor], h: Tensor) -> Tensor:
    """What a polynomial adds to its first value held, over a step of length h."""
    moments = growing_moments(h, len(nodes))
    if len(nodes) == 2:
        moments[1] = h / 2 * moments[0]
    return bend(nodes, values, moments)
