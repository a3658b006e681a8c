"""The oracle: the grid, and weights, with the least final error, by gradients through the whole sampler."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
import torch
from scipy.optimize import OptimizeResult, minimize
from torch import Tensor

from art_env.diffusion.denoiser import Denoiser, difference
from art_env.diffusion.ode import ReferenceFlow
from art_env.diffusion.solvers import Solver, require_deterministic, sample
from art_env.diffusion.steps import EVEN_WEIGHTS
from art_env.schedules.handcrafted import edm, log_snr
from art_env.schedules.optimal import closed_form, dynamic_programming, final_rmse
from art_env.schedules.schedule import Array, Schedule, check_num_steps, from_sigmas, pad_weights

# A search stops when five iterations together gain less than this part of the error.
FLAT = 1e-4


def gradient_search(
    denoiser: Denoiser,
    reference: ReferenceFlow,
    num_steps: int,
    solver: str | Solver = "heun",
    starts: Iterable[Schedule] = (),
    num_searches: int = 3,
    max_iterations: int = 200,
    screen_noises: int = 512,
    batch_size: int | None = None,
    with_dp: bool = True,
) -> Schedule:
    """The oracle: the grid with the least final error, by BFGS with gradients through the whole sampler.

    Of a learned solver the grid together with its weights.

    Minimises the very RMSE that tables report, on the reference's own noises, so that a schedule scored on
    the same noises cannot be better than the oracle. The final error has several local minima; searches start
    from the best few of EDM, log-SNR, the closed form, dynamic programming and ``starts``, first on a part of
    the noises, then on all of them, and the last search is restarted until it moves by less than 0.1%.

    Args:
        denoiser: differentiable in x and sigma.
        reference: exact trajectories.
        num_steps: K.
        solver: a name or a ``Solver``.
        starts: more grids to start from (other K are resampled).
        num_searches: how many starts are followed.
        max_iterations: of each search on all the noises.
        screen_noises: noises of the first searches.
        batch_size: rows differentiated at once; None: 512, and more of small samples.
        with_dp: start from dynamic programming too (its local errors cost many evaluations of a network).

    Returns:
        a schedule whose meta has ``rmse``, ``evaluations`` (rows times evaluations, a gradient counted as
        three), and ``last_change``, the relative gain of the last restart.

    Raises:
        ValueError: a stochastic solver.
    """
    K = check_num_steps(num_steps)
    rule = require_deterministic(solver, "the error that the oracle minimises")
    sigma_max, floor = float(reference.sigmas[0]), float(reference.sigmas[-1])
    final_sigmas_type = "zero" if reference.sigma_end == 0 else "sigma_min"
    if K == 1:
        only = from_sigmas([sigma_max, reference.sigma_end], "oracle")
        rmse = final_rmse(denoiser, reference, only, rule)
        return from_sigmas(only.sigmas, "oracle", solver=rule.name, rmse=rmse, evaluations=0, last_change=0.0)
    grids: list[Schedule] = [
        edm(K, floor, sigma_max, final_sigmas_type=final_sigmas_type),
        edm(K, floor, sigma_max, 3.0, final_sigmas_type=final_sigmas_type),
        log_snr(K, floor, sigma_max, final_sigmas_type=final_sigmas_type),
        closed_form(reference, K),
        *(s if s.num_steps == K else s.resample(K) for s in starts),
    ]
    if with_dp:
        grids.append(dynamic_programming(denoiser, reference, K, rule, max(48, 2 * K), max_noises=64))
    grids = [s for grid in grids for s in with_weights(grid, rule)]
    part = reference.first(screen_noises)
    batch_size = batch_size or max(512, 16384 // reference.start[0].numel())
    search = _Search(denoiser, rule, batch_size, scale=search_scale(reference))
    ranked = sorted(grids, key=lambda s: final_rmse(denoiser, part, s, rule))[:num_searches]
    if rule.num_weights and num_searches > 1:
        # Of another kind than all the others, and bad before it has been searched from.
        ranked += with_weights(paired(closed_form(reference, K), search.scale), rule)
    found = [search.run(part, s, min(60, max_iterations)) for s in ranked]
    best = min([*found, *grids], key=lambda s: final_rmse(denoiser, reference, s, rule))
    rmse = final_rmse(denoiser, reference, best, rule)
    change = np.inf
    for _ in range(6):
        # A restart resets BFGS' estimate of the Hessian, which frees searches that have stalled.
        after = search.run(reference, best, max_iterations)
        new = final_rmse(denoiser, reference, after, rule)
        change = (rmse - new) / rmse if rmse > 0 else 0.0
        if new < rmse:
            best, rmse = after, new
        if change < 1e-3:
            break
    return from_sigmas(
        best.sigmas,
        "oracle",
        weights=best.weights,
        solver=rule.name,
        objective="global",
        rmse=rmse,
        evaluations=search.evaluations,
        last_change=max(float(change), 0.0),
        num_noises=reference.num_noises,
    )


# How much longer, in logs, a long step is than its place, and the weight of the short step after it.
PAIR_STRETCH, PAIR_WEIGHT = 1.2, 4.0


def paired(schedule: Schedule, scale: float) -> Schedule:
    """Long and short steps in turn, with one large weight in each short one.

    The change of slope over a long step says what that step did wrong, and the short one mends it: two evaluations
    for one good step, as Heun's. On ``mixture-1d`` at K = 5 the best ``learned_2m`` is of this kind (RMSE 0.028, the
    best one with even steps 0.040).
    """
    K = schedule.num_steps
    stretched = log_steps(schedule.sigmas, scale) + PAIR_STRETCH * (-1.0) ** np.arange(K)
    sigmas = grid_from(stretched, schedule, scale)
    weights = np.where(np.arange(K) % 2 == 1, PAIR_WEIGHT, EVEN_WEIGHTS[1][0])
    weights[0] = 0.0
    return from_sigmas(sigmas, "paired", weights=weights[:, None])


def with_weights(schedule: Schedule, solver: Solver) -> list[Schedule]:
    """The schedule for a solver, with each of the classical rules' weights if it takes weights and has none.

    Fewer weights than the solver takes are filled up with 0, which is the same rule.

    Raises:
        ValueError: the schedule has more weights than the solver takes.
    """
    m, K = solver.num_weights, schedule.num_steps
    given = schedule.weights
    if given is not None and given.shape[1] > m:
        raise ValueError(
            f"schedule {schedule.name!r} has {given.shape[1]} weights a step; solver {solver.name!r} takes {m}"
        )
    if m == 0:
        return [schedule]
    tables = [] if given is None else [pad_weights(given, m)]
    if given is None:
        for most in range(1, min(m, len(EVEN_WEIGHTS) - 1) + 1):
            table = np.zeros((K, m))
            for k in range(K):
                row = EVEN_WEIGHTS[min(k, most)]
                table[k, : len(row)] = row
            tables.append(table)
    return [replace(schedule, weights=table) for table in tables]


# A search moves the logs of the K step sizes in the coordinate asinh(sigma / scale), up to a constant.


def search_scale(reference: ReferenceFlow) -> float:
    """Where the search's coordinate turns from log to linear: well below the last useful noise level."""
    return float(reference.sigmas[-1]) if reference.sigma_end > 0 else 0.05 * float(reference.x_end.std())


def log_steps(sigmas: Sequence[float] | Array, scale: float) -> Array:
    """Logs of the step sizes of a grid in a search's coordinate, ``[K]``."""
    z: Array = np.log(np.maximum(-np.diff(np.arcsinh(np.asarray(sigmas) / scale)), 1e-12))
    return z


def levels_from(z: Tensor, sigma_max: float, sigma_end: float, scale: float) -> Tensor:
    """Noise levels ``[K + 1]`` of log step sizes ``z: [K]``, up to rounding at the ends: ``log_steps`` undone."""
    u0, u1 = float(np.arcsinh(sigma_max / scale)), float(np.arcsinh(sigma_end / scale))
    u = torch.cat(
        [torch.zeros_like(z[:1]), torch.cumsum(torch.softmax(z, 0)[:-1], 0), torch.ones_like(z[:1])]
    )
    return scale * torch.sinh(u0 - (u0 - u1) * u)


def grid_from(z: Array, ends: Schedule, scale: float) -> Array:
    """Noise levels ``[K + 1]`` of log step sizes ``z: [K]``, with exactly the ends of a schedule."""
    sigmas: Array = levels_from(torch.from_numpy(z), ends.sigma_max, ends.sigma_end, scale).numpy().copy()
    sigmas[0], sigmas[-1] = ends.sigma_max, ends.sigma_end
    return sigmas


def to_numbers(schedule: Schedule, solver: Solver, scale: float) -> Array:
    """What a search moves: the log step sizes, then the weights that a run uses."""
    weights = (
        np.zeros(0) if schedule.weights is None else schedule.weights[solver.used_weights(schedule.num_steps)]
    )
    return np.concatenate([log_steps(schedule.sigmas, scale), weights])


def from_numbers(numbers: Array, start: Schedule, solver: Solver, scale: float) -> Schedule | None:
    """``to_numbers`` undone, with the ends of ``start``; None: not finite, or steps too small for the precision."""
    K = start.num_steps
    sigmas = grid_from(numbers[:K], start, scale)
    if not (np.isfinite(numbers).all() and (np.diff(sigmas) < 0).all()):
        return None
    table = None
    if start.weights is not None:
        used = solver.used_weights(K)
        table = np.zeros(used.shape)
        table[used] = numbers[K:]
    return replace(start, sigmas=sigmas, weights=table)


class _Search:
    """BFGS over the K step sizes, as a softmax in the coordinate ``asinh(sigma / scale)``, and the weights used."""

    def __init__(self, denoiser: Denoiser, solver: Solver, batch_size: int, scale: float) -> None:
        self.denoiser, self.solver, self.batch_size, self.scale = denoiser, solver, batch_size, scale
        self.evaluations = 0

    def run(self, reference: ReferenceFlow, start: Schedule, max_iterations: int) -> Schedule:
        ends, used = (start.sigma_max, start.sigma_end), self.solver.used_weights(start.num_steps)
        values: list[float] = []

        def stop_when_flat(intermediate_result: OptimizeResult) -> None:
            # A network in float32 never reaches the gradient's tolerance: its noise is above it.
            values.append(float(intermediate_result.fun))
            if len(values) > 5 and values[-6] - values[-1] < FLAT:
                raise StopIteration

        result = minimize(
            self._objective,
            to_numbers(start, self.solver, self.scale),
            args=(reference, ends, used),
            jac=True,
            method="BFGS",
            callback=stop_when_flat,
            options={"maxiter": max_iterations, "gtol": 1e-4},
        )
        found = from_numbers(result.x, start, self.solver, self.scale)
        return start if found is None else found

    def _objective(
        self, z: Array, reference: ReferenceFlow, ends: tuple[float, float], used: np.ndarray
    ) -> tuple[float, Array]:
        """log RMSE and its gradient: the log makes the step sizes of all problems alike."""
        leaf = torch.tensor(z, dtype=torch.float64, requires_grad=True)
        K = len(used)
        total, count, grad = 0.0, 0, torch.zeros_like(leaf)
        rows = reference.start.shape[0]
        for x, end in zip(
            reference.start.split(self.batch_size), reference.x_end.split(self.batch_size), strict=True
        ):
            levels = levels_from(leaf[:K], *ends, self.scale).to(x.device)
            weights = None
            if self.solver.num_weights:
                table = torch.zeros(used.shape, dtype=torch.float64)
                weights = table.masked_scatter(torch.from_numpy(used), leaf[K:]).to(x.device)
            ends_here = sample(self.denoiser, x, levels, self.solver, weights=weights)
            off = difference(self.denoiser, ends_here, end)
            error = off.square().sum()
            (g,) = torch.autograd.grad(error, leaf)
            total, count = total + float(error.detach()), count + off.numel()
            grad += g
        self.evaluations += 3 * rows * self.solver.nfe(K)
        mean = total / count
        if not np.isfinite(mean) or mean <= 0:
            return 1e6, np.zeros_like(z)
        return 0.5 * float(np.log(mean)), (0.5 * grad / total).numpy().astype(np.float64)
