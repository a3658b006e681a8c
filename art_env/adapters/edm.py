"""Networks of NVlabs' EDM code, and the pickles that it writes."""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from art_env.adapters.base import (
    DEFAULT_SIGMA_MAX,
    DEFAULT_SIGMA_MIN,
    PIXEL_SIGMA_DATA,
    _brief,
    _check_output,
    _check_weights,
    _dtype_of,
    _sub_range,
)
from art_env.adapters.guidance import Condition, GuidedDenoiser, _Conditional, _join


class EDMDenoiser(_Conditional):
    """A network that denoises by itself: ``net(x, sigma, labels) -> x0``, as the pickles of NVlabs' EDM do.

    Args:
        net: gets ``x: [B, *shape]``, ``sigma: [B]`` and labels, ``[B, ...]`` or None.
        shape: of one sample.
        sigma_data: standard deviation of the data.
        sigma_min, sigma_max: the noise that the model is good for.
        labels: the condition of every sample, ``[1, ...]`` (EDM: one-hot).
        dtype: in which ``net`` gets x and sigma; None: that of its parameters, else float32.
    """

    def __init__(
        self,
        net: Callable[..., Tensor],
        shape: Sequence[int],
        sigma_data: float = PIXEL_SIGMA_DATA,
        sigma_min: float = DEFAULT_SIGMA_MIN,
        sigma_max: float = DEFAULT_SIGMA_MAX,
        labels: Tensor | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(shape, sigma_data, sigma_min, sigma_max)
        self.net = net
        self.dtype = dtype
        self.condition = {} if labels is None else {"labels": labels.detach()}
        self.has_condition = labels is not None

    def _shares_network(self, other: _Conditional) -> bool:
        return isinstance(other, EDMDenoiser) and other.net is self.net

    def _evaluate(self, x: Tensor, sigma: Tensor, conditions: Sequence[Condition]) -> list[Tensor]:
        n, rows = len(conditions), len(x)
        dtype = self.dtype or _dtype_of(self.net) or torch.float32
        z, s = x.to(dtype), sigma.expand(rows).to(dtype)
        labels = _join(conditions, rows, x.device, dtype).get("labels")
        out = self.net(*(v if n == 1 else torch.cat([v] * n) for v in (z, s)), labels)
        return [_check_output(part, x, "net").to(x.dtype) for part in out.split(rows)]


def load_edm_pickle(
    path: str | Path,
    trust_pickle: bool = False,
    *,
    class_label: int | None = None,
    guidance: float | None = None,
    sigma_data: float | None = None,
    sigma_min: float | None = None,
    sigma_max: float | None = None,
    device: str | torch.device = "cpu",
) -> EDMDenoiser | GuidedDenoiser:
    """A network from a pickle of NVlabs' EDM (https://github.com/NVlabs/edm), the entry ``"ema"``.

    The file needs the modules of that repository: put a clone of it on ``PYTHONPATH``.

    Args:
        path: the file.
        trust_pickle: reading a pickle runs code that the file contains. True says that you trust its author.
        class_label: a class for every sample; None: no label (the network then uses zeros).
        guidance: classifier-free guidance against the network without a label; it makes sense only for
            networks that were trained with label dropout.
        sigma_data: None: the network's, else 0.5.
        sigma_min, sigma_max: a narrower range; None: the network's, cut to EDM's 0.002 to 80.
        device: where the network runs.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: ``trust_pickle`` is False; the file is not a pickle, needs a module that is not there, or
            holds another thing; a weight is not finite; a label or a noise range is out of range; guidance
            without a class.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no file at {path}; check the path")
    if not trust_pickle:
        raise ValueError(
            f"{path} is a pickle, and reading a pickle runs whatever code it contains; if you trust where it "
            "comes from, say so with trust_pickle=True (--trust-pickle)"
        )
    net = _read_pickle(path)
    for name in ("img_channels", "img_resolution"):
        if not hasattr(net, name):
            raise ValueError(
                f"{path}: the network {type(net).__name__} has no {name}, as EDM's networks have"
            )
    _check_weights(net, str(path))
    if isinstance(net, nn.Module):
        net = net.to(device).eval().requires_grad_(False)
    classes = int(getattr(net, "label_dim", 0) or 0)
    labels = null = None
    if class_label is not None:
        if not 0 <= class_label < classes:
            has = f"takes 0 to {classes - 1}" if classes else "has no classes; leave class_label out"
            raise ValueError(f"class_label = {class_label}: the model of {path} {has}")
        labels = F.one_hot(torch.tensor([class_label]), classes).float()
        null = torch.zeros_like(labels)
    elif guidance is not None:
        fix = "give class_label" if classes else "it has no classes; leave guidance out"
        raise ValueError(f"guidance = {guidance} needs a class for the model of {path}: {fix}")
    own = float(getattr(net, "sigma_min", 0.0)), float(getattr(net, "sigma_max", math.inf))
    try:
        low, high = _sub_range(*own, sigma_min, sigma_max)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    if sigma_min is None:
        low = max(low, DEFAULT_SIGMA_MIN)
    if sigma_max is None:
        high = min(high, DEFAULT_SIGMA_MAX)
    shape = (int(net.img_channels), int(net.img_resolution), int(net.img_resolution))
    data = float(getattr(net, "sigma_data", PIXEL_SIGMA_DATA)) if sigma_data is None else sigma_data
    conditional = EDMDenoiser(net, shape, data, low, high, labels)
    if guidance is None:
        return conditional
    return GuidedDenoiser(conditional, EDMDenoiser(net, shape, data, low, high, null), guidance)


def _read_pickle(path: Path) -> Any:
    try:
        with path.open("rb") as f:
            content = pickle.load(f)
    except ModuleNotFoundError as error:
        raise ValueError(
            f"{path} needs the module {error.name!r}; put a clone of the repository that wrote it "
            "(https://github.com/NVlabs/edm) on PYTHONPATH"
        ) from error
    except Exception as error:  # a broken pickle can raise anything
        raise ValueError(
            f"{path} is not a pickle that can be read ({_brief(error)}); get the file again, "
            "or give a folder of diffusers"
        ) from error
    if isinstance(content, Mapping):
        if "ema" not in content:
            raise ValueError(
                f"{path} has no entry 'ema', only {sorted(map(str, content))}; give an EDM pickle"
            )
        content = content["ema"]
    if not callable(content):
        raise ValueError(f"{path} holds {type(content).__name__}, not a network; give an EDM pickle")
    return content
