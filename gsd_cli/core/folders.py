"""A diffusers model folder, read safely and written whole.

Two layouts are read: flat (config.json and weights beside scheduler_config.json, as in
google/ddpm-cifar10-32) and pipeline (unet/ and scheduler/). Only UNet2DModel is built, nothing in
the folder is executed, and no pickle is loaded.
"""

from __future__ import annotations

import contextlib
import io
from pathlib import Path
from typing import Any

import torch

from gsd_cli.core.denoiser import Denoiser
from gsd_cli.core.noise import NoiseSchedule
from gsd_cli.errors import GsdError
from gsd_cli.paths import read_json, write_json

WEIGHTS = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin")
_PREDICTION_DEFAULT = "epsilon"


def load_denoiser(folder: Path) -> Denoiser:
    """Read a diffusers folder as a Denoiser in float32 on the CPU, frozen, in eval mode.

    Raises GsdError (exit 3) when something is missing, damaged, or not an unconditional UNet2DModel.
    """
    unet = folder / "unet" if (folder / "unet").is_dir() else folder
    scheduler = folder / "scheduler" if (folder / "scheduler").is_dir() else folder
    config = read_json(unet / "config.json")
    _check_config(unet, config)
    schedule_file = scheduler / "scheduler_config.json"
    schedule = read_json(schedule_file) if schedule_file.exists() else {}
    _check_schedule(schedule_file, schedule)
    prediction = schedule.get("prediction_type", _PREDICTION_DEFAULT)
    net = _load_unet(unet)
    return Denoiser(net, NoiseSchedule.from_config(schedule), prediction).eval().requires_grad_(False)


def _check_config(folder: Path, config: Any) -> None:
    name = config.get("_class_name") if isinstance(config, dict) else None
    if name not in ("UNet2DModel", "UNetUnconditionalModel"):
        raise GsdError(
            f"{folder} holds a {name or 'model of unknown class'}, a UNet2DModel is needed",
            hint="give an unconditional DDPM in diffusers format",
        )
    if config.get("in_channels") not in (1, 3) or config.get("out_channels") != config.get("in_channels"):
        raise GsdError(
            f"{folder}: {config.get('in_channels')} channels in, {config.get('out_channels')} out",
            hint="a teacher maps grey or RGB images to themselves",
        )
    if config.get("class_embed_type") is not None or config.get("num_class_embeds") is not None:
        raise GsdError(f"{folder} is class-conditional", hint="give an unconditional DDPM in diffusers format")
    if config.get("time_embedding_type", "positional") != "positional":
        raise GsdError(
            f"{folder} does not take timesteps ({config['time_embedding_type']} time embedding)",
            hint="give an unconditional DDPM in diffusers format",
        )
    size = config.get("sample_size")
    sides = [size] * 2 if isinstance(size, int) else size
    if not isinstance(sides, list) or len(sides) != 2 or not all(isinstance(n, int) and n > 0 for n in sides):
        raise GsdError(f"{folder} names no sample_size", hint="set it in config.json: the side of the images")


def _check_schedule(path: Path, schedule: Any) -> None:
    if not isinstance(schedule, dict):
        raise GsdError(f"{path} holds no scheduler config", hint="the file is damaged; fetch it again")
    # schedulers of other families (EDM, flow matching, score SDE) have no betas
    if "_class_name" in schedule and not {"beta_schedule", "beta_start", "trained_betas"} & schedule.keys():
        raise GsdError(
            f"{path} holds a {schedule['_class_name']}, a discrete DDPM schedule is needed",
            hint="give an unconditional DDPM in diffusers format",
        )


def _load_unet(folder: Path) -> Any:
    found = [name for name in WEIGHTS if (folder / name).exists()]
    if not found:
        raise GsdError(f"no weights in {folder}", hint=f"looked for {' and '.join(WEIGHTS)}")
    if found[0].endswith(".bin"):
        _refuse_hostile_pickle(folder / found[0])
    from diffusers import UNet2DModel

    try:
        with contextlib.redirect_stdout(io.StringIO()):
            net, report = UNet2DModel.from_pretrained(
                folder,
                local_files_only=True,
                low_cpu_mem_usage=False,
                use_safetensors=found[0].endswith(".safetensors"),
                torch_dtype=torch.float32,
                output_loading_info=True,
            )
    except Exception as error:  # diffusers raises many kinds for one cause: damaged weights
        raise GsdError(
            f"cannot load the weights in {folder}: {_first_line(error)}",
            hint="the files are damaged or do not belong together; fetch them again",
        ) from error
    # diffusers fills what is missing with random numbers and only warns
    if report["missing_keys"]:
        raise GsdError(
            f"the weights in {folder} lack {len(report['missing_keys'])} tensors, {report['missing_keys'][0]} first",
            hint="the files are damaged or do not belong together; fetch them again",
        )
    return net


def _refuse_hostile_pickle(path: Path) -> None:
    try:
        torch.load(path, weights_only=True, map_location="cpu", mmap=True)
    except Exception as error:
        raise GsdError(
            f"{path} is not a plain file of tensors: {_first_line(error)}",
            hint="gsd loads no pickles; convert the model to safetensors",
        ) from error


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


def save_denoiser(model: Denoiser, folder: Path, *, half: bool) -> None:
    """Write network, schedule and a pipeline index into `folder` (flat layout, safetensors).

    `half` stores the weights in float16; they are read back as float32.
    """
    from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel

    net: Any = UNet2DModel.from_config(model.net.config)
    net.load_state_dict(model.net.state_dict())
    if half:
        net = net.half()
    betas = 1 - model.schedule.alphas_bar / torch.cat([torch.ones(1).double(), model.schedule.alphas_bar[:-1]])
    linear = torch.allclose(betas, torch.linspace(betas[0], betas[-1], len(betas), dtype=torch.float64))
    scheduler: Any = DDPMScheduler(
        num_train_timesteps=model.schedule.steps,
        beta_start=float(f"{betas[0]:.12g}"),
        beta_end=float(f"{betas[-1]:.12g}"),
        beta_schedule="linear",
        trained_betas=None if linear else betas.tolist(),
        prediction_type=model.prediction,
        variance_type="fixed_large",
        clip_sample=True,
    )
    net.save_pretrained(folder, safe_serialization=True)
    scheduler.save_pretrained(folder)
    pipeline: Any = DDPMPipeline(unet=net, scheduler=scheduler)
    pipeline.save_config(folder)
    # diffusers notes where the network was read from: a path of this machine
    config = read_json(folder / "config.json")
    config.pop("_name_or_path", None)
    write_json(folder / "config.json", config)
