"""Learn the noise schedule of a diffusion sampler: Gymnasium environments, problems, schedules.

Importing this package registers the environments: ``gym.make("art_env:ART/Digits-v0")`` does both.
"""

import gymnasium as gym

__version__ = "0.1.0"


def _register(name: str, **kwargs: object) -> None:
    gym.register(
        id=f"ART/{name}-v0",
        entry_point="art_env.envs:ARTEnv",
        vector_entry_point="art_env.envs:ARTVectorEnv",
        kwargs=kwargs,
    )


_register("Gaussian1D", problem="gaussian-1d", solver="euler", num_steps=20, reward="euler")
_register("Mixture1D", problem="mixture-1d")
_register("Mixture2D", problem="mixture-2d")
_register("Digits", problem="digits")
_register("Diffusion", problem="custom")

__all__ = ["__version__"]
