"""What the explorer's page reads: model.json, and directions.bin with the numbers it points to."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from gsd_cli.base.download import file_sha256
from gsd_cli.base.text import plural
from gsd_cli.base.versions import gsd_version
from gsd_cli.core.editing.direction import Direction
from gsd_cli.core.explorer.runtime import BACKENDS, VERSION
from gsd_cli.core.explorer.walk_tables import FRAMES
from gsd_cli.core.models.generator import Model

FORMAT = "gsd-explorer/1"
NUMBERS, MODEL, GENERATOR = "directions.bin", "model.json", "generator.onnx"


@dataclass
class Numbers:
    """Arrays in one file of float32; each is named by its offset in bytes and its number of values."""

    parts: list[bytes] = field(default_factory=list)
    size: int = 0

    def add(self, values: Tensor) -> tuple[int, int]:
        """Append values of any shape; returns (offset, count)."""
        part = values.detach().float().cpu().contiguous().numpy().astype(np.dtype("<f4")).tobytes()
        at = self.size, len(part) // 4
        self.parts.append(part)
        self.size += len(part)
        return at


@dataclass(frozen=True)
class Start:
    """A latent that the page offers: that of a seed, or z [C, H, W] of an image, from the file `source`."""

    title: str
    source: str
    z: Tensor
    seed: int | None = None
    note: str | None = None


@dataclass(frozen=True)
class Slider:
    """A direction with the ends of its slider, under a heading: attributes, classes, learnt or components.

    file: that of `--save-direction` which it comes from; a command names it by this file.
    """

    direction: Direction
    group: str
    low: float
    high: float
    file: str | None = None


@dataclass(frozen=True)
class Content:
    """What a page shows of a model.

    mark: the fingerprint of the weights. label: the class that directions and walks were found with. bottleneck: its
    shape. check: a seed and its image [C, H, W]. walks: fractions by the numbers of two starts.
    """

    model: Model
    mark: str
    label: int | None
    starts: Sequence[Start]
    sliders: Sequence[Slider]
    walks: Mapping[tuple[int, int], list[float]]
    bottleneck: Sequence[int]
    check: tuple[int, Tensor]


def encode_content(content: Content, page: Sequence[str], generator: Path) -> tuple[bytes, bytes]:
    """The bytes of model.json and of directions.bin.

    page: the names of the page's own files. generator: the exported file.
    """
    numbers, model, net = Numbers(), content.model, content.model.generator
    titles = [start.title for start in content.starts]
    about: dict[str, Any] = {
        "format": FORMAT,
        "gsd": gsd_version(),
        "name": Path(model.name).name,
        "command_name": model.name,
        "about": _describe(model),
        "fingerprint": content.mark,
        "latent_shape": list(net.latent_shape),
        "image_shape": list(net.image_shape),
        "bottleneck_shape": list(content.bottleneck),
        "classes": list(model.class_names),
        "class_count": net.denoiser.classes,
        "label": content.label,
        "walk_frames": FRAMES,
        "check": {"seed": content.check[0], "at": numbers.add(content.check[1])},
        "starts": [_list_start(start, numbers) for start in content.starts],
        "directions": [_list_slider(slider, numbers) for slider in content.sliders],
        "walks": [{"ends": [titles[a], titles[b]], "fractions": s} for (a, b), s in content.walks.items()],
        "runtime": VERSION,
    }
    joined = b"".join(numbers.parts)
    about["numbers"] = {"file": NUMBERS, "bytes": numbers.size, "sha256": sha256(joined).hexdigest()}
    about["onnx"] = {"file": GENERATOR, "bytes": generator.stat().st_size, "sha256": file_sha256(generator)}
    about["files"] = _list_files(about, page)
    return json.dumps(about, indent=1).encode() + b"\n", joined


def _describe(model: Model) -> str:
    """A line on the model under the page's title."""
    channels, height, width = model.generator.image_shape
    weights = sum(p.numel() for p in model.generator.parameters())
    size = f"{weights / 1e6:.1f} million" if weights >= 100_000 else f"{weights:,}"
    colour = {1: "grey", 3: "colour"}.get(channels, plural(channels, "channel"))
    taught = f", distilled from {Path(model.teacher).name}" if model.teacher else ""
    kind = "A one-step generator" if model.generator.calls == 1 else f"A {model.generator.calls}-step generator"
    return f"{kind} of {size} weights, {height} × {width} {colour}{taught}. It runs in this page."


def _list_start(start: Start, numbers: Numbers) -> dict[str, Any]:
    if start.seed is not None:
        return {"seed": start.seed}
    return {"title": start.title, "source": start.source, "note": start.note, "at": numbers.add(start.z)}


def _list_slider(slider: Slider, numbers: Numbers) -> dict[str, Any]:
    direction, figures = slider.direction, slider.direction.figures
    share = figures.get("variance_share")
    shown = ", ".join(f"{key} {figures[key]:.2f}" for key in ("auroc", "success", "leakage") if key in figures)
    found = f"{share:.1%} of the variance" if share else shown
    return {
        "name": direction.name,
        "group": slider.group,
        **({"file": slider.file} if slider.file else {}),
        "space": direction.space,
        "scale": direction.scale,
        "low": slider.low,
        "high": slider.high,
        "title": "; ".join(text for text in (f"{direction.how}, in the {direction.space}", found) if text),
        "at": numbers.add(direction.vector),
    }


def _list_files(about: dict[str, Any], page: Sequence[str]) -> list[dict[str, str]]:
    """What the page keeps for use without a network; files whose address names their content end in ?v=."""
    lasting = [{"url": f"{about[key]['file']}?v={about[key]['sha256'][:12]}"} for key in ("onnx", "numbers")]
    runtime = [
        {"url": f"ort/{name}?v={VERSION}", "backend": backend} for backend, names in BACKENDS.items() for name in names
    ]
    return [{"url": url} for url in ("./", *page, MODEL)] + lasting + runtime
