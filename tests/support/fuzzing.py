"""The readers of foreign files, each with valid inputs to start from, for property tests and for atheris.

A reader may return, or raise the errors that it declares. Anything else is a bug.
"""

from __future__ import annotations

import io
import json
import shutil
import tarfile
import zipfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from gsd_cli.base.errors import GsdError
from gsd_cli.base.storage import read_json
from gsd_cli.cli.config import resolve
from gsd_cli.cli.flags import MODELS
from gsd_cli.core.editing.direction import Direction
from gsd_cli.core.editing.direction_file import load_direction, save_direction
from gsd_cli.core.latents.files import Anchor, load_anchors, save_anchors
from gsd_cli.core.models.classifier import load_features, save_features
from gsd_cli.core.models.diffusers_folder import load_denoiser
from gsd_cli.core.models.feature_nets import ResidualNet
from gsd_cli.core.models.generator import load_model
from gsd_cli.core.training.checkpoint import CheckpointStore
from gsd_cli.core.training.log import read_metrics
from gsd_cli.data.dataset import ImageArchive
from gsd_cli.data.decode import crop_and_resize, decode
from gsd_cli.data.labels import read_edm, read_labels
from gsd_cli.data.sources.open import open_path
from gsd_cli.metrics.statistics import Statistics
from gsd_cli.options.seeds import parse_seeds
from tests.support.linear import linear

NAMES = ("a/1.png", "b/2.png", "b/3.png")


@dataclass(frozen=True)
class Reader:
    """whole: valid inputs. read: takes any bytes. raises: the errors that it may raise."""

    whole: list[bytes]
    read: Callable[[bytes], object]
    raises: tuple[type[Exception], ...] = (GsdError,)

    def survives(self, payload: bytes) -> None:
        """Read the bytes, and ignore the declared errors."""
        with suppress(*self.raises):
            self.read(payload)


def readers(folder: Path, teacher: Path) -> dict[str, Reader]:
    """All readers, working in `folder`; `teacher` is a toy teacher's folder."""
    return {
        **_json_readers(folder),
        **_model_readers(folder, teacher),
        **_data_readers(folder),
        "metrics": Reader([b'{"step": 1, "loss": 0.5}\n{"step": 2, "loss": null}\n'], _file(folder, "m", read_metrics)),
        "seeds": Reader([b"0-63,100", b"7", b"1-3,5-9"], lambda raw: parse_seeds(raw.decode("latin-1")), (ValueError,)),
        "checkpoint manifest": _checkpoint(folder / "c1", "manifest.json"),
        "checkpoint state": _checkpoint(folder / "c2", "state.json"),
        "checkpoint tensors": _checkpoint(folder / "c3", "tensors.safetensors"),
        "statistics": _statistics(folder),
        "latents": _latents(folder),
        "direction": _direction(folder),
    }


def _file(folder: Path, name: str, read: Callable[[Path], object]) -> Callable[[bytes], object]:
    def from_bytes(payload: bytes) -> object:
        (folder / name).write_bytes(payload)
        return read(folder / name)

    return from_bytes


def _json_readers(folder: Path) -> dict[str, Reader]:
    def config(path: Path) -> object:
        return resolve("distill", MODELS["distill"], {}, MODELS, str(path))

    toml = b'seed = 3\n[distill]\nlr = 1e-4\nirl = "speed"\nsteps = 5\n[sample]\nseeds = "0-3"\n'
    csv = b"name,kind\na/1.png,boot\nb/2.png,bag\nb/3.png,bag\n"
    attributes = b"3\nSmiling Young\n1.png 1 -1\n2.png -1 1\n3.png 1 1\n"
    edm = json.dumps({"labels": [[name, i] for i, name in enumerate(NAMES)]}).encode()
    return {
        "json": Reader([b'{"a": [1, 2.5, null, "x"]}'], _file(folder, "x.json", read_json)),
        "config file": Reader([toml], _file(folder, "c.toml", config)),
        "dataset.json": Reader([edm], lambda raw: read_edm(raw, folder)),
        "labels.json": Reader([edm], _file(folder, "l.json", lambda path: read_labels(path, NAMES))),
        "labels.csv": Reader([csv, attributes], _file(folder, "l.csv", lambda path: read_labels(path, NAMES))),
    }


def _model_readers(folder: Path, teacher: Path) -> dict[str, Reader]:
    copy = folder / "model"
    shutil.copytree(teacher, copy)
    weights = "diffusion_pytorch_model.safetensors"
    card = json.dumps({"sigma_init": 2.5, "teacher": "x", "classes": ["a"], "figures": {"fd": 1.0}, "steps": 3})
    (copy / "gsd.json").write_text(card)
    net = folder / "features"
    net.mkdir()
    save_features(ResidualNet(1, 3), net, {})

    def damaged(name: str, load: Callable[[Path], object], root: Path = copy) -> Reader:
        whole = (root / name).read_bytes()

        def read(payload: bytes) -> None:
            (root / name).write_bytes(payload)
            try:
                load(root)
            finally:
                (root / name).write_bytes(whole)

        return Reader([whole], read)

    return {
        "config.json": damaged("config.json", load_denoiser),
        "scheduler_config.json": damaged("scheduler_config.json", load_denoiser),
        "weights": damaged(weights, load_denoiser),
        "gsd.json": damaged("gsd.json", lambda path: load_model(str(path))),
        "features card": damaged("gsd.json", load_features, net),
        "features": damaged("features.safetensors", load_features, net),
    }


def image_file(kind: str = "png", mode: str = "L") -> bytes:
    """The bytes of a small image file."""
    buffer = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 255, (12, 9, 4), dtype=np.uint8)
    Image.fromarray(pixels).convert(mode).save(buffer, kind)
    return buffer.getvalue()


IMAGE_FILES = [
    image_file("png"), image_file("png", "RGBA"), image_file("png", "P"), image_file("jpeg"),
    image_file("jpeg", "CMYK"), image_file("webp", "RGB"), image_file("bmp"), image_file("gif", "P"),
    image_file("tiff"), image_file("ppm", "RGB"),
]  # fmt: skip


def _data_readers(folder: Path) -> dict[str, Reader]:
    def drained(path: Path) -> None:
        source = open_path(path, "train")
        for payload in source.payloads(range(len(source.names))):
            try:
                decode(payload)
            except (ValueError, OSError):
                continue

    def archive(path: Path) -> None:
        data = ImageArchive(path)
        data.batch(torch.arange(len(data)))

    stored, packed = io.BytesIO(), io.BytesIO()
    with zipfile.ZipFile(stored, "w") as whole:
        for name in NAMES:
            whole.writestr(name, image_file())
        whole.writestr("dataset.json", json.dumps({"labels": [[name, 1] for name in NAMES]}))
        whole.writestr("gsd.json", json.dumps({"mean": [0], "variance": [0.1], "classes": ["x"]}))
    with tarfile.open(fileobj=packed, mode="w") as whole_tar:
        for name in NAMES:
            info = tarfile.TarInfo(name)
            info.size = len(image_file())
            whole_tar.addfile(info, io.BytesIO(image_file()))
    (folder / "s-000000.tar").write_bytes(packed.getvalue())
    index = {"shardlist": [{"url": "s-000000.tar", "nsamples": 3, "filesize": len(packed.getvalue())}], "gsd": {}}
    return {
        "picture": Reader(IMAGE_FILES, lambda raw: crop_and_resize(decode(raw), 8, 3), (ValueError, OSError)),
        "zip": Reader([stored.getvalue()], _file(folder, "z.zip", drained)),
        "tar": Reader([packed.getvalue()], _file(folder, "t.tar", drained)),
        "prepared zip": Reader([stored.getvalue()], _file(folder, "p.zip", archive)),
        "shards": Reader([json.dumps(index).encode()], _file(folder, "s.json", archive)),
    }


def _checkpoint(folder: Path, name: str) -> Reader:
    store = CheckpointStore(folder)
    step = store.save(3, {"a": torch.ones(3), "b": torch.zeros(2, 2)}, {"skipped": 0, "seconds": 1.0})
    whole = (step / name).read_bytes()

    def read(payload: bytes) -> None:
        (step / name).write_bytes(payload)
        store.latest()

    return Reader([whole], read)


def _statistics(folder: Path) -> Reader:
    buffer = io.BytesIO()
    np.savez(buffer, mu=np.zeros(3), sigma=np.eye(3), n=9, extractor="toy", features=np.ones((2, 3), np.float16))
    return Reader([buffer.getvalue()], _file(folder, "s.npz", Statistics.load))


def _latents(folder: Path) -> Reader:
    path = save_anchors(folder / "l.safetensors", [Anchor(torch.zeros(1, 4, 4), {"psnr": 3.0})], "mark")
    return Reader([path.read_bytes()], _file(folder, "l.safetensors", lambda at: load_anchors(at, (1, 4, 4))))


def _direction(folder: Path) -> Reader:
    vector = torch.zeros(1, 8, 8)
    vector[0, 0, 0] = 1
    direction, generator = Direction("smile", "latent", vector, 1.0, "mean", {"auroc": 0.9}), linear()
    path = save_direction(folder / "d.safetensors", direction, "mark", None, (-1.0, 1.0))
    return Reader([path.read_bytes()], _file(folder, "d.safetensors", lambda at: load_direction(at, generator, "mark")))
