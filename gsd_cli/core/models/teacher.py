"""Find and read a teacher by a name of the catalogue, a diffusers folder or a hub id."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from gsd_cli.base.storage import ASSETS
from gsd_cli.catalogue.find import read_card, require_teacher
from gsd_cli.catalogue.registry import TEACHERS
from gsd_cli.catalogue.run_layout import CARD
from gsd_cli.core.models.autoencoder import Autoencoder
from gsd_cli.core.models.denoiser import Denoiser
from gsd_cli.core.models.diffusers_folder import describe_choices, load_autoencoder, load_denoiser
from gsd_cli.core.models.hub import OnBytes, fetch


@dataclass(frozen=True)
class Teacher:
    """A frozen denoiser and where it came from.

    `autoencoder` is the identity except for latent-diffusion models. `features` names the bundled
    feature extractor trained on the same images, if there is one. `class_names` are the classes of a
    conditional model, if known. `notes` are warnings; `readings` say how the folder was read.
    """

    name: str
    denoiser: Denoiser
    source: str
    revision: str | None = None
    autoencoder: Autoencoder = field(default_factory=Autoencoder)
    features: str | None = None
    class_names: tuple[str, ...] = ()
    notes: list[str] = field(default_factory=list)
    readings: list[str] = field(default_factory=list)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of its images."""
        return self.autoencoder.image_shape(self.denoiser.shape)


def load_teacher(
    spec: str, *, offline: bool = False, revision: str | None = None, on_bytes: OnBytes | None = None
) -> Teacher:
    """Find and read a teacher.

    spec: a name of the registry, a diffusers folder, or a hub id `owner/name`. on_bytes: see `fetch`.
    Raises GsdError: exit 3 (missing, damaged, unsupported), exit 4 (hub or network).
    """
    require_teacher(spec)
    entry = TEACHERS.get(spec)
    if entry is not None and entry.hub is None:
        return _from_folder(ASSETS / spec, spec)
    if entry is None and Path(spec).is_dir():
        return _from_folder(Path(spec), Path(spec).resolve().name)
    hub_id = entry.hub if entry is not None and entry.hub else spec
    folder, commit = fetch(hub_id, offline=offline, revision=revision, on_bytes=on_bytes)
    notes = [entry.caution] if entry is not None and entry.caution else []
    return Teacher(
        spec,
        load_denoiser(folder),
        hub_id,
        commit,
        load_autoencoder(folder),
        notes=notes,
        readings=describe_choices(folder),
    )


def _from_folder(folder: Path, name: str) -> Teacher:
    card = read_card(folder) if (folder / CARD).exists() else {}
    return Teacher(
        name,
        load_denoiser(folder),
        str(card.get("name", name)),
        autoencoder=load_autoencoder(folder),
        features=card.get("features"),
        class_names=tuple(card.get("classes") or ()),
        readings=describe_choices(folder),
    )
