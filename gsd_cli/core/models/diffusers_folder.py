"""A diffusers model folder: read safely, and written as a whole.

Two layouts are read: flat (config.json and weights next to scheduler_config.json, as in
google/ddpm-cifar10-32) and pipeline (unet/ and scheduler/, and vqvae/ or vae/ for a latent model).
A training checkpoint (unet_ema/ as well as unet/) is read with its averaged weights. No schedule is
guessed. Only the networks of `NETWORK_KINDS`, VQModel and AutoencoderKL are built, nothing in the folder is
executed, and no pickle is loaded.
"""

from __future__ import annotations

import contextlib
import io
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from gsd_cli.base.atomic import write_json
from gsd_cli.base.errors import GsdError
from gsd_cli.base.storage import read_json
from gsd_cli.catalogue.diffusers_layout import (
    AUTOENCODERS,
    BIN_WEIGHTS,
    DAMAGED_HINT,
    SAFE_WEIGHTS,
    UNETS,
    Weights,
    find_weights,
    network_folder,
    schedule_file,
)
from gsd_cli.core.models.autoencoder import Autoencoder
from gsd_cli.core.models.chain import Chain
from gsd_cli.core.models.config_check import require_plausible
from gsd_cli.core.models.denoiser import Denoiser
from gsd_cli.core.models.network_kind import NetworkKind
from gsd_cli.core.models.schedule import NoiseSchedule
from gsd_cli.core.models.unet2d import UNET2D

NETWORK_KINDS: dict[str, NetworkKind] = {name: kind for kind in (UNET2D,) for name in kind.class_names}
"""The kinds of networks that can be teachers, by the `_class_name` in their config.json."""


def load_denoiser(folder: Path) -> Denoiser:
    """Read a diffusers folder as a Denoiser in float32 on the CPU, frozen, in eval mode.

    Raises GsdError (exit 3) when something is missing or damaged, or the network is of no kind in `NETWORK_KINDS`.
    """
    part = network_folder(folder)
    config = read_json(part / "config.json")
    kind = _kind_of(part, config)
    kind.require_usable(part, config, _autoencoder_folder(folder) is not None)
    schedule_path = schedule_file(folder)
    schedule = read_json(schedule_path)
    _require_discrete_schedule(schedule_path, schedule)
    # configs older than prediction_type may say predict_epsilon
    older = "epsilon" if schedule.get("predict_epsilon", True) else "sample"
    prediction = schedule.get("prediction_type", older)
    chain = Chain.from_config(schedule)
    net = _load_network(part, kind.diffusers_class, config)
    denoiser = Denoiser(net, NoiseSchedule.from_config(schedule), prediction, chain=chain, kind=kind)
    return denoiser.eval().requires_grad_(False)


def _kind_of(folder: Path, config: Any) -> NetworkKind:
    name = config.get("_class_name") if isinstance(config, dict) else None
    kind = NETWORK_KINDS.get(name) if isinstance(name, str) else None
    if kind is None:
        known = " or ".join(dict.fromkeys(k.diffusers_class for k in NETWORK_KINDS.values()))
        raise GsdError(
            f"{folder} holds a {name or 'model of unknown class'}, a {known} is needed",
            hint=f"give a DDPM in diffusers format: a {known}, unconditional or with num_class_embeds",
        )
    return kind


def describe_choices(folder: Path) -> list[str]:
    """One line per choice made in reading a folder: averaged weights, a variant, another folder's schedule."""
    unet, said = network_folder(folder), []
    if unet.name == UNETS[0] and (folder / UNETS[1]).is_dir():
        said.append(f"{folder}: the averaged weights in {UNETS[0]}/ are used, not those in {UNETS[1]}/")
    weights = find_weights(unet)
    if weights is not None and weights.variant is not None:
        said.append(f"{folder}: its weights exist only as the variant {weights.variant}; they are read as float32")
    if (path := schedule_file(folder)).parent == folder.resolve().parent / "scheduler":
        said.append(f"{folder}: its noise schedule is that of {path}, written by the same training")
    return said


def load_autoencoder(folder: Path) -> Autoencoder:
    """The first stage of a latent-diffusion folder (vqvae/ or vae/), frozen; else the identity.

    Raises GsdError (exit 3) when it is damaged or of another class than VQModel or AutoencoderKL.
    """
    found = _autoencoder_folder(folder)
    if found is None:
        return Autoencoder()
    config = read_json(found / "config.json")
    name = config.get("_class_name") if isinstance(config, dict) else None
    if name not in ("VQModel", "AutoencoderKL"):
        raise GsdError(f"{found} holds a {name or 'model of unknown class'}", hint="a VQModel or AutoencoderKL is read")
    return Autoencoder(_load_network(found, name, config), _latent_scale(config)).eval().requires_grad_(False)


def _latent_scale(config: dict[str, Any]) -> float:
    """The factor a config names, else the default of its class: 1 for VQ latents, whose variance is near 1
    unscaled (Rombach et al. 2022, appendix G). diffusers' default of 0.18215 would spoil CompVis's models."""
    default = 1.0 if config["_class_name"] == "VQModel" else 0.18215
    scale = config.get("scaling_factor", default)
    if not isinstance(scale, int | float) or not 0 < scale < 1e6:
        raise GsdError(f"the autoencoder's scaling_factor is {scale!r}", hint="a positive number is needed")
    return float(scale)


def _autoencoder_folder(folder: Path) -> Path | None:
    return next((folder / name for name in AUTOENCODERS if (folder / name).is_dir()), None)


def _require_discrete_schedule(path: Path, schedule: Any) -> None:
    if not isinstance(schedule, dict):
        raise GsdError(f"{path} holds no scheduler config", hint="the file is damaged; fetch it again")
    # schedulers of other families (EDM, flow matching, score SDE) have no betas
    if not {"beta_schedule", "beta_start", "trained_betas"} & schedule.keys():
        raise GsdError(
            f"{path} holds {'a ' + str(schedule.get('_class_name')) if '_class_name' in schedule else 'no betas'}, "
            "a discrete DDPM schedule is needed",
            hint="give an unconditional DDPM in diffusers format",
        )


def _load_network(folder: Path, kind: str, config: dict[str, Any]) -> Any:
    weights = find_weights(folder)
    if weights is None:
        hint = f"looked for {SAFE_WEIGHTS} and {BIN_WEIGHTS}, whole, in shards with their index, or as a variant (fp16)"
        raise GsdError(f"no weights in {folder}", hint=hint)
    if not weights.safe:
        for path in weights.files:
            _refuse_hostile_pickle(path)
    import diffusers

    diffusers.utils.logging.disable_progress_bar()
    try:
        _require_whole(weights)
        require_plausible(folder, kind, config, weights)
        with contextlib.redirect_stdout(io.StringIO()):
            net, report = getattr(diffusers, kind).from_pretrained(
                folder,
                local_files_only=True,
                low_cpu_mem_usage=False,
                use_safetensors=weights.safe,
                variant=weights.variant,
                torch_dtype=torch.float32,
                output_loading_info=True,
            )
    except GsdError:
        raise
    except Exception as error:  # diffusers raises many kinds for one cause: damaged weights
        raise GsdError(
            f"cannot load the weights in {folder}: {_first_line(error)}",
            hint=DAMAGED_HINT,
        ) from error
    # diffusers fills what is missing with random numbers and only warns
    if report["missing_keys"]:
        raise GsdError(
            f"the weights in {folder} lack {len(report['missing_keys'])} tensors, {report['missing_keys'][0]} first",
            hint=DAMAGED_HINT,
        )
    return net


def _require_whole(weights: Weights) -> None:
    """Raise GsdError (exit 3) when a shard lacks a tensor that the index places in it: diffusers does not check."""
    if weights.index is None or not weights.safe:
        return
    placed = read_json(weights.index)["weight_map"]
    for path in weights.files:
        with safe_open(path, "pt") as file:
            there = set(file.keys())
        absent = sorted(key for key, name in placed.items() if name == path.name and key not in there)
        if absent:
            raise GsdError(
                f"{path} lacks {len(absent)} tensors that its index places there, {absent[0]} first", hint=DAMAGED_HINT
            )


def _refuse_hostile_pickle(path: Path) -> None:
    try:
        torch.load(path, weights_only=True, map_location="cpu", mmap=True)
    except Exception as error:
        raise GsdError(
            f"{path} is not a plain file of tensors",  # PyTorch's own message advises loading it anyway
            hint="gsd loads no pickles; convert the model to safetensors",
        ) from error


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


def save_denoiser(model: Denoiser, folder: Path, *, half: bool, autoencoder: Autoencoder | None = None) -> None:
    """Write network, schedule and a pipeline index into `folder` as safetensors that diffusers can open.

    Flat for a pixel model; unet/, scheduler/ and vqvae/ with an autoencoder. `half` stores
    the network's weights in float16; they are read back as float32.
    """
    import diffusers

    net: Any = getattr(diffusers, model.kind.diffusers_class).from_config(model.net.config)
    net.load_state_dict(model.net.state_dict())
    if half:
        net = net.half()
    scheduler = _ddpm_scheduler(model)
    pipeline: Any = diffusers.DDPMPipeline(unet=net, scheduler=scheduler)
    if autoencoder is None or autoencoder.net is None:
        net.save_pretrained(folder, safe_serialization=True)
        scheduler.save_pretrained(folder)
        pipeline.save_config(folder)
    else:
        first_stage = autoencoder.net
        pipeline.save_pretrained(folder, safe_serialization=True)
        first_stage.save_pretrained(folder / "vqvae", safe_serialization=True)
        config = {**read_json(folder / "vqvae" / "config.json"), "scaling_factor": autoencoder.scale}
        write_json(folder / "vqvae" / "config.json", config)
        index = read_json(folder / "model_index.json")
        index |= {"_class_name": "LDMPipeline", "vqvae": ["diffusers", type(first_stage).__name__]}
        write_json(folder / "model_index.json", index)
    for path in folder.rglob("config.json"):
        # diffusers records the path the network was read from, which is of this machine
        config = read_json(path)
        config.pop("_name_or_path", None)
        write_json(path, config)


def _ddpm_scheduler(model: Denoiser) -> Any:
    from diffusers import DDPMScheduler

    betas = 1 - model.schedule.alphas_bar / torch.cat([torch.ones(1).double(), model.schedule.alphas_bar[:-1]])
    linear = torch.allclose(betas, torch.linspace(betas[0], betas[-1], len(betas), dtype=torch.float64))
    return DDPMScheduler(
        num_train_timesteps=model.schedule.steps,
        beta_start=float(f"{betas[0]:.12g}"),
        beta_end=float(f"{betas[-1]:.12g}"),
        beta_schedule="linear",
        trained_betas=None if linear else betas.tolist(),
        prediction_type=model.prediction,
        **model.chain.to_config(),
    )
