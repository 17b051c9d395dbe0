"""The unit of work and of resumption: some pictures in a row, made ready and kept in one file. No torch here."""

from __future__ import annotations

import json
import os
import warnings
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from gsd_cli.base.storage import storage_errors
from gsd_cli.data.decode import Payload, decode, fit_picture
from gsd_cli.data.png import encode_png

MOST_IMAGES, MOST_BYTES, MOST_PIXELS = 128, 4 * 2**20, 16 * 2**20
"""A chunk ends at whichever comes first (bytes read, pixels made): memory stays flat, photographs are saved often."""


@dataclass
class Chunk:
    """What became of the pictures start .. start + count - 1 of a source.

    places, lengths: of the good ones, and of their PNGs in `payload`; bad: (place, cause) of the others;
    total, squares: sums over all pixels of the bytes and of their squares, per channel.
    """

    start: int
    count: int
    places: list[int] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)
    bad: list[tuple[int, str]] = field(default_factory=list)
    total: list[int] = field(default_factory=list)
    squares: list[int] = field(default_factory=list)
    crc: int = 0
    payload: bytes = b""

    def images(self) -> Iterator[tuple[int, bytes]]:
        """(place in the source, PNG) of the good ones."""
        offset = 0
        for place, length in zip(self.places, self.lengths, strict=True):
            yield place, self.payload[offset : offset + length]
            offset += length


def grouped(payloads: Iterator[Payload], start: int, pixels: int) -> Iterator[tuple[int, list[Payload]]]:
    """Payloads in chunks, each with the place of its first; `pixels` is what one becomes, in bytes."""
    group: list[Payload] = []
    most, size = min(MOST_IMAGES, max(1, MOST_PIXELS // pixels)), 0
    for payload in payloads:
        group.append(payload)
        size += _bytes(payload)
        if len(group) == most or size >= MOST_BYTES:
            yield start, group
            start, group, size = start + len(group), [], 0
    if group:
        yield start, group


def _bytes(payload: Payload) -> int:
    if isinstance(payload, bytes):
        return len(payload)
    if isinstance(payload, np.ndarray):
        return payload.nbytes
    try:
        return payload.stat().st_size if isinstance(payload, Path) else 0
    except OSError:
        return 0


def make_chunk(
    folder: Path, start: int, payloads: Sequence[Payload], size: int, channels: int, stopped: Callable[[], bool]
) -> None:
    """Decode, crop, resize and encode; the chunk's file appears whole, or not at all when `stopped`."""
    chunk = Chunk(start, len(payloads))
    total, squares = np.zeros(channels, np.int64), np.zeros(channels, np.int64)
    pngs = []
    with warnings.catch_warnings(action="ignore"):  # Pillow's, of odd metadata
        for place, payload in enumerate(payloads, start):
            if stopped():
                return
            try:
                image = fit_picture(decode(payload), size, channels)
            except Exception as error:  # damaged pictures raise nearly anything
                chunk.bad.append((place, cause_of(error)))
                continue
            sums = _moments(image)
            total += sums[0]
            squares += sums[1]
            pngs.append(encode_png(image))
            chunk.places.append(place)
    chunk.lengths = [len(png) for png in pngs]
    chunk.total, chunk.squares = total.tolist(), squares.tolist()
    chunk.payload = b"".join(pngs)
    chunk.crc = zlib.crc32(chunk.payload)
    _write(folder, chunk)


def _moments(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sums of the bytes of an image [H, W, C], H <= 1024, and of their squares, per channel: int64 [C] each."""
    height, width, channels = image.shape
    rows = image.reshape(height, -1).astype(np.uint16)  # 255^2 fits, and down the columns NumPy adds fast
    sums = (r.sum(0, dtype=np.uint32).reshape(width, channels) for r in (rows, rows * rows))
    total, squares = (s.sum(0, dtype=np.int64) for s in sums)
    return total, squares


def _write(folder: Path, chunk: Chunk) -> None:
    facts = asdict(chunk)
    del facts["payload"]
    path = _file(folder, chunk.start)
    temporary = path.with_name(f".tmp-{os.getpid()}-{path.name}")
    with storage_errors(path):
        # not synced: the checksum tells a file that a power cut left empty
        try:
            with temporary.open("wb") as file:
                file.write(json.dumps(facts).encode() + b"\n")
                file.write(chunk.payload)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


def read_chunk(folder: Path, start: int) -> Chunk | None:
    """The chunk that begins at `start`, or None when it is not there or not whole."""
    try:
        facts, _, payload = _file(folder, start).read_bytes().partition(b"\n")
        chunk = Chunk(**json.loads(facts), payload=payload)
    except (OSError, ValueError, TypeError):
        return None
    return chunk if chunk.start == start and chunk.crc == zlib.crc32(payload) else None


def _file(folder: Path, start: int) -> Path:
    return folder / f"{start:09d}.chunk"


def cause_of(error: Exception) -> str:
    """One short line."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return (str(error).splitlines() or [type(error).__name__])[0][:120]
