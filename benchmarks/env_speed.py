"""How many environment steps a second? The native vector environment beside Gymnasium's SyncVectorEnv.

python -m benchmarks.env_speed

Both run the same rows, actions and settings on one torch thread, in turns; the median round is printed.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
import tyro
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv

from art_env._util.cli import run_command
from art_env.envs.env import ARTEnv
from art_env.envs.vector_env import ARTVectorEnv


@dataclass
class Args:
    """Time both environments."""

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


def main(args: Args) -> None:
    """Time both in interleaved rounds and print the medians and their ratio."""
    torch.set_num_threads(1)
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
