"""How many environment steps a second? And does a change make them faster?

python -m benchmarks.env_speed
python -m benchmarks.env_speed --against ../other_checkout

The first prints the native vector environment beside Gymnasium's SyncVectorEnv, the second the time of a step in this
checkout beside another one. Both run the same rows, actions and settings on one torch thread, in turns; the median
round is printed.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
import tyro
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv

from art_env._util.cli import run_command
from art_env.envs.env import ARTEnv
from art_env.envs.vector_env import ARTVectorEnv

ROOT = Path(__file__).resolve().parents[1]


@dataclass
class Args:
    """Time environments."""

    against: Path | None = None
    """Another checkout of this project, whose steps are timed in turns with those of this one."""
    problems: tuple[str, ...] = ("mixture-1d", "mixture-2d", "digits", "random-mixtures")
    solvers: tuple[str, ...] = ("euler", "heun", "learned_2m")
    rows: tuple[int, ...] = (0, 1, 256)
    """Of ``against``; 0: the scalar environment."""
    seconds: float = 0.05
    """Of ``against``: least time of a round."""

    problem: str = "gaussian-1d"
    num_envs: int = 256
    num_steps: int = 20
    """K, the length of an episode."""
    rounds: int = 5
    native_steps: int = 200
    """Vector steps a round of the native environment."""
    sync_steps: int = 4
    """Vector steps a round of SyncVectorEnv."""


def steps_per_second(env: VectorEnv, actions: np.ndarray) -> float:
    """Rows stepped a second over ``actions: [T, num_envs, 1]``."""
    start = time.perf_counter()
    for action in actions:
        env.step(action)
    return actions.shape[0] * env.num_envs / (time.perf_counter() - start)


class Worker:
    """A process that times steps with the code of a checkout."""

    def __init__(self, checkout: Path) -> None:
        code = (ROOT / "benchmarks" / "step_time.py").read_text(encoding="utf-8")
        self._process = subprocess.Popen(
            [sys.executable, "-c", code],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=checkout,
            env={**os.environ, "PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1"},
        )

    def ask(self, rows: int, settings: dict[str, Any], steps: int) -> float:
        """Microseconds a step."""
        question = json.dumps({"rows": rows, "settings": settings, "steps": steps})
        stdin, stdout = self._pipes()
        print(question, file=stdin, flush=True)
        answer = stdout.readline()
        if not answer:
            raise RuntimeError(f"the process that times {settings} has died; its error is above")
        return float(answer)

    def close(self) -> None:
        """End the process."""
        self._pipes()[0].close()
        self._process.wait()

    def _pipes(self) -> tuple[IO[str], IO[str]]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        return self._process.stdin, self._process.stdout


def compare(args: Args, checkout: Path) -> None:
    """Print the time of a step in both checkouts, and the median and range of their ratio."""
    workers = Worker(checkout.resolve()), Worker(ROOT)
    print(f"K={args.num_steps}, one thread, {args.rounds} rounds; microseconds of processor time a step")
    print(f"{'problem':16} {'solver':11} {'features':8} {'rows':>6} {'other':>8} {'this':>8}  ratio (range)")
    for problem in args.problems:
        for solver in args.solvers:
            for features in (True, False):
                settings: dict[str, Any] = {"problem": problem, "solver": solver, "num_steps": args.num_steps}
                settings |= {"num_noises": 512 if problem == "random-mixtures" else 256}
                settings |= {} if features else {"features": []}
                for rows in args.rows:
                    steps = max(
                        2 * args.num_steps, int(1e6 * args.seconds / workers[0].ask(rows, settings, 10))
                    )
                    workers[1].ask(rows, settings, steps)
                    times = np.empty((args.rounds, 2))
                    for i in range(args.rounds):
                        for j in (0, 1) if i % 2 else (1, 0):
                            times[i, j] = workers[j].ask(rows, settings, steps)
                    ratio = times[:, 1] / times[:, 0]
                    old, new = np.median(times, 0)
                    print(
                        f"{problem:16} {solver:11} {'yes' if features else 'no':8} {rows or 'scalar':>6} {old:8.0f} "
                        f"{new:8.0f}  {np.median(ratio):.2f} ({ratio.min():.2f} to {ratio.max():.2f})",
                        flush=True,
                    )
    for worker in workers:
        worker.close()


def main(args: Args) -> None:
    """Time in interleaved rounds and print the medians and their ratio."""
    torch.set_num_threads(1)
    if args.against is not None:
        return compare(args, args.against)
    rng = np.random.default_rng(0)
    print(f"{args.problem}, {args.num_envs} rows, K={args.num_steps}, one thread, {args.rounds} rounds")
    print(f"{'reward':8} {'solver':8} {'native /s':>12} {'SyncVectorEnv /s':>18} {'ratio':>8}")
    for reward, solver in (("euler", "euler"), ("global", "euler"), ("global", "heun")):
        settings: dict[str, Any] = {"problem": args.problem, "num_steps": args.num_steps}
        settings |= {"reward": reward, "solver": solver}
        mode = AutoresetMode.SAME_STEP
        native = ARTVectorEnv(args.num_envs, autoreset_mode=mode, **settings)
        sync = SyncVectorEnv([partial(ARTEnv, **settings)] * args.num_envs, autoreset_mode=mode)
        runs: tuple[tuple[VectorEnv, int, list[float]], ...]
        runs = (native, args.native_steps, []), (sync, args.sync_steps, [])
        for env, _, _ in runs:
            env.reset(seed=0)
            env.step(env.action_space.sample())  # warm up
        for _ in range(args.rounds):
            for env, steps, speeds in runs:
                actions = rng.uniform(-1, 1, (steps, args.num_envs, 1)).astype(np.float32)
                speeds.append(steps_per_second(env, actions))
        fast, slow = (np.median(speeds) for _, _, speeds in runs)
        print(f"{reward:8} {solver:8} {fast:12,.0f} {slow:18,.0f} {fast / slow:8.1f}")
        native.close()
        sync.close()


if __name__ == "__main__":
    program = "python -m benchmarks.env_speed"
    sys.exit(run_command(program, lambda: main(tyro.cli(Args, prog=program, description=__doc__))))
