"""The generator G(z) = D_G(sigma_init z, sigma_init), one call of a denoiser or a few, saved as a diffusers folder."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from gsd_cli.base.atomic import atomic_folder, write_json
from gsd_cli.base.errors import GsdError
from gsd_cli.base.storage import ASSETS
from gsd_cli.catalogue.diffusers_layout import NETWORKS, find_weights
from gsd_cli.catalogue.find import find_model, read_card
from gsd_cli.catalogue.registry import SHARED_WEIGHTS
from gsd_cli.catalogue.run_layout import ADAPTERS, CARD, LATER, PROMPTS, README
from gsd_cli.core.models.adapters import is_adapted, merge, save_adapters
from gsd_cli.core.models.autoencoder import Autoencoder
from gsd_cli.core.models.condition import Condition
from gsd_cli.core.models.denoiser import Denoiser, per_image
from gsd_cli.core.models.diffusers_folder import load_autoencoder, load_denoiser, save_denoiser
from gsd_cli.core.models.few_steps import later_noise
from gsd_cli.core.models.fingerprint import weights_fingerprint
from gsd_cli.core.models.prompts import Prompts, load_prompts, save_prompts
from gsd_cli.options.distill_choices import OFF, split_choice

FORMAT, FEW_STEPS_FORMAT, LATER_FORMAT = 1, 2, 3
"""Of gsd.json: a generator of several steps has the second, and with another network for the later ones the third, so
that nothing takes it for one of one step, or of one network."""
PROMPTS_KEPT = 64
"""Prompts of its training that a text-conditional generator keeps, so that it makes images without a text encoder."""


Exported = Callable[[Tensor, Condition, Tensor | None], Tensor]
"""Latents [B, ...], the condition of B images and shifts of the bottleneck [B, c, h, w] to images on the CPU."""


class Call(NamedTuple):
    """A call of a generator's network: D(noisy, sigma) = clean, both [B, C, H, W], of z's shape."""

    noisy: Tensor
    sigma: float
    clean: Tensor


class Generator(nn.Module):
    """A denoiser called once, at one noise level, or a few times, at falling ones; the output is decoded if it came
    from a latent teacher. `few_steps` has the formula.

    `later`: the network of the calls after the first; None where one network makes all calls.

    `sigmas`: the noise level of each call; a number for one call. `condition`, one row, is the default one of a
    conditional model. `exported`, if there is one, is the same generator run by something else than torch: `render`
    calls it where no gradient is needed. In training there is no autoencoder: the losses are computed in the teacher's
    space.
    """

    exported: Exported | None = None

    def __init__(
        self, denoiser: Denoiser, sigmas: float | Sequence[float] = 2.5, autoencoder: Autoencoder | None = None,
        later: Denoiser | None = None,
    ):  # fmt: skip
        super().__init__()
        self.denoiser, self.later = denoiser, later
        self.sigmas = (float(sigmas),) if isinstance(sigmas, int | float) else tuple(sigmas)
        self.autoencoder = autoencoder or Autoencoder()
        self.condition = denoiser.conditions.first(1)
        self._in_first_call = True

    @classmethod
    def from_teacher(cls, teacher: Denoiser, sigmas: float | Sequence[float], dropout: float = 0.0) -> Generator:
        """A trainable copy of the teacher (or of the grown teacher). Dropout is set since converted configs
        omit it."""
        student = copy.deepcopy(teacher).requires_grad_(True)
        set_dropout(student, dropout)
        return cls(student, sigmas)

    @property
    def sigma_init(self) -> float:
        """The noise level of the first call, which takes the latent."""
        return self.sigmas[0]

    @property
    def calls(self) -> int:
        """Network calls per image."""
        return len(self.sigmas)

    @property
    def device(self) -> torch.device:
        """The device of its weights."""
        parameter: Tensor = next(self.parameters())
        return parameter.device

    @property
    def conditions(self) -> Condition:
        """All conditions that it is used with: see `Denoiser.conditions`."""
        return self.denoiser.conditions

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
        return self.autoencoder.decode(self.make_clean(z, condition))

    def make_clean(self, z: Tensor, condition: Condition) -> Tensor:
        """What `forward` decodes, of z's shape: images, or an autoencoder's latents."""
        return self.trace(z, condition)[-1].clean

    def trace(self, z: Tensor, condition: Condition) -> list[Call]:
        """All calls that make the images of z, in their order."""
        calls, noisy = [], self.sigma_init * z
        try:
            for step, sigma in enumerate(self.sigmas, 1):
                self._in_first_call = step == 1
                network = self.network(step)
                calls.append(Call(noisy, sigma, network(noisy, per_image(sigma, z), condition)))
                if step < len(self.sigmas):
                    noisy = calls[-1].clean + self.sigmas[step] * later_noise(z, step)
        finally:
            self._in_first_call = True
        return calls

    @property
    def networks(self) -> tuple[Denoiser, ...]:
        """Its networks, in the order of their calls."""
        return (self.denoiser,) if self.later is None else (self.denoiser, self.later)

    def network(self, step: int) -> Denoiser:
        """The network of a call, counted from 1."""
        return self.denoiser if step == 1 or self.later is None else self.later

    def decoded_by(self, autoencoder: Autoencoder | None) -> Generator:
        """A generator of the same networks, for images or for the latents of an autoencoder."""
        return Generator(self.denoiser, self.sigmas, autoencoder, self.later)

    def hook_bottleneck(self, function: Callable[[Tensor], Tensor | None]) -> RemovableHandle:
        """`Denoiser.hook_bottleneck` for the first call of each image: later ones, at another noise level, have other
        maps, and what they show was laid out in the first."""
        return self.denoiser.hook_bottleneck(lambda features: function(features) if self._in_first_call else None)


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
    def guidance(self) -> str:
        """The --guidance that it was distilled with."""
        return str(self.card.get("settings", {}).get("guidance", OFF))

    @property
    def teacher_guidance(self) -> float:
        """The guidance of the teacher that it imitates: with --guidance teacher:K its images are those of the guided
        teacher. With K for both networks they are those of the teacher alone."""
        scale, of = split_choice(self.guidance, 1.0)
        return scale if of == "teacher" else 1.0

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
    """Write a generator folder atomically: network, schedule, card, README.md, and some of the prompts.

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
        if generator.later is not None:
            save_denoiser(generator.later, temporary / LATER, half=half)
        if prompts is not None:
            save_prompts(temporary / PROMPTS, prompts.spread(PROMPTS_KEPT), half=half)
        mark = weights_fingerprint(temporary)
        write_json(temporary / CARD, {**describe_levels(generator), "weights": mark, **card})
        (temporary / README).write_text(readme, encoding="utf-8")


def load_model(spec: str | None) -> Model:
    """Find and read a generator: a run, a generator folder or a bundled name; None for the newest run
    under ./runs, else the bundled one. Raises GsdError (exit 3)."""
    folder = find_model(spec)
    card = read_card(folder)
    sigmas = read_levels(card, folder)
    if card.get("later") and not any(find_weights(folder / part) for part in ("", *NETWORKS)):  # see SHARED_WEIGHTS
        raise GsdError(
            f"{folder} holds the network of the second call only",
            hint=f"a bundled one has the first call's from {', '.join(SHARED_WEIGHTS.values())}: copy its weights",
        )
    if "weights" in card and card["weights"] != weights_fingerprint(folder):
        raise GsdError(
            f"the weights in {folder} are not those that its {CARD} names",
            hint="they are damaged; copy the folder again, or run gsd distill again",
        )
    denoiser = load_denoiser(folder)
    later = load_denoiser(folder / LATER) if card.get("later") else None
    if (folder / PROMPTS).is_file():
        denoiser.give_prompts(load_prompts(folder / PROMPTS).condition)
    generator = Generator(denoiser, sigmas, load_autoencoder(folder), later)
    name = spec or (folder.name if folder.parent == ASSETS else str(folder))
    return Model(name, folder, generator, card)


def describe_levels(generator: Generator) -> dict[str, Any]:
    """The entries of gsd.json about the calls: of a generator of one step, those that it has always had."""
    several, own = generator.calls > 1, generator.later is not None
    levels = {"sigmas": list(generator.sigmas)} if several else {}
    later = {"later": True} if own else {}
    version = LATER_FORMAT if own else FEW_STEPS_FORMAT if several else FORMAT
    return {"format": version, "sigma_init": generator.sigma_init, **levels, **later}


def read_levels(card: dict[str, Any], folder: Path) -> tuple[float, ...]:
    """The noise levels of a generator's calls, from the content of its gsd.json. Raises GsdError (exit 3)."""
    version, first = card.get("format", FORMAT), card.get("sigma_init")
    if isinstance(version, int) and version > LATER_FORMAT:
        raise GsdError(f"{folder / CARD} has format {version}, which this gsd does not know", hint="update gsd")
    if not isinstance(first, int | float) or not 0 < first < 1e4:
        raise GsdError(f"{folder / CARD} names no valid sigma_init", hint="the folder is damaged or not a generator")
    levels = card.get("sigmas", [first])
    numbers = isinstance(levels, list) and bool(levels) and all(isinstance(s, int | float) and s > 0 for s in levels)
    if not numbers or levels[0] != first or any(low >= high for high, low in pairwise(levels)):
        raise GsdError(f"{folder / CARD} names no valid sigmas", hint="the folder is damaged: copy it again")
    return tuple(map(float, levels))


@torch.no_grad()
def generate(generator: Generator, z: Tensor, batch_size: int) -> Tensor:
    """Images of latents z [N, C, H, W], computed in batches and returned on the CPU."""
    device = generator.device
    return torch.cat([generator(part.to(device)).float().cpu() for part in z.split(batch_size)])
