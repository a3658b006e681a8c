"""stable-baselines3's SAC and PPO with settings for this environment."""

from __future__ import annotations

import math
from collections.abc import Callable

from stable_baselines3 import PPO, SAC
from stable_baselines3.common.vec_env import VecEnv


def _falling(start: float) -> Callable[[float], float]:
    """Linear from ``start`` to 0, as a function of the part of training that remains."""
    return lambda remaining: start * max(remaining, 0.0)


def make_ppo(
    env: VecEnv, total_timesteps: int, seed: int, learning_rate: float = 3e-3, std_start: float = 0.2
) -> PPO:
    """PPO (Schulman et al. 2017) set up for short episodes of exactly ``num_steps``.

    No discount (the horizon is fixed and observed), whole episodes a rollout.

    Args:
        env: whose rows step together.
        total_timesteps: of the training, in steps of a row.
        seed: of networks and exploration.
        learning_rate: at the start; falls to 0.
        std_start: width of the exploration at the start, in units of the action (0.2: one octave of speed).
    """
    steps = int(env.get_attr("num_steps")[0])
    batch = env.num_envs * steps
    return PPO(
        "MlpPolicy",
        env,
        learning_rate=_falling(learning_rate),
        n_steps=steps,
        batch_size=max(batch // 4, 2),
        n_epochs=4,
        gamma=1.0,
        gae_lambda=0.95,
        ent_coef=0.0,
        policy_kwargs={"log_std_init": math.log(std_start), "net_arch": [64, 64]},
        seed=seed,
        device="cpu",
    )


def make_sac(
    env: VecEnv, total_timesteps: int, seed: int, learning_rate: float = 3e-3, target_entropy: float = -6.0
) -> SAC:
    """SAC (Haarnoja et al. 2018) set up for many rows: four gradient steps for each step of all rows.

    No discount; the entropy target is well below SB3's default (-1), because near the optimum the price of
    exploring is larger than what is left to win. Large batches, since the return of one action differs widely
    between initial noises.

    Args:
        env: whose rows step together.
        total_timesteps: of the training, in steps of a row.
        seed: of networks and exploration.
        learning_rate: at the start; falls to 0.
        target_entropy: of the policy, in nats; lower explores less.
    """
    return SAC(
        "MlpPolicy",
        env,
        learning_rate=_falling(learning_rate),
        buffer_size=min(total_timesteps, 300_000),
        learning_starts=min(4 * env.num_envs, total_timesteps // 4),
        batch_size=2048,
        tau=0.02,
        gamma=1.0,
        train_freq=1,
        gradient_steps=4,
        ent_coef="auto_0.1",
        target_entropy=target_entropy,
        policy_kwargs={"net_arch": [64, 64]},
        seed=seed,
        device="cpu",
    )
