"""The files of a diffusers folder: where they are, by their names only. No heavy imports."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from gsd_cli.base.errors import GsdError
from gsd_cli.base.storage import ASSETS, read_json, read_object
from gsd_cli.catalogue.registry import SHARED_WEIGHTS

STEM = "diffusion_pytorch_model"
SAFE_WEIGHTS = f"{STEM}.safetensors"
BIN_WEIGHTS = f"{STEM}.bin"
SAFE_INDEX = f"{SAFE_WEIGHTS}.index.json"
OTHER_SAFE_WEIGHTS, OTHER_BIN_WEIGHTS = "model.safetensors", "pytorch_model.bin"
"""The names that accelerate and transformers give to weights."""
WEIGHTS = {SAFE_WEIGHTS: True, OTHER_SAFE_WEIGHTS: True, BIN_WEIGHTS: False, OTHER_BIN_WEIGHTS: False}
"""The names of weights in the order of preference, and whether they are safetensors."""
PICKLE = ".pkl"
"""The suffix of a network in NVIDIA's own format (StyleGAN, EDM, SiD): one file is the whole model."""
AUTOENCODERS = ("vqvae", "vae")
UNETS = ("unet_ema", "unet")
"""Folders of the network in the pipeline layout; a training checkpoint also has its moving average."""
NETWORKS = (*UNETS, "transformer")
PARTS = ("", *(f"{name}/" for name in (*NETWORKS, *AUTOENCODERS)))
"""Folders of networks; in the flat layout the network is at the top."""
CONFIGS = ("model_index.json", "scheduler_config.json", "scheduler/*.json", *(f"{part}config.json" for part in PARTS))
INDEX = "model_index.json"
SCHEDULE = "scheduler_config.json"
DAMAGED_HINT = "the files are damaged or do not belong together; fetch them again"
"""The hint for damaged weights."""
_DEEPEST = 3
"""How many folders below the given one a model is looked for: the hub's cache has snapshots/COMMIT/."""


# -- weights ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Weights:
    """The weight files of one network. variant: `fp16` and the like. index: that of sharded weights."""

    files: tuple[Path, ...]
    safe: bool
    variant: str | None = None
    index: Path | None = None

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(path.stat().st_size for path in self.files)

    @property
    def name(self) -> str:
        """Their name in messages."""
        return self.index.name if self.index else self.files[0].name


def find_weights(folder: Path) -> Weights | None:
    """The weights in a network's folder; None without any. Full ones are preferred to variants such as `fp16`.

    A bundled model of SHARED_WEIGHTS has those of another. Raises GsdError (exit 3) where an index is damaged or names
    files that are missing.
    """
    if is_pickle(folder):
        return Weights((folder,), safe=False)
    if folder.parent == ASSETS and folder.name in SHARED_WEIGHTS:
        folder = ASSETS / SHARED_WEIGHTS[folder.name]
    variants = [None, *sorted(_variants(folder), key=lambda name: (name == "non_ema", name))]
    for variant in variants:
        for base, safe in WEIGHTS.items():
            index = folder / _named(f"{base}.index.json", variant)
            if index.is_file():  # diffusers looks for it first
                return Weights(_shards(index), safe, variant, index)
            if (single := folder / _named(base, variant)).is_file():
                return Weights((single,), safe, variant)
    return None


def is_pickle(path: Path) -> bool:
    """Whether a path is a file in NVIDIA's own format."""
    return path.suffix == PICKLE and path.is_file()


def _named(name: str, variant: str | None) -> str:
    """The name of a variant's file: diffusers puts the variant before the last extension."""
    start, _, end = name.rpartition(".")
    return f"{start}.{variant}.{end}" if variant else name


def _variants(folder: Path) -> set[str]:
    found = set()
    for base in WEIGHTS:
        for name in (base, f"{base}.index.json"):
            start, _, end = name.rpartition(".")
            for path in folder.glob(f"{start}.*.{end}"):
                middle = path.name.removeprefix(f"{start}.").removesuffix(f".{end}")
                if "." not in middle and "-of-" not in middle:
                    found.add(middle)
    return found


def _shards(index: Path) -> tuple[Path, ...]:
    """The files that an index names. Raises GsdError (exit 3) where it is damaged or they are missing."""
    names = read_object(index).get("weight_map")
    if not isinstance(names, dict) or not names or not all(isinstance(name, str) for name in names.values()):
        raise GsdError(f"{index} is damaged: it names no files", hint=DAMAGED_HINT)
    pieces = sorted(set(names.values()))
    if strange := [name for name in pieces if Path(name).name != name or "\\" in name]:
        raise GsdError(f"{index} names {strange[0]!r}, which is no file of its folder", hint=DAMAGED_HINT)
    missing = [name for name in pieces if not (index.parent / name).is_file()]
    if missing:
        raise GsdError(
            f"{len(missing)} of the {len(pieces)} files that {index} names are missing, {missing[0]} first",
            hint=DAMAGED_HINT,
        )
    return tuple(index.parent / name for name in pieces)


# -- the parts of a model -----------------------------------------------------------------------


@dataclass(frozen=True)
class ModelFiles:
    """Where the parts of a model are.

    folder: the model's own. network: the folder of the denoising network. schedule: the file of the noise schedule.
    autoencoder: the folder of a latent model's autoencoder. weights: the one file that was asked for, if any.
    """

    folder: Path
    network: Path
    schedule: Path | None
    autoencoder: Path | None
    weights: Path | None = None

    def find_weights(self) -> Weights | None:
        """The network's weights. Raises GsdError (exit 3), see `find_weights`."""
        found = find_weights(self.network)
        if self.weights is None or (found is not None and self.weights in found.files):
            return found
        return Weights((self.weights,), self.weights.suffix == ".safetensors", self.weights.name)


def locate_model(path: Path) -> ModelFiles:
    """The parts of the model that a path means: its folder, the folder around it, its network's, or a file in them.

    A weight file, and one of unet/ and unet_ema/, are taken as named. Otherwise the moving average is preferred.
    Raises GsdError (exit 3) where a folder holds several models, or lacks an autoencoder that its index names.
    """
    if is_pickle(path):
        return ModelFiles(path, path, None, None, path)
    given = path.parent if path.is_file() else path
    weights = path if path.suffix in (".safetensors", ".bin") and path.is_file() else None
    around = Path(os.path.abspath(given)).parent
    named = Path(os.path.abspath(given)).name
    if named in NETWORKS and _is_pipeline(around, besides=named):
        folder, network = given.parent if given.name == named else around, given
    else:
        folder = given if weights else _model_in(given)
        network = next((folder / name for name in NETWORKS if (folder / name).is_dir()), folder)
    autoencoder = next((folder / name for name in AUTOENCODERS if (folder / name).is_dir()), None)
    if autoencoder is None:
        _require_no_autoencoder(folder)
    return ModelFiles(folder, network, _schedule_file(folder), autoencoder, weights)


def read_class_names(folder: Path, count: int | None) -> tuple[str, ...]:
    """The names that the index of a pipeline gives to its `count` classes; () where it does not name all of them."""
    index = folder / INDEX
    parts = read_json(index) if count and index.is_file() else None
    labels = parts.get("id2label") if isinstance(parts, dict) else None
    if not isinstance(labels, dict) or count is None or len(labels) != count:
        return ()
    names = [labels.get(str(k)) for k in range(count)]
    return tuple(name for name in names if isinstance(name, str)) if all(isinstance(n, str) for n in names) else ()


def _is_pipeline(folder: Path, besides: str) -> bool:
    """Whether a folder is that of a pipeline or of a training checkpoint, of which `besides` is one part."""
    parts = ("scheduler", *AUTOENCODERS, *(name for name in NETWORKS if name != besides))
    return (folder / INDEX).is_file() or any((folder / part).is_dir() for part in parts)


def _model_in(folder: Path) -> Path:
    """The folder itself if it holds a model, else the only folder in it that does; itself where there is none."""
    if _holds_model(folder):
        return folder
    found = sorted(_models_below(folder, _DEEPEST))
    if len(found) > 1:
        names = ", ".join(str(one.relative_to(folder)) for one in found[:5])
        raise GsdError(f"{folder} holds {len(found)} models: {names}", hint="give the folder of one of them")
    return found[0] if found else folder


def _holds_model(folder: Path) -> bool:
    names = ("config.json", INDEX, *(f"{name}/config.json" for name in NETWORKS))
    return any((folder / name).is_file() for name in names) or any((folder / name).is_dir() for name in UNETS)


def _models_below(folder: Path, depth: int) -> Iterator[Path]:
    try:
        inner = [path for path in folder.iterdir() if path.is_dir() and not path.name.startswith((".", "__"))]
    except OSError:  # reported when the folder is read
        return
    for path in inner:
        if _holds_model(path):
            yield path
        elif depth > 1:
            yield from _models_below(path, depth - 1)


def _require_no_autoencoder(folder: Path) -> None:
    """Raise GsdError (exit 3) where an index names an autoencoder that is not there: its latents are no images."""
    index = folder / INDEX
    parts = read_json(index) if index.is_file() else {}
    for name in AUTOENCODERS:
        entry = parts.get(name) if isinstance(parts, dict) else None
        if isinstance(entry, list) and any(entry):
            raise GsdError(
                f"{index} names an autoencoder, {name}/, which is not there",
                hint="fetch the whole folder again: without it the model's latents give no images",
            )


def _schedule_file(folder: Path) -> Path | None:
    """The file of the noise schedule; None where there is none."""
    own = [folder / "scheduler" / SCHEDULE, folder / SCHEDULE]
    # a training script writes its last pipeline next to its checkpoint-500/
    whole = Path(os.path.abspath(folder))
    after = [whole.parent / "scheduler" / SCHEDULE] if whole.name.startswith("checkpoint-") else []
    return next((path for path in (*own, *after) if path.is_file()), None)
