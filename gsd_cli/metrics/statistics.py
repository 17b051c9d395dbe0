"""Gaussian statistics of feature vectors, and the Frechet distance between two of them."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gsd_cli.base.atomic import atomic_file
from gsd_cli.base.errors import GsdError

UNNAMED = {512: "clip"}
"""The extractor by feature size, for files that do not name it; any other size is taken for Inception's."""
LARGEST = 2**28
"""Bytes that a file of statistics may unpack to: Inception's take some 50 MB."""
NAMES = (
    ("mu", "sigma"), ("mean", "cov"), ("mu", "cov"), ("mean", "sigma"), ("m", "s"), ("ref_mu", "ref_sigma"),
    ("mu_ref", "sigma_ref"), ("fid_mu", "fid_sigma"), ("fid_mean", "fid_cov"), ("mean", "covariance"),
)  # fmt: skip
"""The names of a mean and a covariance in the files of EDM, clean-fid and guided-diffusion (first), and of others."""
_OWN = ("n", "extractor", "features")
_REMAKE = "make it again: gsd prepare DATA"
_NEEDED = f"an .npz with a mean and a covariance, named {', '.join(' and '.join(pair) for pair in NAMES[:5])}"


@dataclass(frozen=True)
class Statistics:
    """Mean and covariance of N feature vectors, float64, and their source.

    mu: [F]; sigma: [F, F], the unbiased covariance; extractor: the features' name; about: free
    facts (source, split, size, sampler, seeds); features: [M, F] of some of the images, or None.
    """

    mu: np.ndarray
    sigma: np.ndarray
    n: int
    extractor: str
    about: dict[str, str] = field(default_factory=dict)
    features: Tensor | None = None

    def save(self, path: Path) -> Path:
        """Write as .npz with mu, sigma, n, extractor, the facts, and features in half precision."""
        extra = _about(self.about)
        if self.features is not None:
            extra["features"] = self.features.half().cpu().numpy()
        with atomic_file(path) as temporary, temporary.open("wb") as file:
            np.savez(file, mu=self.mu, sigma=self.sigma, n=self.n, extractor=self.extractor, **extra)
        return path

    @classmethod
    def load(cls, path: Path) -> Statistics:
        """Read an .npz with at least a mean and a covariance, under one of the names in NAMES.

        EDM's and clean-fid's files have just these. The reference batches of guided-diffusion have images too, which
        are not read. Raises GsdError (exit 3) when it is missing, damaged or holds something else.
        """
        try:
            names = array_names(path)
            pair = next((pair for pair in NAMES if names.issuperset(pair)), None)
            if pair is None:
                raise ValueError(f"it holds {_list_names(names)}, no mean and covariance")
            known = read_arrays(path, lambda name: name in (*pair, *_OWN) or name.startswith("about_"))
            mu, sigma = known.pop(pair[0]).astype(np.float64), known.pop(pair[1]).astype(np.float64)
        except (OSError, ValueError, TypeError, KeyError, MemoryError) as error:
            raise GsdError(f"cannot read statistics from {path}: {error}", hint=_NEEDED) from error
        mu = mu[0] if mu.ndim == 2 and len(mu) == 1 else mu
        if (
            mu.ndim != 1
            or sigma.shape != (len(mu), len(mu))
            or not (np.isfinite(sigma).all() and np.isfinite(mu).all())
        ):
            shapes = f"{pair[0]} {mu.shape} and {pair[1]} {sigma.shape}"
            raise GsdError(f"{path}: {shapes} are no mean and covariance", hint=_NEEDED)
        about = {k.removeprefix("about_"): str(v) for k, v in known.items() if k.startswith("about_")}
        about |= {"arrays": ", ".join(pair)} if pair != NAMES[0] else {}
        try:
            n, extractor = int(known.get("n", 0)), str(known.get("extractor", UNNAMED.get(len(mu), "inception")))
        except (TypeError, ValueError) as error:
            raise GsdError(f"{path}: its n is no number", hint=_REMAKE) from error
        return cls(mu, sigma, n, extractor, about, _features(path, known.get("features"), len(mu)))


def _about(facts: dict[str, str]) -> dict[str, Any]:
    return {f"about_{key}": value for key, value in facts.items()}


def _features(path: Path, found: np.ndarray | None, size: int) -> Tensor | None:
    if found is None:
        return None
    if found.ndim != 2 or found.shape[1] != size or found.dtype.kind != "f" or not np.isfinite(found).all():
        raise GsdError(f"{path}: features {found.shape} do not belong to a mean of {size} numbers", hint=_REMAKE)
    return torch.from_numpy(found.astype(np.float32))


def array_names(path: Path) -> set[str]:
    """The names of the arrays in an .npz. Raises ValueError or OSError as `read_arrays`."""
    try:
        with zipfile.ZipFile(path) as archive:
            return {name.removesuffix(".npy") for name in archive.namelist()}
    except (OSError, ValueError):
        raise
    except Exception as error:
        raise ValueError(str(error)) from error


def _list_names(names: set[str]) -> str:
    shown = sorted(names)
    return ", ".join(shown[:8]) + (" ..." if len(shown) > 8 else "") or "no arrays"


def read_arrays(path: Path, wanted: Callable[[str], bool] = lambda name: True) -> dict[str, np.ndarray]:
    """The arrays of an .npz by name, of those that are wanted; nothing pickled is read.

    Raises ValueError when it is damaged, too large or something else, OSError when it cannot be read.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            sizes = [one.file_size for one in archive.infolist() if wanted(one.filename.removesuffix(".npy"))]
            if sum(sizes) > LARGEST:
                raise ValueError(f"it unpacks to {sum(sizes):,} bytes")
        with np.load(path, allow_pickle=False) as data:
            return {name: data[name] for name in data.files if wanted(name)}
    except (OSError, ValueError):
        raise
    # numpy reads an array's header with Python's tokenizer and parser, which raise errors of other types
    except Exception as error:
        raise ValueError(str(error)) from error


class Moments:
    """Sums of feature vectors, in float64, memory independent of their number."""

    def __init__(self) -> None:
        self.n = 0
        self._sums: tuple[Tensor, Tensor, Tensor] | None = None

    def add(self, batch: Tensor) -> None:
        """Take in vectors [B, F]."""
        features = batch.detach().cpu().double()
        # sums are taken about the first vector: cancellation would cost digits otherwise
        shift, total, outer = self._sums or (features[0], 0.0, 0.0)
        centred = features - shift
        self._sums = shift, total + centred.sum(0), outer + centred.T @ centred
        self.n += len(features)

    def statistics(self, extractor: str, about: dict[str, str] | None = None) -> Statistics:
        """Mean and unbiased covariance. Raises GsdError (exit 3) for fewer than two vectors: they have none."""
        if self.n < 2 or self._sums is None:
            hint = "a Frechet distance needs at least 2, and wants 10,000"
            raise GsdError(f"{self.n} images have no covariance", hint=hint)
        shift, total, outer = self._sums
        mean = total / self.n
        sigma = (outer - self.n * torch.outer(mean, mean)) / (self.n - 1)
        return Statistics((shift + mean).numpy(), sigma.numpy(), self.n, extractor, about or {})


def gaussian_statistics(batches: Iterable[Tensor], extractor: str, about: dict[str, str] | None = None) -> Statistics:
    """One pass over feature batches [B, F]. Raises GsdError (exit 3) for fewer than two vectors."""
    moments = Moments()
    for batch in batches:
        moments.add(batch)
    return moments.statistics(extractor, about)


def frechet_distance(a: Statistics, b: Statistics) -> float:
    """|mu_a - mu_b|^2 + Tr(S_a + S_b - 2 (S_a S_b)^(1/2)) (Heusel et al. 2017), never below 0.

    Raises GsdError (exit 3) for features of different kinds.
    """
    return distance_to(a)(b)


def distance_to(reference: Statistics) -> Callable[[Statistics], float]:
    """The Frechet distance to `reference` as a function: what depends on the reference alone is computed once.

    The root's trace is taken from eigenvalues of the symmetric S_a^(1/2) S_b S_a^(1/2), which has
    the spectrum of S_a S_b; singular covariances are no special case.
    """
    values, vectors = np.linalg.eigh(reference.sigma)
    root = (vectors * np.sqrt(values.clip(0))) @ vectors.T

    def distance(other: Statistics) -> float:
        if reference.extractor != other.extractor or reference.mu.shape != other.mu.shape:
            ours, theirs = (f"{one.extractor} ({len(one.mu)})" for one in (reference, other))
            raise GsdError(
                f"statistics of {ours} and {theirs} cannot be compared", hint="make both with the same features"
            )
        product = root @ other.sigma @ root
        trace_root = np.sqrt(np.linalg.eigvalsh((product + product.T) / 2).clip(0)).sum()
        squared = np.square(reference.mu - other.mu).sum() + np.trace(reference.sigma) + np.trace(other.sigma)
        return float(max(squared - 2 * trace_root, 0.0))

    return distance
