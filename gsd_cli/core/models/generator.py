"""The one-step generator G(z) = D_G(sigma_init z, sigma_init), saved as a diffusers folder."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gsd_cli.base.atomic import atomic_folder, write_json
from gsd_cli.base.errors import GsdError
from gsd_cli.base.storage import ASSETS
from gsd_cli.catalogue.find import find_model, read_card
from gsd_cli.catalogue.run_layout import ADAPTERS, CARD, PROMPTS, README
from gsd_cli.core.models.adapters import is_adapted, merge, save_adapters
from gsd_cli.core.models.autoencoder import Autoencoder
from gsd_cli.core.models.condition import Condition
from gsd_cli.core.models.denoiser import Denoiser, per_image
from gsd_cli.core.models.diffusers_folder import load_autoencoder, load_denoiser, save_denoiser
from gsd_cli.core.models.fingerprint import weights_fingerprint
from gsd_cli.core.models.prompts import Prompts, load_prompts, save_prompts

FORMAT = 1
PROMPTS_KEPT = 64
"""Prompts of its training that a text-conditional generator keeps, so that it makes images without a text encoder."""


class Generator(nn.Module):
    """A denoiser called once, at one noise level; its output decoded if it came from a latent teacher.

    `condition`, one row, is the default one of a conditional model. In training there is no autoencoder: the
    losses are computed in the teacher's space.
    """

    def __init__(self, denoiser: Denoiser, sigma_init: float = 2.5, autoencoder: Autoencoder | None = None):
        super().__init__()
        self.denoiser = denoiser
        self.sigma_init = sigma_init
        self.autoencoder = autoencoder or Autoencoder()
        self.condition = denoiser.conditions.first(1)

    @classmethod
    def from_teacher(cls, teacher: Denoiser, sigma_init: float, dropout: float = 0.0) -> Generator:
        """A trainable copy of the teacher (or of the grown teacher). Dropout is set since converted configs
        omit it."""
        student = copy.deepcopy(teacher).requires_grad_(True)
        set_dropout(student, dropout)
        return cls(student, sigma_init)

    @property
    def device(self) -> torch.device:
        """The device of its weights."""
        parameter: Tensor = next(self.parameters())
        return parameter.device

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of z: the space the teacher denoises."""
        return self.denoiser.shape

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of the images: the shape of z, unless there is an autoencoder."""
        return self.autoencoder.image_shape(self.latent_shape)

    def forward(self, z: Tensor, condition: Condition | None = None) -> Tensor:
        """Images [B, *image_shape], about [-1, 1], unclamped, of z [B, *latent_shape] ~ N(0, I) and the condition of B
        images."""
        if condition is None:
            self.condition = self.condition.to(z.device)  # a copy per call would make the host wait
            condition = self.condition.expand(len(z))
        sigma = per_image(self.sigma_init, z)
        return self.autoencoder.decode(self.denoiser(self.sigma_init * z, sigma, condition))


def set_dropout(module: nn.Module, p: float) -> None:
    """Set the rate of every dropout layer to p in [0, 1]."""
    for layer in module.modules():
        if isinstance(layer, nn.Dropout):
            layer.p = p


@contextmanager
def without_dropout(module: nn.Module, p: float) -> Iterator[None]:
    """A context in which a module in training, of dropout rate `p`, is in evaluation mode; a no-op for p = 0."""
    if p:
        module.eval()
    try:
        yield
    finally:
        if p:
            module.train()


@dataclass(frozen=True)
class Model:
    """A generator read from disk, with its name for messages, its folder and its card."""

    name: str
    folder: Path
    generator: Generator
    card: dict[str, Any] = field(default_factory=dict)

    @property
    def teacher(self) -> str | None:
        """The teacher it was distilled from, as `--teacher` takes it."""
        return self.card.get("teacher")

    @property
    def teacher_reading(self) -> str | None:
        """How the teacher's output was read, where its folder does not say it; as `--assume` takes it."""
        found = self.card.get("teacher_reading")
        return found if isinstance(found, str) else None

    @property
    def features(self) -> str | None:
        """The bundled feature extractor of its domain, if there is one."""
        return self.card.get("features")

    @property
    def prompts(self) -> Path | None:
        """The file of the prompts that a text-conditional generator keeps; None for others."""
        path = self.folder / PROMPTS
        return path if path.is_file() else None

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of its classes, if known."""
        return tuple(self.card.get("classes") or ())


def save_generator(
    generator: Generator, folder: Path, card: dict[str, Any], readme: str, *, half: bool, prompts: Prompts | None = None
) -> None:  # fmt: skip
    """Write a generator folder atomically: network, schedule, card, README.md, and the first of the prompts.

    Adapters are added to the weights, so that the folder is a whole network, and also written alone.
    """
    adapted = is_adapted(generator.denoiser)
    denoiser = merge(generator.denoiser) if adapted else generator.denoiser
    with atomic_folder(folder) as temporary:
        if adapted:
            save_adapters(generator.denoiser, temporary / ADAPTERS, half=half)
        save_denoiser(
            denoiser, temporary, half=half, autoencoder=generator.autoencoder,
            class_names=card.get("classes") or (),
        )  # fmt: skip
        if prompts is not None:
            save_prompts(temporary / PROMPTS, prompts.head(PROMPTS_KEPT), half=half)
        mark = weights_fingerprint(temporary)
        write_json(temporary / CARD, {"format": FORMAT, "sigma_init": generator.sigma_init, "weights": mark, **card})
        (temporary / README).write_text(readme, encoding="utf-8")


def load_model(spec: str | None) -> Model:
    """Find and read a generator: a run, a generator folder or a bundled name; None for the newest run
    under ./runs, else the bundled one. Raises GsdError (exit 3)."""
    folder = find_model(spec)
    card = read_card(folder)
    sigma_init = card.get("sigma_init")
    if not isinstance(sigma_init, int | float) or not 0 < sigma_init < 1e4:
        raise GsdError(f"{folder / CARD} names no valid sigma_init", hint="the folder is damaged or not a generator")
    if "weights" in card and card["weights"] != weights_fingerprint(folder):
        raise GsdError(
            f"the weights in {folder} are not those that its {CARD} names",
            hint="they are damaged; copy the folder again, or run gsd distill again",
        )
    denoiser = load_denoiser(folder)
    if (folder / PROMPTS).is_file():
        denoiser.give_prompts(load_prompts(folder / PROMPTS).condition)
    generator = Generator(denoiser, float(sigma_init), load_autoencoder(folder))
    name = spec or (folder.name if folder.parent == ASSETS else str(folder))
    return Model(name, folder, generator, card)


@torch.no_grad()
def generate(generator: Generator, z: Tensor, batch_size: int) -> Tensor:
    """Images of latents z [N, C, H, W], computed in batches and returned on the CPU."""
    device = generator.device
    return torch.cat([generator(part.to(device)).float().cpu() for part in z.split(batch_size)])
