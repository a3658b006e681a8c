"""ART-RL, as a stable-baselines3 algorithm."""

from agents.art_rl.art_rl import ARTRL
from agents.art_rl.paper import PaperARTRL, PaperPolicy
from agents.art_rl.policy import ARTPolicy

__all__ = ["ARTRL", "ARTPolicy", "PaperARTRL", "PaperPolicy"]
