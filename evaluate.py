"""Compare schedules on one problem: a table, and with --out a CSV file and pictures.

Example:
    python evaluate.py --problem mixture-1d --steps 5 10 --schedules edm dp oracle --out results/mixture
    python evaluate.py --problem digits --schedules edm simple closed_form --workers 2
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

if __name__ == "__main__":  # while the imports below take their seconds, Ctrl-C ends without a traceback
    for stop in (signal.SIGINT, signal.SIGTERM):
        signal.signal(stop, lambda number, _: os._exit(128 + number))

import torch
import tyro
from tqdm import tqdm

from agents.distributed.evaluator import ShardedEvaluator
from agents.distributed.options import WorkerOptions
from agents.distributed.reference import with_workers
from art_env._util.cli import ModelOptions, parse, run_command
from art_env._util.numbers import check_whole
from art_env.diffusion.solvers import require_deterministic
from art_env.envs.dynamics import Dynamics
from art_env.envs.observation import Observer
from art_env.evaluation.comparison import Comparison, compare, with_own_names
from art_env.evaluation.evaluator import Evaluator
from art_env.evaluation.fid import InceptionFID
from art_env.evaluation.results import Score
from art_env.problems.custom import model_problem
from art_env.problems.library import make_problem
from art_env.problems.problem import Problem
from art_env.schedules import Schedule
from art_env.schedules.optimal import gain_of_seeing
from art_env.schedules.registry import (
    UNIVERSAL,
    check_fit,
    check_spec,
    check_universal,
    is_file_spec,
    load_for,
)
from art_env.schedules.schedule import check_num_steps

if TYPE_CHECKING:
    from stable_baselines3.common.policies import BasePolicy


@dataclass(frozen=True)
class Settings(ModelOptions, WorkerOptions):
    """Score noise schedules: paired error to the exact solution, distance to the data, ratio to the oracle."""

    solver: str | None = None
    """euler, heun, rk4, dpmpp_2m, ipndm, deis_2, deis_3, unipc_2, unipc_3; learned_2m, learned_3m, learned_4m and so
    on; stochastic: euler_maruyama or edm_churn (no rmse, no oracle). By default that of a schedule with weights, else
    heun (euler on gaussian-1d)."""
    steps: tuple[int, ...] = (3, 5, 7, 10)
    """Numbers of steps K."""
    schedules: tuple[str, ...] = ("uniform", "log_snr", "edm", "closed_form", "oracle")
    """uniform, edm, edm:rho=3, edm_tuned, log_snr, cosine, arctan, arctan:c=0.5, vp, polyexponential:rho=2, each also
    with zero=replace (edm:rho=3,zero=replace: K steps to sigma_min, whose last level is called 0); simple, beta,
    beta:table=vp, sgm_uniform, ays_sd15, ays_sdxl, ays_svd; closed_form, dp, dp:coefficient=1.15,
    gits, gits:coefficient=1.15, sdm, sdm:q=0.1, dmn, cma (extra [cma]), cma:max_evaluations=2000, universal,
    universal_clock, adapted and adapted:evaluations=5000 (learned_2m to learned_4m), oracle, or the path of a
    schedule.json. The oracle is a search: seconds on analytic problems, minutes a K on networks; the ratio column
    needs it."""
    agents: tuple[str, ...] = ()
    """Trained agents (agent.safetensors); each is distilled into a schedule, and a policy with features is scored
    itself too, at its own number of steps. An agent trained on another problem is applied here without retraining,
    along this problem's base schedule. A model.zip of an earlier version is a pickle and needs --trust-pickle."""
    bound: tuple[str, ...] = ()
    """What is there to win for a policy that sees the sample? Names of features, such as change and denoised: a
    network that sees them is trained by gradients through the sampler, minutes a K, and scored like the others."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Seed sets; the table shows mean and standard deviation over them."""
    final_sigmas_type: str | None = None
    """zero or sigma_min: where schedules end; by default the problem's own."""
    metrics: tuple[str, ...] | None = None
    """Beside the paired error: w2, sliced_w2 or frechet, where the problem has them; by default its first. Images
    have fid too (Inception features, extra [fid])."""
    fid_weights: Path | None = None
    """File of torch-fidelity's Inception weights; by default they are downloaded."""
    num_images: int = 2000
    """Samples per seed set for the metrics of images."""
    out: Path | None = None
    """Folder for results.csv, quality.png and, for images, samples_K.png for each K."""
    overwrite: bool = False
    """Replace an earlier results.csv in --out."""
    threads: Annotated[int, tyro.conf.arg(help="Torch threads.")] = 1
    device: str = "cpu"
    """cpu, cuda, cuda:0, ..."""

    def check(self) -> None:
        """See ``CheckedSettings``."""
        super().check()
        check_whole("threads", self.threads, 1, 1024)
        check_whole("num_images", self.num_images, 1, 1_000_000)
        if not self.steps or min(self.steps) < 1:
            raise ValueError(f"--steps {' '.join(map(str, self.steps))}: give whole numbers of at least 1")
        for K in self.steps:
            check_num_steps(K)
        if not self.schedules and not self.agents:
            raise ValueError("nothing to score: give --schedules or --agents")
        if self.bound and "oracle" not in self.schedules:
            raise ValueError(f"--bound {' '.join(self.bound)} begins at the oracle: add it to --schedules")
        for path in self.agents:
            if not Path(path).is_file():
                raise FileNotFoundError(f"no agent file at {path!r}")

    def make_problem(self) -> Problem:
        """The named problem, or one around the caller's model."""
        model = self.model_arguments()
        if model is None:
            return make_problem(self.problem, final_sigmas_type=self.final_sigmas_type, device=self.device)
        final_sigmas_type = self.final_sigmas_type or "zero"
        return model_problem(
            **model, trust_pickle=self.trust_pickle, final_sigmas_type=final_sigmas_type, device=self.device
        )


def evaluate(settings: Settings) -> Comparison:
    """Check everything, then score; what ``--out`` asks for is written.

    Raises:
        ValueError, OSError: a setting or a file that cannot be used, before anything long has begun.
    """
    torch.set_num_threads(settings.threads)
    problem = settings.make_problem()
    files = {spec: load_for(spec, problem) for spec in settings.schedules if is_file_spec(spec)}
    names = [spec for spec in settings.schedules if spec not in files]
    # By default the first solver that a schedule with weights is for.
    own = "learned_2m" if any(name.partition(":")[0] in UNIVERSAL for name in names) else problem.solver
    solver = settings.solver or next((s.solver for s in files.values() if s.solver), own)
    for name in names:
        check_spec(name, problem, solver)
        if name.partition(":")[0] in UNIVERSAL:
            for K in settings.steps:
                check_universal(solver, K)
    metrics = problem.metrics[:1] if settings.metrics is None else settings.metrics
    fid = InceptionFID(settings.fid_weights) if "fid" in metrics else None
    scored: dict[str, Any] = {
        "seeds": settings.seeds,
        "num_images": settings.num_images,
        "metrics": metrics,
        "fid": fid,
    }
    evaluator = Evaluator(problem, solver, **scored)
    if settings.out is not None:
        check_out(settings.out, settings.overwrite)
    workers = settings.start_workers(settings.device, settings.threads)
    if workers is not None:
        problem = with_workers(problem, workers)
        evaluator = ShardedEvaluator(workers, problem, solver, **scored)
    given = [files[spec] for spec in settings.schedules if spec in files]
    agents = [Agent.load(path, problem, settings.trust_pickle) for path in settings.agents]
    given = with_own_names([*given, *(agent.schedule for agent in agents)], settings.schedules)
    if settings.bound:
        require_deterministic(solver, "--bound")
        # Unknown features are refused before anything is integrated.
        Observer(problem, settings.bound, 1)

    def more(K: int, oracle: Schedule | None) -> list[Score]:
        rows = [row for agent in agents for row in agent.policy_rows(evaluator, K, oracle)]
        return rows + (bound_rows(evaluator, settings.bound, oracle) if settings.bound and oracle else [])

    total = len(set(settings.steps)) * (len(set(names)) + len(given)) + 1
    # disable=None: no bar in a log file.
    with tqdm(total=total, file=sys.stderr, leave=False, dynamic_ncols=True, disable=None) as bar:

        def advance(text: str) -> None:
            bar.set_description(text)
            bar.update()

        found = compare(evaluator, settings.steps, names, given, advance, more)
    if settings.bound:
        found.notes.append(
            f"seeing the sample: with hindsight {gain_of_seeing(evaluator.reference()):.3f} of what the best fixed "
            "clock costs by the paper's objective (Euler's steps; no policy has hindsight)"
        )
    return found


def bound_rows(evaluator: Evaluator, features: Sequence[str], oracle: Schedule) -> list[Score]:
    """Rows of a policy that sees these features, trained by gradients from the best fixed schedule on."""
    from agents.gradient_policy import bound_ends

    ends = bound_ends(evaluator.problem, evaluator.solver, features, oracle)
    return evaluator.policy_rows("bound policy", oracle.num_steps, ends, oracle)


def check_out(out: Path, overwrite: bool) -> None:
    """Refuse a folder that holds results already, or cannot be made or written; makes it."""
    if out.exists() and not out.is_dir():
        raise NotADirectoryError(f"--out {out} is a file; give a folder")
    if (out / "results.csv").exists() and not overwrite:
        raise FileExistsError(f"--out {out} holds a results.csv already; use --overwrite or another folder")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise type(error)(f"--out {out} cannot be made ({error.strerror}); use another folder") from error
    try:
        tempfile.TemporaryFile(dir=out).close()
    except OSError as error:
        raise type(error)(f"--out {out} cannot be written ({error.strerror}); use another folder") from error


@dataclass(frozen=True)
class Agent:
    """A trained agent, on the problem that is scored.

    Attributes:
        policy: acts on observations of ``dynamics``.
        dynamics: of the problem.
        schedule: the list that the policy is distilled into.
    """

    policy: BasePolicy
    dynamics: Dynamics
    schedule: Schedule

    @classmethod
    def load(cls, path: str, problem: Problem, trust_pickle: bool = False) -> Agent:
        """Read an agent.safetensors.

        Raises:
            ValueError, FileNotFoundError: as ``load_agent``, or its schedule is for another noise range.
        """
        from agents.checkpoint import load_agent
        from agents.distill import distill

        policy, dynamics = load_agent(path, trust_pickle=trust_pickle, problem=problem)
        own = Path(path).stem not in ("agent", "model")
        name = Path(path).stem if own else Path(path).resolve().parent.name
        schedule = distill(policy, dynamics, name=name)
        check_fit(schedule, problem)
        return cls(policy, dynamics, schedule)

    def policy_rows(self, evaluator: Evaluator, K: int, oracle: Schedule | None) -> list[Score]:
        """Rows of the policy itself, if it sees the trajectory and is for K steps of the evaluator's solver."""
        from agents.rollout import sample_with_policy

        dynamics = self.dynamics
        fits = (dynamics.num_steps, dynamics.solver.name) == (K, evaluator.solver.name)
        if not (dynamics.features and fits) or dynamics.solver.stochastic:
            return []
        return evaluator.policy_rows(
            f"{self.schedule.name} policy",
            K,
            lambda x: sample_with_policy(self.policy, dynamics, x).x,
            oracle,
        )


def run(settings: Settings) -> None:
    """Evaluate, print, write."""
    found = evaluate(settings)
    for note in found.notes:
        print(note, file=sys.stderr)
    print(found.report())
    if settings.out is not None:
        print(f"wrote {', '.join(found.write(settings.out))} to {settings.out}")


def main() -> int:
    """The command line; a bad setting is one line on stderr and exit code 2."""
    interrupted = "interrupted; nothing was written"
    return run_command("evaluate.py", lambda: run(parse(Settings, None, __doc__)), interrupted)


if __name__ == "__main__":
    sys.exit(main())
