"""What do schedules do to images? The paper's tables on data that scikit-learn ships, one by one or all.

python -m benchmarks.images solvers --workers 2

Searches for the schedules that are missing (a run folder each under --runs; a run that is there is used again),
scores them on held-out noises, prints the tables and writes them to --out. A name that begins with ``evolution`` is a
schedule of the search by evolution. Only the paper's reward, which has no exact trajectories for a search, needs
ART-RL; the rows ``search (euler reward)`` in the files are of a time when the search could do without them.
``benchmarks.image_tables`` makes the tables of docs/images.md.
"""

from __future__ import annotations

import hashlib
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

import torch
import tyro
from tqdm import tqdm
from tyro.conf import Positional

from agents.distill import distill
from agents.schedule_policy import SchedulePolicy
from art_env._util.cli import run_command
from art_env._util.files import write_text
from art_env.envs.config import EnvConfig
from art_env.envs.dynamics import Dynamics
from art_env.evaluation.evaluator import Evaluator
from art_env.evaluation.plots import samples_figure
from art_env.evaluation.results import Score, format_table, write_csv
from art_env.problems.library import make_problem
from art_env.problems.problem import Problem
from art_env.schedules import Schedule
from art_env.schedules.registry import make_schedule
from benchmarks import headline
from benchmarks.records import RESULTS, ROOT, SOLVERS, title
from benchmarks.second_control import read_found
from benchmarks.tasks import Tasks

Table = Literal["solvers", "steps", "models", "saved", "inpaint", "mnist", "picture"]
TRANSFER_STEPS = (4, 6, 9, 12, 15, 20)
MODELS = ("photos", "digits-small", "digits-large", "digits-class", "photos-latent")
# Problems and K where the schedule of digits does not carry over: there one is trained too.
TRAINED_ANEW = [(problem, K) for problem in ("photos", "photos-latent") for K in (7, 10)]
# Solver and K on MNIST: 5 and 8 evaluations, with Heun 5, 9, 15, and 35 for samples that are nearly exact.
MNIST_STEPS = {"euler": (5, 8), "dpmpp_2m": (5, 8), "heun": (3, 5, 8, 18)}
# May reach the quality of EDM at 10: 9, 11 and 13 evaluations with Heun.
SAVED_STEPS = (5, 6, 7)
SIZES = ("digits-small", "digits", "digits-large")
RIVALS = ("uniform", "log_snr", "edm", "edm_tuned", "closed_form")
# The oracle of a long RK4 run takes an hour and is far below what the metric resolves.
LONGEST_ORACLE = 20
# Trajectories that actions are carried over on; without features they are all the same.
FEW_NOISES = 16


@dataclass
class Args:
    """Print and save the tables of images."""

    tables: Positional[tuple[Table, ...]] = (
        "solvers",
        "steps",
        "models",
        "saved",
        "inpaint",
        "mnist",
        "picture",
    )
    """Which tables."""
    solvers: tuple[str, ...] = ("heun", "euler", "rk4", "dpmpp_2m")
    """Solvers of the first table."""
    steps: tuple[int, ...] = (2, 3, 5, 7, 10, 18)
    """Numbers of steps of the first table."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Seed sets of held-out noises; mean and spread are over these."""
    num_images: int = 2000
    """Samples per seed set."""
    workers: int = 1
    """Trainings at once; more than one takes Ray (extra [ray])."""
    ray_address: str | None = None
    """A Ray cluster that trains, such as auto or ray://host:10001; by default this machine does."""
    runs: Path = Path("runs/images")
    """Where the trained schedules are kept."""
    out: Path = RESULTS
    """Folder for a CSV file a table."""
    page: Path = ROOT
    """Folder whose docs/ gets the picture."""
    device: str = "cpu"


@dataclass(frozen=True)
class Training:
    """One run of train.py."""

    problem: str
    solver: str
    num_steps: int
    reward: str = "global"
    oracle: bool = True

    @property
    def algorithm(self) -> str:
        """That of train.py: the search needs exact trajectories, which the paper's reward has not."""
        return "art" if self.reward == "euler" else "evolution"

    def folder(self, runs: Path) -> Path:
        """The run folder."""
        return runs / f"{self.problem}__{self.solver}__{self.num_steps}__{self.reward}"


def learned(training: Training, args: Args, name: str) -> Schedule:
    """The schedule of a run, under the name that the table gives it."""
    schedule = Schedule.load(training.folder(args.runs) / "schedule.json")
    return replace(schedule, name=name)


def carried(training: Training, args: Args, problem: Problem) -> Schedule:
    """The schedule of a run's actions on another problem, along that one's base schedule."""
    config = EnvConfig(
        solver=training.solver,
        num_steps=training.num_steps,
        features=(),
        base_schedule="closed_form",
        num_noises=FEW_NOISES,
    )
    own = config.of_problem(make_problem(training.problem, device=args.device))
    schedule = learned(training, args, "actions of digits")
    policy = SchedulePolicy(schedule, Dynamics(own))
    return distill(policy, Dynamics(config.of_problem(problem)), name=schedule.name)


def oracle_of(training: Training, args: Args) -> Schedule | None:
    """The oracle that a run has found, if it searched for it."""
    path = training.folder(args.runs) / "oracle.json"
    return Schedule.load(path) if path.is_file() else None


def trainings(args: Args) -> list[Training]:
    """Everything that the tables asked for read."""
    jobs: list[Training] = []
    for table in args.tables:
        if table == "solvers":
            for solver in args.solvers:
                jobs += [per_step(solver, K) for K in args.steps]
                jobs.append(surrogate(solver, "local"))
            jobs.append(surrogate("euler", "euler"))
        elif table == "steps":
            jobs.append(per_step("heun", 18))
        elif table == "models":
            jobs += [per_step("heun", K) for K in (3, 5, 7, 10)]
            jobs += [Training(p, "heun", K, oracle=False) for p, K in TRAINED_ANEW]
        elif table == "saved":
            jobs += [Training(p, "heun", K, oracle=False) for p in SIZES for K in SAVED_STEPS]
        elif table == "inpaint":
            for K in (3, 5, 7):
                jobs += [per_step("heun", K), Training("digits-inpaint", "heun", K, oracle=False)]
    # One run serves every table; with an oracle if any of them shows it.
    jobs.sort(key=lambda t: not t.oracle)
    return list({t.folder(args.runs): t for t in reversed(jobs)}.values())[::-1]


def per_step(solver: str, K: int) -> Training:
    """The final-error reward, trained at this very K."""
    nfe = {"heun": 2, "rk4": 4}.get(solver, 1) * K
    return Training("digits", solver, K, oracle=nfe <= LONGEST_ORACLE)


def surrogate(solver: str, reward: str) -> Training:
    """Sums of local errors, trained once and resampled; the paper's reward at a K where it means something."""
    K = 18 if reward == "euler" else 5 if solver == "rk4" else 7
    return Training("digits", solver, K, reward, oracle=False)


def resampled(schedule: Schedule, K: int) -> Schedule:
    """The paper's transfer: the noise levels above 0 log-linearly at another K, then 0."""
    return schedule.resample(K, keep_zero=True)


def table_solvers(args: Args) -> list[Score]:
    """Every solver and K on digits."""
    rows: list[Score] = []
    problem = make_problem("digits", device=args.device)
    for solver in args.solvers:
        evaluator = KeptEvaluator(problem, solver, args)
        rows += evaluator.floor() if not rows else []
        paper = learned(surrogate("euler", "euler"), args, "art (euler reward)")
        local = learned(surrogate(solver, "local"), args, "evolution (local reward)")
        for K in tqdm(args.steps, desc=solver, disable=None):
            oracle = oracle_of(per_step(solver, K), args)
            own = [learned(per_step(solver, K), args, "evolution (global reward)")]
            others = [make_schedule(name, problem, K, solver) for name in RIVALS]
            shown = [*others, resampled(paper, K), resampled(local, K), *own]
            for schedule in [*shown, *([oracle] if oracle is not None else [])]:
                rows += evaluator.rows(schedule, oracle)
    return rows


def table_steps(args: Args) -> list[Score]:
    """One schedule, trained at K = 18, at other K."""
    problem = make_problem("digits", device=args.device)
    evaluator = KeptEvaluator(problem, "heun", args)
    schedule = learned(per_step("heun", 18), args, "evolution, K = 18 resampled")
    rows: list[Score] = []
    for K in tqdm(TRANSFER_STEPS, desc="steps", disable=None):
        for name in ("log_snr", "edm"):
            rows += evaluator.rows(make_schedule(name, problem, K, "heun"))
        rows += evaluator.rows(resampled(schedule, K))
    return rows


def table_models(args: Args) -> list[Score]:
    """The schedules of digits, without further training, on other models and other data."""
    rows: list[Score] = []
    for name in MODELS:
        problem = make_problem(name, device=args.device)
        evaluator = KeptEvaluator(problem, "heun", args)
        rows += evaluator.floor()
        for K in tqdm((3, 5, 7, 10), desc=name, disable=None):
            for spec in ("uniform", "log_snr", "edm"):
                rows += evaluator.rows(make_schedule(spec, problem, K, "heun"))
            rows += evaluator.rows(learned(per_step("heun", K), args, "evolution of digits"))
            rows += evaluator.rows(carried(per_step("heun", K), args, problem))
            if (name, K) in TRAINED_ANEW:
                rows += evaluator.rows(
                    learned(Training(name, "heun", K, oracle=False), args, "evolution of its own")
                )
    return rows


def table_saved(args: Args) -> list[Score]:
    """Evaluations that reach the quality of EDM at 19."""
    rows: list[Score] = []
    for name in SIZES:
        problem = make_problem(name, device=args.device)
        evaluator = KeptEvaluator(problem, "heun", args)
        own = evaluator.rows(make_schedule("edm", problem, 10, "heun"))
        for K in tqdm(SAVED_STEPS, desc=name, disable=None):
            own += evaluator.rows(learned(Training(name, "heun", K, oracle=False), args, "evolution"))
        for metric in ("rmse", "frechet"):
            print(f"{name}, {metric}: {saving(own, metric)}")
        rows += own
    return rows


def saving(rows: Sequence[Score], metric: str) -> str:
    """How many evaluations the searched schedules save at the quality of EDM.

    Distances to the data have a floor and a spread: they count as equal within one standard deviation.
    """
    here = [r for r in rows if r.metric == metric]
    goal = next(r for r in here if r.schedule == "edm")
    bar = goal.mean + (0.0 if metric == "rmse" else goal.sd)
    good = [r for r in here if r.schedule == "evolution" and r.mean <= bar]
    if not good:
        return "not reached"
    best = min(good, key=lambda r: r.nfe)
    return f"{best.mean:.4g} at {best.nfe}: {1 - best.nfe / goal.nfe:.0%} saved"


def table_inpaint(args: Args) -> list[Score]:
    """Half of a digit given: a schedule trained for it against the generic one."""
    problem = make_problem("digits-inpaint", device=args.device)
    evaluator = KeptEvaluator(problem, "heun", args)
    rows = evaluator.floor()
    for K in (3, 5, 7):
        for name in ("edm", "edm_tuned", "closed_form"):
            rows += evaluator.rows(make_schedule(name, problem, K, "heun"))
        rows += evaluator.rows(learned(per_step("heun", K), args, "evolution of digits"))
        rows += evaluator.rows(
            learned(Training("digits-inpaint", "heun", K, oracle=False), args, "evolution")
        )
    return rows


def table_mnist(args: Args) -> list[Score]:
    """EDM's schedule and the closed form on MNIST."""
    problem = make_problem("mnist", device=args.device)
    rows: list[Score] = []
    for solver, steps in MNIST_STEPS.items():
        evaluator = KeptEvaluator(problem, solver, args)
        rows += evaluator.floor() if not rows else []
        for K in tqdm(steps, desc=f"mnist, {solver}", disable=None):
            for spec in ("edm", "closed_form"):
                rows += evaluator.rows(make_schedule(spec, problem, K, solver))
    return rows


def picture(args: Args) -> None:
    """The picture of the README: ART-RL's list with weights (seed 0) beside lists that cost nothing."""
    own, problem = headline.LEARNED, make_problem(headline.PROBLEM, device=args.device)
    copied = [*headline.COPIED, ("edm:zero=replace", own._replace(solver="dpmpp_2m"))]
    evaluators = {
        cell: Evaluator(problem, cell.solver, (0,), metrics=())
        for cell in (own, *(cell for _, cell in copied))
    }
    shown = [("ART-RL", own, read_found(args.out).records("art", own)[0].schedule())]
    for spec, cell in copied:
        shown.append((title(spec), cell, make_schedule(spec, problem, cell.num_steps, cell.solver)))
    sets = {"exact": evaluators[own].exact_samples(16)}
    errors = dict.fromkeys(sets, 0.0)
    for name, cell, schedule in shown:
        evaluator = evaluators[cell]
        score = evaluator.rows(schedule)[0]
        text = (
            f"{name}\n{SOLVERS.get(cell.solver, cell.solver)}, {score.nfe} evaluations, RMSE {score.mean:.3f}"
        )
        sets[text], errors[text] = evaluator.samples(schedule, 16), score.mean
    path = args.page / "docs" / "samples.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    samples_figure({text: sets[text] for text in sorted(sets, key=errors.__getitem__)}).savefig(path, dpi=110)
    print(f"wrote {path}")


class KeptEvaluator(Evaluator):
    """A evaluator that keeps its rows in files, so that a table that was interrupted goes on."""

    def __init__(self, problem: Problem, solver: str, args: Args) -> None:
        super().__init__(problem, solver, args.seeds, args.num_images)
        self.folder = args.runs / "scores"
        self.folder.mkdir(parents=True, exist_ok=True)
        self.settings = f"{problem.name} {solver} {args.seeds} {args.num_images} {self.metrics}"

    def rows(self, schedule: Schedule, oracle: Schedule | None = None) -> list[Score]:
        """The rows of ``Evaluator.rows``, read from a file if they are there."""
        text = f"{self.settings} {schedule.sigmas.tolist()}"
        path = self.folder / f"{hashlib.sha256(text.encode()).hexdigest()[:24]}.json"
        if path.is_file():
            rows = [replace(Score(**row), schedule=schedule.name) for row in json.loads(path.read_text())]
        else:
            rows = super().rows(schedule)
            write_text(path, json.dumps([asdict(row) for row in rows]))
        if oracle is not None:
            rows.append(replace(rows[0], metric="ratio", mean=self.ratio(schedule, oracle), sd=math.nan, n=1))
        return rows


def main(args: Args) -> None:
    """Train, score, print, write."""
    torch.set_num_threads(1)
    wanted = [t for t in trainings(args) if not (t.folder(args.runs) / "summary.json").is_file()]
    tasks, device = Tasks(args.workers, args.ray_address, args.device), args.device
    runs = [tasks.train(t.folder(args.runs), t.algorithm, **asdict(t), device=device) for t in wanted]
    for run in tqdm(runs, desc="training", disable=None):
        run()
    make = {
        "solvers": table_solvers,
        "steps": table_steps,
        "models": table_models,
        "saved": table_saved,
        "inpaint": table_inpaint,
        "mnist": table_mnist,
    }
    args.out.mkdir(parents=True, exist_ok=True)
    for table in args.tables:
        if table == "picture":
            picture(args)
            continue
        rows = make[table](args)
        for problem, solver in dict.fromkeys((r.problem, r.solver) for r in rows if r.solver != "none"):
            part = [r for r in rows if r.problem == problem and r.solver in (solver, "none")]
            print(f"{table}: {problem}, {solver}, mean +- sd over {len(args.seeds)} seed sets")
            print(format_table(part))
        if table != "solvers":
            write_csv(rows, args.out / f"images_{table}.csv")
            continue
        for solver in args.solvers:  # apart, so that one can be made again alone
            write_csv((r for r in rows if r.solver in (solver, "none")), args.out / f"images_{solver}.csv")
    seconds = [
        json.loads((t.folder(args.runs) / "summary.json").read_text())["seconds"] for t in trainings(args)
    ]
    if seconds:
        print(f"{len(seconds)} trainings, {min(seconds):.0f} to {max(seconds):.0f} s each")


if __name__ == "__main__":
    program = "python -m benchmarks.images"
    sys.exit(run_command(program, lambda: main(tyro.cli(Args, prog=program, description=__doc__))))
