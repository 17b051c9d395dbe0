"""Opening a source of images: a data set known by name, one of the Hugging Face hub, or files on disk."""

from __future__ import annotations

import tarfile
import zipfile
from pathlib import Path

from gsd_cli.base.errors import GsdError
from gsd_cli.catalogue.find import require_source
from gsd_cli.data.sources.archive import open_tar, open_zip
from gsd_cli.data.sources.arrays import SUFFIXES as ARRAYS
from gsd_cli.data.sources.arrays import open_stack
from gsd_cli.data.sources.cifar10 import batch_reader, open_cifar10, open_cifar10_files
from gsd_cli.data.sources.folder import open_folder
from gsd_cli.data.sources.hub import open_hub
from gsd_cli.data.sources.idx import is_idx_folder, open_fashion_mnist, open_idx
from gsd_cli.data.sources.lmdb import is_lmdb, open_lmdb
from gsd_cli.data.sources.manual import ORIGINS, find_manual_set
from gsd_cli.data.sources.shards import open_shards
from gsd_cli.data.sources.source import Source
from gsd_cli.data.sources.splits import DEFAULT, require_no_split

DOWNLOADED = {"fashion-mnist": open_fashion_mnist, "cifar10": open_cifar10}
"""Data sets by name that gsd may download."""


def open_source(source: str, split: str, cache: Path, *, offline: bool) -> Source:
    """A known name, hf:OWNER/NAME, or a path. Raises GsdError: exit 2 (split), 3 (nothing there), 4 (network)."""
    if source in DOWNLOADED:
        return DOWNLOADED[source](split, cache, offline=offline)
    if source in ORIGINS:
        return open_path(find_manual_set(source, split, cache), DEFAULT)  # the file is the split
    if source.startswith("hf:"):
        return open_hub(source.removeprefix("hf:"), split, offline=offline)
    require_source(source)
    return open_path(Path(source), split)


def open_path(path: Path, split: str) -> Source:
    """A folder, zip, tar, LMDB or array of images, an index of shards, CIFAR-10's own files, or IDX files.

    Raises GsdError: exit 2 (split), 3 (nothing there).
    """
    if is_lmdb(path):
        require_no_split(split, path)
        return open_lmdb(path)
    if batch_reader(path) is not None:
        return open_cifar10_files(path, split)
    if is_idx_folder(path, split):
        return open_idx(path, split, path.resolve().name)
    if path.is_dir():
        return open_folder(path, split)
    if path.suffix.lower() in ARRAYS:
        return open_stack(path, split)
    if path.suffix.lower() == ".json":
        require_no_split(split, path)
        return open_shards(path)
    if zipfile.is_zipfile(path):
        return open_zip(path, split)
    if tarfile.is_tarfile(path):
        return open_tar(path, split)
    raise GsdError(
        f"{path} is neither a folder, a zip, a tar, an array nor an LMDB", hint="give a folder or an archive of images"
    )
