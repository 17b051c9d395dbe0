"""What the config files of a teacher say, and everything that they alone suffice to refuse. No torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gsd_cli.base.errors import GsdError, UsageError
from gsd_cli.base.storage import read_json, read_object
from gsd_cli.catalogue.bare_files import is_bare
from gsd_cli.catalogue.diffusers_layout import NETWORKS, SCHEDULE, UNETS, ModelFiles, is_pickle, locate_model
from gsd_cli.catalogue.families import BETAS, EDM, FLOW, SCORE_SDE, TITLES, find_family
from gsd_cli.catalogue.readings import Reading, assumed, fitting_readings, normalize, unstated
from gsd_cli.core.models import (
    ddp_unet_config,
    dit_config,
    edm_config,
    edm_pickle,
    flux_config,
    sana_config,
    sd3_config,
    unet2d_condition_config,
    unet2d_config,
)
from gsd_cli.core.models.config_check import LEARNED
from gsd_cli.core.models.text_sizes import TextSizes

CHECKS: dict[str, tuple[str, Callable[[Path, dict[str, Any]], None]]] = {
    name: (kind.DIFFUSERS_CLASS, kind.require_usable)
    for kind in (
        unet2d_config,
        unet2d_condition_config,
        dit_config,
        sd3_config,
        flux_config,
        sana_config,
        ddp_unet_config,
    )
    for name in kind.CLASS_NAMES
} | {name: (name, edm_config.require_usable) for name in edm_config.CLASS_NAMES}
"""By the `_class_name` in config.json: its class, and the check of its config. The keys of NETWORK_KINDS."""

TEXT_SIZES: dict[str, Callable[[Mapping[str, Any]], TextSizes]] = {
    name: kind.text_sizes
    for kind in (unet2d_condition_config, sd3_config, flux_config, sana_config)
    for name in kind.CLASS_NAMES
}
"""What a text-conditional network takes of a text, by its `_class_name`, from its config."""

SUPPORTED = (BETAS, FLOW, EDM, SCORE_SDE)
"""The kinds of diffusion that gsd reads. The keys of SCHEDULES."""


@dataclass(frozen=True)
class TeacherConfig:
    """A model whose config files can be those of a teacher.

    network: its config.json. readings: all that fit the folder and what was assumed; one if it is known. scheduler:
    its scheduler config, empty but for what is known of latent models if there is none. stated: whether the folder says
    it all, so that nothing was assumed.
    """

    files: ModelFiles
    network: dict[str, Any]
    readings: tuple[Reading, ...]
    scheduler: dict[str, Any]
    stated: bool

    @property
    def class_name(self) -> str:
        """The `_class_name` of the network."""
        return str(self.network["_class_name"])

    @property
    def takes_text(self) -> bool:
        """Whether the network is conditioned on texts."""
        return self.class_name in TEXT_SIZES

    @property
    def text_sizes(self) -> TextSizes | None:
        """What the network takes of a text; None for one that is not conditioned on texts."""
        return TEXT_SIZES[self.class_name](self.network) if self.takes_text else None

    def require_prompts(self, given: Path | None) -> None:
        """Raise GsdError (exit 3) where a text-conditional network is given no prompts, or another network some."""
        if self.takes_text and given is None:
            raise GsdError(
                f"{self.files.folder} is a text-conditional teacher: it needs prompts",
                hint="encode a text file, one prompt per line, with gsd prepare PROMPTS.txt --teacher T, and give the "
                "result with --prompts",
            )
        if given is not None and not self.takes_text:
            raise GsdError(f"{self.files.folder} is not a text-conditional teacher", hint="leave out --prompts")
        if given is not None and not given.is_file():
            raise GsdError(f"no such file: {given}", hint="make it with: gsd prepare PROMPTS.txt --teacher T")

    def require_known(self) -> Reading:
        """The reading. Raises GsdError (exit 3) where several fit."""
        if len(self.readings) > 1:
            raise _unknown_reading(self.files, self.readings)
        return self.readings[0]


def read_teacher_config(path: Path, assume: str | None = None) -> TeacherConfig:
    """Read and check the config files of the model that a path means (see `locate_model`).

    assume: what the folder does not say, as `--assume` takes it. Raises GsdError (exit 3) for what cannot be a teacher,
    UsageError (exit 2) for an assumption that contradicts the folder.
    """
    files = locate_model(path)
    if is_pickle(files.network):
        return _read_pickle(files, assume)
    config = read_json(files.network / "config.json")
    name = config.get("_class_name") if isinstance(config, dict) else None
    if not isinstance(name, str) or name not in CHECKS:
        known = " or ".join(dict.fromkeys(diffusers_class for diffusers_class, _ in CHECKS.values()))
        raise GsdError(
            f"{files.network} holds a {name or 'model of unknown class'}, a {known} is needed",
            hint=f"give a diffusion model in diffusers format: a {known}",
        )
    CHECKS[name][1](files.network, config)
    schedule = {} if files.schedule is None else read_object(files.schedule)
    _require_supported(files, schedule)
    _require_variance(files, config, schedule)
    silent = not schedule.keys() - {"clip_sample"}
    takes_levels = unet2d_config.takes_noise_levels(config)
    if not silent:
        _require_same_time(files, takes_levels, find_family(schedule))
    fitting = readings = fitting_readings(schedule, takes_levels)
    if assume is not None:
        readings = assumed(fitting, normalize(assume)) or _contradicts(files, assume)
    if files.autoencoder is not None and files.schedule is None:
        schedule = {"clip_sample": False}  # the latents of an autoencoder have no bounds
    return TeacherConfig(files, config, readings, schedule, stated=len(fitting) == 1 and not silent)


def read_text_teacher(path: Path) -> TeacherConfig:
    """`read_teacher_config` of a text-conditional teacher. Raises GsdError (exit 3) for another."""
    config = None if is_bare(path) else read_teacher_config(path)
    if config is None or not config.takes_text:
        raise GsdError(
            f"{path} is not a text-conditional teacher",
            hint="prompts are for a Stable Diffusion, a FLUX, a SANA, or a teacher that gsd prepare --captions trained",
        )
    return config


def _read_pickle(files: ModelFiles, assume: str | None) -> TeacherConfig:
    """The network and the schedule of NVIDIA's own format."""
    found = edm_pickle.read_network(files.network)
    reading = Reading("epsilon", found.schedule, EDM)
    if assume is not None and normalize(assume) != EDM:
        _contradicts(ModelFiles(files.folder, files.network, files.network, None), assume)
    return TeacherConfig(files, found.config, (reading,), {}, stated=True)


def _require_supported(files: ModelFiles, schedule: dict[str, Any]) -> None:
    """Raise GsdError (exit 3) for empty betas, and for a kind of diffusion that gsd does not read."""
    empty = [key for key in ("beta_schedule", "beta_start", "beta_end") if schedule.get(key, "") is None]
    if empty and schedule.get("trained_betas") is None:
        raise GsdError(f"{files.schedule}: {empty[0]} is null", hint="complete that noise schedule")
    family = find_family(schedule)
    if family not in SUPPORTED:
        name, known = (
            schedule.get("_class_name", "schedule without betas"),
            " or ".join(TITLES[one] for one in SUPPORTED),
        )
        raise GsdError(
            f"{files.schedule} holds a {name} ({TITLES[family]}), which gsd does not read",
            hint=f"give a teacher in diffusers format whose scheduler is of a {known}",
        )


def _require_same_time(files: ModelFiles, takes_levels: bool, family: str) -> None:
    """Raise GsdError (exit 3) for a network that takes noise levels without a score SDE's scheduler, and for another
    network with one."""
    if takes_levels != (family == SCORE_SDE):
        takes = "noise levels (fourier time embedding)" if takes_levels else "timesteps"
        raise GsdError(
            f"the network in {files.network} takes {takes}, and {files.schedule} is of a {TITLES[family]}",
            hint="a ScoreSdeVeScheduler belongs to a network with a fourier time embedding, and to no other",
        )


def _require_variance(files: ModelFiles, network: dict[str, Any], schedule: dict[str, Any]) -> None:
    """Raise GsdError (exit 3) where a scheduler wants the variance of a network that predicts none."""
    kind, channels = schedule.get("variance_type"), network.get("in_channels")
    if kind in LEARNED and (network.get("out_channels") or channels) == channels:
        raise GsdError(
            f"{files.schedule} has variance_type {kind}, but the network predicts no variance: it has as many channels "
            "out as in",
            hint="the two files do not belong together; fixed_small and fixed_large need no prediction",
        )


def _contradicts(files: ModelFiles, assume: str) -> tuple[Reading, ...]:
    where = files.network / "config.json" if files.schedule is None else files.schedule
    raise UsageError(
        [f"--assume {assume}: {where} says something else"],
        hint="--assume is for what the folder does not say; to override it, correct that file",
    )


def _unknown_reading(files: ModelFiles, readings: tuple[Reading, ...]) -> GsdError:
    silent = " and ".join(unstated(readings))
    if is_bare(files.network):
        cause, remedy = f"{files.network} does not say {silent}", "give a diffusers folder"
    elif files.schedule is None:
        pipeline = files.network.name in NETWORKS and files.network != files.folder
        place = files.folder / "scheduler" / SCHEDULE if pipeline else files.folder / SCHEDULE
        cause = f"{files.folder} does not say {silent}: it has no {SCHEDULE}"
        remedy = f"add {place}, the one of the pipeline that the training ended with"
    else:
        cause, remedy = f"{files.schedule} does not say {silent}", "complete that file"
    names = ", ".join(one.name for one in readings[:3])
    return GsdError(
        cause,
        hint="--data DATA.zip lets gsd try every known reading on real images; or say it with --assume "
        f"({names}, ...); or {remedy}",
    )


def describe_choices(config: TeacherConfig, given: Path) -> list[str]:
    """One line per choice made in reading a folder: a folder in it, averaged weights, a variant, another schedule."""
    files, said = config.files, []
    if is_pickle(files.network):
        said.append(edm_pickle.read_network(files.network).remark)
    if files.folder not in (given, given.parent) and given != files.network:
        said.append(f"{given}: its model is in {files.folder}")
    if files.network.name == UNETS[0] and (files.folder / UNETS[1]).is_dir():
        said.append(f"{files.folder}: the averaged weights in {UNETS[0]}/ are used, not those in {UNETS[1]}/")
    weights = files.find_weights()
    if weights is not None and weights.variant is not None and files.weights is None:
        said.append(
            f"{files.network}: its weights exist only as the variant {weights.variant}; they are read as float32"
        )
    if files.schedule is not None and files.folder.absolute() not in files.schedule.absolute().parents:
        said.append(f"{files.folder}: its noise schedule is that of {files.schedule}, written by the same training")
    return said
