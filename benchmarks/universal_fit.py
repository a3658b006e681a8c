"""Schedules that suit many models: fitted to random mixtures, tested on families that the fit has not seen.

python -m benchmarks.universal_fit

For K = 2 to 12 with one and two weights a step, two tables each: noise levels as multiples of the data's standard
deviation, which need no evaluation of a model, and times on the model's own closed-form clock. Both come from BFGS
through the sampler, over all training mixtures at once. The loss is a power mean of each mixture's error over that of
DPM-Solver++ 2M (on EDM's grid, or on the mixture's own clock), so that no mixture does much worse than with it. On
even times of a clock DPM-Solver++ is bad for most mixtures and good for a few, so there the power is high: with 2 the
worst of the held-out mixtures has 1.47 (K = 3) and 3.4 (K = 5) times its error, with 4 1.27 and 3.2, with 8 1.12 and
1.13. Writes art_env/schedules/universal.json after each table; those that are there already are kept. An hour on one
core.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from scipy.optimize import minimize
from torch import Tensor

from art_env._util.cli import run_command
from art_env._util.files import write_text
from art_env.diffusion.denoiser import difference
from art_env.diffusion.ode import ReferenceFlow
from art_env.diffusion.solvers import Solver, get_solver, sample
from art_env.problems.random_mixtures import HELD_OUT_FAMILIES, TRAINING_FAMILIES, random_mixtures
from art_env.schedules.handcrafted import edm
from art_env.schedules.optimal import closed_form
from art_env.schedules.universal import CLOCK, FILE, LIST, STEPS, WEIGHTS
from benchmarks.records import ROOT

SIGMA_MAX, SIGMA_MIN = 80.0, 0.002
KNOTS = 97
# Of the interpolated clocks.
CLOCK_STEPS = 256
RIVAL = "dpmpp_2m"
# No number of a table comes near it.
LARGEST = 30.0


@dataclass
class Args:
    """Fit the tables."""

    steps: tuple[int, ...] = tuple(STEPS)
    weights: tuple[int, ...] = WEIGHTS
    kinds: tuple[str, ...] = (LIST, CLOCK)
    mixtures: int = 256
    """Training mixtures; half as many held-out ones."""
    noises: int = 8
    """Initial noises of each."""
    power: float = 2.0
    """Of the mean over mixtures, for lists; 0: the geometric mean."""
    clock_power: float = 8.0
    """The same for times on a clock."""
    iterations: int = 80
    """Of BFGS."""
    seed: int = 1
    out: Path = ROOT / "art_env" / "schedules" / FILE

    @property
    def powers(self) -> dict[str, float]:
        """The power for each kind of table."""
        return {LIST: self.power, CLOCK: self.clock_power}


class Mixtures:
    """Random mixtures with exact trajectories, and each one's own clock.

    Args:
        count: mixtures.
        noises: of each.
        seed: of the mixtures and the noises.
        families: that they are drawn from.
    """

    def __init__(self, count: int, noises: int, seed: int, families: tuple[str, ...]) -> None:
        self.denoiser = random_mixtures(count, seed, families)
        self.count, self.noises = count, noises
        self.which = torch.arange(count).repeat(noises)
        rng = np.random.default_rng([seed, 0x0A27])
        noise = torch.from_numpy(rng.standard_normal((len(self.which), self.denoiser.shape[0] - 1)))
        x = self.denoiser.project(torch.cat([SIGMA_MAX * noise, self.which[:, None].double()], 1))
        self.reference = ReferenceFlow.integrate(self.denoiser, x, SIGMA_MAX, SIGMA_MIN, 0.0, KNOTS)
        own = [self.reference.pick(slice(p, None, count)) for p in range(count)]
        self.clocks = torch.tensor(
            np.array([closed_form(r, CLOCK_STEPS).sigmas for r in own]).T
        )  # [T + 1, P]

    def errors(self, levels: Tensor, solver: str | Solver, weights: Tensor | None = None) -> Tensor:
        """log RMSE of each mixture in units of its standard deviation, ``[P]``, with ``levels: [K + 1, P]``."""
        ends = sample(
            self.denoiser, self.reference.start, levels.repeat(1, self.noises), solver, weights=weights
        )
        off = difference(self.denoiser, ends, self.reference.x_end)
        square = off.square().mean(1).reshape(self.noises, self.count).mean(0)
        return square.log() / 2

    def scaled(self, levels: Tensor) -> Tensor:
        """Noise levels ``[K + 1, P]`` that are multiples ``[K - 1]`` of the standard deviations of the data."""
        inner = levels[:, None] * self.denoiser.spreads
        # Where the data is as wide as the noise there is no room for all of them.
        return _with_ends(inner.clamp(1e-6, 0.999 * SIGMA_MAX))

    def on_clocks(self, times: Tensor) -> Tensor:
        """Noise levels ``[K + 1, P]`` at ``times: [K - 1]`` on each mixture's own clock."""
        place = times * CLOCK_STEPS
        left = place.detach().floor().clamp(0, CLOCK_STEPS - 1).long()
        logs = torch.log(self.clocks.clamp_min(1e-6))
        part = (place - left)[:, None]
        return _with_ends(torch.exp(logs[left] * (1 - part) + logs[left + 1] * part))

    def rival(self, kind: str, K: int) -> Tensor:
        """log RMSE of DPM-Solver++ 2M on EDM's grid, or on even times of each clock."""
        if kind == LIST:
            grid = torch.tensor(edm(K, SIGMA_MIN, SIGMA_MAX).sigmas)[:, None].expand(-1, self.count)
        else:
            grid = self.on_clocks(torch.arange(1, K, dtype=torch.float64) / K)
        return self.errors(grid, RIVAL)


def _with_ends(inner: Tensor) -> Tensor:
    first = torch.full_like(inner[:1], SIGMA_MAX)
    return torch.cat([first, inner, torch.zeros_like(first)])


class Fit:
    """One table: K - 1 levels and the weights that K steps use, as numbers that BFGS moves.

    Args:
        kind: ``list`` or ``clock``.
        K: steps.
        m: weights a step.
        power: of the mean over mixtures.
        training, test: mixtures.
    """

    def __init__(self, kind: str, K: int, m: int, power: float, training: Mixtures, test: Mixtures) -> None:
        self.kind, self.K, self.m, self.power = kind, K, m, power
        self.training, self.test = training, test
        self.solver = get_solver(f"learned_{m + 1}m")
        self.used = torch.from_numpy(self.solver.used_weights(K))
        with torch.no_grad():
            self.rivals = {id(mixtures): mixtures.rival(kind, K) for mixtures in (training, test)}

    def levels(self, z: Tensor) -> Tensor:
        """``[K - 1]``: times from a softmax, or multiples whose logs descend."""
        if self.kind == CLOCK:
            return torch.softmax(z[: self.K], 0).cumsum(0)[:-1]
        falls = torch.cat([torch.zeros_like(z[:1]), torch.exp(z[1 : self.K - 1])])
        return torch.exp(z[0] - falls.cumsum(0))

    def weights(self, z: Tensor) -> Tensor:
        """``[K, m]``."""
        table = torch.zeros(self.used.shape, dtype=z.dtype)
        return table.masked_scatter(self.used, z[-int(self.used.sum()) :])

    def numbers(self, levels: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """The numbers of a table."""
        if self.kind == CLOCK:
            front = np.log(np.diff([0.0, *levels, 1.0]))
        else:
            front = np.append(np.log(levels[0]), np.log(-np.diff(np.log(levels))))
        table = np.zeros(self.used.shape)
        table[:, : weights.shape[1]] = weights
        return np.concatenate([front, table[self.used.numpy()]])

    def gains(self, z: Tensor, mixtures: Mixtures) -> Tensor:
        """log of each mixture's error over its rival's, ``[P]``."""
        place = mixtures.scaled if self.kind == LIST else mixtures.on_clocks
        found = mixtures.errors(place(self.levels(z)), self.solver, self.weights(z))
        return found - self.rivals[id(mixtures)]

    def loss(self, z: np.ndarray) -> tuple[float, np.ndarray]:
        """The power mean and its gradient."""
        if not np.abs(z).max() < LARGEST:  # a step of a line search; also not a number
            return 1e3, np.zeros_like(z)
        leaf = torch.tensor(z, dtype=torch.float64, requires_grad=True)
        gains = self.gains(leaf, self.training)
        if self.power == 0:
            value = gains.mean()
        else:
            value = (torch.logsumexp(self.power * gains, 0) - math.log(len(gains))) / self.power
        (gradient,) = torch.autograd.grad(value, leaf)
        return value.item(), np.nan_to_num(gradient.numpy())

    def run(self, starts: list[np.ndarray], iterations: int) -> np.ndarray:
        """The best end of BFGS from each start."""
        ends = [
            minimize(self.loss, z, jac=True, method="BFGS", options={"maxiter": iterations}) for z in starts
        ]
        return np.asarray(min(ends, key=lambda end: float(end.fun)).x)

    def table(self, z: np.ndarray) -> dict[str, Any]:
        """The entry of the file."""
        tensor = torch.from_numpy(z)
        with torch.no_grad():
            return {
                "levels": [round(v, 6) for v in self.levels(tensor).tolist()],
                "weights": [[round(v, 5) for v in row] for row in self.weights(tensor).tolist()],
                "training": summary(self.gains(tensor, self.training)),
                "held_out": summary(self.gains(tensor, self.test)),
            }


def summary(gains: Tensor) -> dict[str, float]:
    """Geometric mean, median and worst of the ratios, and the part of the mixtures that are worse."""
    ratios = gains.exp()
    return {
        "geometric_mean": round(gains.mean().exp().item(), 4),
        "median": round(ratios.median().item(), 4),
        "worst": round(ratios.max().item(), 4),
        "part_worse": round((ratios > 1).double().mean().item(), 4),
    }


def first_guess(fit: Fit) -> np.ndarray:
    """Even steps of the clock, or of log sigma, with weights like those of short fits."""
    K = fit.K
    levels = np.arange(1, K) / K if fit.kind == CLOCK else np.geomspace(7.0, 0.7 / K, K - 1)
    return fit.numbers(levels, np.full((K, 1), 0.7))


def stretched(levels: list[float], weights: list[list[float]], fit: Fit) -> np.ndarray:
    """The table of K - 1 steps, with one step more."""
    logs = np.log(levels) if fit.kind == LIST else np.asarray(levels)
    ends = [] if fit.kind == LIST else [1.0]
    old, new = np.linspace(0, 1, len(logs) + len(ends)), np.linspace(0, 1, fit.K - 1 + len(ends))
    more = np.interp(new, old, np.append(logs, ends))[: fit.K - 1]
    if fit.K == 3 and fit.kind == LIST:
        more = np.append(logs, logs[0] - 2.0)
    table = np.concatenate([weights, weights[-1:]])
    return fit.numbers(np.exp(more) if fit.kind == LIST else more, table)


def fit_all(args: Args, kept: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every table, from few steps to many and from one weight to two, each starting from the ones before.

    Those that were ``kept`` are not fitted again.
    """
    training = Mixtures(args.mixtures, args.noises, args.seed, TRAINING_FAMILIES)
    test = Mixtures(args.mixtures // 2, args.noises, args.seed + 1, HELD_OUT_FAMILIES)
    for kind in args.kinds:
        done: dict[tuple[int, int], dict[str, Any]] = {}
        for K in args.steps:
            for m in args.weights:
                if f"{kind}:{K}:{m}" in kept:
                    done[K, m] = kept[f"{kind}:{K}:{m}"]
                    continue
                began = time.perf_counter()
                fit = Fit(kind, K, m, args.powers[kind], training, test)
                starts = [first_guess(fit)]
                if (K - 1, m) in done:
                    last = done[K - 1, m]
                    starts.append(stretched(last["levels"], last["weights"], fit))
                if (K, m - 1) in done:
                    fewer = done[K, m - 1]
                    starts.append(fit.numbers(np.array(fewer["levels"]), np.array(fewer["weights"])))
                done[K, m] = fit.table(fit.run(starts, args.iterations))
                print(
                    f"{kind} K = {K}, {m} weights: training {done[K, m]['training']}, held out "
                    f"{done[K, m]['held_out']}, {time.perf_counter() - began:.0f} s",
                    flush=True,
                )
                yield f"{kind}:{K}:{m}", done[K, m]


def main(args: Args) -> None:
    """Fit, and write the file after each table."""
    torch.set_num_threads(1)
    made_by = {
        "command": "python -m benchmarks.universal_fit",
        "mixtures": args.mixtures,
        "noises": args.noises,
        "families": list(TRAINING_FAMILIES),
        "held_out_families": list(HELD_OUT_FAMILIES),
        "power": args.powers,
        "seed": args.seed,
        "rival": RIVAL,
    }
    old = json.loads(args.out.read_text("utf-8")) if args.out.is_file() else {}
    tables: dict[str, Any] = old["tables"] if old.get("made_by") == made_by else {}
    for name, entry in fit_all(args, dict(tables)):
        tables[name] = entry
        write_text(args.out, json.dumps({"made_by": made_by, "tables": tables}, indent=1) + "\n")
    print(f"{len(tables)} tables in {args.out}")


if __name__ == "__main__":
    program = "python -m benchmarks.universal_fit"
    sys.exit(run_command(program, lambda: main(tyro.cli(Args, prog=program, description=__doc__))))
