"""(problem, solver, schedule, seeds) -> rows of a results table."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from art_env._util.names import check_name
from art_env.diffusion.denoiser import difference
from art_env.diffusion.noise import StepNoise
from art_env.diffusion.ode import ReferenceFlow
from art_env.diffusion.solvers import Solver, check_weights, get_solver, require_deterministic, sample
from art_env.evaluation.feature_statistics import FeatureStatistics
from art_env.evaluation.features import Features
from art_env.evaluation.fid import InceptionFID
from art_env.evaluation.metrics import rmse, sliced_w2, wasserstein_1d
from art_env.evaluation.results import Score
from art_env.problems.problem import Problem
from art_env.schedules.optimal import final_rmse
from art_env.schedules.registry import check_fit, make_schedule
from art_env.schedules.schedule import Schedule

# Scores use other noises and data than training (seeds from 0) does.
NOISE_SEED, SECOND_SEED = 10_000, 20_000
# Held-out initial noises where many are too dear or not needed.
LINEAR_NOISES = 256
BATCH = 512


class Evaluator:
    """Scores schedules on one problem and solver; what does not depend on the schedule is computed once.

    A stochastic solver has no exact trajectory to be paired with: it has the metrics between distributions alone, no
    ``rmse`` and no ``ratio``; a problem without data is compared with exact samples. The noise of its steps is held
    out as the initial noises are, and the same for all schedules.

    Args:
        problem: what is sampled.
        solver: a name or a ``Solver``.
        seeds: one seed set each: held-out initial noises (and data); the mean and spread are over these.
        num_images: samples per seed set for the metrics of images.
        num_noises: initial noises per seed set for everything else; default the problem's own number, on images at
            most 256.
        metrics: beside the paired error; default the problem's own. Images have ``fid`` too, for which the
            weights of an Inception network are needed.
        fid: how ``fid`` is computed; default torch-fidelity's Inception network.

    Raises:
        ValueError: unknown solver, no or repeated or negative seeds, too few images or noises, a metric that
            the problem does not have, or no metric at all for a stochastic solver.
    """

    def __init__(
        self,
        problem: Problem,
        solver: str | Solver,
        seeds: Sequence[int] = (0, 1, 2),
        num_images: int = 2000,
        num_noises: int | None = None,
        metrics: Sequence[str] | None = None,
        fid: InceptionFID | None = None,
    ) -> None:
        self.problem, self.solver = problem, get_solver(solver)
        self.seeds = tuple(int(s) for s in seeds)
        if not self.seeds:
            raise ValueError("seeds = () is empty; give at least one, such as 0")
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds = {self.seeds} repeats one, which would understate the spread")
        if min(self.seeds) < 0 or max(self.seeds) >= SECOND_SEED - NOISE_SEED:
            raise ValueError(f"seeds = {self.seeds} must lie between 0 and {SECOND_SEED - NOISE_SEED - 1}")
        if num_noises is None:
            num_noises = min(problem.num_noises, problem.effort.score_noises or problem.num_noises)
        self.num_noises = num_noises
        if self.num_noises < 2:
            raise ValueError(f"num_noises = {self.num_noises} must be at least 2")
        if problem.linear:
            # Scores are exact; a reference only serves the search for the oracle.
            self.num_noises = min(self.num_noises, LINEAR_NOISES)
        self.num_images = int(num_images)
        self.metrics = problem.metrics if metrics is None else tuple(metrics)
        images = problem.features is not None and problem.data is not None
        for metric in self.metrics:
            check_name(
                f"metric of {problem.name!r}", metric, (*problem.metrics, *(("fid",) if images else ()))
            )
        if self.solver.stochastic and problem.data is None and problem.statistics is None:
            self.metrics = ("sliced_w2",)
        elif self.solver.stochastic and not self.metrics:
            raise ValueError(
                f"metrics = (): solver {self.solver.name!r} is stochastic, so {problem.name!r} can be scored only by "
                f"the distance between distributions; its metrics: {', '.join(problem.metrics)}"
            )
        self._fid = (fid or InceptionFID()) if "fid" in self.metrics else None
        self._features: Features | None = None
        if problem.features is not None:
            self._features = Features(problem.features)
            if self.num_images <= self._features.dim:
                raise ValueError(
                    f"num_images = {num_images} must exceed the {self._features.dim} features of the Frechet "
                    "distance; 2000 is a good number"
                )
        self._real: Tensor | None = None
        self._statistics: FeatureStatistics | None = None
        if problem.statistics is not None:
            self._statistics = FeatureStatistics.load(problem.statistics)
        self._data: dict[int, Tensor] = {}
        self._references: dict[int, ReferenceFlow] = {}
        self._rmse: dict[Schedule, list[float]] = {}
        self._noises: dict[int, StepNoise] = {}

    # Scores

    def check(self, schedule: Schedule) -> None:
        """Refuse a schedule made for another noise range or solver.

        Log-SNR may end at 1e-4 on a problem that runs to 0 by itself.

        Raises:
            ValueError: its first or last noise level is not the problem's, or its weights are not for this solver.
        """
        check_fit(schedule, self.problem)
        if schedule.weights is not None:
            check_weights(schedule.weights, self.solver, schedule.num_steps)

    def rows(self, schedule: Schedule, oracle: Schedule | None = None) -> list[Score]:
        """Every metric of the problem for one schedule, ``rmse`` first (unless the solver is stochastic).

        ``rmse`` is the paired error over all coordinates (but those of a condition) against the exact solution
        from the same noise. On a linear problem both it and ``w2`` are exact, without sampling.

        Args:
            schedule: what to score; its name is what the table calls it.
            oracle: the best schedule at the same K, computed on ``reference()``: adds the row ``ratio``.

        Raises:
            ValueError: the schedule is for another noise range, ``oracle`` for another K, or an oracle of a noisy
                solver.
        """
        self.check(schedule)
        if oracle is not None:
            require_deterministic(self.solver, "the ratio to the oracle")
        if self.problem.linear:
            values = self._linear(schedule)
        else:
            values = self._sampled(lambda noises: self._sample(schedule, noises), schedule)
        if "rmse" in values:
            self._rmse[schedule] = values["rmse"]
        rows = [self._row(schedule, metric, v) for metric, v in values.items()]
        if oracle is not None:
            rows.append(self._row(schedule, "ratio", [self.ratio(schedule, oracle)]))
        return rows

    def policy_rows(
        self, name: str, num_steps: int, sample: Callable[[Tensor], Tensor], oracle: Schedule | None = None
    ) -> list[Score]:
        """Rows, as of ``rows``, for a sampler that chooses the noise levels of each trajectory by itself.

        Args:
            name: what the table calls it.
            num_steps: K of every trajectory.
            sample: initial noises ``[B, *shape]`` to samples ``[B, *shape]``.
            oracle: the best fixed schedule at this K; the ``ratio`` may be below 1.

        Raises:
            ValueError: the solver is stochastic, or ``oracle`` is for another K.
        """
        require_deterministic(self.solver, "a policy that acts on each trajectory")
        if oracle is not None and oracle.num_steps != num_steps:
            raise ValueError(
                f"policy {name!r} has {num_steps} steps, the oracle {oracle.num_steps}; a ratio compares equal K"
            )

        @torch.no_grad()
        def ends(noises: Sequence[Tensor]) -> list[Tensor]:
            return [torch.cat([sample(part) for part in x.split(BATCH)]) for x in noises]

        problem = self.problem
        head = (
            problem.name,
            self.solver.name,
            problem.final_sigmas_type,
            name,
            num_steps,
            self.nfe(num_steps),
        )
        values = self._sampled(ends)
        rows = [Score(*head, metric, *_mean_sd(v), len(v)) for metric, v in values.items()]
        if oracle is not None:
            rows.append(Score(*head, "ratio", values["rmse"][0] / self._first_rmse(oracle), math.nan, 1))
        return rows

    def nfe(self, num_steps: int) -> int:
        """Network evaluations a sample."""
        return self.solver.nfe(num_steps) * int(getattr(self.problem.denoiser, "nfe_per_call", 1))

    def ratio(self, schedule: Schedule, oracle: Schedule) -> float:
        """``rmse`` of the schedule over that of the oracle, on the noises of the first seed set.

        Raises:
            ValueError: they differ in K, or the solver is stochastic.
        """
        require_deterministic(self.solver, "the ratio to the oracle")
        if schedule.num_steps != oracle.num_steps:
            raise ValueError(
                f"schedule {schedule.name!r} has {schedule.num_steps} steps, the oracle {oracle.num_steps}; "
                "a ratio compares schedules of one K"
            )
        own, best = (self._first_rmse(s) for s in (schedule, oracle))
        return own / best if best > 0 else math.nan

    def oracle(
        self,
        num_steps: int,
        path: str | os.PathLike[str],
        starts: Sequence[Schedule] = (),
        again: bool = False,
    ) -> Schedule:
        """The best schedule there is on the noises of the first seed set, kept in a file.

        Its meta says how many ``seconds`` the search took.

        Args:
            num_steps: K.
            path: of the schedule; where it is already, it is read.
            starts: as ``make_schedule``.
            again: search even so, and replace it.

        Raises:
            ValueError: what is in the file is not the oracle of this problem, solver, K and seed set, or damaged.
        """
        if Path(path).is_file() and not again:
            return self._kept_oracle(path, num_steps)
        began = time.perf_counter()
        found = make_schedule("oracle", self.problem, num_steps, self.solver, self.reference(), starts)
        seconds = round(time.perf_counter() - began, 2)
        found = replace(found, meta={**found.meta, **self._oracle_is_of(), "seconds": seconds})
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        found.save(path)
        return found

    def _oracle_is_of(self) -> dict[str, str | int]:
        return {"problem": self.problem.name, "solver": self.solver.name, "seed": self.seeds[0]}

    def _kept_oracle(self, path: str | os.PathLike[str], num_steps: int) -> Schedule:
        """The oracle in a file, if it is what ``oracle`` would find."""
        wanted = {**self._oracle_is_of(), "num_steps": num_steps}
        try:
            kept = Schedule.load(path)
            # Files of earlier versions do not tell the problem and the seed; their error does.
            told = {**wanted, **kept.meta, "num_steps": kept.num_steps}
            for name, value in wanted.items():
                if told[name] != value:
                    raise ValueError(f"{name} = {told[name]!r}, and here it is {value!r}")
            self.check(kept)
            error = final_rmse(self.problem.denoiser, self.reference(), kept, self.solver)
            if not _same_error(told.get("rmse"), error):
                raise ValueError(f"rmse = {told.get('rmse')!r}, and here it is {error:.6g}")
        except ValueError as reason:
            raise ValueError(
                f"{path} does not hold the oracle of this run ({reason}); delete the file, and the oracle is "
                "searched for again"
            ) from reason
        return kept

    def reference(self, i: int = 0) -> ReferenceFlow:
        """Exact trajectories of the held-out noises of seed set ``i``."""
        if i not in self._references:
            self._references[i] = self.problem.reference(self.num_noises, NOISE_SEED + self.seeds[i])
        return self._references[i]

    def reference_error(self) -> float:
        """RMSE between the reference's end and that with steps of half the length: how exact "exact" is.

        On a quarter of the noises (at most 64) of a network, on all of them otherwise. 0 on a linear problem and
        with a stochastic solver, which are scored without a reference.
        """
        if self.problem.linear or self.solver.stochastic:
            return 0.0
        check = self.problem.effort.check_noises
        n = self.num_noises if check is None else max(min(self.num_noises // 4, check), 2)
        fine = self.problem.reference(n, NOISE_SEED + self.seeds[0], 2 * self.problem.num_knots - 1)
        return self._error(self.reference().x_end[:n], fine.x_end)

    def floor(self) -> list[Score]:
        """Rows of exact samples: the score of real data against real data, for every metric that has one.

        Two independent sets. Where the data is a finite set, ``num_images`` draws with replacement from all of
        it: what a sampler that repeats the data would score. Where only statistics of the data are here, the draws
        are those that were scored when the statistics were made. Empty on a linear problem, where scores are exact.
        """
        if self.problem.linear or (self.problem.data is None and self._statistics is None):
            return []
        names = (self.problem.name, "none", self.problem.final_sigmas_type, "floor", 0, 0)
        if self.problem.data is None:
            kept = self._real_statistics().floors_of(self.num_images)
            return [Score(*names, m, *_mean_sd(kept), len(kept)) for m in self.metrics if kept]
        values: dict[str, list[float]] = {m: [] for m in self.metrics}
        for i, seed in enumerate(self.seeds):
            if self._features is None:
                other = self.problem.sample_data(self.num_noises, SECOND_SEED + seed)
            elif self.problem.num_data is None:
                other = self.problem.sample_data(self.num_images, SECOND_SEED + seed)
            else:
                # Halves would be smaller sets than those that are scored, and so have a higher floor.
                everything = self.problem.sample_data(self.problem.num_data, 0)
                drawn = np.random.default_rng(SECOND_SEED + seed).integers(
                    len(everything), size=self.num_images
                )
                other = everything[torch.from_numpy(drawn)]
            for metric, value in self._distances(other, i).items():
                values[metric].append(value)
        return [Score(*names, metric, *_mean_sd(v), len(v)) for metric, v in values.items()]

    def samples(self, schedule: Schedule, n: int = 8) -> Tensor:
        """The first ``n`` samples of the first seed set, as the data: ``[n, ...]``."""
        self.check(schedule)
        (x,) = self._sample(schedule, [self.problem.sample_noise(n, NOISE_SEED + self.seeds[0])])
        return self.problem.images(x)

    def exact_samples(self, n: int = 8) -> Tensor:
        """The exact ones from the same noises, ``[n, ...]``; at most ``num_noises``."""
        return self.problem.images(self.reference().x_end[:n])

    # Pieces

    def _row(self, schedule: Schedule, metric: str, values: Sequence[float]) -> Score:
        K = schedule.num_steps
        nfe = self.nfe(K)
        mean, sd = _mean_sd(values)
        if self.problem.linear and metric != "ratio":
            sd = 0.0  # exact, nothing is drawn
        names = (self.problem.name, self.solver.name, schedule.final_sigmas_type, schedule.name)
        return Score(*names, K, nfe, metric, mean, sd, len(values))

    def _linear(self, schedule: Schedule) -> dict[str, list[float]]:
        """The sampler multiplies x, and the noise of each step, by a number: run it once, on 1."""
        problem = self.problem
        c, start = float(problem.denoiser.sigma_data), problem.prior_std
        K = schedule.num_steps
        repeat = len(self.seeds)
        if self.solver.stochastic:
            # Row 0 is the initial noise, row k + 1 the noise of step k, each alone.
            alone = torch.eye(K + 1, dtype=torch.float64, device=problem.device)
            alone = alone.reshape(K + 1, K + 1, *[1] * len(problem.shape)).expand(-1, -1, *problem.shape)
            ends = sample(problem.denoiser, alone[0], schedule.sigmas, self.solver, noise=alone[1:])
            factors = ends.flatten(1)[:, 0]
            std = float(torch.sqrt((start * factors[0]) ** 2 + factors[1:].square().sum()))
            return {"w2": [abs(c - std)] * repeat}
        one = torch.ones(1, *problem.shape, dtype=torch.float64, device=problem.device)
        a = float(self.sample_batch(schedule, one).flatten()[0])
        exact = math.sqrt((schedule.sigma_end**2 + c**2) / (problem.sigma_max**2 + c**2))
        # The same figure for every seed set: nothing is drawn.
        return {"rmse": [abs(a - exact) * start] * repeat, "w2": [abs(c - start * abs(a))] * repeat}

    def _sampled(
        self, sample_ends: Callable[[Sequence[Tensor]], list[Tensor]], schedule: Schedule | None = None
    ) -> dict[str, list[float]]:
        """Every metric of every seed set.

        Args:
            sample_ends: initial noises of every seed set to samples.
            schedule: says where the samples end; None: as the reference.
        """
        paired = () if self.solver.stochastic else ("rmse",)
        values: dict[str, list[float]] = {m: [] for m in (*paired, *self.metrics)}
        n = self.num_noises
        if self._features is not None and self.metrics:
            n = max(n, self.num_images)
        # The first rows of a longer list of noises are the reference's own.
        noises = [self.problem.sample_noise(n, NOISE_SEED + seed) for seed in self.seeds]
        for i, ends in enumerate(sample_ends(noises)):
            if paired:
                exact = self.reference(i).x_end if schedule is None else self._exact_end(schedule, i)
                values["rmse"].append(self._error(ends[: self.num_noises], exact))
            for metric, value in self._distances(self.problem.images(ends), i).items():
                values[metric].append(value)
        return values

    def _error(self, x: Tensor, y: Tensor) -> float:
        off = difference(self.problem.denoiser, x, y)
        return rmse(off, torch.zeros_like(off))

    def _first_rmse(self, schedule: Schedule) -> float:
        if schedule not in self._rmse:
            self.check(schedule)
            if self.problem.linear:
                self._rmse[schedule] = self._linear(schedule)["rmse"]
            else:
                (ends,) = self._sample(schedule, [self.reference().start])
                self._rmse[schedule] = [self._error(ends, self._exact_end(schedule, 0))]
        return self._rmse[schedule][0]

    def _exact_end(self, schedule: Schedule, i: int) -> Tensor:
        reference = self.reference(i)
        if schedule.final_sigmas_type == "zero" or reference.sigma_end > 0:
            return reference.x_end
        return reference.at(schedule.sigma_end)

    def _sample(self, schedule: Schedule, noises: Sequence[Tensor]) -> list[Tensor]:
        """The end of every row of the initial noises ``[n, *shape]`` of each seed set."""
        batches = [
            (schedule, x[begin : begin + BATCH], i, begin)
            for i, x in enumerate(noises)
            for begin in range(0, len(x), BATCH)
        ]
        ends = iter(self._sample_batches(batches))
        return [torch.cat([next(ends) for _ in range(0, len(x), BATCH)]) for x in noises]

    def _sample_batches(self, batches: Sequence[tuple[Schedule, Tensor, int, int]]) -> list[Tensor]:
        """``sample_batch`` of the arguments of each."""
        return [self.sample_batch(*batch) for batch in batches]

    @torch.no_grad()
    def sample_batch(self, schedule: Schedule, x: Tensor, i: int = 0, begin: int = 0) -> Tensor:
        """The end of every row of one batch ``x: [B, *shape]``.

        Args:
            schedule: to follow.
            x: initial noises of seed set ``i``, from its row ``begin`` on; they tell which noise a stochastic solver
                adds.
            i, begin: see ``x``.
        """
        denoiser, K = self.problem.denoiser, schedule.num_steps
        if not self.solver.stochastic:
            return sample(denoiser, x, schedule.sigmas, self.solver, weights=schedule.weights)
        if i not in self._noises:
            given = self.problem.given_channels
            self._noises[i] = StepNoise(self.problem.shape, NOISE_SEED + self.seeds[i], given)
        rows = torch.arange(begin, begin + len(x))
        noise = torch.stack([self._noises[i].rows(torch.tensor([k]), rows) for k in range(K)])
        return sample(denoiser, x, schedule.sigmas, self.solver, noise=noise)

    def _distances(self, x: Tensor, i: int) -> dict[str, float]:
        """Every metric of samples ``[n, ...]`` in the space of the data; ``i``: the seed set."""
        if not self.metrics:
            return {}
        if self._features is None:
            if i not in self._data and self.problem.data is None:
                self._data[i] = self.problem.images(self.reference(i).x_end)
            elif i not in self._data:
                self._data[i] = self.problem.sample_data(self.num_noises, NOISE_SEED + self.seeds[i])
            return {m: _point_metric(m, x, self._data[i]) for m in self.metrics}
        x = x[: self.num_images]
        scores: dict[str, float] = {}
        for metric in self.metrics:
            if metric == "frechet":
                scores[metric] = self._real_statistics().distance(self._features(x))
            elif metric == "fid":
                assert self._fid is not None
                scores[metric] = self._fid(x, self._real_images().to(x))
            else:
                check_name("metric", metric, ("frechet", "fid", "sliced_w2"))
                real = self._real_images().to(x)
                n = min(len(x), len(real))
                scores[metric] = sliced_w2(x[:n].flatten(1), real[:n].flatten(1), num_projections=128)
        return scores

    def _real_images(self) -> Tensor:
        """All real images there are, or as many as are scored."""
        if self._real is None:
            self._real = self.problem.sample_data(self.problem.num_data or self.num_images, NOISE_SEED)
        return self._real

    def _real_statistics(self) -> FeatureStatistics:
        """Those of the features of real images, from the problem's file or from the images."""
        if self._statistics is None:
            assert self._features is not None
            self._statistics = FeatureStatistics.of(self._features(self._real_images()))
        return self._statistics


def _point_metric(metric: str, x: Tensor, data: Tensor) -> float:
    if metric == "w2":
        return wasserstein_1d(x, data)
    check_name("metric", metric, ("w2", "sliced_w2"))
    return sliced_w2(x.flatten(1), data.flatten(1))


def _same_error(told: object, measured: float) -> bool:
    """Whether an error in a file is the one that was measured, perhaps on another machine."""
    return isinstance(told, int | float) and math.isclose(told, measured, rel_tol=1e-3, abs_tol=1e-9)


def _mean_sd(values: Sequence[float]) -> tuple[float, float]:
    sd = float(np.std(values, ddof=1)) if len(values) > 1 else math.nan
    return float(np.mean(values)), sd
