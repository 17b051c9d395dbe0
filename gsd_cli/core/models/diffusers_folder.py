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
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from gsd_cli.base.atomic import write_json
from gsd_cli.base.errors import GsdError
from gsd_cli.base.storage import read_json
from gsd_cli.catalogue.diffusers_layout import (
    AUTOENCODERS,
    BIN_WEIGHTS,
    DAMAGED_HINT,
    OTHER_BIN_WEIGHTS,
    OTHER_SAFE_WEIGHTS,
    SAFE_WEIGHTS,
    UNETS,
    Weights,
    find_weights,
    locate_model,
)
from gsd_cli.core.models.autoencoder import Autoencoder
from gsd_cli.core.models.chain import Chain
from gsd_cli.core.models.config_check import require_plausible, without_averaging_keys
from gsd_cli.core.models.denoiser import Denoiser
from gsd_cli.core.models.edm_kind import DHARIWAL_UNET, SONG_UNET
from gsd_cli.core.models.network_kind import NetworkKind
from gsd_cli.core.models.schedules import read_schedule
from gsd_cli.core.models.state import load_state, read_state
from gsd_cli.core.models.teacher_config import TeacherConfig, read_teacher_config
from gsd_cli.core.models.unet2d import UNET2D

NETWORK_KINDS: dict[str, NetworkKind] = {
    name: kind for kind in (UNET2D, SONG_UNET, DHARIWAL_UNET) for name in kind.class_names
}
"""The kinds of networks that can be teachers, by the `_class_name` in their config.json."""


def load_denoiser(path: Path) -> Denoiser:
    """Read a diffusers folder as a Denoiser in float32 on the CPU, frozen, in eval mode.

    Raises GsdError (exit 3) when something is missing or damaged, the network is of no kind in `NETWORK_KINDS`, or the
    folder does not say how the network was trained.
    """
    config = read_teacher_config(path)
    config.require_known()
    return build_denoiser(config)


def build_denoiser(config: TeacherConfig) -> Denoiser:
    """The network of a teacher as a Denoiser, under the first reading that fits its folder."""
    kind, reading = NETWORK_KINDS[config.class_name], config.readings[0]
    weights = config.files.find_weights()
    build = kind.build or _builder(kind.diffusers_class)
    net = _load_network(config.files.network, build, config.network, weights)
    schedule, chain = read_schedule(reading.schedule), Chain.from_config(config.scheduler)
    return Denoiser(net, schedule, reading.prediction, chain=chain, kind=kind).eval().requires_grad_(False)


def load_autoencoder(path: Path) -> Autoencoder:
    """The first stage of a latent-diffusion folder (vqvae/ or vae/), frozen; else the identity.

    Raises GsdError (exit 3) when it is damaged or of another class than VQModel or AutoencoderKL.
    """
    found = locate_model(path).autoencoder
    if found is None:
        return Autoencoder()
    config = read_json(found / "config.json")
    name = config.get("_class_name") if isinstance(config, dict) else None
    if name not in ("VQModel", "AutoencoderKL"):
        raise GsdError(f"{found} holds a {name or 'model of unknown class'}", hint="a VQModel or AutoencoderKL is read")
    return (
        Autoencoder(_load_network(found, _builder(name), config, find_weights(found)), _latent_scale(config))
        .eval()
        .requires_grad_(False)
    )


def _latent_scale(config: dict[str, Any]) -> float:
    """The factor a config names, else the default of its class: 1 for VQ latents, whose variance is near 1
    unscaled (Rombach et al. 2022, appendix G). diffusers' default of 0.18215 would spoil CompVis's models."""
    default = 1.0 if config["_class_name"] == "VQModel" else 0.18215
    scale = config.get("scaling_factor", default)
    if not isinstance(scale, int | float) or not 0 < scale < 1e6:
        raise GsdError(f"the autoencoder's scaling_factor is {scale!r}", hint="a positive number is needed")
    return float(scale)


def _builder(name: str) -> Callable[[dict[str, Any]], Any]:
    """A function that makes a network of diffusers, of class `name`, from its config."""

    def build(config: dict[str, Any]) -> Any:
        import diffusers

        return getattr(diffusers, name).from_config(config)

    return build


def _load_network(
    folder: Path, build: Callable[[dict[str, Any]], Any], config: dict[str, Any], weights: Weights | None
) -> Any:
    """A network with its weights, in float32. build(config): the network."""
    if weights is None:
        known = ", ".join((SAFE_WEIGHTS, BIN_WEIGHTS, OTHER_SAFE_WEIGHTS, OTHER_BIN_WEIGHTS))
        hint = f"looked for {known}, whole, in shards with their index, or as a variant (fp16)"
        raise GsdError(f"no weights in {folder}", hint=hint)
    try:
        state = read_state(weights)  # a pickle is refused before anything else
        require_plausible(folder, build, config, weights)
        with contextlib.redirect_stdout(io.StringIO()):
            net: Any = build(without_averaging_keys(config))
        load_state(net, state, folder)
    except GsdError:
        raise
    except Exception as error:  # a damaged config or file raises many kinds
        raise GsdError(
            f"cannot load the weights in {folder}: {_first_line(error)}",
            hint=DAMAGED_HINT,
        ) from error
    return net


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


def save_denoiser(model: Denoiser, folder: Path, *, half: bool, autoencoder: Autoencoder | None = None) -> None:
    """Write network, schedule and a pipeline index into `folder` as safetensors that diffusers can open.

    A network of gsd's own has no index: no pipeline of diffusers could open it. Flat for a pixel model; unet/,
    scheduler/ and vqvae/ with an autoencoder. `half` stores the network's weights in float16; they are read back as
    float32.
    """
    if model.kind.build is not None:
        _save_own(model, folder, half=half, autoencoder=autoencoder)
        return
    import diffusers

    net: Any = getattr(diffusers, model.kind.diffusers_class).from_config(model.net.config)
    net.load_state_dict(model.net.state_dict())
    if half:
        net = net.half()
    scheduler = model.schedule.to_scheduler(model.prediction, model.chain)
    pipeline: Any = diffusers.DDPMPipeline(unet=net, scheduler=scheduler)
    if autoencoder is None or autoencoder.net is None:
        net.save_pretrained(folder, safe_serialization=True)
        scheduler.save_pretrained(folder)
        pipeline.save_config(folder)
    else:
        pipeline.save_pretrained(folder, safe_serialization=True)
        _save_autoencoder(autoencoder, folder / "vqvae")
        index = read_json(folder / "model_index.json")
        index |= {"_class_name": "LDMPipeline", "vqvae": ["diffusers", type(autoencoder.net).__name__]}
        write_json(folder / "model_index.json", index)
    _forget_paths(folder)


def _save_own(model: Denoiser, folder: Path, *, half: bool, autoencoder: Autoencoder | None) -> None:
    """`save_denoiser` for a network of gsd's own."""
    latent = autoencoder is not None and autoencoder.net is not None
    place, schedule = (folder / UNETS[-1], folder / "scheduler") if latent else (folder, folder)
    place.mkdir(parents=True, exist_ok=True)
    assert model.kind.config is not None
    write_json(place / "config.json", model.kind.config(model.net))
    state = {name: value.detach().cpu().contiguous() for name, value in model.net.state_dict().items()}
    # buffers stay as they are: rounded frequencies of an encoding would be others
    trained = {name for name, _ in model.net.named_parameters()} if half else set()
    state = {name: value.half() if name in trained else value for name, value in state.items()}
    save_file(state, place / SAFE_WEIGHTS, metadata={"format": "pt"})
    model.schedule.to_scheduler(model.prediction, model.chain).save_pretrained(schedule)
    if autoencoder is not None and latent:
        _save_autoencoder(autoencoder, folder / AUTOENCODERS[0])
    _forget_paths(folder)


def _save_autoencoder(autoencoder: Autoencoder, folder: Path) -> None:
    autoencoder.net.save_pretrained(folder, safe_serialization=True)
    write_json(folder / "config.json", {**read_json(folder / "config.json"), "scaling_factor": autoencoder.scale})


def _forget_paths(folder: Path) -> None:
    for path in folder.rglob("config.json"):
        # diffusers records the path the network was read from, which is of this machine
        config = read_json(path)
        config.pop("_name_or_path", None)
        write_json(path, config)
