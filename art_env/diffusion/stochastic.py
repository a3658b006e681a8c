"""Solver steps that add noise; it comes in through ``SolverState.noise``."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from art_env.diffusion.denoiser import Denoiser, append_dims
from art_env.diffusion.steps import NO_STATE, SolverState, euler_step, heun_step, to_d


def _noise_of(state: SolverState, name: str) -> Tensor:
    if state.noise is None:
        raise ValueError(
            f"state.noise = None: a step of {name!r} needs standard normal noise of the shape of x in its SolverState"
        )
    return state.noise


def euler_maruyama_step(
    denoiser: Denoiser, x: Tensor, sigma: Tensor, sigma_next: Tensor, state: SolverState = NO_STATE
) -> tuple[Tensor, SolverState]:
    """One Euler-Maruyama step of the reverse SDE ``dx = 2 (x - D) / sigma dsigma + sqrt(2 sigma) dw`` (weak order 1).

    In the time ``sigma^2``, in which the noise is a plain Brownian motion (the reverse-diffusion predictor of
    Song et al. 2021, appendix E): ``x' = D + (sigma'/sigma)^2 (x - D) + sqrt(sigma^2 - sigma'^2) z``. In the time
    sigma a step to less than half of sigma would throw x beyond D.

    Raises:
        ValueError: there is no noise in ``state``.
    """
    noise = _noise_of(state, "euler_maruyama")
    d = to_d(denoiser, x, sigma) if state.d is None else state.d
    # A raw clock may stand still or run backwards, also from 0: then it follows the ODE.
    down = sigma_next < sigma
    spent = torch.where(down, sigma**2 - sigma_next**2, torch.ones_like(sigma))
    drift = torch.where(down, spent / torch.where(down, sigma, torch.ones_like(sigma)), sigma - sigma_next)
    spread = torch.where(down, spent.sqrt(), torch.zeros_like(sigma))
    return x - append_dims(drift, x) * d + append_dims(spread, x) * noise, NO_STATE


@dataclass(frozen=True)
class Churn:
    """The stochastic sampler of Karras et al. 2022, algorithm 2: noise is added before each step of Heun's rule.

    A step from sigma in ``[S_tmin, S_tmax]`` begins at ``sigma (1 + gamma)`` with
    ``gamma = min(S_churn / K, sqrt(2) - 1)``, but never above the highest noise level of the denoiser. The defaults
    are those published for ImageNet-64.

    Attributes:
        S_churn: noise of the whole run; 0: Heun's rule.
        S_tmin, S_tmax: noise levels between which it is added.
        S_noise: standard deviation of the noise, slightly above 1 against the loss of detail.

    Raises:
        ValueError: a negative or non-finite value (``S_tmax`` may be infinite), or ``S_tmin > S_tmax``.
    """

    S_churn: float = 40.0
    S_tmin: float = 0.05
    S_tmax: float = 50.0
    S_noise: float = 1.003

    def __post_init__(self) -> None:
        for name in ("S_churn", "S_tmin", "S_noise"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} = {getattr(self, name)} must be finite and at least 0")
        if not self.S_tmin <= self.S_tmax:
            raise ValueError(f"S_tmax = {self.S_tmax} must be at least S_tmin = {self.S_tmin}")

    def add_churn(self, x: Tensor, sigma: Tensor, state: SolverState) -> tuple[Tensor, Tensor]:
        """``(x, sigma)`` after the noise was added: where the step makes its first evaluation.

        Raises:
            ValueError: there is no noise or no ``num_steps`` in ``state``.
        """
        if self.S_churn == 0:
            return x, sigma
        noise = _noise_of(state, "edm_churn")
        if state.num_steps is None:
            raise ValueError(
                "state.num_steps = None: a step of 'edm_churn' needs K of the whole run in its SolverState"
            )
        gamma = min(self.S_churn / state.num_steps, math.sqrt(2.0) - 1.0)
        ceiling = torch.maximum(sigma, torch.as_tensor(state.sigma_max).to(sigma))
        raised = torch.minimum(sigma * (1.0 + gamma), ceiling)
        inside = (sigma >= self.S_tmin) & (sigma <= self.S_tmax) & (raised > sigma)
        raised = torch.where(inside, raised, sigma)
        # 1 where nothing is added, so that the gradient of the root stays finite.
        added = torch.where(inside, raised**2 - sigma**2, torch.ones_like(sigma)).sqrt()
        added = torch.where(inside, added, torch.zeros_like(sigma))
        return x + append_dims(self.S_noise * added, x) * noise, raised

    def step(
        self, denoiser: Denoiser, x: Tensor, sigma: Tensor, sigma_next: Tensor, state: SolverState = NO_STATE
    ) -> tuple[Tensor, SolverState]:
        """Noise, then one step of Heun's rule (two evaluations); ``state.d`` is the slope after the noise."""
        x, sigma = self.add_churn(x, sigma, state)
        return heun_step(denoiser, x, sigma, sigma_next, state)

    def last_step(
        self, denoiser: Denoiser, x: Tensor, sigma: Tensor, sigma_next: Tensor, state: SolverState = NO_STATE
    ) -> tuple[Tensor, SolverState]:
        """Noise, then one Euler step (one evaluation)."""
        x, sigma = self.add_churn(x, sigma, state)
        return euler_step(denoiser, x, sigma, sigma_next, state)
