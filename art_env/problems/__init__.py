"""The problems that are sampled: problems by name, and problems around the caller's own model."""

from art_env.problems.custom import custom_problem, model_problem
from art_env.problems.library import PROBLEMS, make_problem
from art_env.problems.problem import Problem

__all__ = ["PROBLEMS", "Problem", "custom_problem", "make_problem", "model_problem"]
