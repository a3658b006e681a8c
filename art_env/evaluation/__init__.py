"""The measurement of schedules: errors, distances to the data, tables and pictures."""

from art_env.evaluation.evaluator import Scorer
from art_env.evaluation.results import Row

__all__ = ["Row", "Scorer"]
