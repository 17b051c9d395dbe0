"""Where images come from: known data sets, folders, zips and tars, one record at a time."""

from __future__ import annotations

import gzip
import io
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image, ImageOps

from gsd_cli.errors import ExitCode, GsdError

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"}
MAX_PIXELS = 100_000_000
MAX_MEMBER_BYTES = 512 * 2**20
DEBIAN_FASHION = Path("/usr/share/datasets/fashion-mnist")
FASHION_CLASSES = (
    "t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle-boot",
)  # fmt: skip


@dataclass(frozen=True)
class Record:
    """One picture not yet decoded: its name for messages, how to open it, its label if known."""

    name: str
    open: Callable[[], Image.Image]
    label: int | None = None


@dataclass(frozen=True)
class Source:
    """A data set to prepare."""

    name: str
    records: Callable[[], Iterator[Record]]
    total: int
    classes: tuple[str, ...] = ()
    licence: str | None = None


def open_source(source: str, split: str, cache: Path, *, offline: bool) -> Source:
    """A known name or a path. Raises GsdError: exit 3 (nothing there), 4 (needs the network)."""
    if source == "fashion-mnist":
        return _fashion_mnist(split, cache, offline)
    path = Path(source)
    if path.is_dir():
        return _folder(path)
    if path.is_file():
        if zipfile.is_zipfile(path):
            return _zip(path)
        if tarfile.is_tarfile(path):
            return _tar(path)
        raise GsdError(f"{path} is neither a folder, a zip nor a tar", hint="give a folder or an archive of images")
    raise GsdError(
        f"no such data set or path: {source}",
        hint="known names: fashion-mnist; or give a folder, zip or tar of images",
    )


def decode(payload: bytes | Path) -> Image.Image:
    """Open a picture upright, in mode L or RGB, alpha laid on white; whatever mode it was stored in.

    Raises ValueError or OSError when it is not a picture or is absurdly large.
    """
    stream = payload if isinstance(payload, Path) else io.BytesIO(payload)
    try:
        return _decode(stream)
    # what Pillow's plugins let through from a damaged file
    except (SyntaxError, EOFError, struct.error, zlib.error, Image.DecompressionBombError) as error:
        raise ValueError(str(error)) from error


def _decode(stream: Path | io.BytesIO) -> Image.Image:
    with Image.open(stream) as opened:
        if opened.width * opened.height > MAX_PIXELS:
            raise ValueError(f"{opened.width} x {opened.height} is more than {MAX_PIXELS:,} pixels")
        opened.load()
        picture: Image.Image = ImageOps.exif_transpose(opened)
        if picture.mode in ("I", "I;16", "I;16B", "I;16L", "F"):
            wide = np.asarray(picture, dtype=np.float64)
            # only I;16 says how wide it is; in I and F the values must tell
            top = 65535 if picture.mode.startswith("I;16") or wide.max() > 255 else 255
            return Image.fromarray((wide.clip(0, top) * (255 / top)).round().astype(np.uint8))
        if picture.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in picture.info:
            rgba = picture.convert("RGBA")
            picture = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
        return picture.convert("L" if picture.mode in ("1", "L") else "RGB")


def _fashion_mnist(split: str, cache: Path, offline: bool) -> Source:
    if split not in ("train", "test"):
        raise GsdError(f"fashion-mnist has no split {split!r}", hint="train or test", code=ExitCode.USAGE)
    stem = "train" if split == "train" else "t10k"
    folder = _fashion_folder(cache, offline)
    images = _read_idx(folder / f"{stem}-images-idx3-ubyte.gz")
    labels = _read_idx(folder / f"{stem}-labels-idx1-ubyte.gz")

    def records() -> Iterator[Record]:
        for i, (image, label) in enumerate(zip(images, labels, strict=True)):
            yield Record(f"fashion-mnist/{split}/{i}", partial(Image.fromarray, image), int(label))

    return Source(f"fashion-mnist ({split})", records, len(images), FASHION_CLASSES, "MIT")


def _fashion_folder(cache: Path, offline: bool) -> Path:
    downloaded = cache / "datasets" / "FashionMNIST" / "raw"
    for folder in (DEBIAN_FASHION, downloaded):
        if (folder / "train-images-idx3-ubyte.gz").exists() and (folder / "t10k-labels-idx1-ubyte.gz").exists():
            return folder
    hint = "on Debian: apt install dataset-fashion-mnist"
    if offline:
        raise GsdError("fashion-mnist is not on this machine (--offline)", hint=hint, code=ExitCode.NETWORK)
    from torchvision.datasets import FashionMNIST

    try:
        FashionMNIST(cache / "datasets", download=True)
    except (OSError, RuntimeError) as error:
        raise GsdError(f"cannot download fashion-mnist: {error}", hint=hint, code=ExitCode.NETWORK) from error
    return downloaded


def _read_idx(path: Path) -> np.ndarray:
    """A gzipped IDX file of unsigned bytes (LeCun's format): uint8, the shape it declares."""
    try:
        payload = gzip.decompress(path.read_bytes())
        dimensions = payload[3]
        shape = np.frombuffer(payload, ">i4", dimensions, 4)
        return np.frombuffer(payload, np.uint8, -1, 4 + 4 * dimensions).reshape(shape)
    except (OSError, EOFError, IndexError, ValueError) as error:
        raise GsdError(f"cannot read {path}: {error}", hint="the file is damaged; fetch it again") from error


def _folder(root: Path) -> Source:
    files = sorted(_walk(root))
    if not files:
        raise GsdError(f"no images in {root}", hint=f"looked for {', '.join(sorted(SUFFIXES))}")
    classes = _classes([p.relative_to(root).parts for p in files])

    def records() -> Iterator[Record]:
        for path in files:
            parts = path.relative_to(root).parts
            yield Record(str(path), partial(decode, path), _label(parts, classes))

    return Source(root.name, records, len(files), classes)


def _walk(root: Path) -> Iterator[Path]:
    # rglob does not follow links to folders, so loops of links end here
    for path in root.rglob("*"):
        if path.suffix.lower() in SUFFIXES and path.is_file() and not _hidden(path.relative_to(root).parts):
            yield path


def _hidden(parts: tuple[str, ...]) -> bool:
    return any(part == "__MACOSX" or (part.startswith(".") and part != "..") for part in parts)


def _zip(path: Path) -> Source:
    with _readable(path), zipfile.ZipFile(path) as archive:
        members = {i.filename: i.file_size for i in archive.infolist() if not i.is_dir()}
    names = _members(path, members)
    classes = _classes([_parts(n) for n in names])

    def records() -> Iterator[Record]:
        with zipfile.ZipFile(path) as archive:
            for name in names:
                yield Record(f"{path}:{name}", partial(_from_zip, archive, name), _label(_parts(name), classes))

    return Source(path.stem, records, len(names), classes)


def _tar(path: Path) -> Source:
    with _readable(path), tarfile.open(path) as archive:
        members = {m.name: m.size for m in archive.getmembers() if m.isfile()}
    names = _members(path, members)
    classes = _classes([_parts(n) for n in names])

    def records() -> Iterator[Record]:
        with tarfile.open(path) as archive:
            for name in names:
                yield Record(f"{path}:{name}", partial(_from_tar, archive, name), _label(_parts(name), classes))

    return Source(path.name.split(".")[0], records, len(names), classes)


def _from_zip(archive: zipfile.ZipFile, name: str) -> Image.Image:
    try:
        payload = archive.read(name)
    except (zipfile.BadZipFile, zlib.error, RuntimeError) as error:  # RuntimeError: encrypted, unknown compression
        raise ValueError(str(error)) from error
    return decode(payload)


def _from_tar(archive: tarfile.TarFile, name: str) -> Image.Image:
    try:
        member = archive.extractfile(name)
        payload = member.read() if member else b""
    except (tarfile.TarError, EOFError, zlib.error) as error:
        raise ValueError(str(error)) from error
    return decode(payload)


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except (zipfile.BadZipFile, tarfile.TarError, EOFError, zlib.error) as error:
        raise GsdError(f"cannot read {path}: {error}", hint="the archive is damaged; fetch it again") from error


def _members(path: Path, members: dict[str, int]) -> list[str]:
    """The image members of an archive, in order. Nothing is extracted; absurd sizes are refused."""
    names = sorted(n for n in members if Path(n).suffix.lower() in SUFFIXES and not _hidden(_parts(n)))
    if not names:
        raise GsdError(f"no images in {path}", hint=f"looked for {', '.join(sorted(SUFFIXES))}")
    for name in names:
        if members[name] > MAX_MEMBER_BYTES:
            raise GsdError(f"{path}: {name} claims {members[name]:,} bytes", hint="refused as a decompression bomb")
    return names


def _parts(name: str) -> tuple[str, ...]:
    # tar writes ./a.png: the dot is no folder
    return PurePosixPath(name).parts


def _classes(parts: list[tuple[str, ...]]) -> tuple[str, ...]:
    """Class names from the top-level folders, when every image lies in one of several."""
    tops = {p[0] for p in parts if len(p) > 1}
    if len(tops) < 2 or any(len(p) < 2 for p in parts):
        return ()
    return tuple(sorted(tops))


def _label(parts: tuple[str, ...], classes: tuple[str, ...]) -> int | None:
    return classes.index(parts[0]) if classes else None
