"""One training: from settings to an agent, its schedules and their scores."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from gymnasium.vector import AutoresetMode
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback, CallbackList, ProgressBarCallback
from stable_baselines3.common.vec_env import VecEnv

from agents.art_rl import ARTRL
from agents.callbacks import CheckpointCallback, ScheduleCallback, ScheduleLog
from agents.checkpoint import ALGORITHMS, read_settings, save_agent
from agents.distill import distill
from agents.rollout import sample_with_policy
from agents.schedule_policy import SchedulePolicy
from agents.schedule_search import SearchOptions
from agents.schedule_search.evolution import EvolutionOptions
from agents.schedule_search.least_squares import LeastSquaresOptions
from agents.schedule_search.record import Record
from agents.schedule_search.search import SearchResult
from agents.training.run_folder import RunFolder
from agents.training.search_run import make_search, run_search
from agents.training.settings import ArtSettings, SearchSettings, Settings
from art_env import __version__
from art_env._util.files import atomic_path, write_text
from art_env._util.names import check_name
from art_env.adapters.counting import CountedDenoiser, counting
from art_env.envs.dynamics import Dynamics
from art_env.envs.rewards import compares_groups
from art_env.envs.sb3 import to_sb3
from art_env.envs.vector_env import ARTVectorEnv
from art_env.evaluation.evaluator import Evaluator
from art_env.evaluation.results import Score
from art_env.schedules.registry import make_schedule
from art_env.schedules.schedule import Schedule

RIVALS = ("uniform", "log_snr", "edm", "closed_form")


def silent(text: str) -> None:
    """Say nothing."""


class Training:
    """The parts of one training, made from its settings.

    Args:
        settings: what to train, on what.

    Attributes:
        counter: the problem's denoiser, which counts the rows that pass its network.
        config: the environment's settings, around the problem itself.
        dynamics: the environment's functions.
        num_envs, total_timesteps: rows that step together, and env steps.
        init_timesteps: env steps of a search for the actions to begin with, beside those.

    Raises:
        ValueError, FileNotFoundError, ImportError: a setting that does not fit the problem, before anything is
            integrated.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        plain = settings.env_config()
        self.plain_config = plain.to_dict()
        problem = plain.make_problem()
        self.counter = CountedDenoiser(problem.denoiser)
        if settings.model is not None:  # it has been tried on a batch
            self.counter.rows["model_check"] = int(getattr(problem.denoiser, "evals", 0))
        problem = replace(problem, denoiser=self.counter)
        in_groups = compares_groups(plain.rule, plain.reward)
        self.num_envs, total = settings.size(problem, in_groups)
        self.init = settings.init if isinstance(settings, ArtSettings) else "base"
        if self.init.endswith(".json"):  # a bad file is refused before anything is computed
            Schedule.load(self.init).check_range(problem.sigma_max, problem.sigma_end)
        self.init_timesteps = total // 2 if self.init == "search" else 0
        self.total_timesteps = total - self.init_timesteps
        # Last, as it may integrate many exact trajectories.
        self.dynamics = Dynamics(plain.of_problem(problem))
        self.config = self.dynamics.config.of_problem(problem, reference=self.dynamics.reference)

    def make_env(self, seed: int) -> VecEnv:
        """The native vector environment as the algorithm wants it."""
        settings = self.settings
        vector = ARTVectorEnv(
            self.num_envs,
            self.config,
            noise_groups=settings.groups,
            autoreset_mode=AutoresetMode.SAME_STEP,
        )
        # ART-RL logs its returns itself, without a loop over the rows.
        env = settings.wrap(to_sb3(vector, monitor=settings.algorithm != "art"))
        env.seed(seed)
        return env

    def search(self) -> SearchResult:
        """A schedule, searched for without run folder, log and checkpoints."""
        settings = self.settings
        assert isinstance(settings, SearchSettings)
        rows, budget = self.num_envs, self.total_timesteps
        with counting(self.counter, "training"):
            return make_search(self.config, rows, budget, settings.options(rows), settings.seed).run()

    def fit(self) -> tuple[BaseAlgorithm, int]:
        """An agent, trained without run folder, log and checkpoints, and the evaluations of that."""
        with counting(self.counter, "training"):
            model = self.new_model(self.make_env(self.settings.seed))
            model.learn(self.total_timesteps)
        return model, self.counter.rows["training"]

    def new_model(self, env: VecEnv, record: Record | None = None) -> BaseAlgorithm:
        """A fresh agent, after the search for its first actions if there is one.

        Args:
            env: as ``make_env`` gives it.
            record: of a search that was killed.
        """
        model, found = self.settings.make_model(env, self.total_timesteps), None
        if self.init == "search":
            # A search needs larger rollouts than a policy with features.
            rows = self.num_envs * (4 if self.settings.features else 1)
            options: SearchOptions = EvolutionOptions(noises=max(rows // EvolutionOptions.population, 1))
            if self.dynamics.has_final_errors:
                options = LeastSquaresOptions()
            budget, seed = self.init_timesteps, self.settings.seed
            self.count_again(record)
            found = make_search(self.config, rows, budget, options, seed, record).run()
        if isinstance(model, ARTRL) and self.init != "base":
            if found is None:
                given = Schedule.load(self.init).resample(self.dynamics.num_steps)
                model.policy.set_table(SchedulePolicy(given, self.dynamics).actions)
            else:
                model.policy.set_table(found.actions)
        return model

    def count_again(self, record: Record | None) -> None:
        """Count the evaluations of a search's first part, before it was killed."""
        if record is not None:
            self.counter.rows["training"] += record.evaluations

    def schedule(self, model: BaseAlgorithm) -> Schedule:
        """The agent as a plain list of noise levels."""
        settings = self.settings
        with counting(self.counter, "distillation"):
            found = distill(model, self.dynamics, name=settings.algorithm)
        meta = {**found.meta, "seed": settings.seed, "version": __version__}
        return replace(found, name=settings.algorithm, meta=meta)

    @property
    def acts_on_samples(self) -> bool:
        """Whether the policy is worth scoring beside its schedule: it sees the sample, at no evaluation more."""
        dynamics = self.dynamics
        trained = bool(dynamics.features) and self.settings.effort == "full"
        return trained and dynamics.reward_name != "euler" and not dynamics.solver.stochastic


@dataclass
class Result:
    """The results of a training.

    Attributes:
        training: its parts.
        run: the run folder.
        evaluator: scores on held-out noises.
        model: the agent; None: the search has none.
        rivals: hand-crafted schedules.
        schedule: the agent's.
        oracle: the best fixed schedule on the evaluator's noises; None: it was not searched for.
        rows: of the table.
        seconds, env_steps, denoiser_evals: of the training itself, all parts of a resumed run together. With an
            effort below full, the evaluations that the universal schedule takes.
    """

    training: Training
    run: RunFolder
    evaluator: Evaluator
    model: BaseAlgorithm | None
    rivals: list[Schedule]
    schedule: Schedule
    oracle: Schedule | None
    rows: list[Score]
    seconds: float
    env_steps: int
    denoiser_evals: int

    @property
    def evaluations(self) -> dict[str, int]:
        """Rows that have passed the network until now, by purpose.

        ``model_check`` (a trial of a model in a file), ``references`` (exact trajectories), ``schedules`` (that are
        computed), ``oracle``, ``training``, ``log`` (schedules measured on the way), ``distillation``, ``table`` and
        ``pictures``. Of a resumed run ``training`` has all parts, the others the last. Exact trajectories that
        another run in this process has integrated are not counted again.
        """
        return dict(self.training.counter.rows)

    @property
    def shown(self) -> list[Schedule]:
        """The schedules that tables and pictures show, in order."""
        return [*self.rivals, self.schedule, *([self.oracle] if self.oracle else [])]


def train(settings: Settings, say: Callable[[str], None] = silent) -> Result:
    """Train an agent, distil it into a schedule, and score both; nothing is written but the run folder.

    Args:
        settings: of the run; with ``resume``, those of the killed run are used instead.
        say: called with lines of progress.

    Raises:
        ValueError, FileNotFoundError, ImportError, OSError: a bad setting, before anything is written.
    """
    run = None
    if settings.resume is not None:
        run, settings = RunFolder.reopen(settings.resume)
    torch.set_num_threads(settings.threads)
    training = Training(settings)
    problem, K, solver = training.dynamics.problem, training.dynamics.num_steps, settings.solver
    evaluator = Evaluator(
        problem, solver, settings.eval_seeds, settings.num_images, metrics=problem.metrics[:1]
    )
    if run is None:
        run = RunFolder.create(settings, problem.name, training.num_envs)
    what = settings.algorithm if settings.effort == "full" else "universal schedule"
    say(f"{what} on {problem.name}: {solver}, K = {K}, run folder {run.folder}")

    counter = training.counter
    with counting(counter, "schedules"):
        rivals = [make_schedule(name, problem, K, solver) for name in RIVALS]
    oracle = None
    if settings.wants_oracle:
        if not run.oracle.is_file():
            say("searching for the oracle (gradients through the sampler) ...")
        with counting(counter, "oracle"):
            oracle = evaluator.oracle(K, run.oracle, rivals)
    log = ScheduleLog(
        training.dynamics, evaluator.reference(), oracle, [s for s in rivals if s.name == "edm"]
    )
    model: BaseAlgorithm | None = None
    if settings.effort != "full":
        began = time.perf_counter()
        with counting(counter, "schedules"):
            schedule = make_schedule(
                "universal" if settings.effort == "none" else "universal_clock", problem, K, solver
            )
        seconds, env_steps, evals = time.perf_counter() - began, 0, int(schedule.meta["evaluations"])
    elif isinstance(settings, SearchSettings):
        record = Record(run.search)
        training.count_again(record)
        with counting(counter, "training"):
            found = run_search(
                settings, training.config, training.num_envs, training.total_timesteps, run, record, log, say
            )
        schedule, seconds, env_steps = found.schedule, found.seconds, found.env_steps
        evals = counter.rows["training"]
    else:
        model, seconds = learn(training, run, log, say)
        schedule, env_steps = training.schedule(model), model.num_timesteps + training.init_timesteps
        evals = counter.rows["training"]
    with counting(counter, "table"):
        better = oracle is not None and evaluator.ratio(schedule, oracle) < 1.0
    if better:
        say("the agent's schedule is better than the oracle: searching on from there ...")
        with counting(counter, "oracle"):
            oracle = evaluator.oracle(K, run.oracle, [*rivals, schedule], again=True)
    shown = [*rivals, schedule, *([oracle] if oracle else [])]
    with counting(counter, "table"):
        rows = [row for s in shown for row in evaluator.rows(s, oracle)]
        if model is not None and training.acts_on_samples:
            sampler = partial(policy_samples, model, training.dynamics)
            rows += evaluator.policy_rows(f"{settings.algorithm} policy", K, sampler, oracle)
    return Result(training, run, evaluator, model, rivals, schedule, oracle, rows, seconds, env_steps, evals)


def learn(
    training: Training,
    run: RunFolder,
    log: ScheduleLog,
    say: Callable[[str], None],
) -> tuple[BaseAlgorithm, float]:
    """Train, or go on training; the model, and the seconds of all parts of the run."""
    settings, total, counter = training.settings, training.total_timesteps, training.counter
    algorithm = settings.algorithm
    spent: dict[str, Any] = {"seconds": 0.0}
    # The checkpoint counts from when its progress file is there too, the last to be written.
    old = run.checkpoint if run.checkpoint.is_file() and run.progress.is_file() else None
    done = 0
    if old is not None:
        spent = json.loads(run.progress.read_text(encoding="utf-8"))
        done = int(spent.pop("env_steps"))
        counter.rows["training"] += int(spent.pop("denoiser_evals"))
    began = time.time()
    env = training.make_env(settings.seed + done)
    if old is None:
        if training.init == "search":
            say("searching for the actions to begin with ...")
        with counting(counter, "training"):
            model = training.new_model(env, Record(run.search))
    else:
        check_name("algorithm of the checkpoint", read_settings(old)["algorithm"], [algorithm])
        model = ALGORITHMS[algorithm].load(old, env=env, device="cpu")
        replay = run.checkpoint.with_name("replay.pkl")
        if replay.is_file() and hasattr(model, "load_replay_buffer"):
            model.load_replay_buffer(replay)
        # load() seeds as at the start: without this the exploration of the first part comes again.
        torch.manual_seed(settings.seed + model.num_timesteps)
        say(f"going on from {model.num_timesteps:,} of {total:,} env steps")
    model.set_logger(run.logger())

    def so_far() -> dict[str, Any]:
        return {
            "env_steps": model.num_timesteps,
            "seconds": spent["seconds"] + time.time() - began,
            "denoiser_evals": counter.rows["training"],
        }

    def save(path: Path) -> None:
        if hasattr(model, "save_replay_buffer"):
            with atomic_path(path.with_name("replay.pkl")) as temporary:
                model.save_replay_buffer(temporary)
        save_agent(model, path, algorithm, training.plain_config)
        write_text(run.progress, json.dumps(so_far()) + "\n")

    callbacks: list[BaseCallback] = [
        ScheduleCallback(log, total),
        CheckpointCallback(run.checkpoint, save, total),
    ]
    if settings.progress and sys.stderr.isatty():
        callbacks.append(ProgressBarCallback())
    remaining = total - model.num_timesteps
    if remaining > 0:
        with counting(counter, "training"):
            model.learn(remaining, CallbackList(callbacks), log_interval=10, reset_num_timesteps=old is None)
    elif isinstance(model, ARTRL):  # killed after the last checkpoint, before the end
        model.use_average()
    save_agent(model, run.model, algorithm, training.plain_config)
    return model, so_far()["seconds"]


def policy_samples(model: BaseAlgorithm, dynamics: Dynamics, x: torch.Tensor) -> torch.Tensor:
    """Samples whose noise levels the policy chooses one by one."""
    return sample_with_policy(model, dynamics, x).x
