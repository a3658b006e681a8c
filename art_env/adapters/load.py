"""``load_model``: a denoiser from a file, a folder or an id, whatever wrote it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from art_env.adapters.base import DEFAULT_SIGMA_MAX, DEFAULT_SIGMA_MIN, _Adapter, _sub_range
from art_env.adapters.callables import CallableDenoiser
from art_env.adapters.diffusers import DiffusersDenoiser
from art_env.adapters.edm import EDMDenoiser, load_edm_pickle
from art_env.adapters.folders import _download, _find_parts, _load_parts, _tried
from art_env.adapters.guidance import GuidedDenoiser
from art_env.networks.unet import UNetDenoiser


def load_model(
    path_or_id: str | Path,
    *,
    trust_pickle: bool = False,
    guidance: float | None = None,
    prompt_embeds: Tensor | str | Path | None = None,
    negative_prompt_embeds: Tensor | None = None,
    added_cond_kwargs: Mapping[str, Tensor] | None = None,
    negative_added_cond_kwargs: Mapping[str, Tensor] | None = None,
    class_label: int | None = None,
    null_label: int | None = None,
    shape: Sequence[int] | None = None,
    sigma_data: float | None = None,
    sigma_min: float | None = None,
    sigma_max: float | None = None,
    device: str | torch.device = "cpu",
    dtype: torch.dtype | None = None,
) -> _Adapter:
    """A denoiser from files; weights are checked and frozen, and the model is tried on a batch of two.

    Args:
        path_or_id: one of

            - a folder of diffusers' ``save_pretrained``: a pipeline, or a network with ``scheduler/`` in it or
              beside it; with ``vae/`` the denoiser works on latents and has ``decode``;
            - ``owner/name`` on the Hugging Face hub, which is downloaded;
            - a ``.pkl`` of NVlabs' EDM (see ``load_edm_pickle``);
            - a ``.safetensors`` that ``UNetDenoiser.save`` wrote.
        trust_pickle: allow a pickle to run the code it contains.
        guidance: classifier-free guidance, for models with a condition; None: the plain model.
        prompt_embeds: ``[L, D]`` or ``[1, L, D]``, the embedded prompt; or a safetensors file with the tensors
            ``prompt_embeds`` and, if wanted, ``negative_prompt_embeds`` and entries of the two mappings below
            (``text_embeds``, ``negative_text_embeds``, ...).
        negative_prompt_embeds: what guidance leads away from: the embedded empty prompt.
        added_cond_kwargs: as ``DiffusersDenoiser``.
        negative_added_cond_kwargs: the same beside the negative prompt; by default ``added_cond_kwargs``.
        class_label: a class for every sample.
        null_label: the class that stands for "any", for guidance; models of EDM, DiT and this package know it.
        shape: of one sample, if the model does not say or works for several sizes.
        sigma_data: standard deviation of the data; None: see this module.
        sigma_min: lowest noise level, if not that of training.
        sigma_max: highest noise level, if not that of training.
        device: where the network runs.
        dtype: of the network; None: float32. Only for models of diffusers.

    Returns:
        The denoiser, with ``shape``, ``sigma_data``, ``sigma_min``, ``sigma_max``, ``nfe_per_call``, ``decode``.

    Raises:
        ImportError: a folder or a hub id, and diffusers is not installed.
        FileNotFoundError: there is no such file.
        ValueError: anything else that is wrong with the file or does not fit it; the text says how to go on.
    """
    path = Path(path_or_id).expanduser()
    if path.is_file() and path.suffix in (".pkl", ".pickle"):
        _only_for_diffusers(path, prompt_embeds, negative_prompt_embeds, added_cond_kwargs, shape)
        denoiser: _Adapter = load_edm_pickle(
            path,
            trust_pickle,
            class_label=class_label,
            guidance=guidance,
            sigma_data=sigma_data,
            sigma_min=sigma_min,
            sigma_max=sigma_max,
            device=device,
        )
        return _tried(denoiser, str(path), device)
    if path.is_file() and path.suffix == ".safetensors":
        _only_for_diffusers(path, prompt_embeds, negative_prompt_embeds, added_cond_kwargs, shape)
        denoiser = _load_own(path, class_label, guidance, sigma_data, sigma_min, sigma_max, device)
        return _tried(denoiser, str(path), device)
    if path.is_file():
        raise ValueError(
            f"{path} is a {path.suffix or 'file without a suffix'}; give a folder of diffusers, a .pkl of EDM "
            "or a .safetensors of UNetDenoiser.save"
        )
    folder = path if path.is_dir() else _download(str(path_or_id))
    parts = _find_parts(folder)
    prompt = _Prompt.collect(
        prompt_embeds, negative_prompt_embeds, added_cond_kwargs, negative_added_cond_kwargs
    )
    model, scheduler, vae = _load_parts(parts, device, dtype)

    def build(positive: bool) -> DiffusersDenoiser:
        return DiffusersDenoiser(
            model,
            scheduler,
            shape=shape,
            sigma_data=sigma_data,
            sigma_min=sigma_min,
            sigma_max=sigma_max,
            encoder_hidden_states=prompt.embeds if positive else prompt.negative,
            added_cond_kwargs=prompt.added if positive else prompt.negative_added,
            class_labels=class_label if positive else null_label,
            vae=vae,
        )

    try:
        conditional = build(True)
        if guidance is None:
            return _tried(conditional, str(folder), device)
        if not conditional.has_condition:
            raise ValueError(
                f"guidance = {guidance}, but {type(model).__name__} has no condition; leave it out"
            )
        if null_label is None and type(model).__name__.startswith("DiT"):
            null_label = int(model.config.num_embeds_ada_norm)
        if prompt.embeds is not None and prompt.negative is None:
            raise ValueError(f"guidance = {guidance} needs negative_prompt_embeds, the embedded empty prompt")
        if class_label is not None and null_label is None and prompt.embeds is None:
            raise ValueError(f"guidance = {guidance} needs null_label, the class that stands for 'any'")
        if null_label is None:
            null_label = class_label
        denoiser = GuidedDenoiser(conditional, build(False), guidance)
    except ValueError as error:
        raise ValueError(f"{folder}: {error}") from error
    return _tried(denoiser, str(folder), device)


class _Prompt(NamedTuple):
    """An embedded prompt and the one that guidance leads away from."""

    embeds: Tensor | None
    negative: Tensor | None
    added: dict[str, Tensor]
    negative_added: dict[str, Tensor]

    @classmethod
    def collect(
        cls,
        embeds: Tensor | str | Path | None,
        negative: Tensor | None,
        added: Mapping[str, Tensor] | None,
        negative_added: Mapping[str, Tensor] | None,
    ) -> _Prompt:
        """From arguments, or from a file, whose entries the arguments replace."""
        stored: dict[str, Tensor] = {}
        if embeds is not None and not isinstance(embeds, Tensor):
            stored, embeds = _read_prompt(Path(embeds)), None
        embeds = stored.pop("prompt_embeds", embeds)
        minus = {k.removeprefix("negative_"): v for k, v in stored.items() if k.startswith("negative_")}
        plus = {k: v for k, v in stored.items() if not k.startswith("negative_")}
        own = minus.pop("prompt_embeds", None)
        plus |= added or {}
        return cls(
            embeds, own if negative is None else negative, plus, plus | minus | dict(negative_added or {})
        )


def _read_prompt(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise FileNotFoundError(f"no file at prompt_embeds = {path}; check the path")
    try:
        with safe_open(path, framework="pt") as f:
            tensors = {k: f.get_tensor(k) for k in f.keys()}  # noqa: SIM118 (safe_open is no mapping)
    except SafetensorError as error:
        raise ValueError(
            f"prompt_embeds = {path} is not a safetensors file ({error}); write it again"
        ) from error
    if "prompt_embeds" not in tensors:
        raise ValueError(f"prompt_embeds = {path} has no tensor 'prompt_embeds', only {sorted(tensors)}")
    return tensors


def _only_for_diffusers(path: Path, *values: object) -> None:
    names = ("prompt_embeds", "negative_prompt_embeds", "added_cond_kwargs", "shape")
    for name, value in zip(names, values, strict=True):
        if value is not None:
            raise ValueError(f"{name} given, but {path} is not a model of diffusers; leave {name} out")


def _load_own(
    path: Path,
    class_label: int | None,
    guidance: float | None,
    sigma_data: float | None,
    sigma_min: float | None,
    sigma_max: float | None,
    device: str | torch.device,
) -> _Adapter:
    """A ``UNetDenoiser``: trained for 0.002 to 80, and told its label as an integer."""
    fix = "give a file that UNetDenoiser.save wrote, or the folder that diffusers' save_pretrained wrote"
    net = UNetDenoiser.load(path, fix).to(device)
    classes = net.config.classes
    if class_label is not None and not 0 <= class_label < classes:
        has = f"takes 0 to {classes - 1}" if classes else "has no classes; leave class_label out"
        raise ValueError(f"class_label = {class_label}: the model of {path} {has}")
    if guidance is not None and class_label is None:
        fix = "give class_label" if classes else "it has no classes; leave guidance out"
        raise ValueError(f"guidance = {guidance} needs a class for the model of {path}: {fix}")
    try:
        low, high = _sub_range(DEFAULT_SIGMA_MIN, DEFAULT_SIGMA_MAX, sigma_min, sigma_max)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    data = net.sigma_data if sigma_data is None else sigma_data

    def build(label: int | None) -> _Adapter:
        # The network casts by itself: its preconditioning stays in float64.
        if label is None:
            return CallableDenoiser(net, net.shape, data, low, high, torch.float64)
        return EDMDenoiser(net, net.shape, data, low, high, torch.tensor([label]), torch.float64)

    if guidance is None:
        return build(class_label)
    return GuidedDenoiser(build(class_label), build(classes), guidance)
