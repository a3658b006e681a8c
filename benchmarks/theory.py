"""Does the theory hold in numbers? All of docs/theory.md (``page``), and trainings on N(0, 1) (``gaussian``).

python -m benchmarks.theory page
"""

from __future__ import annotations

import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import tyro
from matplotlib.figure import Figure

from art_env._util.cli import run_command
from art_env.diffusion import sample
from art_env.evaluation.evaluator import Evaluator
from art_env.problems.library import make_problem
from art_env.schedules import Schedule, closed_form, edm, final_rmse, gradient_search
from art_env.schedules.optimal import equal_density
from art_env.schedules.registry import make_schedule
from benchmarks import clock_theory as theory
from benchmarks.clock_theory import T
from benchmarks.records import ROOT
from benchmarks.running import run_training
from benchmarks.tasks import Tasks

MESHES = (8, 16, 32, 64, 128)
STEPS = (5, 10, 20, 50)
# K of the trainings on N(0, 1): those that a schedule is resampled to, and those that are trained one by one.
RESAMPLED_STEPS = (2, 5, 10, 20, 50, 100)
TRAINED_STEPS = (2, 5, 10, 20)


@dataclass
class Page:
    """Print the tables and draw the figures of docs/theory.md (about three minutes on one core)."""

    out: Path = ROOT / "docs"
    """Folder of the figures."""


@dataclass
class Gaussian:
    """Train ART-RL on the one problem whose optimum is known on paper: N(0, 1), Euler (table 1 of the paper).

    With the paper's reward it trains at K = 20 and resamples, with the final-error reward at each K; the exact W2
    stands beside the closed form of the paper's objective and the true optimum.
    """

    seeds: tuple[int, ...] = tuple(range(10))
    workers: int = 1
    """Trainings at once; more than one takes Ray (extra [ray])."""
    ray_address: str | None = None
    """A Ray cluster that trains, such as auto or ray://host:10001; by default this machine does."""


def retiming() -> None:
    """Section 1: what random changes of speed by 1 + r cost, over mean(r^2)."""
    print("1. rise of the cost / mean(r^2), over 20 random r; first-order part / mean(r^2)")
    for name, n in (("gaussian-1d", 64), ("mixture-1d", 1024), ("mixture-1d", 1)):
        reference = make_problem(name).reference(n)
        knots, norms = reference.sigmas.numpy(), reference.curvature_norms().mean(1).numpy()
        best = closed_form(reference, 4096)
        rng, rise = np.random.default_rng(0), []

        def cost(sigmas: np.ndarray, knots: np.ndarray = knots, norms: np.ndarray = norms) -> float:
            return theory.clock_cost(sigmas, lambda s: np.interp(-s, -knots, norms))

        for _ in range(20):
            a = rng.normal(size=6) * 0.08
            square = (a**2).sum() / 2
            changed = [theory.retimed(best, theory.wave(sign * a), 4096) for sign in (1, -1)]
            rise.append([(cost(c) / cost(best.sigmas) - 1) / square for c in changed])
        both = np.array(rise)
        odd = np.abs(both[:, 0] - both[:, 1]).max() / 2
        print(f"{name:12s} {n:5d} trajectories {both.min():.4f} to {both.max():.4f}   {odd:.4f}")


def randomising() -> None:
    """Section 2: cost of exploration over lambda T."""
    print("2. extra cost of N(mu*, lambda / |Q|) / (lambda T)")
    for averaged in (True, False):
        for N in (250, 500, 1000, 2000):
            base = theory.sampled_costs(0.0, N, 1)[0]
            line = []
            for lam in (0.01, 0.1, 1.0):
                extra = (theory.sampled_costs(lam, N, 4000, averaged, seed=N) - base) / (lam * T)
                line.append(f"{extra.mean():.4f} +- {extra.std() / np.sqrt(4000):.4f}")
            print("averaged" if averaged else "sampled ", f"{N:5d}", "   ".join(line))
    print("Bellman equation of drawn speeds, lambda = 0.1: shift / (lambda T), how far the clock moves")
    for N in (12, 24, 48):
        plain, noisy = theory.solve_hjb(N, 8 * N), theory.solve_hjb(N, 8 * N, 0.1)
        start = np.argmin(np.abs(noisy.sigmas - T))
        shift = (noisy.v[0, start] - plain.v[0, 0]) * np.sqrt(1 + T**2) / (0.1 * T)
        print(f"{N:5d} {shift:.4f} {np.abs(noisy.rollout() - plain.rollout()).max():.4f}")


def hjb(out: Path) -> None:
    """Section 3: the HJB equation against the closed form."""
    optimum = float(theory.gaussian_area(T)) ** 2 / T
    values, clocks, curves = [], [], {}
    print(f"3. HJB: value / closed form - 1, largest deviation of the clock; optimal cost {optimum:.4f}")
    for N in MESHES:
        table = theory.solve_hjb(N, 8 * N)
        curves[N] = table.rollout()
        values.append(table.v[0, 0] * np.sqrt(1 + T**2) / optimum - 1)
        clocks.append(np.abs(curves[N] - theory.gaussian_clock(np.linspace(0, T, N + 1))).max())
        print(f"{N:5d} {values[-1]:.2e} {clocks[-1]:.4f}")
    figure = Figure(figsize=(9, 3.6), dpi=110, layout="constrained")
    left, right = figure.subplots(1, 2)
    t = np.linspace(0, T, 400)
    left.plot(t, theory.gaussian_clock(t), "k", lw=1.2, label=r"closed form $\theta^* \propto |Q|^{-1/2}$")
    for N, mark in ((8, "s"), (32, ".")):
        left.plot(np.linspace(0, T, N + 1), curves[N], mark, label=f"HJB, {N} times")
    left.set(xlabel="t", ylabel=r"$\sigma = T - \psi(t)$", title="Optimal clock, N(0, 1)")
    right.loglog(MESHES, clocks, "o-", label=r"clock, $\max_t |\psi - \psi^*|$")
    right.loglog(MESHES, values, "s-", label=r"value, relative")
    n = np.array(MESHES)
    right.loglog(n, clocks[0] * n[0] / n, "k:", lw=1, label=r"$N^{-1}$, $N^{-2}$")
    right.loglog(n, values[0] * (n[0] / n) ** 2, "k:", lw=1)
    right.set(xlabel="N, times of the mesh (8 N levels)", title="Distance to the closed form")
    for axes in (left, right):
        axes.grid(alpha=0.25)
        axes.legend(frameon=False)
    figure.savefig(out / "theory_hjb.png")


def surviving() -> dict[str, list[float]]:
    """Section 5: final error on mixture-1d of grids with and without the weight, over that of the oracle."""
    problem = make_problem("mixture-1d")
    nodes, pilots = theory.quantile_flow(problem, 2048), [problem.reference(1024, seed) for seed in range(5)]
    survives = theory.surviving_curvature(problem, nodes)
    square = survives**2
    print("5. mixture-1d, Euler, RMSE over 2,048 quantiles of the initial noise")
    share = (square.max(1) / square.sum(1)).max()
    print(f"largest share of one noise in E (propagator Q)^2: {share:.2f}")
    print("   K     EDM  closed  E|PQ|  RMS PQ  weighted  from 5 sets of 1,024 noises   oracle")
    table: dict[str, list[float]] = {name: [] for name in ("EDM", "closed form", "weighted")}

    def rmse(schedule: Schedule) -> float:
        return final_rmse(problem.denoiser, nodes, schedule.sigmas, "euler")

    for K in STEPS:
        weighted = theory.weighted_closed_form(problem, nodes, K)
        grids = [
            edm(K, 0.002, 80.0, final_sigmas_type="sigma_min"),
            closed_form(nodes, K),
            equal_density(nodes, np.sqrt(np.abs(survives).mean(1)), K, "mean"),
            equal_density(nodes, square.mean(1) ** 0.25, K, "rms"),
            weighted,
        ]
        errors = [rmse(grid) for grid in grids]
        others = [rmse(theory.weighted_closed_form(problem, pilot, K)) for pilot in pilots]
        oracle = rmse(gradient_search(problem.denoiser, nodes, K, "euler", [weighted], 2, 100, with_dp=False))
        for name, i in (("EDM", 0), ("closed form", 1), ("weighted", 4)):
            table[name].append(errors[i] / oracle)
        row = " ".join(f"{e:7.4f}" for e in errors)
        print(f"{K:4d} {row}   {min(others):.4f} to {max(others):.4f}   {oracle:.4f}", flush=True)
    return table


def exploiting(table: dict[str, list[float]], out: Path) -> None:
    """Section 6: the best return of the paper's reward, and what it does to the final error."""
    problem = make_problem("gaussian-1d")
    reference = problem.reference(64)
    x = torch.tensor([[np.sqrt(10.0)]], dtype=torch.float64)
    counts = (2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 15, 20, 30, 50)
    cost, w2 = [], []
    print("6. N(0, 1): best grid of the paper's reward against the closed form: cost, W2, first step to")
    for K in counts:
        grids = theory.gaussian_surrogate(K), closed_form(reference, K)
        costs = [theory.paper_cost(problem, g, 1024) for g in grids]
        ends = [abs(1 - float(sample(problem.denoiser, x, g.sigmas, "euler"))) for g in grids]
        cost.append(costs[0] / costs[1])
        w2.append(ends[0] / ends[1])
        print(f"{K:4d} {costs[0]:.4f} {costs[1]:.4f}  {ends[0]:.4f} {ends[1]:.4f}  {grids[0].sigmas[1]:.3f}")
    mixture = make_problem("mixture-1d")
    noises = mixture.reference(1024)
    dense = closed_form(noises, 1024)
    print("mixture-1d: one step to 0.5, then the closed form's clock: cost and RMSE of both")
    for K in (5, 10, 20, 100, 200, 300, 350, 400):
        grids = theory.giant_step(dense, 0.5, K), closed_form(noises, K)
        costs = [theory.paper_cost(mixture, g, 256) for g in grids]
        errors = [final_rmse(mixture.denoiser, noises, g.sigmas, "euler") for g in grids]
        print(f"{K:4d} {costs[0]:.4f} {costs[1]:.4f}  {errors[0]:.3f} {errors[1]:.3f}", flush=True)
    figure = Figure(figsize=(9, 3.6), dpi=110, layout="constrained")
    left, right = figure.subplots(1, 2)
    for name, ratios in table.items():
        left.plot(STEPS, ratios, "o-", label=name)
    left.axhline(1.0, color="k", lw=1)
    left.set(xscale="log", xticks=STEPS, xticklabels=STEPS, xlabel="K", ylabel="RMSE / RMSE of the oracle")
    left.minorticks_off()
    left.set_title("mixture-1d, Euler: weighting by what survives")
    right.plot(counts, cost, "o-", label="its cost")
    right.plot(counts, w2, "s-", label="its final error (W2)")
    right.axhline(1.0, color="k", lw=1)
    right.set(xscale="log", xticks=(2, 5, 10, 20, 50), xticklabels=(2, 5, 10, 20, 50), xlabel="K")
    right.minorticks_off()
    right.set(ylabel="over the closed form's", title="N(0, 1): best grid of the paper's reward")
    for axes in (left, right):
        axes.grid(alpha=0.25)
        axes.legend(frameon=False)
    figure.savefig(out / "theory_surrogate.png")


def mending() -> None:
    """Section 7: two steps and one weight, on N(0, 1) from sigma = 2."""
    print("7. weight without error at H = 0.4, 0.1, 0.05; (r + 1/r) / 2 and its order; r / 2 and its order")
    for r in (1 / 8, 1 / 2, 1.0, 2.0, 8.0):
        best = [theory.mending_weight(r, H) for H in (0.4, 0.1, 0.05)]
        rules = [(w, theory.two_step_order(r, w)) for w in ((r + 1 / r) / 2, r / 2)]
        row = (
            " ".join(f"{w:.3f}" for w in best)
            + "   "
            + "   ".join(f"{w:.3f} {order:.2f}" for w, order in rules)
        )
        print(f"{r:6.3f} {row}")


def page(args: Page) -> None:
    """Print everything, save the figures."""
    torch.set_num_threads(1)
    retiming()
    randomising()
    hjb(args.out)
    exploiting(surviving(), args.out)
    mending()


def train(reward: str, K: int, seed: int) -> tuple[Schedule, float]:
    """The schedule of one training, and its seconds."""
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder, "run")
        options = {"problem": "gaussian-1d", "solver": "euler", "num_steps": K, "reward": reward}
        summary = run_training(run, "art", **options, seed=seed, oracle=False)
        return Schedule.load(run / "schedule.json"), summary["seconds"]


def gaussian(args: Gaussian) -> None:
    """Train everything, print two tables."""
    problem = make_problem("gaussian-1d")
    evaluator = Evaluator(problem, "euler", (0,))

    def w2(schedule: Schedule) -> float:
        return next(row.mean for row in evaluator.rows(schedule) if row.metric == "w2")

    tasks = Tasks(args.workers, args.ray_address)
    found = [tasks.submit(train, "euler", 20, seed) for seed in args.seeds]
    schedules, seconds = zip(*(run() for run in found), strict=True)
    print("reward=euler, trained at K = 20, resampled: W2 / W2 of the closed form")
    print("   K  closed form      min      max   within 2%")
    for K in RESAMPLED_STEPS:
        closed = w2(make_schedule("closed_form", problem, K, "euler"))
        print_ratios(K, closed, [w2(schedule.resample(K)) for schedule in schedules])
    print(f"seconds of training: at most {max(seconds):.0f}")
    print("reward=global, trained at each K: W2 / W2 of the optimum")
    print("   K      optimum      min      max   within 2%")
    for K in TRAINED_STEPS:
        found = [tasks.submit(train, "global", K, seed) for seed in args.seeds]
        schedules, seconds = zip(*(run() for run in found), strict=True)
        best = w2(make_schedule("arctan", problem, K, "euler"))
        print_ratios(K, best, [w2(schedule) for schedule in schedules])
        print(f"      seconds of training: at most {max(seconds):.0f}", flush=True)


def print_ratios(K: int, target: float, values: list[float]) -> None:
    """Print the target, the smallest and largest ratio of the values to it, and how many are within 2% of it."""
    ratios = [value / target for value in values]
    good = sum(abs(r - 1) <= 0.02 for r in ratios)
    print(
        f"{K:4d} {target:12.4f} {min(ratios):8.4f} {max(ratios):8.4f}   {good} of {len(ratios)}", flush=True
    )


def main(args: Page | Gaussian) -> None:
    """Run one of the two commands."""
    if isinstance(args, Page):
        page(args)
    else:
        gaussian(args)


if __name__ == "__main__":
    program = "python -m benchmarks.theory"
    sys.exit(run_command(program, lambda: main(tyro.cli(Page | Gaussian, prog=program, description=__doc__))))
