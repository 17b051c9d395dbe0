"""The files of a diffusers folder: names only, no heavy imports."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from gsd_cli.base.errors import GsdError
from gsd_cli.base.storage import read_object

STEM = "diffusion_pytorch_model"
SAFE_WEIGHTS = f"{STEM}.safetensors"
BIN_WEIGHTS = f"{STEM}.bin"
SAFE_INDEX = f"{SAFE_WEIGHTS}.index.json"
AUTOENCODERS = ("vqvae", "vae")
UNETS = ("unet_ema", "unet")
"""Folders of the network in the pipeline layout; a training checkpoint also has its moving average."""
PARTS = ("", *(f"{name}/" for name in (*UNETS, *AUTOENCODERS)))
"""Folders of networks; in the flat layout the network is at the top."""
CONFIGS = ("model_index.json", "scheduler_config.json", "scheduler/*.json", *(f"{part}config.json" for part in PARTS))
SCHEDULE = "scheduler_config.json"
DAMAGED_HINT = "the files are damaged or do not belong together; fetch them again"
"""The hint for damaged weights."""


@dataclass(frozen=True)
class Weights:
    """The weight files of one network; diffusers finds them by `variant` and `safe`. index: that of sharded weights."""

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

    Raises GsdError (exit 3) where an index is damaged or names files that are missing.
    """
    variants = [None, *sorted(_variants(folder), key=lambda name: (name == "non_ema", name))]
    for variant in variants:
        for safe in (True, False):
            base = SAFE_WEIGHTS if safe else BIN_WEIGHTS
            index = folder / _named(f"{base}.index.json", variant)
            if index.is_file():  # diffusers looks for it first
                return Weights(_shards(index), safe, variant, index)
            if (single := folder / _named(base, variant)).is_file():
                return Weights((single,), safe, variant)
    return None


def network_folder(folder: Path) -> Path:
    """The folder of the denoising network; its moving average is preferred to the network itself."""
    return next((folder / name for name in UNETS if (folder / name).is_dir()), folder)


def schedule_file(folder: Path) -> Path:
    """The file of the noise schedule. Raises GsdError (exit 3) where there is none."""
    own = [folder / "scheduler" / SCHEDULE, folder / SCHEDULE]
    # a training script writes its last pipeline next to its checkpoint-500/
    whole = folder.resolve()
    after = [whole.parent / "scheduler" / SCHEDULE] if whole.name.startswith("checkpoint-") else []
    found = next((path for path in (*own, *after) if path.is_file()), None)
    if found is None:
        place = own[0] if network_folder(folder) != folder else own[1]
        raise GsdError(
            f"{folder} does not say which noise schedule its network was trained with: it has no {SCHEDULE}",
            hint=f"add {place}: the one of the pipeline that the training ended with, or what "
            "DDPMScheduler(...).save_pretrained writes with the training's own arguments",
        )
    return found


def _named(name: str, variant: str | None) -> str:
    """The name of a variant's file: diffusers puts the variant before the last extension."""
    start, _, end = name.rpartition(".")
    return f"{start}.{variant}.{end}" if variant else name


def _variants(folder: Path) -> set[str]:
    found = set()
    for path in folder.glob(f"{STEM}.*"):
        for base in (SAFE_WEIGHTS, BIN_WEIGHTS, f"{SAFE_WEIGHTS}.index.json", f"{BIN_WEIGHTS}.index.json"):
            start, _, end = base.rpartition(".")
            middle = path.name.removeprefix(f"{start}.").removesuffix(f".{end}")
            if path.name == f"{start}.{middle}.{end}" and "." not in middle and "-of-" not in middle:
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
