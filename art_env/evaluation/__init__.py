"""The measurement of schedules: errors, distances to the data, tables and pictures."""

from art_env.evaluation.evaluator import Evaluator
from art_env.evaluation.feature_statistics import FeatureStatistics
from art_env.evaluation.results import Score

__all__ = ["Evaluator", "FeatureStatistics", "Score"]
