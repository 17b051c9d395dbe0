"""A diffusers model folder: read safely, and written as a whole.

Two layouts are read: flat (config.json and weights next to scheduler_config.json, as in
google/ddpm-cifar10-32) and pipeline (unet/ or transformer/, scheduler/, and vqvae/ or vae/ for a latent model).
A training checkpoint (unet_ema/ as well as unet/) is read with its averaged weights. No schedule is
guessed. Only the networks of `NETWORK_KINDS` and of `STAGES` are built, nothing in the folder is executed, and no
pickle is loaded.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from gsd_cli.base.atomic import write_json
from gsd_cli.base.errors import GsdError
from gsd_cli.base.storage import read_json
from gsd_cli.catalogue.bare_files import is_bare, named_values
from gsd_cli.catalogue.diffusers_layout import (
    BIN_WEIGHTS,
    DAMAGED_HINT,
    INDEX,
    OTHER_BIN_WEIGHTS,
    OTHER_SAFE_WEIGHTS,
    SAFE_WEIGHTS,
    Weights,
    find_weights,
    locate_model,
)
from gsd_cli.catalogue.readings import Reading
from gsd_cli.core.models.autoencoder import Autoencoder
from gsd_cli.core.models.bare_file import read_bare_file
from gsd_cli.core.models.chain import Chain
from gsd_cli.core.models.config_check import require_plausible, without_averaging_keys
from gsd_cli.core.models.ddp_unet import DDP_UNET
from gsd_cli.core.models.denoiser import Denoiser
from gsd_cli.core.models.dit import DIT
from gsd_cli.core.models.edm_kind import DHARIWAL_UNET, SONG_UNET
from gsd_cli.core.models.flux import FLUX
from gsd_cli.core.models.network_kind import NetworkKind
from gsd_cli.core.models.sana import SANA
from gsd_cli.core.models.schedules import read_schedule
from gsd_cli.core.models.sd3 import SD3
from gsd_cli.core.models.state import load_state, read_state
from gsd_cli.core.models.teacher_config import TeacherConfig, read_teacher_config
from gsd_cli.core.models.unet2d import UNET2D
from gsd_cli.core.models.unet2d_condition import UNET2D_CONDITION

Build = Callable[[dict[str, Any]], Any]
"""A config to its network."""
NETWORK_KINDS: dict[str, NetworkKind] = {
    name: kind
    for kind in (UNET2D, UNET2D_CONDITION, DIT, SD3, FLUX, SANA, DDP_UNET, SONG_UNET, DHARIWAL_UNET)
    for name in kind.class_names
}
"""The kinds of networks that can be teachers, by the `_class_name` in their config.json."""
STAGES = {"VQModel": 1.0, "AutoencoderKL": 0.18215, "AutoencoderDC": 1.0}
"""diffusers' classes of first stages, with the factor of their latents where a config names none: diffusers' own, but
for VQ latents, whose variance is near 1 unscaled (Rombach et al. 2022, appendix G). Its 0.18215 would spoil CompVis's
models."""


def load_denoiser(path: Path) -> Denoiser:
    """Read a diffusers folder as a Denoiser in float32 on the CPU, frozen, in eval mode.

    Raises GsdError (exit 3) when something is missing or damaged, the network is of no kind in `NETWORK_KINDS`, or the
    folder does not say how the network was trained.
    """
    config = read_teacher_config(path)
    config.require_known()
    return build_denoiser(config)


def build_denoiser(config: TeacherConfig, reading: Reading | None = None) -> Denoiser:
    """The network of a teacher as a Denoiser, under a reading that fits its folder, by default the first."""
    kind, reading = NETWORK_KINDS[config.class_name], reading or config.readings[0]
    schedule, chain = read_schedule(reading.schedule), Chain.from_config(config.scheduler)  # before the weights
    if is_bare(config.files.network):
        net = _load_bare(config.files.network, reading)
    else:
        net = _load_network(config.files.network, kind.build, config.network, config.files.find_weights())
    return Denoiser(net, schedule, reading.prediction, chain=chain, kind=kind).eval().requires_grad_(False)


def load_autoencoder(path: Path) -> Autoencoder:
    """The first stage of a latent-diffusion folder (vqvae/ or vae/), frozen; else the identity.

    Raises GsdError (exit 3) when it is damaged or of another class than those in `STAGES`.
    """
    found = None if is_bare(path) else locate_model(path).autoencoder
    if found is None:
        return Autoencoder()
    config = read_json(found / "config.json")
    name = config.get("_class_name") if isinstance(config, dict) else None
    if name not in STAGES:
        known = f"{', '.join(STAGES)} are read"
        raise GsdError(f"{found} holds a {name or 'model of unknown class'}", hint=known)
    import diffusers

    net = _load_network(found, lambda found: getattr(diffusers, name).from_config(found), config, find_weights(found))
    return Autoencoder(net, _latent_scale(config), _latent_shift(config)).eval().requires_grad_(False)


def _latent_scale(config: dict[str, Any]) -> float:
    """The factor a config names, else that of its class."""
    default = STAGES[config["_class_name"]]
    scale = config.get("scaling_factor", default)
    if not isinstance(scale, int | float) or not 0 < scale < 1e6:
        raise GsdError(f"the autoencoder's scaling_factor is {scale!r}", hint="a positive number is needed")
    return float(scale)


def _latent_shift(config: dict[str, Any]) -> float:
    """The number that is taken off the latents before they are scaled; 0 where the config names none."""
    shift = config.get("shift_factor")
    shift = 0.0 if shift is None else shift
    if not isinstance(shift, int | float) or not abs(shift) < 1e6:
        raise GsdError(f"the autoencoder's shift_factor is {shift!r}", hint="a number is needed")
    return float(shift)


def _load_network(folder: Path, build: Build, config: dict[str, Any], weights: Weights | None) -> Any:
    """A network with its weights, in float32. build(config): the network."""
    if weights is None:
        known = ", ".join((SAFE_WEIGHTS, BIN_WEIGHTS, OTHER_SAFE_WEIGHTS, OTHER_BIN_WEIGHTS))
        hint = f"looked for {known}, whole, in shards with their index, or as a variant (fp16)"
        raise GsdError(f"no weights in {folder}", hint=hint)
    with _explained(folder):
        return _fill(folder, build, config, read_state(weights), weights)  # a pickle is refused before anything else


def _load_bare(path: Path, reading: Reading) -> Any:
    """The network in a file of bare weights, in float32."""
    with _explained(path):
        config, state = read_bare_file(path).arrange(named_values(reading.name))
        return _fill(path, NETWORK_KINDS[config["_class_name"]].build, config, state, Weights((path,), safe=False))


def _fill(folder: Path, build: Build, config: dict[str, Any], state: dict[str, Tensor], weights: Weights) -> Any:
    require_plausible(folder, build, config, weights)
    with contextlib.redirect_stdout(io.StringIO()):
        net = build(without_averaging_keys(config))
    load_state(net, state, folder)
    return net


@contextlib.contextmanager
def _explained(folder: Path) -> Iterator[None]:
    try:
        yield
    except GsdError:
        raise
    except Exception as error:  # a damaged config or file raises many kinds
        raise GsdError(
            f"cannot load the weights in {folder}: {_first_line(error)}",
            hint=DAMAGED_HINT,
        ) from error


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


def save_denoiser(
    model: Denoiser, folder: Path, *, half: bool, autoencoder: Autoencoder | None = None,
    class_names: Sequence[str] = (),
) -> None:  # fmt: skip
    """Write network, schedule and a pipeline index into `folder` as safetensors that diffusers can open (of gsd's own
    networks the schedule alone).

    Flat for a pixel model; with an autoencoder a folder for each part (`NetworkKind.layout`). `half` stores
    the network's weights in float16; they are read back as float32. class_names: for the index of a DiT.
    """
    import diffusers

    net = model.kind.build(model.net.config)
    net.load_state_dict(model.net.state_dict())
    if half:
        net = net.half()
    layout, stage = model.kind.layout, autoencoder.net if autoencoder is not None else None
    parts = {layout.network: net, "scheduler": model.schedule.to_scheduler(model.prediction, model.chain)}
    parts |= {} if stage is None else {layout.autoencoder: stage}
    for name, part in parts.items():
        # a first stage keeps the type of its weights
        part.save_pretrained(folder if stage is None else folder / name)
    if autoencoder is not None and stage is not None:
        place = folder / layout.autoencoder / "config.json"
        write_json(place, {**read_json(place), **autoencoder.facts()})
    index: dict[str, Any] = {
        "_class_name": "DDPMPipeline" if stage is None else layout.pipeline,
        "_diffusers_version": diffusers.__version__,
    }
    index |= {name: ["diffusers", type(part).__name__] for name, part in sorted(parts.items())}
    if class_names and layout.names_classes:
        index["id2label"] = {str(k): name for k, name in enumerate(class_names)}
    # diffusers has no pipeline of pixels and texts
    if model.kind.own_class is None and (stage is not None or model.kind.text_sizes(model.net) is None):
        write_json(folder / INDEX, index)
    for path in folder.rglob("config.json"):
        # diffusers records the path the network was read from, which is of this machine
        config = read_json(path)
        config.pop("_name_or_path", None)
        write_json(path, config)
