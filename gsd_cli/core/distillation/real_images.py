"""Real images for the discriminator: batches in the teacher's space (pixels or latents), with their classes."""

from __future__ import annotations

from collections.abc import Callable
from typing import NoReturn, Protocol

import torch
from torch import Tensor

from gsd_cli.base.errors import ExitCode, GsdError
from gsd_cli.compute.device import full_precision
from gsd_cli.core.models.autoencoder import Autoencoder
from gsd_cli.core.models.denoiser import Denoiser
from gsd_cli.core.models.teacher import Teacher
from gsd_cli.data.dataset import KEEP_IN_MEMORY, ImageArchive
from gsd_cli.data.pixels import from_uint8

FEW = 500
"""With fewer images the discriminator may memorise each of them."""
CALL = 16
"""Images per call of the autoencoder: always the same number, since on a CPU the last bits depend on it."""
RESIDENT_SHARE = 1 / 8
"""Share of a device's free memory that real images may take."""
CHECKED = 2000
"""Images of a data set too large to keep decoded that are decoded before a run, to check them."""


class RealImages(Protocol):
    """Images to learn from, by number. `ImageArchive` is one, in pixels; `EncodedImages` is one, in latents."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(C, H, W) of an image, or of its latent."""

    @property
    def labels(self) -> Tensor | None:
        """Classes, int64 [N]; or attributes, bool [N, A]; or None."""

    def __len__(self) -> int: ...

    def batch(self, indices: Tensor) -> Tensor:
        """The images at `indices` (int64 [B], on the CPU): float32 [B, C, H, W], on the CPU.

        Pixels lie in [-1, 1]; latents have about unit variance.
        """


class EncodedImages:
    """Real images in a latent teacher's space: each is encoded once, when it is first used.

    Latents are kept in float32 or, if that needs more than KEEP_IN_MEMORY, in float16 (whose rounding, 5e-4, is far
    below any noise level). If neither fits, every batch is encoded when it is used.
    """

    def __init__(self, images: RealImages, autoencoder: Autoencoder, shape: tuple[int, ...], device: torch.device):
        self.images, self.autoencoder = images, autoencoder.to(device)
        self.shape, self.device = shape, device
        numbers = len(images) * torch.Size(shape).numel()
        kinds = (kind for kind in (torch.float32, torch.float16) if numbers * kind.itemsize <= KEEP_IN_MEMORY)
        kind = next(kinds, None)
        self._kept = None if kind is None else torch.empty(len(images), *shape, dtype=kind)
        self._known = torch.zeros(len(images), dtype=torch.bool)

    def __len__(self) -> int:
        return len(self.images)

    @property
    def labels(self) -> Tensor | None:
        """Those of the images."""
        return self.images.labels

    def batch(self, indices: Tensor) -> Tensor:
        """The latents at `indices` [B], float32 [B, c, h, w]."""
        if self._kept is None:
            return torch.cat([self._encode(part) for part in indices.split(CALL)])
        missing = indices[~self._known[indices]].unique()
        for part in missing.split(CALL) if len(missing) else ():
            self._kept[part] = self._encode(part).to(self._kept.dtype)
            self._known[part] = True
        return self._kept[indices].float()

    @torch.no_grad()
    def _encode(self, indices: Tensor) -> Tensor:
        full = torch.cat([indices, indices[-1:].expand(CALL - len(indices))])
        with full_precision(self.device):  # a kept latent must not depend on the precision of its first use
            return self.autoencoder.encode(self.images.batch(full).to(self.device))[: len(indices)].cpu()


class ResidentImages:
    """Pixels kept on a device: a batch needs no copy. Indices must be on the device too."""

    def __init__(self, images: ImageArchive, device: torch.device):
        self.shape = images.shape
        self.labels = None if images.labels is None else images.labels.to(device)
        self._kept = torch.empty(len(images), *images.shape, dtype=torch.uint8, device=device)
        for part in torch.arange(len(images)).split(1024):
            self._kept[part[0] : part[-1] + 1] = images.uint8(part).to(device)

    def __len__(self) -> int:
        return len(self._kept)

    def batch(self, indices: Tensor) -> Tensor:
        """The images at `indices` (int64 [B], on the device): float32 [B, C, H, W], there."""
        return from_uint8(self._kept[indices])


def keep_on(device: torch.device, images: RealImages) -> RealImages:
    """The images on an accelerator, if RESIDENT_SHARE of its free memory is enough for them; else as they are."""
    if device.type == "cpu" or not isinstance(images, ImageArchive) or not images.in_memory:
        return images
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        if len(images) * torch.Size(images.shape).numel() > RESIDENT_SHARE * free:
            return images
    return ResidentImages(images, device)


def in_teacher_space(images: RealImages, teacher: Teacher, device: torch.device) -> RealImages:
    """The images themselves for a pixel teacher, their latents for a latent one."""
    if teacher.autoencoder.net is None:
        return images
    return EncodedImages(images, teacher.autoencoder, teacher.denoiser.shape, device)


# -- checks -----------------------------------------------------------------------------------


def require_same_shape(archive: ImageArchive, shape: tuple[int, int, int]) -> None:
    """Raise GsdError (exit 3) when data and model differ in size or channels."""
    if archive.shape != shape:
        raise GsdError(
            f"{archive.path} holds images of shape {archive.shape}, the model makes {shape}",
            hint="prepare the data with the model's --size and --grey",
        )


def require_comparable(data: RealImages | None, teacher: Denoiser, what: str, otherwise: str) -> RealImages:
    """The images, if `what` can compare them with the teacher's. Otherwise raises GsdError (exit 2), whose hint names
    `otherwise`: flags of a run without real images."""

    def refuse(message: str, hint: str) -> NoReturn:
        raise GsdError(message, hint=hint, code=ExitCode.USAGE)

    if data is None:
        refuse(f"{what} needs real images", f"give --data DATA.zip, or {otherwise}")
    if tuple(data.shape) != teacher.shape:
        refuse(
            f"{what} gets real images of {tuple(data.shape)}, the teacher works on {teacher.shape}",
            "prepare the data with the teacher's size and channels",
        )
    if teacher.classes and (data.labels is None or data.labels.ndim != 1):
        refuse("the real images have no classes, the teacher has", "prepare them with --labels")
    if teacher.classes and data.labels is not None and int(data.labels.max()) >= teacher.classes:
        refuse(
            f"the real images have classes up to {int(data.labels.max())}, the teacher has {teacher.classes}",
            "prepare them with the teacher's classes",
        )
    return data


def require_fit(archive: ImageArchive, teacher: Teacher) -> None:
    """Raise GsdError (exit 3) unless a discriminator can compare these images with the teacher's.

    They need the size and the channels of its images (not of its latents). For a class-conditional teacher each needs
    one class, and the number of classes must be the teacher's.
    """
    require_same_shape(archive, teacher.image_shape)
    classes = teacher.denoiser.classes
    if not classes:
        return
    labels = archive.labels
    if labels is None or labels.ndim != 1:
        raise GsdError(
            f"{archive.path} has {'no labels' if labels is None else 'attributes, no classes'}; "
            f"the teacher is conditioned on {classes} classes",
            hint="prepare the images with --labels FILE, or from folders named after the classes",
        )
    names = archive.record.get("classes") or ()
    count = max(len(names), int(labels.max()) + 1)
    if count != classes:
        raise GsdError(
            f"{archive.path} has {count} classes, the teacher is conditioned on {classes}",
            hint="prepare the images that the teacher was trained on, or give --data teacher",
        )


def require_readable(archive: ImageArchive, on_image: Callable[[int], None] = lambda done: None) -> None:
    """Decode all images of a data set that is kept decoded, else CHECKED of them, evenly spread.

    Raises GsdError (exit 3) at the first that cannot be read. on_image(done) is called with the number of images done.
    """
    total = len(archive)
    if archive.in_memory or total <= CHECKED:
        places = torch.arange(total)
    else:
        places = torch.linspace(0, total - 1, CHECKED, dtype=torch.float64).long()
    done = 0
    for part in places.split(256):
        archive.uint8(part)
        done += len(part)
        on_image(done)


def cautions(archive: ImageArchive, teacher: Teacher) -> list[str]:
    """Warnings about images that fit the teacher."""
    found = []
    if len(archive) < FEW:
        found.append(f"{len(archive)} images are few: the discriminator may memorise them")
    names = tuple(archive.record.get("classes") or ())
    if teacher.denoiser.classes and names and teacher.class_names and names != teacher.class_names:
        k = next(k for k, (ours, theirs) in enumerate(zip(names, teacher.class_names, strict=False)) if ours != theirs)
        found.append(
            f"classes are matched by number: class {k} is {names[k]} in {archive.path}, "
            f"{teacher.class_names[k]} for the teacher"
        )
    return found
