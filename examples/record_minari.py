"""Record episodes of random actions as a Minari dataset, and read them back."""

import gymnasium as gym
import minari
import numpy as np
import tyro
from report import ID


def main(episodes: int = 100, seed: int = 0, name: str = "art/mixture-1d/random-v0") -> None:
    """Record, and print what a dataset for offline learning holds."""
    env = minari.DataCollector(gym.make(ID), record_infos=True)
    env.action_space.seed(seed)
    for episode in range(episodes):
        env.reset(seed=seed + episode)
        terminated = False
        while not terminated:
            *_, terminated, _, _ = env.step(env.action_space.sample())
    if name in minari.list_local_datasets():
        minari.delete_dataset(name)
    env.create_dataset(name, algorithm_name="random", description="Random speeds of the sampling clock.")
    env.close()

    dataset = minari.load_dataset(name)
    returns = [float(episode.rewards.sum()) for episode in dataset.iterate_episodes()]
    print(f"{name}: {dataset.total_episodes} episodes, {dataset.total_steps} steps")
    print(f"mean return {np.mean(returns):.4g}, best {np.max(returns):.4g}")
    print(f"noise levels of the first episode: {dataset[0].infos['sigma'].round(3)}")
    print(f"the same environment again: {dataset.recover_environment().spec.id}")


if __name__ == "__main__":
    tyro.cli(main)
