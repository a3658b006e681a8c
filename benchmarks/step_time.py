"""A process that times environment steps on request, run by ``benchmarks.env_speed`` on any checkout.

Each line of its input is ``{"rows": n, "settings": {...}, "steps": N}`` in JSON; 0 rows mean the scalar environment.
The answer is the processor time of a step in microseconds, resets included.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import numpy as np
import torch

from art_env.envs import ARTEnv, ARTVectorEnv


def make(rows: int, settings: dict[str, Any]) -> Any:
    """The environment, in an episode."""
    env = ARTVectorEnv(rows, autoreset_mode="SAME_STEP", **settings) if rows else ARTEnv(**settings)
    env.reset(seed=0)
    return env


def step_time(env: Any, steps: int) -> float:
    """Microseconds a step."""
    action = np.full(env.action_space.shape, 0.1, dtype=np.float32)
    env.reset(seed=0)
    start = time.process_time()
    for _ in range(steps):
        terminated = env.step(action)[2]
        if terminated is True:
            env.reset()
    return 1e6 * (time.process_time() - start) / steps


def main() -> None:
    """Answer until the input ends."""
    torch.set_num_threads(1)
    envs: dict[str, Any] = {}
    for line in sys.stdin:
        asked = json.loads(line)
        key = json.dumps([asked["rows"], asked["settings"]])
        if key not in envs:
            envs[key] = make(asked["rows"], asked["settings"])
        print(step_time(envs[key], asked["steps"]), flush=True)


if __name__ == "__main__":
    main()
