"""Train stable-baselines3's PPO, and print the schedule that its policy plays."""

import math
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode
from stable_baselines3 import PPO

from art_env import ARTEnv, ARTVectorEnv, Evaluator, Schedule, make_problem, make_schedule, to_sb3

K = 5
# Without features the policy sees the time and how much of the way is left, not the sample: it plays a schedule.
settings: dict[str, Any] = {"problem": "mixture-1d", "solver": "heun", "num_steps": K, "features": ()}
vector_env = ARTVectorEnv(num_envs=256, **settings, autoreset_mode=AutoresetMode.SAME_STEP)

# SB3 lets PPO explore with a standard deviation of 1, the whole range of actions. Here it then ends with a
# schedule worse than EDM's, so begin with a fifth of that width.
agent = PPO(
    "MlpPolicy",
    to_sb3(vector_env),
    learning_rate=lambda remaining: 3e-3 * remaining,
    n_steps=K,  # one episode of each row
    batch_size=256 * K // 4,
    n_epochs=4,
    gamma=1.0,  # every episode has K steps: there is nothing to discount
    policy_kwargs={"log_std_init": math.log(0.2)},
    seed=0,
    device="cpu",
)
agent.learn(60_000)

# Play one episode without exploration, and write down where it goes.
env = ARTEnv(**settings)
observation, info = env.reset(seed=0)
sigmas, terminated = [info["sigma"]], False
while not terminated:
    action = agent.predict(observation, deterministic=True)[0]
    observation, reward, terminated, truncated, info = env.step(action)
    sigmas.append(info["sigma"])

# Score it on noises that training has not seen: the RMSE to the exact solution from the same noise.
problem = make_problem("mixture-1d")
evaluator = Evaluator(problem, "heun")
schedules = [make_schedule("edm", problem, K), Schedule(np.array(sigmas), name="ppo")]
error = {schedule.name: evaluator.rows(schedule)[0].mean for schedule in schedules}
for schedule in schedules:
    levels = " ".join(f"{sigma:.4g}" for sigma in schedule.sigmas)
    print(f"{schedule.name}: error {error[schedule.name]:.3f}, noise levels {levels}")
print(f"PPO's error is {error['ppo'] / error['edm']:.2f} times that of EDM.")
