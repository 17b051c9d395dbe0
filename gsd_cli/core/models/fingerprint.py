"""Hashes that identify a model's weights, or everything a teacher's samples depend on."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from gsd_cli.base.download import file_sha256
from gsd_cli.base.storage import read_object
from gsd_cli.catalogue.bare_files import is_bare
from gsd_cli.catalogue.diffusers_layout import PARTS, Weights, find_weights, locate_model
from gsd_cli.catalogue.run_layout import LATER

if TYPE_CHECKING:
    from torch import nn

    from gsd_cli.core.models.autoencoder import Autoencoder
    from gsd_cli.core.models.denoiser import Denoiser
    from gsd_cli.core.models.teacher import Teacher


def weights_fingerprint(folder: Path) -> str:
    """sha256 over the weight files of a folder (network, autoencoder, network of later calls), 16 hex digits."""
    return _digest_of(find_weights(folder / part) for part in (*PARTS, LATER))


def _digest_of(parts: Iterable[Weights | None]) -> str:
    digest = hashlib.sha256()
    for weights in parts:
        for path in weights.files if weights else ():
            facts = path.stat()
            digest.update(_digest(path, facts.st_size, facts.st_mtime_ns))
    return digest.hexdigest()[:16]


@cache
def _digest(path: Path, size: int, changed: int) -> bytes:
    """The sha256 of a file, computed once per process while its size and time stay: weights may have gigabytes."""
    return bytes.fromhex(file_sha256(path))


def folder_fingerprint(path: Path) -> str:
    """16 hex digits of a teacher's weights and schedule, independent of its folder's name and place.

    path: as `locate_model` takes it, or a file of bare weights. Raises GsdError (exit 3) when a part is damaged.
    """
    if is_bare(path):
        return _digest_of([Weights((path,), safe=False)])
    files, facts = locate_model(path), {}
    if files.schedule is not None:
        facts = {key: value for key, value in read_object(files.schedule).items() if not key.startswith("_")}
    mark = weights_fingerprint(files.folder)
    usual = locate_model(files.folder)
    own, default = files.find_weights(), usual.find_weights()
    if own is not None and default is not None and own.files != default.files:
        # another network than the folder's first choice was asked for
        mark = _digest_of([own, find_weights(files.autoencoder) if files.autoencoder else None])
    stated = sorted((key, str(value)) for key, value in facts.items())
    return hashlib.sha256(repr((mark, stated)).encode()).hexdigest()[:16]


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
    return model_fingerprint(teacher.denoiser, teacher.autoencoder)


def model_fingerprint(model: Denoiser, stage: Autoencoder) -> str:
    """`teacher_fingerprint` of its two parts."""
    facts = (network_fingerprint(model.net), network_fingerprint(stage), stage.scale, model.prediction)
    digest = hashlib.sha256(repr((*facts, stage.shift) if stage.shift else facts).encode())
    digest.update(model.schedule.facts.float().numpy().tobytes())
    if (prompts := model.prompts.mark) is not None:
        digest.update(str(prompts).encode())
    return digest.hexdigest()[:16]
