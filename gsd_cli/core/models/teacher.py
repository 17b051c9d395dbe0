"""Find and read a teacher by a name of the catalogue, a diffusers folder or a hub id."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

from gsd_cli.catalogue.bare_files import is_bare
from gsd_cli.catalogue.diffusers_layout import PICKLE, read_class_names
from gsd_cli.catalogue.find import local_teacher, read_card, require_teacher
from gsd_cli.catalogue.readings import Reading
from gsd_cli.catalogue.registry import TEACHERS
from gsd_cli.catalogue.run_layout import CARD
from gsd_cli.core.models.autoencoder import Autoencoder
from gsd_cli.core.models.bare_file import read_bare_config
from gsd_cli.core.models.denoiser import Denoiser
from gsd_cli.core.models.diffusers_folder import build_denoiser, load_autoencoder
from gsd_cli.core.models.hub import OnBytes, fetch
from gsd_cli.core.models.prompts import Prompts, load_prompts
from gsd_cli.core.models.schedules import read_schedule
from gsd_cli.core.models.teacher_config import TeacherConfig, describe_choices, read_teacher_config


@dataclass(frozen=True)
class Teacher:
    """A frozen denoiser and where it came from.

    `autoencoder` is the identity except for latent-diffusion models. `features` names the bundled
    feature extractor trained on the same images, if there is one. `class_names` are the classes of a
    conditional model, if known. `notes` are warnings; `remarks` say how the folder was read. `config` is what the
    folder says. `reading` is how its output was read where the folder does not say it: as `--assume` takes it.
    `prompts` are those that a text-conditional teacher is used with.
    """

    name: str
    denoiser: Denoiser
    source: str
    revision: str | None = None
    autoencoder: Autoencoder = field(default_factory=Autoencoder)
    features: str | None = None
    class_names: tuple[str, ...] = ()
    notes: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    config: TeacherConfig | None = None
    reading: str | None = None
    prompts: Prompts | None = None

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of its images."""
        return self.autoencoder.image_shape(self.denoiser.shape)

    def read_as(self, reading: Reading) -> Teacher:
        """The same teacher with its output read so, although its folder does not say it."""
        if self.config is not None and is_bare(self.config.files.network):  # a reading may decide on its layers
            denoiser = build_denoiser(self.config, reading)
        else:
            denoiser = self.denoiser.read_as(reading.prediction, read_schedule(reading.schedule))
        return replace(self, denoiser=denoiser, reading=reading.name)


def load_teacher(
    spec: str, *, offline: bool = False, revision: str | None = None, on_bytes: OnBytes | None = None,
    assume: str | None = None, undecided: bool = False, prompts: Path | None = None,
) -> Teacher:  # fmt: skip
    """Find and read a teacher.

    spec: a name of the registry, a diffusers folder (or a file in it), or a hub id `owner/name`. on_bytes: see `fetch`.
    assume: what its folder does not say, as `--assume` takes it. undecided: take the first of several readings; the
    caller decides (`config.readings`). prompts: a file of prompts, for a text-conditional teacher. Raises GsdError:
    exit 3 (missing, damaged, unsupported, several readings fit, no prompts), exit 4 (hub or network).
    """
    require_teacher(spec)
    entry, place = TEACHERS.get(spec), local_teacher(spec)
    commit, hub_id, notes = None, "", []
    if place is None:
        hub_id = entry.hub if entry is not None and entry.hub else spec
        place, commit = fetch(
            hub_id, offline=offline, revision=revision, on_bytes=on_bytes,
            check=lambda folder: read_teacher_config(folder, assume),
        )  # fmt: skip
        notes = [entry.caution] if entry is not None and entry.caution else []
    config = read_bare_config(place, assume) if is_bare(place) else read_teacher_config(place, assume)
    config.require_prompts(prompts)
    if not undecided:
        config.require_known()
    reading = config.readings[0].name if len(config.readings) == 1 and not config.stated else None
    remarks = describe_choices(config, place)
    if reading is not None:
        said = "does not say how its network was trained; its output is read as"
        remarks.append(f"{config.files.folder} {'is read as' if is_bare(config.files.folder) else said} {reading}")
    folder = config.files.folder
    name = spec if entry is not None or hub_id else folder.resolve().name.removesuffix(PICKLE)
    card = read_card(folder) if not hub_id and (folder / CARD).is_file() else {}
    denoiser = build_denoiser(config)
    given = load_prompts(prompts) if prompts is not None else None
    if given is not None:
        denoiser.give_prompts(given.condition, given.empty)
    return Teacher(
        name,
        denoiser,
        hub_id or str(card.get("name", name)),
        commit,
        load_autoencoder(place),
        features=card.get("features"),
        class_names=tuple(card.get("classes") or ()) or read_class_names(folder, denoiser.classes),
        notes=notes,
        remarks=remarks,
        config=config,
        reading=reading,
        prompts=given,
    )
