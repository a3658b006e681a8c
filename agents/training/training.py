"""One training: from settings to an agent, its schedules and their scores."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from gymnasium.vector import AutoresetMode
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback, CallbackList, ProgressBarCallback
from stable_baselines3.common.vec_env import VecEnv

from agents.art_rl import ARTRL
from agents.callbacks import NEVER, CheckpointCallback, LogCallback, write_result
from agents.checkpoint import begin_again, read_checkpoint, save_agent, save_checkpoint
from agents.distill import distill
from agents.distributed.evaluator import ShardedEvaluator
from agents.distributed.reference import with_workers
from agents.distributed.vector_env import ShardedVectorEnv
from agents.rollout import sample_with_policy
from agents.schedule_log import ScheduleLog
from agents.schedule_policy import SchedulePolicy
from agents.schedule_search import SearchOptions
from agents.schedule_search.evolution import EvolutionOptions
from agents.schedule_search.least_squares import LeastSquaresOptions
from agents.schedule_search.record import Record
from agents.schedule_search.search import Callback, ScheduleSearch, SearchResult
from agents.training.run_folder import RunFolder
from agents.training.run_log import RunLogger, draw_lines, hyperparameters
from agents.training.search_log import SearchLog
from agents.training.search_run import make_search, run_search
from agents.training.settings import ArtSettings, ListSearchSettings, Settings
from agents.training.tracking import check_tracker, tracked
from agents.training_state import restore_training
from art_env import __version__
from art_env._util.termination import at_a_boundary
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
# The list that is copied most, without the step that EDM's own convention wastes where lists end at 0. A solver with
# weights stands beside these on it: one with as many evaluations, and one with nearly twice as many.
COPIED, CLASSICAL = "edm", ("dpmpp_2m", "heun")


def silent(text: str) -> None:
    """Say nothing."""


class Training:
    """The parts of one training, made from its settings.

    Args:
        settings: what to train, on what.

    Attributes:
        counter: the problem's denoiser, which counts the rows that pass its network.
        workers: they share the work; None: all is done in this process.
        config: the environment's settings, around the problem itself.
        dynamics: the environment's functions.
        num_envs, total_timesteps: rows that step together, and env steps.
        init_timesteps: env steps of a search for the actions to begin with at most, beside those.

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
        self.workers = settings.start_workers(settings.device, settings.threads)
        if self.workers is not None:
            problem = with_workers(problem, self.workers)
        in_groups = compares_groups(plain.rule, plain.reward)
        self.num_envs, total = settings.size(problem, in_groups)
        self.init = settings.init if isinstance(settings, ArtSettings) else "base"
        if self.init.endswith(".json"):  # a bad file is refused before anything is computed
            Schedule.load(self.init).check_range(problem.sigma_max, problem.sigma_end)
        if settings.effort == "none":  # so is a range of noise that has no place for the list
            make_schedule("universal", problem, plain.num_steps, settings.solver)
        self.init_timesteps = total // 2 if self.init == "search" else 0
        self.total_timesteps = total - self.init_timesteps
        # Last, as it may integrate many exact trajectories.
        self.dynamics = Dynamics(plain.of_problem(problem))
        self.config = self.dynamics.config.of_problem(problem, reference=self.dynamics.reference)

    def make_env(self, seed: int) -> VecEnv:
        """The native vector environment as the algorithm wants it."""
        settings = self.settings
        more: dict[str, Any] = {"noise_groups": settings.groups, "autoreset_mode": AutoresetMode.SAME_STEP}
        if self.workers is None:
            vector = ARTVectorEnv(self.num_envs, self.config, **more)
        else:
            vector = ShardedVectorEnv(self.workers, self.num_envs, self.config, **more)
        # ART-RL logs its returns itself, without a loop over the rows.
        env = settings.wrap(to_sb3(vector, monitor=settings.algorithm != "art"))
        env.seed(seed)
        return env

    def evaluator(self, solver: str | None = None) -> Evaluator:
        """Scores on held-out noises; none is integrated yet.

        Args:
            solver: another one than the training's.

        Raises:
            ValueError: seeds or a number of images that do not do.
        """
        settings, problem = self.settings, self.dynamics.problem
        make = Evaluator if self.workers is None else partial(ShardedEvaluator, self.workers)
        return make(
            problem,
            solver or settings.solver,
            settings.eval_seeds,
            settings.num_images,
            metrics=problem.metrics[:1],
        )

    def check_search(self) -> None:
        """Refuse what the run's search cannot do, if it has one.

        Raises:
            ValueError: a problem without one list for all rows, or rollouts that are too small for groups.
        """
        if self.settings.effort == "full" and (
            isinstance(self.settings, ListSearchSettings) or self.init == "search"
        ):
            rows, budget, options = self.search_plan()
            # Without workers: nothing is sent.
            make_search(self.config, rows, budget, options, self.settings.seed)

    def search(self) -> SearchResult:
        """A schedule, searched for without run folder, log and checkpoints."""
        with counting(self.counter, "training"):
            return self.make_search().run()

    def fit(self) -> tuple[BaseAlgorithm, int]:
        """An agent, trained without run folder, log and checkpoints, and the evaluations of that."""
        found = self.search() if self.init == "search" else None
        with counting(self.counter, "training"):
            model = self.new_model(self.make_env(self.settings.seed), found)
            model.learn(self.total_timesteps)
        return model, self.counter.rows["training"]

    def make_search(self, record: Record | None = None, callback: Callback | None = None) -> ScheduleSearch:
        """The schedule search that the run is, or that an agent's first actions come from.

        Args:
            record: of a search that was killed, whose evaluations are counted again.
            callback: as ``ScheduleSearch``.
        """
        rows, budget, options = self.search_plan()
        if record is not None:
            self.counter.rows["training"] += record.evaluations
        seed = self.settings.seed
        return make_search(self.config, rows, budget, options, seed, record, callback, self.workers)

    def search_plan(self) -> tuple[int, int, SearchOptions]:
        """Rows, env steps and options of that search."""
        settings, rows = self.settings, self.num_envs
        if isinstance(settings, ListSearchSettings):
            return rows, self.total_timesteps, settings.options(rows)
        # A search needs larger rollouts than a policy with features.
        rows *= 4 if settings.features else 1
        options: SearchOptions = EvolutionOptions(noises=max(rows // EvolutionOptions.population, 1))
        if self.dynamics.has_final_errors:
            options = LeastSquaresOptions()
        return rows, self.init_timesteps, options

    def new_model(self, env: VecEnv, found: SearchResult | None = None) -> BaseAlgorithm:
        """A fresh agent.

        Args:
            env: as ``make_env`` gives it.
            found: what it begins with, if its init is a search.
        """
        model = self.settings.make_model(env, self.total_timesteps)
        if isinstance(model, ARTRL) and self.init != "base":
            if found is None:
                given = Schedule.load(self.init).resample(self.dynamics.num_steps)
                model.policy.set_table(SchedulePolicy(given, self.dynamics).actions)
            else:
                model.policy.set_table(found.actions)
        return model

    def schedule(self, model: BaseAlgorithm) -> Schedule:
        """The agent as a plain list of noise levels."""
        with counting(self.counter, "distillation"):
            return self.signed(distill(model, self.dynamics, name=self.settings.algorithm))

    def signed(self, schedule: Schedule) -> Schedule:
        """A schedule that was found, with its origin."""
        settings = self.settings
        meta = {**schedule.meta, "seed": settings.seed, "version": __version__}
        return replace(schedule, name=settings.algorithm, meta=meta)

    def sampler(self, model: BaseAlgorithm) -> Callable[[torch.Tensor], torch.Tensor] | None:
        """Initial noises to samples by the policy itself, if it ``acts_on_samples``."""
        return partial(policy_samples, model, self.dynamics) if self.acts_on_samples else None

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
        copied: EDM's list, whose last level is called 0 where lists end at 0.
        classical: the same kind of scores with other solvers, beside a solver with weights.
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
    copied: Schedule
    classical: list[Evaluator]
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
        computed), ``oracle``, ``resuming`` (first steps that a checkpoint then replaces), ``training``, ``log``
        (schedules measured on the way), ``distillation``, ``table`` and ``pictures``. Of a resumed run ``training``
        has all parts up to the kills' last checkpoints, the others the last part. Exact trajectories that another
        run in this process has integrated are not counted again.
        """
        return dict(self.training.counter.rows)

    @property
    def shown(self) -> list[Schedule]:
        """The schedules that tables and pictures show, in order."""
        return [*self.rivals, self.schedule, *([self.oracle] if self.oracle else [])]


def train(settings: Settings, say: Callable[[str], None] = silent) -> Result:
    """Train an agent, distil it into a schedule, and score both; nothing is written but the run folder.

    The run folder is held for this process until ``result.run.close()``.

    Args:
        settings: of the run; with ``resume``, those of the killed run are used instead.
        say: called with lines of progress.

    Raises:
        ValueError, FileNotFoundError, ImportError, OSError: a bad setting, before anything is written.
    """
    run = None
    if settings.resume is not None:
        run, settings = RunFolder.reopen(settings)
    try:
        check_tracker(settings.track)
        torch.set_num_threads(settings.threads)
        training = Training(settings)
        evaluator = training.evaluator()
        if run is None:
            training.check_search()
            run = RunFolder.create(settings, evaluator.problem.name, training.num_envs)
        with tracked(settings.track, run.folder, settings.to_dict()):
            return _train(training, evaluator, run, say)
    except BaseException:
        if run is not None:
            run.close()
        raise


def _train(training: Training, evaluator: Evaluator, run: RunFolder, say: Callable[[str], None]) -> Result:
    """See ``train``; the folder stays held."""
    settings = training.settings
    problem, K, solver = training.dynamics.problem, training.dynamics.num_steps, settings.solver
    what = settings.algorithm if settings.effort == "full" else "universal schedule"
    say(f"{what} on {problem.name}: {solver}, K = {K}, run folder {run.folder}")

    counter = training.counter
    with counting(counter, "schedules"):
        rivals = [make_schedule(name, problem, K, solver) for name in RIVALS]
        end = ":zero=replace" if problem.final_sigmas_type == "zero" else ""
        copied = make_schedule(COPIED + end, problem, K, solver)
    oracle = None
    if settings.wants_oracle:
        if not run.oracle.is_file():
            say("searching for the oracle (gradients through the sampler) ...")
        with counting(counter, "oracle"):
            oracle = evaluator.oracle(K, run.oracle, rivals)
    log = None
    if settings.effort == "full":
        log = ScheduleLog(evaluator, training.dynamics, rivals, oracle, training.acts_on_samples)
    found = _universal(training) if log is None else _learned(training, run, log, say)
    model, schedule = found.model, found.schedule
    with counting(counter, "table"):
        better = oracle is not None and evaluator.ratio(schedule, oracle) < 1.0
    if better:
        say("the agent's schedule is better than the oracle: searching on from there ...")
        with counting(counter, "oracle"):
            oracle = evaluator.oracle(K, run.oracle, [*rivals, schedule], again=True)
        if log is not None:
            log.use_oracle(oracle)
    found.end_log()
    shown = [*rivals, schedule, *([oracle] if oracle else [])]
    classical = [training.evaluator(name) for name in CLASSICAL] if evaluator.solver.num_weights else []
    with counting(counter, "table"):
        others = [(replace(copied, name=f"{copied.name}, {other.solver.name}"), other) for other in classical]
        rows = [row for s, other in others for row in other.rows(s)]
        rows += [row for s in shown for row in evaluator.rows(s, oracle)]
        if model is not None and (sampler := training.sampler(model)) is not None:
            rows += evaluator.policy_rows(f"{settings.algorithm} policy", K, sampler, oracle)
    spent = found.seconds, found.env_steps, found.denoiser_evals
    return Result(training, run, evaluator, model, rivals, copied, classical, schedule, oracle, rows, *spent)


class Found(NamedTuple):
    """A schedule, the agent behind it if there is one, and what they took, as ``Result`` has it.

    Attributes:
        end_log: writes the result into the log.
    """

    model: BaseAlgorithm | None
    schedule: Schedule
    seconds: float
    env_steps: int
    denoiser_evals: int
    end_log: Callable[[], None] = lambda: None


def _universal(training: Training) -> Found:
    """The universal schedule, with an effort below full."""
    settings, began = training.settings, time.perf_counter()
    name = "universal" if settings.effort == "none" else "adapted"
    with counting(training.counter, "schedules"):
        schedule = make_schedule(
            name, training.dynamics.problem, training.dynamics.num_steps, settings.solver
        )
    return Found(None, schedule, time.perf_counter() - began, 0, int(schedule.meta["evaluations"]))


def _learned(training: Training, run: RunFolder, log: ScheduleLog, say: Callable[[str], None]) -> Found:
    """What a search or an agent finds, and the log of it."""
    settings, counter = training.settings, training.counter
    draw_lines(run.folder, log.lines, training.init_timesteps + training.total_timesteps)
    if isinstance(settings, ListSearchSettings):
        found, lines = _searched(training, run, log, say)
        schedule = training.signed(found.schedule)
        spent = found.seconds, found.env_steps, counter.rows["training"]
        return Found(None, schedule, *spent, partial(lines.end, schedule, found.env_steps))
    model, seconds, env_steps = learn(training, run, log, say)
    schedule = training.schedule(model)
    end_log = partial(write_result, model, log, schedule, training.sampler(model), env_steps)
    return Found(model, schedule, seconds, env_steps, counter.rows["training"], end_log)


def _searched(
    training: Training, run: RunFolder, log: ScheduleLog, say: Callable[[str], None]
) -> tuple[SearchResult, SearchLog]:
    """What the run's schedule search finds, and its log, whose last line is not written yet."""
    settings, (_, budget, _) = training.settings, training.search_plan()
    make = partial(training.make_search, Record(run.search))
    make_logger = partial(new_logger, settings, run, log.metrics)
    with counting(training.counter, "training"):
        return run_search(make, budget, make_logger, log, say, settings.progress)


def learn(
    training: Training,
    run: RunFolder,
    log: ScheduleLog,
    say: Callable[[str], None],
) -> tuple[BaseAlgorithm, float, int]:
    """Train, or go on training; the model, and the seconds and env steps of all parts of the run."""
    settings, total, counter = training.settings, training.total_timesteps, training.counter
    kept = settings.to_dict() | {"num_envs": training.num_envs}
    env, going_on = training.make_env(settings.seed), run.checkpoint.is_file()
    start = _go_on(training, run, log, say, env, kept) if going_on else _begin(training, run, log, say, env)
    model, before, began = start.model, start.steps_before, time.time()
    model.set_logger(start.logger)

    def seconds() -> float:
        return start.seconds + time.time() - began

    def save() -> None:
        evals = counter.rows["training"]
        spent = {"seconds": seconds(), "denoiser_evals": evals, "steps_before": before}
        save_checkpoint(model, run.checkpoint, kept, spent)

    done, remaining = model.num_timesteps, total - model.num_timesteps
    callbacks: list[BaseCallback] = [
        LogCallback(log, total, done, training.sampler(model), before),
        CheckpointCallback(save, total, done),
    ]
    if settings.progress and sys.stderr.isatty():
        callbacks.append(ProgressBarCallback())
    if remaining > 0:  # else killed after the training, whose checkpoint is its end
        with counting(counter, "training"), at_a_boundary():
            try:
                model.learn(
                    remaining, CallbackList(callbacks), log_interval=NEVER, reset_num_timesteps=not going_on
                )
            except ValueError as error:
                if all(bool(weights.isfinite().all()) for weights in model.policy.state_dict().values()):
                    raise
                raise diverged(model, settings) from error
            save()
    save_agent(model, run.agent, settings.algorithm, training.plain_config)
    return model, seconds(), before + model.num_timesteps


def diverged(model: BaseAlgorithm, settings: Settings) -> ValueError:
    """The error of a training whose weights are not finite."""
    rate = getattr(settings, "learning_rate", None) or "the default"
    return ValueError(
        f"{settings.algorithm} diverged within {model.num_timesteps:,} env steps: its weights are not finite; use a "
        f"smaller learning_rate than {rate}"
    )


class Start(NamedTuple):
    """An agent where this process takes it on.

    Attributes:
        model: new, or as a checkpoint has it.
        logger: of its next line.
        seconds: of the run so far.
        steps_before: env steps of the run that are not the agent's: those of the search for its first actions.
    """

    model: BaseAlgorithm
    logger: RunLogger
    seconds: float = 0.0
    steps_before: int = 0


def _begin(
    training: Training,
    run: RunFolder,
    log: ScheduleLog,
    say: Callable[[str], None],
    env: VecEnv,
) -> Start:
    """A fresh agent, after the search for its first actions if there is one, whose curves it continues."""
    if training.init != "search":
        return Start(training.new_model(env), new_logger(training.settings, run, log.metrics, 0))
    say("searching for the actions to begin with ...")
    found, lines = _searched(training, run, log, say)
    logger = lines.line(found.env_steps)
    logger.steps_before = found.env_steps
    return Start(training.new_model(env, found), logger, found.seconds, found.env_steps)


def _go_on(
    training: Training,
    run: RunFolder,
    log: ScheduleLog,
    say: Callable[[str], None],
    env: VecEnv,
    kept: dict[str, Any],
) -> Start:
    """The agent of a checkpoint."""
    with counting(training.counter, "resuming"):
        model, spent = _restored(training, env, run.checkpoint, kept)
    training.counter.rows["training"] += int(spent["denoiser_evals"])
    done, total = model.num_timesteps, training.total_timesteps
    say(f"going on from {done:,} of {total:,} env steps")
    before = int(spent.get("steps_before", training.init_timesteps))
    # A line at the checkpoint itself was written before it, unless it is that of the result.
    logger = new_logger(training.settings, run, log.metrics, before + done + (done < total))
    logger.steps_before = before
    return Start(model, logger, float(spent["seconds"]), before)


def new_logger(settings: Settings, run: RunFolder, metrics: list[str], first_step: int) -> RunLogger:
    """The log of a run from ``first_step`` on; at its very beginning it gets the settings too.

    Args:
        settings: of the run.
        run: the run folder.
        metrics: tags that stand beside the settings.
        first_step: env steps of the first line.
    """
    logger = RunLogger(run.folder, first_step)
    if first_step == 0:
        told = hyperparameters({"algorithm": settings.algorithm, **settings.to_dict()}, metrics)
        logger.record("hparams", told, exclude=("stdout", "log", "csv"))
    return logger


def _restored(
    training: Training, env: VecEnv, path: Path, settings: dict[str, Any]
) -> tuple[BaseAlgorithm, dict[str, Any]]:
    """The agent as a checkpoint has it, and what was spent on it by then."""
    kept, model = read_checkpoint(path, settings), training.settings.make_model(env, training.total_timesteps)
    try:
        restore_training(model, kept["training"])
    except (KeyError, RuntimeError, TypeError, ValueError) as error:
        raise ValueError(f"{path} does not fit this training ({error}); {begin_again(path)}") from error
    return model, kept["spent"]


def policy_samples(model: BaseAlgorithm, dynamics: Dynamics, x: torch.Tensor) -> torch.Tensor:
    """Samples whose noise levels the policy chooses one by one."""
    return sample_with_policy(model, dynamics, x).x
