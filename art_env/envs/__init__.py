"""The Gymnasium environments, and what carries them to stable-baselines3."""

from art_env.envs.env import ARTEnv
from art_env.envs.vector_env import ARTVectorEnv

__all__ = ["ARTEnv", "ARTVectorEnv"]
