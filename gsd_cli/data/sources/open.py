"""Where images come from, told from the path: a folder, a zip, a tar, an LMDB, or files of a known data set."""

from __future__ import annotations

import tarfile
import zipfile
from pathlib import Path

from gsd_cli.base.errors import GsdError
from gsd_cli.data.sources.archive import open_tar, open_zip
from gsd_cli.data.sources.folder import open_folder
from gsd_cli.data.sources.source import Source


def open_path(path: Path, split: str) -> Source:
    """A folder, zip, tar or LMDB of pictures, CIFAR-10's own files, or idx files. Raises GsdError (exit 3)."""
    from gsd_cli.data.sources import known  # known opens what it fetched with this
    from gsd_cli.data.sources import lmdb as lmdb_source

    if lmdb_source.is_lmdb(path):
        return lmdb_source.open_lmdb(path)
    if (found := known.recognise(path, split)) is not None:
        return found
    if path.is_dir():
        return open_folder(path, split)
    if zipfile.is_zipfile(path):
        return open_zip(path, split)
    if tarfile.is_tarfile(path):
        return open_tar(path, split)
    raise GsdError(
        f"{path} is neither a folder, a zip, a tar nor an LMDB", hint="give a folder or an archive of images"
    )
