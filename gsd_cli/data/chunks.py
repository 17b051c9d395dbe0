"""Chunks: consecutive images of a source, prepared together and stored in one file, so that work can resume.

No torch here.
"""

from __future__ import annotations

import json
import os
import warnings
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from gsd_cli.base.storage import storage_errors
from gsd_cli.data.decode import Payload, crop_and_resize, open_stored, to_decoded
from gsd_cli.data.members import encode_member
from gsd_cli.data.raster import Ranges
from gsd_cli.data.remarks import Remarks, add_remarks, pack_remarks

MOST_IMAGES, MOST_BYTES, MOST_PIXELS = 128, 4 * 2**20, 16 * 2**20
"""A chunk ends at whichever limit comes first (bytes read, pixels written), so that memory is bounded."""


@dataclass
class Chunk:
    """The prepared images start .. start + count - 1 of a source.

    places: their indices in the source, without those that could not be read; lengths: the bytes of each file in
    `payload`; bad: (index, cause) of those that could not be read; total, squares: sums of the pixels' bytes and of
    their squares, per channel; crc: of `payload`; made_grey: how many had colours and lost them; remarks: on
    values that do not fit the range, packed.
    """

    start: int
    count: int
    places: list[int] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)
    bad: list[tuple[int, str]] = field(default_factory=list)
    total: list[int] = field(default_factory=list)
    squares: list[int] = field(default_factory=list)
    crc: int = 0
    made_grey: int = 0
    remarks: dict[str, list[float]] = field(default_factory=dict)
    payload: bytes = b""

    def images(self) -> Iterator[tuple[int, bytes]]:
        """(index in the source, file) of each image that could be read."""
        offset = 0
        for place, length in zip(self.places, self.lengths, strict=True):
            yield place, self.payload[offset : offset + length]
            offset += length


def group_payloads(payloads: Iterator[Payload], start: int, pixels: int) -> Iterator[tuple[int, list[Payload]]]:
    """Payloads in groups of one chunk, each with the index of its first; pixels: bytes of one prepared image."""
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
    folder: Path, start: int, payloads: Sequence[Payload], size: int, channels: int, ranges: Ranges,
    stopped: Callable[[], bool],
) -> None:  # fmt: skip
    """Decode, crop, resize and encode images; the chunk's file appears whole, or not at all when `stopped`."""
    chunk = Chunk(start, len(payloads))
    total, squares = np.zeros(channels, np.int64), np.zeros(channels, np.int64)
    pngs = []
    remarks: Remarks = {}
    with warnings.catch_warnings(action="ignore"):  # Pillow warns of odd metadata
        for place, payload in enumerate(payloads, start):
            if stopped():
                return
            try:
                stored = open_stored(payload)
                decoded = to_decoded(stored, ranges)
                image = crop_and_resize(decoded, size, channels)
            except Exception as error:  # damaged images may raise any error
                chunk.bad.append((place, cause_of(error)))
                continue
            sums = _moments(image)
            total += sums[0]
            squares += sums[1]
            pngs.append(encode_member(image))
            chunk.made_grey += channels == 1 and isinstance(decoded, Image.Image) and decoded.mode != "L"
            if stored.raster is not None:
                add_remarks(remarks, stored.raster, place, ranges)
            chunk.places.append(place)
    chunk.lengths = [len(png) for png in pngs]
    chunk.remarks = pack_remarks(remarks)
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
        # not synced: the checksum finds a file that a power cut left empty
        try:
            with temporary.open("wb") as file:
                file.write(json.dumps(facts).encode() + b"\n")
                file.write(chunk.payload)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


def read_chunk(folder: Path, start: int) -> Chunk | None:
    """The chunk that begins at `start`; None when it is missing or damaged."""
    try:
        facts, _, payload = _file(folder, start).read_bytes().partition(b"\n")
        chunk = Chunk(**json.loads(facts), payload=payload)
    except (OSError, ValueError, TypeError):
        return None
    return chunk if chunk.start == start and chunk.crc == zlib.crc32(payload) else None


def _file(folder: Path, start: int) -> Path:
    return folder / f"{start:09d}.chunk"


def cause_of(error: Exception) -> str:
    """The cause of an error in one short line."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return (str(error).splitlines() or [type(error).__name__])[0][:120]
