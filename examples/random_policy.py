"""Play the environment by hand: random actions, and action 0, which gives the base schedule."""

from collections.abc import Callable

import gymnasium as gym
import numpy as np

from art_env import make_problem, make_schedule

# An episode draws one sample with five steps of Heun's solver. Before each step the action says how fast to go.
env = gym.make("art_env:ART/Mixture1D-v1", solver="heun", num_steps=5)
env.action_space.seed(0)


def play(choose: Callable[[], np.ndarray], noise: int) -> tuple[float, list[float]]:
    """The return of one episode that starts from the given noise, and the noise levels that it went through."""
    _, info = env.reset(options={"noise_index": noise})
    sigmas, total, terminated = [info["sigma"]], 0.0, False
    while not terminated:
        _, reward, terminated, _, info = env.step(choose())
        sigmas.append(info["sigma"])
        total += float(reward)
    return total, sigmas


def zero() -> np.ndarray:
    """Spend the remaining way evenly over the steps that are left."""
    return np.zeros(1, dtype=np.float32)


env.reset(seed=0)
even = [play(zero, noise) for noise in range(200)]
random = [play(env.action_space.sample, noise) for noise in range(200)]
print("The return is -log(1 + 100 e), where e is the squared error of the sample: 0 is perfect.")
print("Means over 200 episodes:")
print(f"random actions:      {np.mean([total for total, _ in random]):.3f}")
print(f"action 0 everywhere: {np.mean([total for total, _ in even]):.3f}")

edm = make_schedule("edm", make_problem("mixture-1d"), num_steps=5)
print("noise levels of action 0:", " ".join(f"{sigma:.4g}" for sigma in even[0][1]))
print("EDM's schedule:          ", " ".join(f"{sigma:.4g}" for sigma in edm.sigmas))
