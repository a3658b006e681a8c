"""Learn a schedule for a model of your own, here a Python function, with ART-RL; save it as JSON."""

from pathlib import Path

import torch
from gymnasium.vector import AutoresetMode
from torch import Tensor

from agents.art_rl import ARTRL
from agents.distill import distill
from art_env import ARTVectorEnv, Evaluator, custom_problem, make_schedule, to_sb3
from art_env.adapters import CallableDenoiser

# Put your model here: noisy samples x [B, *shape] and their noise level sigma in, denoised samples out. This one
# knows its data by heart, 200 points on a spiral: its answer is their mean, weighted by how likely each was.
turns = torch.linspace(2, 12, 200, dtype=torch.float64)
data = torch.stack([turns.cos(), turns.sin()], dim=1) * turns[:, None] / 6


def denoise(x: Tensor, sigma: Tensor) -> Tensor:
    """``x: [B, 2]``, ``sigma`` a number or ``[B]`` -> ``[B, 2]``."""
    distance = torch.cdist(x, data.to(x)) / sigma.reshape(-1, 1)
    return (-distance.square() / 2).softmax(dim=1) @ data.to(x)


model = CallableDenoiser(denoise, shape=(2,), sigma_data=float(data.std()), sigma_min=0.01, sigma_max=20)
problem = custom_problem(model, name="spiral")

# 512 episodes side by side, in 16 groups that start from the same 32 noises: groups differ by their actions only.
env = ARTVectorEnv(
    num_envs=512,
    noise_groups=16,
    problem=problem,
    solver="heun",
    num_steps=5,
    features=(),
    autoreset_mode=AutoresetMode.SAME_STEP,
)
agent = ARTRL("ARTPolicy", to_sb3(env), seed=0)
agent.learn(150 * 512 * 5)
learned = distill(agent, env.dynamics, name="art")

evaluator = Evaluator(problem, "heun")
for schedule in (make_schedule("edm", problem, num_steps=5), learned):
    error = evaluator.rows(schedule)[0].mean
    levels = " ".join(f"{sigma:.3g}" for sigma in schedule.sigmas)
    print(f"{schedule.name}: error {error:.4f}, noise levels {levels}")
Path("runs").mkdir(exist_ok=True)
learned.save("runs/spiral.json")
print("wrote runs/spiral.json")
