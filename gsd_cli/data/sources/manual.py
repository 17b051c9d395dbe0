"""Data sets that gsd knows by name but may not download: where users put their copies."""

from __future__ import annotations

from pathlib import Path

from gsd_cli.base.errors import GsdError
from gsd_cli.data.sources.source import require_split

ORIGINS = {
    "celeba-hq": "the authors of CelebAMask-HQ and of Progressive GAN offer it for non-commercial research",
    "lsun-bedroom": "github.com/fyu/lsun fetches bedroom_train_lmdb",
    "lsun-church": "github.com/fyu/lsun fetches church_outdoor_train_lmdb",
}
"""Where each set comes from."""
LSUN = {"lsun-bedroom": "bedroom", "lsun-church": "church_outdoor"}
"""LSUN's own names."""


def find_manual_set(name: str, split: str, cache: Path) -> Path:
    """The user's copy of a data set, in the cache's folder `datasets`. Raises GsdError: exit 2 (split), 3 (missing)."""
    require_split(name, split, ("train", "val") if name in LSUN else ("train",))
    folder = cache / "datasets"
    stems = [f"{LSUN[name]}_{split}_lmdb"] if name in LSUN else [name]
    for place in [folder / name / stems[0], *(folder / f"{s}{end}" for s in stems for end in ("", ".zip", ".tar"))]:
        if place.exists():
            return place
    raise GsdError(
        f"{name} is not on this machine, and gsd does not fetch it",
        hint=f"{ORIGINS[name]}; put it at {folder / stems[0]}, or give its path: gsd prepare PATH (docs/data.md)",
    )
