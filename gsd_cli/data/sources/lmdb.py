"""LMDB files whose values are encoded images: LSUN's official form (keys in order, values WebP)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gsd_cli.base.errors import GsdError
from gsd_cli.data.decode import Payload
from gsd_cli.data.sources.source import Source, identity


def is_lmdb(path: Path) -> bool:
    """Whether a path is an LMDB: a folder with a data.mdb, or a single .mdb or .lmdb file."""
    return (path / "data.mdb").is_file() or (path.is_file() and path.suffix.lower() in (".mdb", ".lmdb"))


def open_lmdb(path: Path) -> Source:
    """One image per value, in the order of the keys. Raises GsdError (exit 3)."""
    data = path / "data.mdb" if path.is_dir() else path
    with _transaction(path) as transaction:
        keys = list(transaction.cursor().iternext(keys=True, values=False))
    if not keys:
        raise GsdError(f"no images in {path}", hint="the LMDB is empty")

    def payloads(places: Sequence[int]) -> Iterator[Payload]:
        with _transaction(path) as transaction:
            for place in places:
                yield transaction.get(keys[place])

    names = [key.decode("ascii", "backslashreplace") for key in keys]
    facts = data.stat()
    return Source(path.resolve().stem, names, payloads, identity((names, facts.st_size, facts.st_mtime_ns)))


@contextmanager
def _transaction(path: Path) -> Iterator[Any]:
    """A read-only transaction, closed at the end."""
    try:
        import lmdb
    except ImportError:
        raise GsdError(f"{path} is an LMDB, which needs lmdb", hint="pip install lmdb") from None
    environment = None
    try:
        environment = lmdb.open(str(path), subdir=path.is_dir(), readonly=True, lock=False, readahead=False)
        _require_whole(path, environment)
        with environment.begin(buffers=False) as transaction:
            yield transaction
    except lmdb.Error as error:
        raise GsdError(f"cannot read {path}: {error}", hint="the LMDB is damaged; fetch it again") from error
    finally:
        if environment is not None:
            environment.close()


def _require_whole(path: Path, environment: Any) -> None:
    # reading past the end of a file cut short would end the process with SIGBUS
    data = path / "data.mdb" if path.is_dir() else path
    wanted = (environment.info()["last_pgno"] + 1) * environment.stat()["psize"]
    if data.stat().st_size < wanted:
        raise GsdError(f"{data} is cut short: {data.stat().st_size:,} of {wanted:,} bytes", hint="fetch it again")
