"""What do stable-baselines3's agents reach with their own settings? The ratio to the oracle after some seconds.

python -m benchmarks.default_agents --id ART/Mixture1D-v1
python -m benchmarks.default_agents --id ART/Mixture1D-v1 --reward global
python -m benchmarks.default_agents --id ART/Mixture1D-v0

Nothing is tuned: every setting is the library's. The seconds are those of this process, so that other programs on the
machine do not count. The ratio is that of the policy's mean action on the noises of the pool.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import gymnasium as gym
import numpy as np
import torch
import tyro
from stable_baselines3 import PPO, SAC, TD3
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback

from art_env import ARTVectorEnv, to_sb3
from art_env.envs.config import EnvConfig
from art_env.schedules.optimal import final_rmse
from art_env.schedules.registry import make_schedule

AGENTS: dict[str, type[BaseAlgorithm]] = {"ppo": PPO, "sac": SAC, "td3": TD3}
# Rows that a policy is scored on at once.
SCORED = 1024


@dataclass
class Args:
    """Train agents, and print a line for each."""

    id: str = "ART/Mixture1D-v1"
    reward: str | None = None
    """By default the id's own."""
    agents: tuple[str, ...] = ("ppo", "sac", "td3")
    seeds: tuple[int, ...] = (0, 1, 2)
    seconds: float = 120.0
    """Of processor time, for each training."""
    num_envs: int = 8
    threads: int = 1


class Deadline(BaseCallback):
    """Stops a training after so many seconds of this process's time."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.end = time.process_time() + seconds

    def _on_step(self) -> bool:
        return time.process_time() < self.end


def score(agent: BaseAlgorithm, env: ARTVectorEnv) -> float:
    """RMSE of the policy's mean action over the first noises of the pool."""
    observation, info = env.reset(options={"noise_index": np.arange(env.num_envs)})
    for _ in range(env.num_steps):
        action, _ = agent.predict(observation, deterministic=True)
        observation, *_, info = env.step(action)
    return float(np.sqrt(np.mean(np.square(info["rmse"]))))


def main(args: Args) -> None:
    """Print a line for each agent and seed."""
    torch.set_num_threads(args.threads)
    settings = gym.spec(args.id).kwargs
    config = EnvConfig.make(**(settings if args.reward is None else {**settings, "reward": args.reward}))
    problem = config.make_problem()
    config, reference = config.of_problem(problem), problem.reference(config.num_noises, config.noise_seed)
    scored = ARTVectorEnv(min(SCORED, reference.num_noises), config, autoreset_mode="DISABLED")
    on = reference.pick(torch.arange(scored.num_envs))
    known: dict[str, float] = {}
    for name in ("edm", "oracle"):
        schedule = make_schedule(name, problem, config.num_steps, config.solver, on)
        known[name] = final_rmse(problem.denoiser, on, schedule, config.solver)
    print(f"{args.id}: EDM's ratio {known['edm'] / known['oracle']:.2f}")
    for name in args.agents:
        for seed in args.seeds:
            env = ARTVectorEnv(args.num_envs, config, autoreset_mode="SAME_STEP")
            agent = AGENTS[name]("MlpPolicy", to_sb3(env), seed=seed, device="cpu")  # type: ignore[call-arg]
            agent.learn(10**9, callback=Deadline(args.seconds))
            ratio = score(agent, scored) / known["oracle"]
            print(f"{name} seed {seed}: {agent.num_timesteps} env steps, ratio {ratio:.3f}", flush=True)


if __name__ == "__main__":
    main(tyro.cli(Args, prog="python -m benchmarks.default_agents", description=__doc__))
