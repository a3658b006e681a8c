"""The product: schedules by hand, by optimal control, and learned ones as files."""

from art_env.schedules.handcrafted import HANDCRAFTED, arctan, cosine, edm, log_snr, uniform
from art_env.schedules.optimal import closed_form, direct, dynamic_programming, final_rmse
from art_env.schedules.schedule import Schedule

__all__ = [
    "HANDCRAFTED",
    "Schedule",
    "arctan",
    "closed_form",
    "cosine",
    "direct",
    "dynamic_programming",
    "edm",
    "final_rmse",
    "log_snr",
    "uniform",
]
