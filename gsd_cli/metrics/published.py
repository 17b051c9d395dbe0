"""Reference statistics that clean-fid publishes (Parmar et al. 2022), by name: `--stats cifar10-train`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from gsd_cli.base.atomic import publish
from gsd_cli.base.download import download
from gsd_cli.base.errors import ExitCode, GsdError
from gsd_cli.metrics.statistics import Statistics

URL = "https://www.cs.cmu.edu/~clean-fid/stats"
INCEPTION = 2048


@dataclass(frozen=True)
class Published:
    """One published file: clean-fid's name of the set, its split, size in pixels and number of images."""

    dataset: str
    split: str
    size: int
    n: int

    @property
    def file(self) -> str:
        """Its name; `clean` is the resize that our Inception features use too."""
        return f"{self.dataset}_clean_{self.split}_{self.size}.npz"


PUBLISHED = {
    "cifar10-train": Published("cifar10", "train", 32, 50_000),
    "cifar10-test": Published("cifar10", "test", 32, 10_000),
    "ffhq-256": Published("ffhq", "trainval70k", 256, 70_000),
    "ffhq-1024": Published("ffhq", "trainval70k", 1024, 70_000),
    "lsun-church": Published("lsun_church", "train", 256, 50_000),
    "lsun-horse": Published("lsun_horse", "train", 256, 50_000),
    "lsun-cat": Published("lsun_cat", "trainfull", 256, 1_657_264),
    "afhq-cat": Published("afhq_cat", "train", 512, 5153),
    "afhq-dog": Published("afhq_dog", "train", 512, 4739),
    "afhq-wild": Published("afhq_wild", "train", 512, 4738),
}


def published_statistics(name: str, cache: Path, *, offline: bool) -> Statistics:
    """Statistics of Inception features, from the cache or downloaded into it.

    No digests are published: a file counts once it reads as 2048 means and their covariance. Raises
    GsdError: exit 4 when it cannot be had, exit 3 when what lies in the cache is something else.
    """
    entry = PUBLISHED[name]
    path = cache / "statistics" / entry.file
    if not path.exists():
        _download(entry, path, offline=offline)
    return replace(_read(path), n=entry.n, about={"source": f"clean-fid's {entry.file}", "size": str(entry.size)})


def _download(entry: Published, path: Path, *, offline: bool) -> None:
    hint = f"put {entry.file} into {path.parent}, or give --stats REF.npz"
    if offline:
        raise GsdError(f"the statistics {entry.file} are not in the cache", hint=hint, code=ExitCode.NETWORK)
    fresh = path.with_name(f".tmp-{path.name}")
    try:
        download(f"{URL}/{entry.file}", fresh)
        _read(fresh)
        publish(fresh, path)
    except (OSError, GsdError) as error:
        if isinstance(error, GsdError) and error.code == ExitCode.STORAGE:
            raise
        raise GsdError(f"cannot download {entry.file}: {error}", hint=hint, code=ExitCode.NETWORK) from error
    finally:
        fresh.unlink(missing_ok=True)


def _read(path: Path) -> Statistics:
    found = Statistics.load(path)
    if len(found.mu) != INCEPTION:
        raise GsdError(f"{path} holds {len(found.mu)} means, Inception has {INCEPTION}", hint="delete it")
    return found
