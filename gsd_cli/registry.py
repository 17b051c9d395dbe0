"""The teachers and models known by name: plain data, no heavy imports."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class TeacherEntry:
    """One known teacher; `hub` is None for the bundled one, `statistics` a name that `gsd bench --stats` takes."""

    hub: str | None
    size: int
    parameters: int
    licence: str
    caution: str | None = None
    statistics: str | None = None


TEACHERS: dict[str, TeacherEntry] = {
    "ddpm-fashion": TeacherEntry(None, 32, 1_722_665, "MIT"),
    "ddpm-cifar10": TeacherEntry(
        "google/ddpm-cifar10-32",
        32,
        35_746_307,
        "Apache-2.0",
        "google/ddpm-cifar10-32 holds the weights before averaging (FID about 12.4, not the paper's 3.17); "
        "averaged ones: --teacher fusing/ddpm-cifar10-ema",
        "cifar10-train",
    ),
    "ddpm-celebahq": TeacherEntry("google/ddpm-ema-celebahq-256", 256, 113_673_219, "Apache-2.0"),
    "ddpm-bedroom": TeacherEntry("google/ddpm-ema-bedroom-256", 256, 113_673_219, "Apache-2.0"),
    "ddpm-church": TeacherEntry("google/ddpm-ema-church-256", 256, 113_673_219, "Apache-2.0", statistics="lsun-church"),
}

BUNDLED_MODELS = ("fashion",)

_FEATURES = {("fashion-mnist", 32, 1): "fashion"}


def bundled_features(record: Mapping[str, Any]) -> str | None:
    """The bundled feature set that fits a data set, by its record's source, size and channels."""
    source = str(record.get("source", "")).partition(" ")[0]
    return _FEATURES.get((source, record.get("size", 0), record.get("channels", 0)))
