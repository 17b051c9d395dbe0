"""Feature extractors: Frechet distances and perceptual distances are measured in their features."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from gsd_cli.base.download import fetch_file
from gsd_cli.base.errors import GsdError
from gsd_cli.base.storage import read_object
from gsd_cli.catalogue.registry import FEATURES
from gsd_cli.catalogue.run_layout import CARD, bundled_features_folder, features_name
from gsd_cli.compute.device import in_full_precision
from gsd_cli.core.models.autoencoder import Autoencoder
from gsd_cli.core.models.classifier import load_features
from gsd_cli.core.models.denoiser import Denoiser, per_image
from gsd_cli.core.models.feature_maps import FEATURE_SIGMA, normalise_channels, teacher_features
from gsd_cli.core.models.feature_nets import FeatureNet
from gsd_cli.core.models.fingerprint import model_fingerprint, network_fingerprint
from gsd_cli.data.pixels import from_uint8, to_uint8

INCEPTION_FILE = "inception-2015-12-05.pt"
INCEPTION_URL = f"https://nvlabs-fi-cdn.nvidia.com/stylegan2-ada-pytorch/pretrained/metrics/{INCEPTION_FILE}"
INCEPTION_SHA256 = "f58cb9b6ec323ed63459aa4fb441fe750cfe39fafad6da5cb504a16f19e958f4"


class Measure(Protocol):
    """Images [B, C, H, W] in [-1, 1], on the measure's device, to one vector each."""

    name: str
    """Recorded in files of its vectors; distances across names are refused."""

    def features(self, images: Tensor) -> Tensor:
        """Vectors [B, F] of images as they would be saved: rounded to 8 bits."""


class Extractor(Measure, Protocol):
    """A measure whose vectors have a Frechet distance, and that has a perceptual distance."""

    figure: str
    """How a Frechet distance in these features is called: FID for Inception only."""

    def embed(self, images: Tensor) -> Tensor:
        """Vectors [B, E] of unrounded images, whose Euclidean distance is the perceptual distance."""

    def squared_distance(self, a: Tensor, b: Tensor) -> Tensor:
        """Squared perceptual distance of unrounded images: [B]."""


class ClassifierFeatures:
    """The penultimate layer of a small classifier made by `gsd prepare --fit-features`."""

    def __init__(self, net: FeatureNet, name: str):
        self.net, self.name, self.figure = net, name, f"FD-{name}"

    @in_full_precision
    def features(self, images: Tensor) -> Tensor:
        """[B, F], F the network's own."""
        return self.net.features(_as_saved(images))

    def class_balance(self, features: Tensor) -> float:
        """The rarest class's share over the commonest's, by what the classifier names features [N, 128]; in [0, 1]."""
        head = self.net.head
        named = head(features.to(head.weight)).argmax(1)
        counts = torch.bincount(named, minlength=head.out_features)
        return counts.min().item() / max(1, counts.max().item())

    @in_full_precision
    def embed(self, images: Tensor) -> Tensor:
        """The classifier's maps as LPIPS compares maps, without learnt weights."""
        return normalise_channels(self.net.maps(images))

    def squared_distance(self, a: Tensor, b: Tensor) -> Tensor:
        """LPIPS's form on the classifier's maps."""
        return (self.embed(a) - self.embed(b)).square().sum(1)


class TeacherFeatures:
    """The teacher's own mid block: always available, but not independent of the generator."""

    name, figure = "teacher", "FD-teacher"

    def __init__(self, teacher: Denoiser, autoencoder: Autoencoder):
        self.teacher, self.autoencoder = teacher, autoencoder

    @in_full_precision
    def features(self, images: Tensor) -> Tensor:
        """The mid block at sigma 0.2, averaged over positions."""
        code = self.autoencoder.encode(_as_saved(images))
        return self.teacher.encode(code, per_image(FEATURE_SIGMA, code))[-1].mean((2, 3))

    @in_full_precision
    def embed(self, images: Tensor) -> Tensor:
        """The map that the isometric term uses by default."""
        return teacher_features(self.teacher, self.autoencoder.encode(images))

    def squared_distance(self, a: Tensor, b: Tensor) -> Tensor:
        """Distance in that map."""
        return (self.embed(a) - self.embed(b)).square().sum(1)


class InceptionFeatures:
    """clean-fid's Inception and resize (Parmar et al. 2022): the features of FID proper."""

    name, figure = "inception", "FID"

    def __init__(self, cache: Path, device: torch.device):
        from cleanfid.inception_torchscript import InceptionV3W
        from cleanfid.resize import build_resizer

        self.device = device
        self.net = InceptionV3W(str(cache), download=False).to(device).eval().requires_grad_(False)
        self.resize = build_resizer("clean")

    @in_full_precision
    def features(self, images: Tensor) -> Tensor:
        """[B, 2048]; grey images are repeated to three channels, as clean-fid reads them."""
        pixels = to_uint8(images).permute(0, 2, 3, 1).numpy()
        pixels = pixels.repeat(3, 3) if pixels.shape[3] == 1 else pixels
        resized = np.stack([self.resize(image) for image in pixels])
        return self.net(torch.from_numpy(resized).permute(0, 3, 1, 2).float().to(self.device))

    def embed(self, images: Tensor) -> Tensor:
        """Raises GsdError: Inception has no perceptual distance; path lengths use another extractor."""
        raise GsdError("Inception features measure no perceptual distance")

    def squared_distance(self, a: Tensor, b: Tensor) -> Tensor:
        """Raises GsdError, as `embed` does."""
        raise GsdError("Inception features measure no perceptual distance")


def _as_saved(images: Tensor) -> Tensor:
    return from_uint8(to_uint8(images)).to(images.device)


def features_folder(spec: str) -> Path:
    """A bundled feature set by name (`fashion`, `fashion-2`), or a folder made by `--fit-features`."""
    for folder in (Path(spec), bundled_features_folder(spec)):
        if (folder / CARD).is_file():
            return folder
    known = ", ".join(name for names in FEATURES.values() for name in names)
    raise GsdError(f"no such features: {spec}", hint=f"a folder made by gsd prepare --fit-features, or: {known}")


def classifier_features(spec: str, device: torch.device, shape: tuple[int, ...] | None = None) -> ClassifierFeatures:
    """Load a feature set by name or folder, for images of a shape [C, H, W].

    Raises GsdError (exit 3): missing, damaged, or fitted on images of another size or mode.
    """
    folder = features_folder(spec)
    if shape is not None:
        _require_fitted_on(folder, shape)
    return ClassifierFeatures(load_features(folder).to(device), features_name(folder))


def _require_fitted_on(folder: Path, shape: tuple[int, ...]) -> None:
    card = read_object(folder / CARD)
    data = card.get("data")
    size = data.get("size") if isinstance(data, dict) else None
    if card.get("channels") != shape[0] or size not in (None, *shape[1:]):
        fitted = f"{_channels(card.get('channels'))}{f' of {size} x {size}' if size else ''}"
        raise GsdError(
            f"the features {folder.name} were fitted on images of {fitted}, "
            f"these have {_channels(shape[0])} of {shape[1]} x {shape[2]}",
            hint="gsd prepare DATA --fit-features makes features of your own images",
        )


def _channels(n: object) -> str:
    return "1 channel" if n == 1 else f"{n} channels"


def require_grey_or_rgb(channels: int, what: str) -> None:
    """Raise GsdError (exit 3) where a network of photographs is to read images of other than 1 or 3 channels."""
    if channels not in (1, 3):
        raise GsdError(
            f"{what} reads grey or RGB images, these have {_channels(channels)}",
            hint="gsd prepare DATA --fit-features makes features of your own images; give them with --features",
        )


def inception_features(cache: Path, device: torch.device, *, offline: bool) -> InceptionFeatures:
    """Find Inception in the cache or download it; its hash is checked. Exit 4 when it cannot be had."""
    path = cache / "inception" / INCEPTION_FILE
    hint = f"put {INCEPTION_FILE} into {path.parent}, or use --features"
    fetch_file(path, INCEPTION_URL, INCEPTION_SHA256, "Inception, which FID needs,", hint, offline=offline)
    return InceptionFeatures(path.parent, device)


def networks_behind(measure: Measure) -> list[str]:
    """The fingerprints of what a measure calls, where its name does not say what it is: features may be fitted again
    under one name, and a teacher may be read in another way."""
    if isinstance(measure, ClassifierFeatures):
        return [network_fingerprint(measure.net)]
    if isinstance(measure, TeacherFeatures):
        return [model_fingerprint(measure.teacher, measure.autoencoder)]
    return []
