"""The small networks that ship with the package, their weights and their training."""

from art_env.networks.bundled import load_autoencoder, load_bundled
from art_env.networks.unet import UNetConfig, UNetDenoiser

__all__ = ["UNetConfig", "UNetDenoiser", "load_autoencoder", "load_bundled"]
