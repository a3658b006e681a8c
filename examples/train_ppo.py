"""Train stable-baselines3's PPO with its own exploration, and print the schedule that its policy plays."""

from typing import Any

import gymnasium as gym
import numpy as np
from stable_baselines3 import PPO

from art_env import Evaluator, Schedule, make_problem, make_schedule, to_sb3

K = 5
# Without features the policy sees the time and how much of the way is left, not the sample: it plays a schedule.
settings: dict[str, Any] = {"solver": "heun", "num_steps": K, "features": ()}
vector_env = gym.make_vec("art_env:ART/Mixture1D-v1", 256, autoreset_mode="SAME_STEP", **settings)

agent = PPO(
    "MlpPolicy",
    to_sb3(vector_env),
    learning_rate=lambda remaining: 3e-3 * remaining,
    n_steps=K,  # one episode of each row
    batch_size=256 * K // 4,
    n_epochs=4,
    gamma=1.0,  # every episode has K steps: there is nothing to discount
    seed=0,
    device="cpu",
)
agent.learn(60_000)

# Play one episode without exploration, and write down where it goes.
env = gym.make("art_env:ART/Mixture1D-v1", **settings)
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
