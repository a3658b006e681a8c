"""The parts of a model that diffusers saved: a folder, or an id of the Hugging Face hub."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from art_env._util.files import read_json
from art_env._util.names import check_name
from art_env.adapters.base import _Adapter, _brief, _check_weights
from art_env.adapters.diffusers import MODEL_CLASSES, WEIGHTS
from art_env.diffusion.denoiser import append_dims

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


def _tried(denoiser: _Adapter, where: str, device: str | torch.device) -> _Adapter:
    """``denoiser`` after a trial at both ends of its range; what fails then would fail in the middle of a run."""
    sigma = torch.tensor([denoiser.sigma_min, denoiser.sigma_max], dtype=torch.float64, device=device)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, *denoiser.shape, dtype=torch.float64, generator=generator).to(device)
    try:
        with torch.no_grad():
            out = denoiser(x * append_dims(sigma, x), sigma)
    except Exception as error:
        raise ValueError(
            f"{where}: the model failed on a trial batch of shape {tuple(x.shape)} "
            f"({_brief(error)}); check shape, prompt_embeds and added_cond_kwargs"
        ) from error
    for row, s in zip(out, sigma, strict=True):
        if not torch.isfinite(row).all():
            raise ValueError(
                f"{where}: the model returned a value that is not finite at sigma = {float(s):g}; give a "
                "narrower sigma_min or sigma_max, another dtype, or other weights"
            )
    return denoiser


class _Parts(NamedTuple):
    """Where the parts of a model are: folders with a config each."""

    model: Path
    scheduler: Path
    vae: Path | None


def _diffusers() -> Any:
    try:
        return importlib.import_module("diffusers")
    except ImportError as error:
        raise ImportError(
            f'models of diffusers need it: pip install "art-rl[diffusers]" ({error})'
        ) from error


def _find_parts(folder: Path) -> _Parts:
    """Network, scheduler and VAE in what ``save_pretrained`` wrote."""
    if (folder / "model_index.json").is_file() or not (folder / "config.json").is_file():
        root = folder
        kinds = [k for k in ("unet", "transformer") if (folder / k / "config.json").is_file()]
        if kinds:
            model = folder / kinds[0]
        elif (folder / "config.json").is_file():  # the oldest pipelines keep everything in one folder
            model = folder
        else:
            raise ValueError(
                f"{folder} has no config.json, nor unet/config.json or transformer/config.json; give the "
                "folder that save_pretrained of a pipeline or of a network wrote"
            )
    else:
        model, root = folder, folder.parent
    places = list(
        dict.fromkeys([model / "scheduler", folder / "scheduler", root / "scheduler", model, folder])
    )
    found = [p for p in places if (p / "scheduler_config.json").is_file()]
    if not found:
        raise ValueError(
            f"{folder} has no scheduler_config.json (looked in {', '.join(map(str, places))}); save it with "
            f"scheduler.save_pretrained({str(folder / 'scheduler')!r})"
        )
    vaes = [root / k for k in ("vae", "vqvae", "movq") if (root / k / "config.json").is_file()]
    return _Parts(model, found[0], vaes[0] if vaes else None)


def _load_parts(parts: _Parts, device: str | torch.device, dtype: torch.dtype | None) -> tuple[Any, Any, Any]:
    diffusers = _diffusers()
    name = str(_read_config(parts.model / "config.json").get("_class_name"))
    try:
        check_name("_class_name", name, MODEL_CLASSES)
    except ValueError as error:
        raise ValueError(
            f"{parts.model / 'config.json'}: {error}; wrap other networks with CallableDenoiser or FlowDenoiser"
        ) from error
    scheduler_file = parts.scheduler / "scheduler_config.json"
    scheduler_class = getattr(diffusers, str(_read_config(scheduler_file).get("_class_name")), None)
    if scheduler_class is None or not hasattr(scheduler_class, "from_pretrained"):
        raise ValueError(
            f"{scheduler_file}: _class_name = {_read_config(scheduler_file).get('_class_name')!r} is not a "
            f"scheduler of diffusers {diffusers.__version__}; correct it, or install another version"
        )
    try:
        scheduler = scheduler_class.from_pretrained(str(parts.scheduler))
    except Exception as error:
        raise ValueError(f"{scheduler_file} cannot be used ({error}); save the scheduler again") from error
    model = _load_network(getattr(diffusers, name), parts.model, device, dtype)
    vae = None
    if parts.vae is not None:
        vae_name = str(_read_config(parts.vae / "config.json").get("_class_name"))
        vae_class = getattr(diffusers, vae_name, None)
        if vae_class is None:
            raise ValueError(
                f"{parts.vae / 'config.json'}: _class_name = {vae_name!r} is not known to diffusers"
            )
        vae = _load_network(vae_class, parts.vae, device, dtype)
    return model, scheduler, vae


def _read_config(path: Path) -> dict[str, Any]:
    config = read_json(path, "a model that diffusers saved")
    if not isinstance(config, dict) or "_class_name" not in config:
        raise ValueError(f"{path} has no _class_name, as diffusers' configs have; save the model again")
    return config


def _load_network(
    kind: Any, folder: Path, device: str | torch.device, dtype: torch.dtype | None
) -> nn.Module:
    files = sorted(p.name for end in ("safetensors", "bin") for p in folder.glob(f"{WEIGHTS}*.{end}"))
    if not files:
        raise ValueError(
            f"{folder} has config.json but no weights ({WEIGHTS}.safetensors); copy them there or save the "
            "model again"
        )
    # Weights are whole (NAME.safetensors), in shards (NAME-00001-of-...), or only a variant (NAME.fp16...).
    plain = [f for f in files if re.fullmatch(rf"{WEIGHTS}(-[0-9]+-of-[0-9]+)?\.(safetensors|bin)", f)]
    variant = None if plain else files[0].removeprefix(WEIGHTS).split(".")[1].split("-")[0]
    try:
        # Without the meta device a missing weight is reported, not left unset.
        network, info = kind.from_pretrained(
            str(folder),
            torch_dtype=dtype or torch.float32,
            low_cpu_mem_usage=False,
            output_loading_info=True,
            use_safetensors=any(f.endswith(".safetensors") for f in plain or files),
            variant=variant,
            local_files_only=True,
        )
    except Exception as error:
        raise ValueError(
            f"{folder}: the weights cannot be loaded ({_brief(error)}); copy or save them again"
        ) from error
    if info.get("missing_keys"):
        raise ValueError(
            f"{folder}: weight {sorted(info['missing_keys'])[0]} is missing; copy or save the weights again"
        )
    _check_weights(network, str(folder))
    module: nn.Module = network.to(device).eval().requires_grad_(False)
    return module


def _download(name: str) -> Path:
    """A pipeline from the Hugging Face hub, without the parts that are not needed here."""
    if not _HUB_ID.fullmatch(name):
        raise FileNotFoundError(f"no file or folder at {name}; check the path, or give a hub id, owner/name")
    _diffusers()
    folders = ("", "unet/", "transformer/", "vae/", "vqvae/")
    configs = ["*.json"]
    try:
        hub = importlib.import_module("huggingface_hub")
        for suffix in ("safetensors", "bin"):
            weights = [f"{d}{WEIGHTS}{part}.{suffix}" for d in folders for part in ("", "-[0-9]*-of-[0-9]*")]
            folder = Path(hub.snapshot_download(name, allow_patterns=configs + weights))
            if any(folder.glob(f"**/{WEIGHTS}*.{suffix}")):
                break
    except Exception as error:
        raise ValueError(
            f"there is no file or folder {name!r} here, and as a hub id it needs the network, where the download "
            f"failed ({_brief(error)}); where there is a network, run `hf download {name} --local-dir FOLDER`, "
            "and give that folder"
        ) from error
    return folder
