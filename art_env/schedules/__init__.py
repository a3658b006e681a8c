"""The product: schedules by hand, by optimal control, and learned ones as files."""

from art_env.schedules.evolution import evolve
from art_env.schedules.handcrafted import HANDCRAFTED, arctan, cosine, edm, log_snr, uniform
from art_env.schedules.optimal import closed_form, direct, dynamic_programming, final_rmse
from art_env.schedules.rivals import dmn, gits, sdm
from art_env.schedules.schedule import Schedule

__all__ = [
    "HANDCRAFTED",
    "Schedule",
    "arctan",
    "closed_form",
    "cosine",
    "direct",
    "dmn",
    "dynamic_programming",
    "edm",
    "evolve",
    "final_rmse",
    "gits",
    "log_snr",
    "sdm",
    "uniform",
]
