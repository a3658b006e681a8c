"""The settings of a training: frozen, checked once when they are made."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import VecEnv, VecNormalize

from agents.art_rl import ARTRL, PaperARTRL
from agents.baselines import make_ppo, make_sac
from agents.distributed.options import WORKER_OPTIONS, WorkerOptions
from agents.group_baseline import GroupBaseline
from agents.schedule_search import SearchOptions
from agents.schedule_search.evolution import EvolutionOptions
from agents.schedule_search.least_squares import LeastSquaresOptions
from agents.training.tracking import PACKAGES
from art_env._util.cli import ModelOptions
from art_env._util.names import check_name, unknown_name
from art_env._util.numbers import check_whole
from art_env.envs.base_schedule import BASE_SCHEDULES
from art_env.envs.config import EnvConfig
from art_env.problems.problem import Problem
from art_env.schedules.registry import check_universal

AUTO = "auto"
# Limits of what is counted: a slip of the finger must not take all memory or threads.
MOST_ROWS = 1_000_000
MOST = {"threads": 1024, "total_timesteps": 10**12, "iterations": 10**9}
# Of widths and steps in units of the action, and of seeds (NumPy's have 32 bits, and a resumed run adds to it).
MOST_WIDTH, MOST_SEED = 10.0, 2**31
EFFORTS = ("none", "quick", "full")
# Rows of a training with features, unless the problem's own are fewer.
ROWS_WITH_FEATURES = 256


@dataclass(frozen=True)
class Settings(ModelOptions, WorkerOptions):
    """Settings that every algorithm shares.

    Raises:
        ValueError: a value out of range, or an unknown name; names the field, the value and the fix.
    """

    algorithm: ClassVar[str]
    noise_groups: ClassVar[int] = 1
    control: ClassVar[str] = "log_speed"
    counts: ClassVar[tuple[str, ...]] = ("threads", "num_envs", "total_timesteps", "num_images")
    positive: ClassVar[tuple[str, ...]] = ()

    solver: str = AUTO
    """By default learned_2m, and heun with reward euler. learned_2m, learned_3m, learned_4m and so on: their slope
    has 1, 2, 3 weights that the agent sets too. euler, heun, rk4, dpmpp_2m, ipndm, deis_2, deis_3, unipc_2 or
    unipc_3; stochastic: euler_maruyama or edm_churn."""
    num_steps: tuple[int, ...] = (5,)
    """Solver steps K; several are trained one after the other."""
    effort: str = "full"
    """full: train. none: noise levels and weights that suit many models (universal), without an evaluation of this
    one. quick: the same, adapted to this model by least squares with a thousand evaluations."""
    reward: str = "global"
    """global: minus the final squared error e (of a stochastic solver: minus W2^2 from a group to exact samples);
    log_global: minus log(1 + e / 0.01); local: minus the solver's own errors; euler: the paper's objective."""
    features: tuple[str, ...] = ()
    """What the policy observes besides time and remaining budget: log_velocity, log_curvature, rms, turn, x and
    others (docs/algorithms.md). Default: nothing, so that the policy is a schedule. With features, the policy itself
    is evaluated as well."""
    history: int = 0
    """The policy observes the features of so many earlier steps too, at most num_steps - 1."""
    base_schedule: str = "closed_form"
    """Base schedule, which action 0 reproduces: closed_form, universal (with its weights), or EDM's with this rho
    (7: EDM's own)."""
    action_range: float = 5.0
    """Octaves of clock speed between action 0 and 1."""
    final_sigmas_type: str | None = None
    """zero or sigma_min: where schedules end; by default the problem's own."""
    sigma_min: float | None = None
    """Another lowest noise level."""
    sigma_max: float | None = None
    """Another highest noise level."""
    num_noises: int | None = None
    """Initial noises that rewards are measured on; by default the problem's own number."""
    total_timesteps: int | None = None
    """Env steps; by default 300 episodes of every row (on images 1,200, 100 with --model; on the mixtures 1,000, and
    beyond K = 10 100 K; of a stochastic solver on images 300, on the analytic problems 75), for every algorithm. With
    each weight of a learned solver a search, and ART-RL with features, add as many (on the mixtures 3 times that)."""
    num_envs: int | None = None
    """Rows that step together; by default 256 (64 on images and with --model, 1024 on the mixtures unless ART-RL has
    features; of a stochastic solver 4096, 1024 on images, 256 with --model)."""
    seed: int = 0
    """Seed of the agent, the exploration and the initial noises."""
    eval_seeds: tuple[int, ...] = (0,)
    """Seed sets of held-out noises for the table."""
    num_images: int = 2000
    """Samples for the metrics of images."""
    run_dir: Path | None = None
    """Run folder; by default runs/PROBLEM__ALGORITHM__SEED__TIME."""
    resume: Path | None = None
    """Run folder of a killed run: go on with it. Its own settings are used; beside this only --trust-pickle,
    --progress, --workers, --ray-address and --worker-gpus may be given."""
    oracle: bool = True
    """Compute the best schedule there is, for the ratio."""
    model_oracle: bool = False
    """Compute it for --model too: hundreds of gradients through a network that may be large."""
    progress: bool = True
    """Show a progress bar."""
    track: str | None = None
    """Show the run in wandb or trackio too, from TensorBoard's events (pip install wandb, or trackio[tensorboard]);
    trackio takes them at the end."""
    threads: int = 1
    """Torch threads."""
    device: str = "cpu"
    """Where the denoiser runs: cpu, cuda, cuda:0, ..."""

    def check(self) -> None:
        """See ``CheckedSettings``."""
        super().check()
        check_name("effort", self.effort, EFFORTS)
        if self.track is not None:
            check_name("track", self.track, tuple(PACKAGES))
        if self.solver == AUTO:
            # The paper's objective knows no weights.
            object.__setattr__(self, "solver", "heun" if self.reward == "euler" else "learned_2m")
        if not self.num_steps or len(set(self.num_steps)) < len(self.num_steps):
            raise ValueError(
                f"num_steps = {self.num_steps}: give one number of steps, or several that differ"
            )
        for name in self.counts:
            count = getattr(self, name)
            if count is not None:
                check_whole(name, count, 1, MOST.get(name, MOST_ROWS))
        for name in self.positive:
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise ValueError(f"{name} = {value} must be a positive number")
            if value is not None and value > MOST_WIDTH:
                raise ValueError(f"{name} = {value} must be at most {MOST_WIDTH:g}; actions lie in [-1, 1]")
        check_whole("seed", self.seed, 0, MOST_SEED)
        for one in self.one_by_one():
            config = one.env_config()
            if one.effort != "full":
                check_universal(config.rule, config.num_steps)

    def one_by_one(self) -> list[Settings]:
        """The same settings for each number of steps by itself, each with a run folder of its own."""
        if len(self.num_steps) == 1:
            return [self]
        folder = self.run_dir
        return [
            dataclasses.replace(self, num_steps=(K,), run_dir=folder and folder / f"K{K:02d}")
            for K in self.num_steps
        ]

    def env_config(self) -> EnvConfig:
        """The environment's settings among these, for the first number of steps."""
        model = self.model_arguments()
        base_schedule: float | str = self.base_schedule
        if base_schedule not in BASE_SCHEDULES:
            try:
                base_schedule = float(base_schedule)
            except ValueError:
                raise ValueError(
                    unknown_name("base_schedule", base_schedule, [*BASE_SCHEDULES, "7"])
                    + " (a number is rho)"
                ) from None
        return EnvConfig(
            problem=self.problem if model is None else "custom",
            model=model,
            trust_pickle=self.trust_pickle,
            final_sigmas_type=self.final_sigmas_type,
            sigma_min=self.sigma_min,
            sigma_max=self.sigma_max,
            device=self.device,
            solver=self.solver,
            num_steps=self.num_steps[0],
            reward=self.reward,
            control=self.control,
            features=self.features,
            history=self.history,
            base_schedule=base_schedule,
            action_range=self.action_range,
            # Nothing is trained on them.
            num_noises=self.num_noises if self.effort == "full" else 1,
        )

    @property
    def wants_oracle(self) -> bool:
        """Whether to search for the best schedule; a stochastic solver has none."""
        return (
            self.oracle
            and (self.model is None or self.model_oracle)
            and not self.env_config().rule.stochastic
        )

    def size(self, problem: Problem, in_groups: bool) -> tuple[int, int]:
        """Rows and env steps: as given, else what suits the problem.

        Args:
            problem: what is sampled.
            in_groups: whether rewards compare groups of rows.

        Raises:
            ValueError: too few env steps for one episode of every row, or groups that do not divide the rows.
        """
        K = self.num_steps[0]
        num_weights = self.env_config().rule.num_weights if self.longer_for_weights else 0
        default_rows, episodes = problem.effort.training(in_groups, K, num_weights)
        rows = self.num_envs or self.default_rows(default_rows, in_groups)
        # As many env steps whatever the number of rows.
        total = self.total_timesteps or self.default_timesteps(episodes * default_rows)
        if total < rows * K:
            raise ValueError(
                f"total_timesteps = {total} is less than one episode of every row, {rows * K}; use more, or fewer "
                "--num-envs"
            )
        if rows % self.groups:
            raise ValueError(
                f"noise_groups = {self.groups} must divide num_envs = {rows}; use another number of either"
            )
        return rows, total

    @property
    def groups(self) -> int:
        """Groups of rows that meet the same initial noises."""
        return self.noise_groups

    def default_rows(self, rows: int, in_groups: bool) -> int:
        """Rows that step together, where the problem suggests ``rows``."""
        return rows

    def default_timesteps(self, episodes: int) -> int:
        """Env steps of so many episodes."""
        return episodes * self.num_steps[0]

    @property
    def longer_for_weights(self) -> bool:
        """Whether trainings of a learned solver are longer (see ``Effort``)."""
        return False

    def wrap(self, env: VecEnv) -> VecEnv:
        """The environment as the algorithm wants it."""
        return env

    def make_model(self, env: VecEnv, total_timesteps: int) -> BaseAlgorithm:
        """A fresh agent."""
        raise NotImplementedError

    def to_dict(self) -> dict[str, Any]:
        """Every setting that a run goes on with, as JSON has it.

        Whether to trust a pickle, and who does the work, is asked each time.
        """
        values = dataclasses.asdict(self)
        kept = {k: v for k, v in values.items() if k not in ("resume", "trust_pickle", *WORKER_OPTIONS)}
        return {k: str(v) if isinstance(v, Path) else v for k, v in kept.items()}

    @staticmethod
    def from_dict(algorithm: str, body: dict[str, Any], **changes: Any) -> Settings:
        """Settings from what ``to_dict`` gave; ``trust_pickle`` counts among ``changes`` alone.

        Raises:
            KeyError, TypeError, ValueError: no such algorithm, or values that do not fit.
        """
        values = {k: tuple(v) if isinstance(v, list) else v for k, v in body.items() if k != "trust_pickle"}
        # A name that this version does not know is a TypeError: nothing is dropped silently.
        settings = COMMANDS[algorithm](**{**values, **changes})
        if len(settings.num_steps) > 1:
            raise TypeError(f"num_steps = {settings.num_steps} in one run")
        return settings


class Pace(NamedTuple):
    """Steps of the actor's table and network, and widths of its exploration, in units of the action."""

    learning_rate: float
    network_learning_rate: float
    std_start: float
    std_end: float


# On top of a good list, wide exploration and large steps would only lose it. With weights the error is more
# sensitive: on mixture-2d (learned_2m, K = 5, features change and denoised) NARROW ended at 1.01 of the best list's
# error, NARROWEST at 0.70.
WIDE, NARROW = Pace(0.05, 0.006, 0.18, 0.012), Pace(0.005, 0.006, 0.03, 0.012)
NARROWEST = Pace(0.002, 0.001, 0.02, 0.008)
# A policy for many data distributions has much to learn beside the list that it begins with.
GENERAL = Pace(0.003, 0.003, 0.08, 0.012)


@dataclass(frozen=True)
class ArtSettings(Settings):
    """ART-RL (default)."""

    algorithm: ClassVar[str] = "art"
    counts: ClassVar[tuple[str, ...]] = (*Settings.counts, "noise_groups")
    positive: ClassVar[tuple[str, ...]] = ("learning_rate", "std_start", "std_end")

    learning_rate: float | None = None
    """Step of the actor's table, in units of the action; falls to 0. By default 0.05; with another init than base
    0.005, with weights 0.002."""
    gae_lambda: float = 1.0
    """Trace of the TD errors (1: the whole return)."""
    noise_groups: int | None = None  # type: ignore[misc,assignment]
    """Groups of rows that meet the same initial noises; by default 16, with features 4 (stochastic solver: 16)."""
    std_start: float | None = None
    """Width of the exploration at the start, in units of the action; by default 0.18; with another init than base
    0.03, with weights 0.02."""
    std_end: float | None = None
    """Width of the exploration at the end; by default 0.012, on top of a list with weights 0.008."""
    init: str = "base"
    """Where the policy begins: base (the base schedule), search (what a schedule search finds with half of the env
    steps), or a schedule.json. A policy with features then learns what to add for each sample."""

    def check(self) -> None:
        """See ``CheckedSettings``."""
        super().check()
        if not 0 <= self.gae_lambda <= 1:
            raise ValueError(f"gae_lambda = {self.gae_lambda} must lie between 0 and 1")
        if self.init not in ("base", "search") and not self.init.endswith(".json"):
            raise ValueError(unknown_name("init", self.init, ["base", "search"]) + ", or a schedule.json")
        if self.init == "search" and self.reward == "euler":
            raise ValueError("init = 'search' needs reward global or local")

    @property
    def groups(self) -> int:
        """See ``Settings``. A network needs many initial noises more than it needs many trials of each."""
        few = self.features and not self.env_config().rule.stochastic
        return self.noise_groups or (4 if few else 16)

    @property
    def longer_for_weights(self) -> bool:
        """See ``Settings``. A table gains nothing: mixture-2d, learned_3m, K = 7: 0.0185 with three times the steps,
        0.0180 without. A network does: learned_2m, K = 5, on top of a list: 0.70 of its error instead of 0.86."""
        return bool(self.features)

    def default_rows(self, rows: int, in_groups: bool) -> int:
        """A network needs many small updates (see ``ARTRL``); but groups that stand for a distribution stay large."""
        return rows if in_groups or not self.features else min(rows, ROWS_WITH_FEATURES)

    def make_model(self, env: VecEnv, total_timesteps: int) -> BaseAlgorithm:
        """See ``Settings``."""
        pace, begins_well = WIDE, self.init != "base" or self.base_schedule == "universal"
        if begins_well:
            pace = NARROWEST if self.env_config().rule.num_weights else NARROW
        if env.get_attr("distributions")[0] is not None:
            pace = GENERAL
        return ARTRL(
            "ARTPolicy",
            env,
            learning_rate=self.learning_rate or pace.learning_rate,
            gae_lambda=self.gae_lambda,
            noise_groups=self.groups,
            std_start=self.std_start or pace.std_start,
            std_end=self.std_end or pace.std_end,
            # A table that is known to be good is not left for others.
            starts=1 if begins_well else 4,
            policy_kwargs={"network_learning_rate": pace.network_learning_rate},
            seed=self.seed,
        )


@dataclass(frozen=True)
class ArtPaperSettings(Settings):
    """The literal Algorithm 1 of the paper with its published settings: 5,000 iterations of one trajectory."""

    algorithm: ClassVar[str] = "art-paper"
    control: ClassVar[str] = "speed"
    counts: ClassVar[tuple[str, ...]] = (*Settings.counts, "iterations")

    problem: str = "gaussian-1d"
    solver: str = "euler"
    num_steps: tuple[int, ...] = (100,)
    reward: str = "euler"
    features: tuple[str, ...] = ("x", "log_curvature")
    num_envs: int | None = 1
    """One trajectory an iteration."""
    iterations: int = 5000
    """Trajectories."""

    def check(self) -> None:
        """See ``CheckedSettings``."""
        super().check()
        if self.num_envs != 1:
            raise ValueError(
                f"num_envs = {self.num_envs}: Algorithm 1 plays one trajectory an iteration; use 1"
            )

    def default_timesteps(self, episodes: int) -> int:
        """As many episodes as iterations."""
        return self.iterations * self.num_steps[0]

    def make_model(self, env: VecEnv, total_timesteps: int) -> BaseAlgorithm:
        """See ``Settings``."""
        return PaperARTRL("PaperPolicy", env, seed=self.seed)


@dataclass(frozen=True)
class ListSearchSettings(Settings):
    """What the searches for one list have in common."""

    counts: ClassVar[tuple[str, ...]] = (*Settings.counts, "starts")
    # There is no policy that could see them.
    features: ClassVar[tuple[str, ...]] = ()  # type: ignore[misc]
    history: ClassVar[int] = 0  # type: ignore[misc]

    @property
    def longer_for_weights(self) -> bool:
        """See ``Settings``."""
        return True

    def options(self, rows: int) -> SearchOptions:
        """The search's own options, for rollouts of ``rows`` episodes."""
        raise NotImplementedError


@dataclass(frozen=True)
class SearchSettings(ListSearchSettings):
    """Schedule search by least squares: the Levenberg-Marquardt method, with Jacobians by differences, from many
    starts. Of solvers that follow the ODE; nothing is differentiated through the sampler."""

    algorithm: ClassVar[str] = "search"
    positive: ClassVar[tuple[str, ...]] = ("std_start",)

    starts: int = LeastSquaresOptions.starts
    """Descents of the first rung, at most."""
    std_start: float = LeastSquaresOptions.std_start
    """How far from the base schedule they begin, in units of the action."""

    def check(self) -> None:
        """See ``CheckedSettings``."""
        super().check()
        if self.reward != "global" or self.env_config().rule.stochastic:
            raise ValueError(
                f"solver = {self.solver!r}, reward = {self.reward!r}: the search minimises the error to the exact "
                "trajectory of the same noise; use reward global and a solver that is not stochastic, or "
                "'train.py evolution'"
            )

    def options(self, rows: int) -> SearchOptions:
        """See ``ListSearchSettings``."""
        return LeastSquaresOptions(self.starts, self.std_start)


@dataclass(frozen=True)
class EvolutionSettings(ListSearchSettings):
    """Schedule search by evolution strategies: successive halving over PGPE, then CMA-ES. Sees nothing of an episode
    but its return, so that it takes any reward and stochastic solvers too."""

    algorithm: ClassVar[str] = "evolution"
    positive: ClassVar[tuple[str, ...]] = ("learning_rate", "std_start")

    starts: int = EvolutionOptions.starts
    """PGPE runs of the first rung, at most."""
    learning_rate: float = EvolutionOptions.learning_rate
    """Step of these runs, in units of the action; falls to 0."""
    std_start: float = EvolutionOptions.std_start
    """How far from the base schedule they begin, in units of the action; they explore with half of it."""
    noise_groups: int = EvolutionOptions.population  # type: ignore[misc]
    """Candidates that are compared on the same initial noises (the population)."""

    def check(self) -> None:
        """See ``CheckedSettings``."""
        super().check()
        if self.noise_groups < 2:
            raise ValueError(f"noise_groups = {self.noise_groups} must be at least 2 candidates to compare")
        if self.reward == "euler":
            raise ValueError(
                "reward = 'euler' has no exact trajectories, which the search needs; use global or local"
            )

    def options(self, rows: int) -> SearchOptions:
        """See ``ListSearchSettings``."""
        noises = rows // self.noise_groups
        return EvolutionOptions(self.noise_groups, noises, self.starts, self.learning_rate, self.std_start)


@dataclass(frozen=True)
class SacSettings(Settings):
    """SAC from stable-baselines3."""

    algorithm: ClassVar[str] = "sac"
    counts: ClassVar[tuple[str, ...]] = (*Settings.counts, "noise_groups")
    positive: ClassVar[tuple[str, ...]] = ("learning_rate",)

    learning_rate: float = 3e-3
    """At the start; falls to 0."""
    target_entropy: float = -6.0
    """Entropy that the policy is held at, in nats; a lower one explores less."""
    noise_groups: int = 1  # type: ignore[misc]
    """Groups of rows that meet the same initial noises; rewards are relative to their mean over groups. 1: none."""

    def check(self) -> None:
        """See ``CheckedSettings``."""
        super().check()
        if not math.isfinite(self.target_entropy):
            raise ValueError(f"target_entropy = {self.target_entropy} must be a finite number")

    def wrap(self, env: VecEnv) -> VecEnv:
        """Rewards relative to their mean over groups, of unit spread."""
        return normalized(GroupBaseline(env, self.noise_groups))

    def make_model(self, env: VecEnv, total_timesteps: int) -> BaseAlgorithm:
        """See ``Settings``."""
        return make_sac(env, total_timesteps, self.seed, self.learning_rate, self.target_entropy)


@dataclass(frozen=True)
class PpoSettings(Settings):
    """PPO from stable-baselines3."""

    algorithm: ClassVar[str] = "ppo"
    counts: ClassVar[tuple[str, ...]] = (*Settings.counts, "noise_groups")
    positive: ClassVar[tuple[str, ...]] = ("learning_rate", "std_start")

    learning_rate: float = 3e-3
    """At the start; falls to 0."""
    std_start: float = 0.2
    """Width of the exploration at the start, in units of the action."""
    noise_groups: int = 1  # type: ignore[misc]
    """Groups of rows that meet the same initial noises; rewards are relative to their mean over groups. 1: none."""

    def wrap(self, env: VecEnv) -> VecEnv:
        """Rewards relative to their mean over groups, of unit spread."""
        return normalized(GroupBaseline(env, self.noise_groups))

    def make_model(self, env: VecEnv, total_timesteps: int) -> BaseAlgorithm:
        """See ``Settings``."""
        return make_ppo(env, total_timesteps, self.seed, self.learning_rate, self.std_start)


def normalized(env: VecEnv) -> VecNormalize:
    """The environment with rewards of unit spread."""
    return VecNormalize(env, norm_obs=False, gamma=1.0, clip_reward=100.0)


COMMANDS: dict[str, type[Settings]] = {
    kind.algorithm: kind
    for kind in (
        ArtSettings,
        ArtPaperSettings,
        SearchSettings,
        EvolutionSettings,
        SacSettings,
        PpoSettings,
    )
}
