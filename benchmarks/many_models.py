"""One agent for every model: trained on random mixtures, used on networks that it has never seen.

python -m benchmarks.many_models

Trains ART-RL with features on ``random-mixtures`` (a run folder for each seed under --runs; a finished one is used
again) and lets the policies act on held-out families of mixtures and on every bundled model, without training there.
Beside them stands the universal list that the policies begin with. Writes results/many_models.csv and a table of
docs/generalisation.md between its marks.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import tyro
from tqdm import tqdm

from agents.checkpoint import load_agent
from agents.rollout import sample_with_policy
from art_env._util.cli import run_command
from art_env.diffusion.denoiser import difference
from art_env.diffusion.solvers import sample
from art_env.envs.dynamics import Dynamics
from art_env.envs.observation import RELATIVE_FEATURES
from art_env.evaluation.evaluator import NOISE_SEED
from art_env.evaluation.results import read_csv, write_csv
from art_env.problems.library import make_problem
from art_env.problems.random_mixtures import HELD_OUT_FAMILIES, TRAINING_FAMILIES, random_mixture_problem
from art_env.schedules.transfer import universal
from benchmarks.records import RESULTS, CellLine
from benchmarks.running import run_training
from benchmarks.tables import GENERAL_PAGE, MANY_MODELS, Pages, markdown, median_and_range, write_pages
from benchmarks.universal import Args as UniversalArgs

SOLVER = "learned_2m"
LIST, POLICY = "universal list", "policy"
# Mixtures that no policy was trained on, of families that it knows and of others.
NEW, HELD_OUT = "new mixtures", "other families"
SEED_OF_NEW = 40_000


@dataclass
class Args:
    """Train and score policies for many models."""

    problems: tuple[str, ...] = UniversalArgs.problems
    num_steps: int = 5
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    runs: Path = Path("runs/many_models")
    out: Path = RESULTS / "many_models.csv"
    tables_only: bool = False
    """Only write the table from ``out``."""


@dataclass(frozen=True)
class Line(CellLine):
    """RMSE on a model: of the universal list (seed 0), or of the policy of a seed.

    On mixtures, which are many models, the geometric mean over them, and the part that is better than with the
    list.
    """

    sampler: str
    seed: int
    rmse: float
    ratio: float
    better: float


def errors(dynamics: Dynamics, x: torch.Tensor, ends: torch.Tensor, exact: torch.Tensor) -> torch.Tensor:
    """RMSE of each data distribution, ``[P]``; of one model ``[1]``."""
    denoiser = dynamics.problem.denoiser
    square = difference(denoiser, ends, exact).square().flatten(1).mean(1)
    which = getattr(denoiser, "which", lambda x: torch.zeros(len(x), dtype=torch.int64))(x)
    count = torch.bincount(which)
    return (torch.zeros(len(count), dtype=square.dtype).index_add(0, which, square) / count).sqrt()


def score(args: Args, folders: Sequence[Path], name: str) -> list[Line]:
    """Lines of one model, or of a set of mixtures."""
    K = args.num_steps
    if name in (NEW, HELD_OUT):
        families = TRAINING_FAMILIES if name == NEW else HELD_OUT_FAMILIES
        # By its own name: an agent takes that of its training for its own mixtures.
        problem = replace(random_mixture_problem(128, SEED_OF_NEW, families), name=name)
    else:
        problem = make_problem(name)
    n = min(problem.num_noises, problem.effort.score_noises or problem.num_noises)
    known = problem.reference(n, NOISE_SEED)
    x = known.start
    found: list[tuple[int, torch.Tensor]] = []
    for seed, folder in zip(args.seeds, folders, strict=True):
        policy, dynamics = load_agent(folder / "agent.safetensors", problem=problem)
        ends = torch.cat([sample_with_policy(policy, dynamics, part).x for part in x.split(4096)])
        found.append((seed, errors(dynamics, x, ends, known.x_end)))
    if name in (NEW, HELD_OUT):
        # Each mixture has a list of its own: what the policy does with action 0.
        still = _Still(dynamics.num_actions)
        ends = sample_with_policy(still, dynamics, x).x
    else:
        schedule = universal(problem, K, SOLVER)
        ends = sample(problem.denoiser, x, schedule.sigmas, SOLVER, weights=schedule.weights)
    base = errors(dynamics, x, ends, known.x_end)
    lines = [Line(name, SOLVER, K, LIST, 0, _mean(base), 1.0, 0.0)]
    for seed, each in found:
        ratio = each / base
        better = float((ratio < 1).double().mean())
        lines.append(Line(name, SOLVER, K, POLICY, seed, _mean(each), _mean(ratio), better))
    return lines


class _Still:
    """A policy whose actions are 0."""

    def __init__(self, num_actions: int) -> None:
        self.num_actions = num_actions

    def predict(self, observation: np.ndarray, *, deterministic: bool = True) -> tuple[np.ndarray, None]:
        """Zeros."""
        return np.zeros((len(observation), self.num_actions), dtype=np.float32), None


def _mean(values: torch.Tensor) -> float:
    return float(values.log().mean().exp())


def table(lines: Sequence[Line]) -> str:
    """The list's error, and the policies' as ratios to it."""
    rows = []
    for name in dict.fromkeys(line.problem for line in lines):
        own = [line for line in lines if line.problem == name]
        (base,) = (line.rmse for line in own if line.sampler == LIST)
        policies = [line for line in own if line.sampler == POLICY]
        better = median_and_range([line.better for line in policies]) if name in (NEW, HELD_OUT) else ""
        ratios = median_and_range([line.ratio for line in policies])
        rows.append((name, f"{base:.3f}", ratios, better))
    header = ("model", "universal list, RMSE", "policy / list, zero-shot", "mixtures that are better")
    return markdown(header, rows)


def page_tables(args: Args | None = None) -> Pages:
    """The table of docs/generalisation.md, from the file."""
    return {GENERAL_PAGE: {MANY_MODELS: table(read_csv((args or Args()).out, Line))}}


def main(args: Args) -> None:
    """Train, score, write."""
    torch.set_num_threads(1)
    lines: list[Line] = read_csv(args.out, Line) if args.out.is_file() else []
    if not args.tables_only:
        folders = []
        for seed in tqdm(args.seeds, disable=None):
            folders.append(args.runs / f"{args.num_steps}__{seed}")
            run_training(
                folders[-1],
                "art",
                problem="random-mixtures",
                solver=SOLVER,
                num_steps=args.num_steps,
                base_schedule="universal",
                features=RELATIVE_FEATURES,
                history=args.num_steps - 1,
                seed=seed,
                oracle=False,
            )
        lines = []
        for name in (NEW, HELD_OUT, *args.problems):
            lines += score(args, folders, name)
            print(*lines[-len(folders) - 1 :], sep="\n", flush=True)
            write_csv(lines, args.out, Line)
    write_pages(page_tables(args))


if __name__ == "__main__":
    program = "python -m benchmarks.many_models"
    sys.exit(run_command(program, lambda: main(tyro.cli(Args, prog=program, description=__doc__))))
