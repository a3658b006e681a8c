"""Environment steps a second: the native vector environment beside Gymnasium's SyncVectorEnv.

    python benchmarks/env_speed.py

Both run the same rows, actions and settings on one torch thread, in turns; the median round is printed.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path

import numpy as np
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from art_env.envs.env import ARTEnv
from art_env.envs.vector_env import ARTVectorEnv


def steps_per_second(env: VectorEnv, actions: np.ndarray) -> float:
    """Rows stepped a second over ``actions: [T, num_envs, 1]``."""
    start = time.perf_counter()
    for action in actions:
        env.step(action)
    return actions.shape[0] * env.num_envs / (time.perf_counter() - start)


def main() -> None:
    """Time both in interleaved rounds and print the medians and their ratio."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--problem", default="gaussian-1d")
    parser.add_argument("--num-envs", type=int, default=256)
    parser.add_argument("--num-steps", type=int, default=20, help="K, the length of an episode")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--native-steps", type=int, default=200, help="vector steps a round")
    parser.add_argument("--sync-steps", type=int, default=4, help="vector steps a round")
    args = parser.parse_args()
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    print(f"{args.problem}, {args.num_envs} rows, K={args.num_steps}, one thread, {args.rounds} rounds")
    print(f"{'reward':8} {'solver':8} {'native /s':>12} {'SyncVectorEnv /s':>18} {'ratio':>8}")
    for reward, solver in (("euler", "euler"), ("global", "euler"), ("global", "heun")):
        settings = {
            "problem": args.problem,
            "num_steps": args.num_steps,
            "reward": reward,
            "solver": solver,
        }
        mode = AutoresetMode.SAME_STEP
        native = ARTVectorEnv(args.num_envs, autoreset_mode=mode, **settings)
        sync = SyncVectorEnv([lambda s=settings: ARTEnv(**s)] * args.num_envs, autoreset_mode=mode)
        speeds: dict[str, list[float]] = {"native": [], "sync": []}
        runs = (("native", native, args.native_steps), ("sync", sync, args.sync_steps))
        for _, env, _ in runs:
            env.reset(seed=0)
            env.step(env.action_space.sample())  # warm up
        for _ in range(args.rounds):
            for name, env, steps in runs:
                actions = rng.uniform(-1, 1, (steps, args.num_envs, 1)).astype(np.float32)
                speeds[name].append(steps_per_second(env, actions))
        fast, slow = (statistics.median(speeds[name]) for name in ("native", "sync"))
        print(f"{reward:8} {solver:8} {fast:12,.0f} {slow:18,.0f} {fast / slow:8.1f}")
        native.close()
        sync.close()


if __name__ == "__main__":
    main()
