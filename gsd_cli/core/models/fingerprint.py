"""Hashes that identify a model's weights, or everything a teacher's samples depend on."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from gsd_cli.base.download import file_sha256
from gsd_cli.base.storage import read_object
from gsd_cli.catalogue.diffusers_layout import PARTS, find_weights, schedule_file

if TYPE_CHECKING:
    from torch import nn

    from gsd_cli.core.models.teacher import Teacher


def weights_fingerprint(folder: Path) -> str:
    """sha256 over the weight files of a diffusers folder (network and autoencoder), 16 hex digits."""
    digest = hashlib.sha256()
    for part in PARTS:
        weights = find_weights(folder / part)
        for path in weights.files if weights else ():
            facts = path.stat()
            digest.update(_digest(path, facts.st_size, facts.st_mtime_ns))
    return digest.hexdigest()[:16]


@cache
def _digest(path: Path, size: int, changed: int) -> bytes:
    """The sha256 of a file, computed once per process while its size and time stay: weights may have gigabytes."""
    return bytes.fromhex(file_sha256(path))


def folder_fingerprint(folder: Path) -> str:
    """16 hex digits of a teacher's weights and schedule, independent of its folder's name and place.

    Raises GsdError (exit 3) when the schedule is missing or damaged.
    """
    schedule = read_object(schedule_file(folder))
    facts = sorted((key, str(value)) for key, value in schedule.items() if not key.startswith("_"))
    return hashlib.sha256(repr((weights_fingerprint(folder), facts)).encode()).hexdigest()[:16]


def network_fingerprint(net: nn.Module) -> str:
    """The first 16 hex digits of the sha256 of a network's weights in float16, in name order.

    float16 so that weights stored at half precision have the same hash after they are read back as float32.
    """
    digest = hashlib.sha256()
    for name, value in sorted(net.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().half().numpy().tobytes())
    return digest.hexdigest()[:16]


def teacher_fingerprint(teacher: Teacher) -> str:
    """16 hex digits of everything a teacher's samples depend on: networks, prediction type, noise levels."""
    model, stage = teacher.denoiser, teacher.autoencoder
    facts = (network_fingerprint(model.net), network_fingerprint(stage), stage.scale, model.prediction)
    digest = hashlib.sha256(repr(facts).encode())
    digest.update(model.schedule.alphas_bar.float().numpy().tobytes())
    return digest.hexdigest()[:16]
