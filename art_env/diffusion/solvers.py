"""Solvers by name, and the one integration loop, ``sample``."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from art_env._util.names import look_up
from art_env.diffusion.deis import DEIS
from art_env.diffusion.denoiser import CheckedDenoiser, Denoiser
from art_env.diffusion.noise import StepNoise
from art_env.diffusion.steps import (
    NO_STATE,
    LearnedMultistep,
    SolverState,
    Step,
    dpmpp_2m_step,
    euler_step,
    heun_step,
    ipndm_step,
    rk4_step,
    to_denoised,
)
from art_env.diffusion.stochastic import Churn, euler_maruyama_step
from art_env.diffusion.unipc import UniPC


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
        learned: the rule whose weights come in with each step.
    """

    name: str
    step: Step
    order: int
    evals_per_step: int
    memory: int = 0
    remember: Callable[[Tensor, Tensor, Tensor], Tensor] = _keep_slope
    stochastic: bool = False
    churn: Churn | None = None
    learned: LearnedMultistep | None = None

    @property
    def num_weights(self) -> int:
        """Weights that each step takes beside its noise levels; 0 unless the solver is a learned one."""
        return 0 if self.learned is None else self.learned.num_weights

    def used_weights(self, num_steps: int) -> np.ndarray:
        """``[K, m]`` bool: which weights a run uses; those of steps that were not made are left out."""
        return np.arange(num_steps)[:, None] > np.arange(self.num_weights)

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


def _learned(num_weights: int) -> Solver:
    rule = LearnedMultistep(num_weights)
    name = f"learned_{num_weights + 1}m"
    return Solver(name, rule.step, 2, 1, memory=num_weights, learned=rule)


def _unipc(p: int) -> Solver:
    return Solver(f"unipc_{p}", UniPC(p).step, 3, 1, memory=p, remember=to_denoised)


def _deis(p: int) -> Solver:
    return Solver(f"deis_{p}", DEIS(p).step, 2, 1, memory=p - 1)


SOLVERS = {
    "euler": Solver("euler", euler_step, 1, 1),
    "heun": Solver("heun", heun_step, 2, 2),
    "rk4": Solver("rk4", rk4_step, 4, 4),
    "dpmpp_2m": Solver("dpmpp_2m", dpmpp_2m_step, 2, 1, memory=1, remember=to_denoised),
    "ipndm": Solver("ipndm", ipndm_step, 2, 1, memory=3),
    "deis_2": _deis(2),
    "deis_3": _deis(3),
    "unipc_2": _unipc(2),
    "unipc_3": _unipc(3),
    "learned_2m": _learned(1),
    "learned_3m": _learned(2),
    "learned_4m": _learned(3),
    "euler_maruyama": Solver("euler_maruyama", euler_maruyama_step, 1, 1, stochastic=True),
    "edm_churn": edm_churn(),
}


def get_solver(solver: str | Solver) -> Solver:
    """A solver by name: a key of ``SOLVERS``, or ``learned_Nm`` of any N, which looks back at N - 1 slopes.

    Raises:
        ValueError: no solver of that name; suggests the nearest.
    """
    if isinstance(solver, Solver):
        return solver
    learned = re.fullmatch(r"learned_([1-9]\d*)m", solver) if isinstance(solver, str) else None
    if solver not in SOLVERS and learned and int(learned[1]) > 1:
        return _learned(int(learned[1]) - 1)
    return look_up("solver", solver, SOLVERS)


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


def check_weights(weights: Tensor | np.ndarray, solver: Solver, num_steps: int) -> Tensor:
    """Weights ``[K, m]`` or ``[K, B, m]`` as a tensor.

    Raises:
        ValueError: the solver takes none, or they have another shape.
    """
    found = weights if isinstance(weights, Tensor) else torch.as_tensor(np.array(weights, dtype=np.float64))
    if not solver.num_weights:
        known = ", ".join(name for name, other in SOLVERS.items() if other.num_weights)
        raise ValueError(f"solver = {solver.name!r} takes no weights; use one of {known}, or weights=None")
    if found.ndim not in (2, 3) or (found.shape[0], found.shape[-1]) != (num_steps, solver.num_weights):
        raise ValueError(
            f"weights have shape {tuple(found.shape)}; solver {solver.name!r} takes {solver.num_weights} for each of "
            f"{num_steps} steps: {(num_steps, solver.num_weights)}"
        )
    return found


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
    weights: Tensor | np.ndarray | None = None,
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
        weights: ``[K, m]``, or ``[K, B, m]``, of a learned solver's steps; None: its default ones. May require grad.

    Returns:
        ``[B, *shape]``, the samples.

    Raises:
        ValueError: a stochastic solver without seed and noise, noise of another shape, or weights that the solver
            does not take.
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
    per_step = None if weights is None else check_weights(weights, rule, K).to(x)
    state = NO_STATE
    for k in range(K):
        state = state._replace(steps_left=K - k)
        if isinstance(denoiser, CheckedDenoiser):
            denoiser.step = k
        if rule.stochastic:
            drawn = noise[k] if noise is not None else pool.first(k, len(x)) if pool is not None else None
            assert drawn is not None
            state = state._replace(noise=drawn.to(x), num_steps=K, sigma_max=levels[0].detach())
        if slope is not None:
            state = state._replace(d=slope(x, levels[k]))
        if per_step is not None:
            state = state._replace(weights=per_step[k])
        step = rule.last_step if k == K - 1 else rule.step
        x, state = step(denoiser, x, levels[k], levels[k + 1], state)
        if callback is not None:
            callback(k, x)
    return x
