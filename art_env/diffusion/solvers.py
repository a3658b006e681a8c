"""Samplers of the probability-flow ODE ``dx/dsigma = (x - D(x; sigma)) / sigma``, and of its stochastic relatives.

A solver step is a pure function with the same leading arguments,
``step(denoiser, x, sigma, sigma_next, carry) -> x, carry``; the noise of a stochastic step comes in through
``state``. No network is ever asked about the final noise level: the last step of a multistage or stochastic solver is
an Euler step, and a multistep solver only looks back.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from art_env._util.names import look_up
from art_env.diffusion.denoiser import CheckedDenoiser, Denoiser, append_dims
from art_env.diffusion.noise import StepNoise


class SolverState(NamedTuple):
    """The state that one step hands to the next.

    Attributes:
        d: the slope where the step makes its first evaluation, ``[B, *shape]``, if somebody has made it already: at
            the current ``(x, sigma)``, or where ``Solver.add_churn`` moves it.
        past: what a multistep solver keeps of its earlier steps, the latest first: pairs of ``[B, *shape]`` and
            the noise level (scalar or ``[B]``; 0 where there was no such step).
        noise: standard normal numbers for this step of a stochastic solver, ``[B, *shape]``; 0 in channels that are
            a condition.
        num_steps: K of the whole run, which ``edm_churn`` spreads its noise over.
        sigma_max: highest noise level that the denoiser may be asked about.
    """

    d: Tensor | None = None
    past: tuple[tuple[Tensor, Tensor], ...] = ()
    noise: Tensor | None = None
    num_steps: int | None = None
    sigma_max: Tensor | float = math.inf


NO_STATE = SolverState()
Step = Callable[[Denoiser, Tensor, Tensor, Tensor, SolverState], tuple[Tensor, SolverState]]


def to_d(denoiser: Denoiser, x: Tensor, sigma: Tensor) -> Tensor:
    """Slope of the ODE, ``dx/dsigma``; ``x: [B, *shape]``, ``sigma``: scalar or ``[B]``, above 0."""
    return (x - denoiser(x, sigma)) / append_dims(sigma, x)


def euler_step(
    denoiser: Denoiser, x: Tensor, sigma: Tensor, sigma_next: Tensor, state: SolverState = NO_STATE
) -> tuple[Tensor, SolverState]:
    """One Euler step (order 1, one evaluation)."""
    d = to_d(denoiser, x, sigma) if state.d is None else state.d
    return x + append_dims(sigma_next - sigma, x) * d, NO_STATE


def heun_step(
    denoiser: Denoiser, x: Tensor, sigma: Tensor, sigma_next: Tensor, state: SolverState = NO_STATE
) -> tuple[Tensor, SolverState]:
    """One step of Heun's rule (order 2, two evaluations), the sampler of Karras et al. 2022, algorithm 1."""
    h = append_dims(sigma_next - sigma, x)
    d = to_d(denoiser, x, sigma) if state.d is None else state.d
    d_next = to_d(denoiser, x + h * d, sigma_next)
    return x + h * (d + d_next) / 2, NO_STATE


def rk4_step(
    denoiser: Denoiser, x: Tensor, sigma: Tensor, sigma_next: Tensor, state: SolverState = NO_STATE
) -> tuple[Tensor, SolverState]:
    """One step of the classical Runge-Kutta rule (order 4, four evaluations)."""
    h = append_dims(sigma_next - sigma, x)
    mid = (sigma + sigma_next) / 2
    k1 = to_d(denoiser, x, sigma) if state.d is None else state.d
    k2 = to_d(denoiser, x + h / 2 * k1, mid)
    k3 = to_d(denoiser, x + h / 2 * k2, mid)
    k4 = to_d(denoiser, x + h * k3, sigma_next)
    return x + h * (k1 + 2 * k2 + 2 * k3 + k4) / 6, NO_STATE


def dpmpp_2m_step(
    denoiser: Denoiser, x: Tensor, sigma: Tensor, sigma_next: Tensor, state: SolverState = NO_STATE
) -> tuple[Tensor, SolverState]:
    """One step of DPM-Solver++(2M) (order 2, one evaluation), Lu et al. 2022, algorithm 2.

    Exact in log sigma for a denoised sample that is extrapolated linearly from the last two. The first step and
    a step to 0 are Euler steps.
    """
    d = to_d(denoiser, x, sigma) if state.d is None else state.d
    denoised, slope = x - append_dims(sigma, x) * d, d
    if state.past:
        before, sigma_before = state.past[0]
        known = (sigma_before > sigma) & (sigma_next > 0)
        # Values that keep the unused branch, and its gradient, finite.
        now = torch.where(known, sigma, torch.ones_like(sigma))
        h_last = torch.log(torch.where(known, sigma_before, 2 * now) / now)
        h = torch.log(now / torch.where(known, sigma_next, now))
        slope = d - append_dims(h / (2 * h_last * now), x) * (denoised - before)
    return x + append_dims(sigma_next - sigma, x) * slope, SolverState(past=((denoised, sigma),))


# Adams-Bashforth weights of the slopes, the latest first; a row for each number of earlier slopes.
ADAMS_BASHFORTH = torch.tensor(
    [
        [1.0, 0.0, 0.0, 0.0],
        [3 / 2, -1 / 2, 0.0, 0.0],
        [23 / 12, -16 / 12, 5 / 12, 0.0],
        [55 / 24, -59 / 24, 37 / 24, -9 / 24],
    ],
    dtype=torch.float64,
)


def ipndm_step(
    denoiser: Denoiser, x: Tensor, sigma: Tensor, sigma_next: Tensor, state: SolverState = NO_STATE
) -> tuple[Tensor, SolverState]:
    """One step of iPNDM (one evaluation), Zhang and Chen 2022, appendix, as GITS uses it.

    Adams-Bashforth with the weights of even steps, of order 1, 2, 3 in the first steps and 4 after them. Even
    weights on an uneven grid, and the Euler step that it starts with, make the whole of order 2.
    """
    d = to_d(denoiser, x, sigma) if state.d is None else state.d
    slopes = [d, *(slope for slope, _ in state.past)]
    count = torch.zeros_like(sigma, dtype=torch.int64)
    for _, level in state.past:
        count = count + (level > 0)
    weights = ADAMS_BASHFORTH.to(x)[count]  # [4] or [B, 4]
    mean = torch.zeros_like(x)
    for j, slope in enumerate(slopes):
        mean = mean + append_dims(weights[..., j], x) * slope
    return x + append_dims(sigma_next - sigma, x) * mean, SolverState(past=((d, sigma), *state.past)[:3])


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


def _keep_denoised(x: Tensor, sigma: Tensor, d: Tensor) -> Tensor:
    return x - append_dims(sigma, x) * d


def _keep_slope(x: Tensor, sigma: Tensor, d: Tensor) -> Tensor:
    return d


@dataclass(frozen=True)
class Solver:
    """A named solver.

    Attributes:
        name: a key of ``SOLVERS``.
        step: every step, or every step but the last.
        order: order of convergence.
        evals_per_step: evaluations of ``step``.
        memory: how many earlier steps ``step`` looks back at.
        remember: ``(x, sigma, d) -> [B, *shape]``, what is kept of a step in ``SolverState.past``.
        stochastic: each step needs ``SolverState.noise``; samples follow the data's distribution, not a trajectory.
        churn: the settings of ``edm_churn``.
    """

    name: str
    step: Step
    order: int
    evals_per_step: int
    memory: int = 0
    remember: Callable[[Tensor, Tensor, Tensor], Tensor] = _keep_slope
    stochastic: bool = False
    churn: Churn | None = None

    @property
    def ends_with_euler(self) -> bool:
        """Whether the last step is an Euler step.

        The solver would otherwise evaluate at the final noise level, or leave the noise of its last step.
        """
        return self.evals_per_step > 1 or self.stochastic

    @property
    def last_step(self) -> Step:
        """The last step of a run."""
        if self.churn is not None:
            return self.churn.last_step
        return euler_step if self.ends_with_euler else self.step

    def add_churn(self, x: Tensor, sigma: Tensor, state: SolverState) -> tuple[Tensor, Tensor]:
        """Where a step from ``(x, sigma)`` makes its first evaluation: there, but with ``edm_churn``."""
        return (x, sigma) if self.churn is None else self.churn.add_churn(x, sigma, state)

    def nfe(self, num_steps: int) -> int:
        """Network evaluations of a whole run: K for one evaluation a step, 2K - 1 (Heun), 4K - 3 (RK4)."""
        return self.evals_per_step * (num_steps - 1) + 1


def edm_churn(
    S_churn: float = 40.0, S_tmin: float = 0.05, S_tmax: float = 50.0, S_noise: float = 1.003
) -> Solver:
    """``edm_churn`` with other settings than the default ones (see ``Churn``)."""
    churn = Churn(S_churn, S_tmin, S_tmax, S_noise)
    return Solver("edm_churn", churn.step, 2, 2, stochastic=True, churn=churn)


SOLVERS = {
    "euler": Solver("euler", euler_step, 1, 1),
    "heun": Solver("heun", heun_step, 2, 2),
    "rk4": Solver("rk4", rk4_step, 4, 4),
    "dpmpp_2m": Solver("dpmpp_2m", dpmpp_2m_step, 2, 1, memory=1, remember=_keep_denoised),
    "ipndm": Solver("ipndm", ipndm_step, 2, 1, memory=3),
    "euler_maruyama": Solver("euler_maruyama", euler_maruyama_step, 1, 1, stochastic=True),
    "edm_churn": edm_churn(),
}


def get_solver(solver: str | Solver) -> Solver:
    """A solver by name.

    Raises:
        ValueError: no solver of that name; suggests the nearest.
    """
    return solver if isinstance(solver, Solver) else look_up("solver", solver, SOLVERS)


def require_deterministic(solver: str | Solver, what: str) -> Solver:
    """The solver, unless it is stochastic.

    Raises:
        ValueError: it is; says that ``what`` needs a deterministic one.
    """
    rule = get_solver(solver)
    if rule.stochastic:
        known = ", ".join(name for name, other in SOLVERS.items() if not other.stochastic)
        raise ValueError(
            f"solver = {rule.name!r} is stochastic, and {what} is paired with the exact trajectory of the same start "
            f"noise; use one of {known}"
        )
    return rule


def sample(
    denoiser: Denoiser,
    x: Tensor,
    sigmas: Tensor | np.ndarray | Sequence[float],
    solver: str | Solver = "heun",
    callback: Callable[[int, Tensor], None] | None = None,
    *,
    seed: int | None = None,
    noise: Tensor | None = None,
    slope: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> Tensor:
    """Walk a batch of initial noises down a list of noise levels.

    Args:
        denoiser: the model.
        x: ``[B, *shape]``, noise of standard deviation ``sigmas[0]``.
        sigmas: ``[K + 1]``, descending, or ``[K + 1, B]``, a list for each row; may require grad, and then so does
            the result.
        solver: a name or a ``Solver``.
        callback: called as ``callback(k, x)`` after step ``k``.
        seed: of a stochastic solver's noise; row i meets the same noise in batches of any size.
        noise: ``[K, B, *shape]``, that noise itself.
        slope: ``(x, sigma) -> dx/dsigma``, makes the first evaluation of each step in place of ``to_d``.

    Returns:
        ``[B, *shape]``, the samples.

    Raises:
        ValueError: a stochastic solver without seed and noise, or noise of another shape.
    """
    rule = get_solver(solver)
    if not isinstance(sigmas, Tensor):
        sigmas = torch.tensor(np.asarray(sigmas, dtype=np.float64))
    levels = sigmas.to(x)
    K = len(levels) - 1
    pool: StepNoise | None = None
    if rule.stochastic and noise is None:
        if seed is None:
            raise ValueError(f"seed = None: solver {rule.name!r} draws noise; pass seed=... (or noise=...)")
        pool = StepNoise(tuple(x.shape[1:]), seed, int(getattr(denoiser, "given_channels", 0)))
    elif rule.stochastic and noise is not None and noise.shape != (K, *x.shape):
        raise ValueError(
            f"noise has shape {tuple(noise.shape)}; expected {(K, *x.shape)}, a row for each step"
        )
    state = NO_STATE
    for k in range(K):
        if isinstance(denoiser, CheckedDenoiser):
            denoiser.step = k
        if rule.stochastic:
            drawn = noise[k] if noise is not None else pool.first(k, len(x)) if pool is not None else None
            assert drawn is not None
            state = state._replace(noise=drawn.to(x), num_steps=K, sigma_max=levels[0].detach())
        if slope is not None:
            state = state._replace(d=slope(x, levels[k]))
        step = rule.last_step if k == K - 1 else rule.step
        x, state = step(denoiser, x, levels[k], levels[k + 1], state)
        if callback is not None:
            callback(k, x)
    return x
