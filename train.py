"""Learn a noise schedule: train an agent, distil it into a list of sigmas, compare it with the others.

Examples:
    python train.py
    python train.py --problem mixture-1d --solver euler --num-steps 10
    python train.py --problem mixture-1d --num-steps 3 5 10
    python train.py --problem mixture-1d --features log_f log_q size cosine
    python train.py sac --problem mixture-1d
    python train.py art-paper
    python train.py --resume runs/digits__art__0__2026-01-31_12-00-00
    python train.py art --help
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import platform
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
import tyro
from gymnasium.vector import AutoresetMode
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback, CallbackList, ProgressBarCallback
from stable_baselines3.common.logger import Logger, make_output_format
from stable_baselines3.common.vec_env import VecEnv, VecNormalize
from torch import Tensor

from agents.art_rl import ARTRL
from agents.baselines import make_ppo, make_sac
from agents.callbacks import CheckpointCallback, ScheduleCallback
from agents.checkpoint import ALGORITHMS, read_settings, save_agent
from agents.distill import distill
from agents.rollout import sample_with_policy
from art_env import __version__
from art_env._util.cli import ModelOptions, run_command
from art_env._util.files import atomic_path, write_text
from art_env._util.names import check_name, unknown_name
from art_env.diffusion.solvers import get_solver
from art_env.envs.config import ABOUT_PROBLEM, choose_problem
from art_env.envs.dynamics import Dynamics, check_budgets, compares_groups
from art_env.envs.sb3 import to_sb3
from art_env.envs.vector_env import ARTVectorEnv
from art_env.evaluation.evaluator import Scorer
from art_env.evaluation.plots import samples_figure, schedule_figure
from art_env.evaluation.results import Row, format_table, write_csv
from art_env.problems.problem import Problem
from art_env.schedules import Schedule
from art_env.schedules.registry import baseline

RIVALS = ("uniform", "log_snr", "edm", "closed_form")


@dataclass
class Common(ModelOptions):
    """Settings that every algorithm shares."""

    algorithm: ClassVar[str] = "art"

    solver: str = "heun"
    """euler, heun, rk4, dpmpp_2m or ipndm; stochastic: euler_maruyama or edm_churn."""
    num_steps: tuple[int, ...] = (5,)
    """Solver steps K; several train one policy for all of them, with a schedule for each."""
    reward: str = "global"
    """global: minus the final error (of a stochastic solver: minus W2^2 from a group to exact samples); local:
    minus the solver's own errors; euler: the paper's objective."""
    features: tuple[str, ...] = ()
    """What the policy sees besides time and budget: log_f, log_q, size, cosine, x. A schedule cannot look at
    the sample, so by default neither does the policy; one that does is scored as it is too, acting on each sample."""
    clock: str = "closed_form"
    """Where action 0 leads: closed_form, or rho of the EDM family (7: EDM's grid)."""
    action_range: float = 5.0
    """Octaves of clock speed between action 0 and 1."""
    terminal: str | None = None
    """zero or sigma_min: where schedules end; by default the problem's own."""
    sigma_min: float | None = None
    """Another lowest noise level."""
    sigma_max: float | None = None
    """Another highest noise level."""
    num_noises: int | None = None
    """Start noises that rewards are measured on; by default the problem's own number."""
    total_timesteps: int | None = None
    """Env steps; by default 300 episodes of every row (on images 1,200, 100 with --model; on the mixtures 1,130, and
    beyond K = 10 113 K; of a stochastic solver on images 300, on the analytic problems 75), for every algorithm."""
    num_envs: int | None = None
    """Rows that step together; by default 256 (64 on images and with --model, 2048 on the mixtures; of a stochastic
    solver 4096, 1024 on images, 256 with --model)."""
    seed: int = 0
    """Of the agent, the exploration and the start noises."""
    eval_seeds: tuple[int, ...] = (0,)
    """Seed sets of held-out noises for the table."""
    num_images: int = 2000
    """Samples for the metrics of images."""
    run_dir: Path | None = None
    """Run folder; by default runs/PROBLEM__ALGORITHM__SEED__TIME."""
    resume: Path | None = None
    """Run folder of a killed run: go on with it (its own settings are used)."""
    limit: bool = True
    """Compute the best schedule there is, for the gap."""
    model_limit: bool = False
    """Compute it for --model too: hundreds of gradients through a network that may be large."""
    progress: bool = True
    """Show a progress bar."""
    threads: int = 1
    """Torch threads."""
    device: str = "cpu"
    """Where the denoiser runs: cpu, cuda, cuda:0, ..."""


@dataclass
class Art(Common):
    """ART-RL (default)."""

    learning_rate: float = 0.03
    """Step of the actor, in units of the action; falls to 0."""
    gae_lambda: float = 1.0
    """Trace of the TD errors (1: the whole return), with features."""
    noise_groups: int = 16
    """Groups of rows that share exploration and meet the same start noises."""
    std_start: float = 0.18
    """Width of the exploration at the start, in units of the action."""
    std_end: float = 0.012
    """Width of the exploration at its end; then the covariance is learned."""


@dataclass
class ArtPaper(Common):
    """The literal Algorithm 1 of the paper with its published settings: 5,000 iterations of one trajectory."""

    algorithm: ClassVar[str] = "art-paper"
    problem: str = "gaussian-1d"
    solver: str = "euler"
    num_steps: tuple[int, ...] = (100,)
    reward: str = "euler"
    features: tuple[str, ...] = ("x", "log_q")
    iterations: int = 5000
    """Trajectories."""


@dataclass
class Sac(Common):
    """SAC from stable-baselines3."""

    algorithm: ClassVar[str] = "sac"
    learning_rate: float = 3e-3
    """At the start; falls to 0."""
    target_entropy: float = -6.0
    """Of the policy, in nats; lower explores less."""


@dataclass
class Ppo(Common):
    """PPO from stable-baselines3."""

    algorithm: ClassVar[str] = "ppo"
    learning_rate: float = 3e-3
    """At the start; falls to 0."""
    std_start: float = 0.2
    """Width of the exploration at the start, in units of the action."""


COMMANDS: dict[str, type[Common]] = {"art": Art, "art-paper": ArtPaper, "sac": Sac, "ppo": Ppo}


class Run:
    """A run folder: what is in it, and what has been done already."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config, self.summary = folder / "config.json", folder / "summary.json"
        self.model, self.checkpoint = folder / "model.zip", folder / "checkpoints" / "model.zip"
        self.progress = folder / "checkpoints" / "progress.json"

    def of(self, dynamics: Dynamics, stem: str, K: int, suffix: str) -> Path:
        """``schedule.json``, or with several K ``schedule_K05.json``."""
        return self.folder / f"{stem}{'' if len(dynamics.budgets) == 1 else f'_K{K:02d}'}{suffix}"

    @classmethod
    def create(cls, args: Common) -> Run:
        """Make the folder and write config.json into it."""
        stamp = time.strftime("%Y-%m-%d_%H-%M-%S")
        folder = args.run_dir or Path("runs") / f"{args.problem}__{args.algorithm}__{args.seed}__{stamp}"
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise ValueError(
                f"run_dir = {str(folder)!r} already exists; go on with --resume {folder}, or name another folder"
            )
        run = cls(folder)
        try:
            run.checkpoint.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            why = error.strerror or error
            raise ValueError(
                f"run_dir = {str(folder)!r} cannot be made ({why}); name another folder with --run-dir"
            ) from error
        body = {
            "algorithm": args.algorithm,
            "settings": {
                k: str(v) if isinstance(v, Path) else v for k, v in dataclasses.asdict(args).items()
            },
            "argv": sys.argv[1:],
            "versions": {
                "art-rl": __version__,
                "python": platform.python_version(),
                "torch": torch.__version__,
                "numpy": np.__version__,
            },
            "git_commit": git_commit(),
            "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        }
        write_text(run.config, json.dumps(body, indent=2) + "\n")
        return run

    @classmethod
    def reopen(cls, folder: Path) -> tuple[Run, Common]:
        """The folder of a killed run, and its settings."""
        run = cls(folder)
        if not run.config.is_file():
            raise ValueError(f"resume = {str(folder)!r} is not a run folder: it has no config.json")
        if run.summary.is_file():
            raise ValueError(f"resume = {str(folder)!r} is finished; its results are in {run.summary}")
        try:
            body = json.loads(run.config.read_text(encoding="utf-8"))
            kind = COMMANDS[body["algorithm"]]
            names = {f.name for f in dataclasses.fields(kind)}
            values: dict[str, Any] = {
                k: tuple(v) if isinstance(v, list) else v for k, v in body["settings"].items() if k in names
            }
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise ValueError(f"{run.config} cannot be read ({error!r}); start a new run") from error
        if isinstance(values.get("num_steps"), int):
            values["num_steps"] = (values["num_steps"],)
        values["run_dir"], values["resume"] = folder, folder
        run.checkpoint.parent.mkdir(parents=True, exist_ok=True)
        return run, kind(**values)


def train(args: Common) -> None:
    """From settings to a run folder with a schedule in it."""
    started = time.time()
    if args.resume is not None:
        run, args = Run.reopen(args.resume)
    settings, dynamics, total = check(args)
    torch.set_num_threads(args.threads)
    problem = dynamics.problem
    scorer = Scorer(problem, args.solver, args.eval_seeds, args.num_images, metrics=problem.metrics[:1])
    if args.resume is None:
        run = Run.create(args)
    steps = " ".join(map(str, dynamics.budgets))
    print(f"{args.algorithm} on {problem.name}: {args.solver}, K = {steps}, run folder {run.folder}")

    others = {K: [baseline(name, problem, K, args.solver) for name in RIVALS] for K in dynamics.budgets}
    limits: dict[int, Schedule] = {}
    if args.limit:
        limits = {K: find_limit(run, dynamics, scorer, K, others[K]) for K in dynamics.budgets}

    began = time.time()
    model, spent_before = learn(args, run, settings, dynamics, scorer, limits, others, total)
    seconds = time.time() - began + spent_before["seconds"]
    evals = spent_before["denoiser_evals"] + int(model.get_env().get_attr("denoiser_evals")[0])  # type: ignore[union-attr]

    schedules: dict[int, Schedule] = {}
    for K in dynamics.budgets:
        found = distill(model, dynamics, name=args.algorithm, num_steps=K)
        meta = {**found.meta, "seed": args.seed, "version": __version__}
        schedules[K] = Schedule(found.sigmas, args.algorithm, meta)
        if K in limits and scorer.gap(schedules[K], limits[K]) < 1.0:
            # The search missed a better basin: go on from the agent's own, so that the limit is one.
            starts = [*others[K], schedules[K]]
            limits[K] = find_limit(run, dynamics, scorer, K, starts, again=True)
    report(run, args, dynamics, scorer, model, schedules, others, limits, seconds, evals)
    print(f"all artefacts in {run.folder} after {time.time() - started:.0f} s")


def check(args: Common) -> tuple[dict[str, Any], Dynamics, int]:
    """Refuse bad settings before anything is computed or written; the environment's settings."""
    budgets = check_budgets(args.num_steps)
    for name in ("threads", "num_envs", "noise_groups", "iterations", "total_timesteps", "num_images"):
        count = getattr(args, name, None)
        if count is not None and count < 1:
            raise ValueError(f"{name} = {count} must be at least 1")
    for name in ("learning_rate", "std_start", "std_end"):
        value = getattr(args, name, None)
        if value is not None and not (math.isfinite(value) and value > 0):
            raise ValueError(f"{name} = {value} must be a positive number")
    if not math.isfinite(getattr(args, "target_entropy", 0.0)):
        raise ValueError(f"target_entropy = {args.target_entropy} must be a finite number")  # type: ignore[attr-defined]
    if not 0 <= getattr(args, "gae_lambda", 1.0) <= 1:
        raise ValueError(f"gae_lambda = {args.gae_lambda} must lie between 0 and 1")  # type: ignore[attr-defined]
    if args.seed < 0:
        raise ValueError(f"seed = {args.seed} must not be negative")
    if args.clock != "closed_form":
        try:
            clock: float | str = float(args.clock)
        except ValueError:
            raise ValueError(
                unknown_name("clock", args.clock, ["closed_form", "7"]) + " (a number is rho)"
            ) from None
    else:
        clock = args.clock
    source: dict[str, Any] = {
        name: getattr(args, name) for name in ("problem", "terminal", "sigma_min", "sigma_max", "device")
    }
    model = args.model_arguments()
    if model is not None:
        source |= {"model": model, "problem": "custom"}
    problem = choose_problem(**source, trust_pickle=args.trust_pickle)
    args.problem = problem.name
    solver = get_solver(args.solver)
    args.limit = args.limit and (args.model is None or args.model_limit) and not solver.noisy
    total = check_size(args, problem, budgets, compares_groups(solver, args.reward))
    how: dict[str, Any] = {
        name: getattr(args, name) for name in ("solver", "reward", "action_range", "num_noises")
    }
    how["num_steps"] = list(budgets) if len(budgets) > 1 else budgets[0]
    how["features"] = list(args.features)
    how["control"] = "speed" if args.algorithm == "art-paper" else "log_speed"
    how["clock"] = clock
    # Last, as it may integrate many exact trajectories.
    return {**source, **how}, Dynamics(problem, **how), total


def check_size(args: Common, problem: Problem, budgets: Sequence[int], in_groups: bool) -> int:
    """Fill in the number of rows; the env steps."""
    total = args.total_timesteps
    if isinstance(args, ArtPaper):
        args.num_envs = 1
        total = total or args.iterations * sum(budgets)
    rows, rollouts = 256, 300
    if args.model is not None:
        # A network of unknown size gets few.
        rows, rollouts = (4 * 64 if in_groups else 64), 100
    elif in_groups:
        # A group must stand for a distribution: W2 between small samples favours one that is too narrow.
        rows, rollouts = (1024, 300) if problem.is_image else (4096, 75)
    elif problem.is_image:
        # Where an episode is expensive, many small updates are worth more than few large ones.
        rows, rollouts = 64, 1200
    elif problem.heavy_tailed:
        # The covariance over the steps, which is learned, has K squared entries.
        rows, rollouts = 2048, round(1130 * max(max(budgets) / 10, 1.0))
    args.num_envs = args.num_envs or rows
    total = total or rollouts * rows * sum(budgets)
    least = args.num_envs * sum(budgets)
    if total < least:
        what = "one episode of every row" + (" and K" if len(budgets) > 1 else "")
        raise ValueError(
            f"total_timesteps = {total} is less than {what}, {least}; use more, or fewer --num-envs"
        )
    if isinstance(args, Art) and args.num_envs % args.noise_groups:
        raise ValueError(f"noise_groups = {args.noise_groups} must divide num_envs = {args.num_envs}")
    return total


def find_limit(
    run: Run, dynamics: Dynamics, scorer: Scorer, K: int, starts: list[Schedule], again: bool = False
) -> Schedule:
    """The best schedule there is, on the very noises of the table; kept in the run folder."""
    path = run.of(dynamics, "limit", K, ".json")
    if again or not path.is_file():
        print(f"searching for the limit at K = {K} (gradients through the sampler) ...", flush=True)
    return scorer.limit(K, path, starts, again)


def learn(
    args: Common,
    run: Run,
    settings: dict[str, Any],
    dynamics: Dynamics,
    scorer: Scorer,
    limits: dict[int, Schedule],
    others: dict[int, list[Schedule]],
    total: int,
) -> tuple[BaseAlgorithm, dict[str, Any]]:
    """Train, or go on training; the model, and what earlier parts of the run have spent."""
    spent = {"seconds": 0.0, "denoiser_evals": 0}
    kind = ALGORITHMS[args.algorithm]
    # The checkpoint counts from when its progress file is there too, the last to be written.
    old = run.checkpoint if run.checkpoint.is_file() and run.progress.is_file() else None
    done = 0
    for stray in run.checkpoint.parent.glob(".*"):  # half-written when the run was killed
        stray.unlink()
    if old is not None:
        spent = json.loads(run.progress.read_text(encoding="utf-8"))
        done = int(spent.pop("env_steps"))
    env = make_env(args, settings, dynamics, args.seed + done)
    if old is None:
        model = new_model(args, env, total)
    else:
        check_name("algorithm of the checkpoint", read_settings(old)["algorithm"], [args.algorithm])
        model = kind.load(old, env=env, device="cpu")
        replay = run.checkpoint.with_name("replay.pkl")
        if replay.is_file() and hasattr(model, "load_replay_buffer"):
            model.load_replay_buffer(replay)
        # load() seeds as at the start: without this the exploration of the first part comes again.
        torch.manual_seed(args.seed + model.num_timesteps)
        print(f"going on from {model.num_timesteps:,} of {total:,} env steps")
    model.set_logger(make_logger(run))

    began = time.time()

    def save(path: Path) -> None:
        so_far = {
            "env_steps": model.num_timesteps,
            "seconds": spent["seconds"] + time.time() - began,
            "denoiser_evals": spent["denoiser_evals"] + int(env.get_attr("denoiser_evals")[0]),
        }
        if hasattr(model, "save_replay_buffer"):
            with atomic_path(path.with_name("replay.pkl")) as temporary:
                model.save_replay_buffer(temporary)
        save_agent(model, path, args.algorithm, settings)
        write_text(run.progress, json.dumps(so_far) + "\n")

    callbacks: list[BaseCallback] = []
    for K in dynamics.budgets:
        edm = [s for s in others[K] if s.name == "edm"]
        reference = scorer.reference()
        callbacks.append(ScheduleCallback(dynamics, reference, limits.get(K), edm, total, num_steps=K))
    callbacks.append(CheckpointCallback(run.checkpoint, save, total))
    if args.progress and sys.stderr.isatty():
        callbacks.append(ProgressBarCallback())
    remaining = total - model.num_timesteps
    if remaining > 0:
        model.learn(remaining, CallbackList(callbacks), log_interval=10, reset_num_timesteps=old is None)
    elif isinstance(model, ARTRL):  # killed after the last checkpoint, before the end
        model.use_average()
    save_agent(model, run.model, args.algorithm, settings)
    return model, spent


def make_env(args: Common, settings: dict[str, Any], dynamics: Dynamics, seed: int) -> VecEnv:
    """The native vector environment as SB3 wants it; SAC and PPO get rewards of unit spread."""
    groups = args.noise_groups if isinstance(args, Art) else 1
    own = {"problem": dynamics.problem, "solver": dynamics.solver, "reference": dynamics.reference}
    kept = {k: v for k, v in settings.items() if k not in ABOUT_PROBLEM}
    assert args.num_envs is not None
    vector = ARTVectorEnv(
        args.num_envs, noise_groups=groups, autoreset_mode=AutoresetMode.SAME_STEP, **{**kept, **own}
    )
    # ART-RL logs its own returns if it sees nothing but the time.
    env = to_sb3(vector, monitor=args.algorithm != "art" or bool(args.features))
    if args.algorithm in ("sac", "ppo"):
        env = VecNormalize(env, norm_obs=False, gamma=1.0, clip_reward=100.0)
    env.seed(seed)
    return env


def new_model(args: Common, env: VecEnv, total: int) -> BaseAlgorithm:
    """A fresh agent."""
    if isinstance(args, Art):
        return ARTRL(
            "ARTPolicy",
            env,
            learning_rate=args.learning_rate,
            gae_lambda=args.gae_lambda,
            noise_groups=args.noise_groups,
            std_start=args.std_start,
            std_end=args.std_end,
            seed=args.seed,
        )
    if isinstance(args, ArtPaper):
        return ARTRL.paper(env, seed=args.seed)
    if isinstance(args, Sac):
        return make_sac(env, total, args.seed, args.learning_rate, args.target_entropy)
    assert isinstance(args, Ppo)
    return make_ppo(env, total, args.seed, args.learning_rate, args.std_start)


def make_logger(run: Run) -> Logger:
    """TensorBoard and CSV in the run folder; a resumed run writes a further CSV file."""
    parts = len(list(run.folder.glob("progress*.csv")))
    suffix = f"_{parts}" if parts else ""
    formats = [make_output_format(kind, str(run.folder), suffix) for kind in ("csv", "tensorboard")]
    return Logger(str(run.folder), formats)


def report(
    run: Run,
    args: Common,
    dynamics: Dynamics,
    scorer: Scorer,
    model: BaseAlgorithm,
    schedules: dict[int, Schedule],
    others: dict[int, list[Schedule]],
    limits: dict[int, Schedule],
    seconds: float,
    evals: int,
) -> None:
    """The table, the pictures, schedule.json (of each K), and last of all summary.json."""
    rows: list[Row] = []
    for K, schedule in schedules.items():
        shown = [*others[K], schedule, *([limits[K]] if K in limits else [])]
        rows += [row for s in shown for row in scorer.rows(s, limits.get(K))]
        if acts_on_samples(dynamics):
            sampler = partial(policy_samples, model, dynamics, K)
            rows += scorer.policy_rows(f"{args.algorithm} policy", K, sampler, limits.get(K))
    print(format_table(rows))
    print(f"reference: own error {scorer.reference_error():.2g} (steps of half the length)")
    for floor in scorer.floor():
        print(f"{floor.metric} of exact data against data: {floor.mean:.4g}")
    for limit in limits.values():
        print(f"limit: the last restart of the search changed it by {limit.meta['last_change']:.2%}")
    print(f"training: {seconds:.0f} s, {model.num_timesteps:,} env steps, {evals:,} denoiser evaluations")
    for schedule in schedules.values():
        print("sigmas: " + " ".join(f"{s:.5g}" for s in schedule.sigmas))

    write_csv(rows, run.folder / "results.csv")
    for K, schedule in schedules.items():
        shown = [*others[K], schedule, *([limits[K]] if K in limits else [])]
        draw(run, dynamics, scorer, schedule, shown)
        schedule.save(run.of(dynamics, "schedule", K, ".json"))
    write_text(
        run.summary,
        json.dumps(summarise(args, dynamics, scorer, rows, schedules, seconds, evals, model), indent=2)
        + "\n",
    )


def acts_on_samples(dynamics: Dynamics) -> bool:
    """Whether the policy is worth scoring beside its schedule: it sees the sample, at no evaluation more."""
    return bool(dynamics.features) and dynamics.reward_name != "euler" and not dynamics.solver.noisy


def policy_samples(model: BaseAlgorithm, dynamics: Dynamics, K: int, x: Tensor) -> Tensor:
    """Samples whose noise levels the policy chooses one by one."""
    return sample_with_policy(model, dynamics, x, K).x


def draw(run: Run, dynamics: Dynamics, scorer: Scorer, schedule: Schedule, shown: list[Schedule]) -> None:
    """The pictures of one K."""
    K = schedule.num_steps
    title = f"{scorer.problem.name}, {scorer.solver.name}, K = {K}, {scorer.nfe(K)} NFE"
    pictures = {"schedule": schedule_figure(shown, title, highlight=schedule.name)}
    n = 12 if scorer.problem.is_image else 4096
    edm = next(s for s in shown if s.name == "edm")
    sets = {
        "exact": scorer.exact_samples(n),
        schedule.name: scorer.samples(schedule, n),
        "edm": scorer.samples(edm, n),
    }
    pictures["samples"] = samples_figure(sets, title)
    for name, figure in pictures.items():
        with atomic_path(run.of(dynamics, name, K, ".png")) as temporary:
            figure.savefig(temporary)


def summarise(
    args: Common,
    dynamics: Dynamics,
    scorer: Scorer,
    rows: list[Row],
    schedules: dict[int, Schedule],
    seconds: float,
    evals: int,
    model: BaseAlgorithm,
) -> dict[str, Any]:
    """summary.json: one number a metric, with several K one for each."""
    budgets = dynamics.budgets

    def each(values: dict[int, Any]) -> Any:
        return (
            values[budgets[0]] if len(budgets) == 1 else {str(K): values[K] for K in budgets if K in values}
        )

    def found(name: str, metric: str) -> Any:
        own = {r.num_steps: r.mean for r in rows if r.schedule == name and r.metric == metric}
        return each(own) if own else None

    metrics = dict.fromkeys(["gap", "rmse", *(r.metric for r in rows if r.schedule == args.algorithm)])
    scores = {metric: found(args.algorithm, metric) for metric in metrics}
    if acts_on_samples(dynamics):
        scores |= {f"policy_{metric}": found(f"{args.algorithm} policy", metric) for metric in metrics}
    return {
        "problem": args.problem,
        "algorithm": args.algorithm,
        "solver": args.solver,
        "terminal": next(iter(schedules.values())).terminal,
        "num_steps": budgets[0] if len(budgets) == 1 else list(budgets),
        "nfe": each({K: scorer.nfe(K) for K in budgets}),
        "reward": args.reward,
        "seed": args.seed,
        **scores,
        "seconds": round(seconds, 2),
        "denoiser_evals": evals,
        "env_steps": model.num_timesteps,
    }


def git_commit() -> str | None:
    """The commit that this file is from, if it is in a git checkout."""
    try:
        here = Path(__file__).resolve().parent
        out = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return out.stdout.strip()


def parse(argv: list[str]) -> Common:
    """Settings from the command line; the algorithm may be left out."""
    if not argv or (argv[0].startswith("-") and argv[0] not in ("-h", "--help")):
        argv = ["art", *argv]
    elif not argv[0].startswith("-"):
        check_name("algorithm", argv[0], COMMANDS)
    commands = (
        Annotated[Art, tyro.conf.subcommand("art")]
        | Annotated[ArtPaper, tyro.conf.subcommand("art-paper")]
        | Annotated[Sac, tyro.conf.subcommand("sac")]
        | Annotated[Ppo, tyro.conf.subcommand("ppo")]
    )
    return tyro.cli(commands, args=argv, description=__doc__)


def main() -> int:
    """The command line; a bad setting is one line on stderr and exit code 2."""
    interrupted = "interrupted; go on with --resume and the run folder"
    return run_command("train.py", lambda: train(parse(sys.argv[1:])), interrupted)


if __name__ == "__main__":
    sys.exit(main())
