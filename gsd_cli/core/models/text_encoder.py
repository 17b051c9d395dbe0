"""A teacher's own text encoders: prompts to what its network is conditioned on (`text_families.py` says how)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from gsd_cli.base.errors import GsdError
from gsd_cli.base.storage import read_object
from gsd_cli.core.models.condition import Condition, concatenate
from gsd_cli.core.models.teacher_config import TeacherConfig
from gsd_cli.core.models.text_families import Join, TextFamily, find_family
from gsd_cli.core.models.text_part import GEMMA, HINT, T5, Part, load_part, read_class
from gsd_cli.core.models.text_sizes import TextSizes
from gsd_cli.core.models.unet2d_condition_config import uncropped

FOLDERS = tuple((f"text_encoder{end}", f"tokenizer{end}") for end in ("", "_2", "_3"))
_KINDS = ("*.json", "*.txt", "*.model", "model.safetensors", "model-*.safetensors")
FILES = tuple(f"{name}/{kind}" for pair in FOLDERS for name in pair for kind in _KINDS)
"""What the hub is asked for."""


@dataclass(frozen=True)
class TextEncoder:
    """The text encoders of a teacher. family: how their outputs are joined; sizes: what its network takes; time_ids:
    the size that its images have, for a network that takes it; zeros_for_empty: whether zeros stand for the vectors of
    the empty text."""

    parts: list[Part]
    family: TextFamily
    sizes: TextSizes
    time_ids: tuple[int, ...] | None = None
    zeros_for_empty: bool = False

    def encode(
        self, texts: Sequence[str], batch_size: int = 32, on_text: Callable[[int], None] = lambda done: None
    ) -> Condition:  # fmt: skip
        """The condition of each text, float32 on the CPU. on_text(done) is called with the number of texts done."""
        found = []
        for start in range(0, len(texts), batch_size):
            some = list(texts[start : start + batch_size])
            found.append(self._join(self.family.join, some))
            on_text(start + len(some))
        return concatenate(found)

    def encode_empty(self) -> Condition:
        """The condition of the empty text, one row: what the network was trained with where a prompt was left out.

        SDXL was trained with vectors of zeros in its place, if its folder's index says so.
        """
        found = self._join(self.family.join_empty or self.family.join, [""])
        if not self.zeros_for_empty:
            return found
        assert found.embeddings is not None and found.pooled is not None
        return replace(
            found, embeddings=torch.zeros_like(found.embeddings), pooled=torch.zeros_like(found.pooled)
        )  # fmt: skip

    def too_long(self, texts: Sequence[str]) -> int:
        """How many of the texts are cut because they have more tokens than the encoder that counts takes."""
        part = self.parts[self.family.counted]
        return sum(part.count(text) > part.length for text in texts)

    @torch.no_grad()
    def _join(self, join: Join, texts: list[str]) -> Condition:
        found = join(self.parts, texts, self.sizes)
        if self.time_ids is None:
            return found
        return replace(found, time_ids=torch.tensor([self.time_ids], dtype=torch.float32).repeat(len(texts), 1))


def load_text_encoder(config: TeacherConfig, device: torch.device | str = "cpu") -> TextEncoder:
    """Read the text encoders next to a teacher's network. Nothing in the folder is executed, and no pickle is loaded.

    Raises GsdError: exit 3 where they are missing, damaged, of another kind or do not fit the network; exit 2 without
    the package transformers.
    """
    sizes, folder = config.text_sizes, config.files.folder
    assert sizes is not None
    encoder, parts = folder / FOLDERS[0][0], []
    family = find_family(config.class_name, sizes, read_class(encoder) if encoder.is_dir() else None)
    for k, (names, classes) in enumerate(zip(FOLDERS, family.classes, strict=False)):
        if k >= len(family.classes) - family.optional and not (folder / names[0]).exists():
            continue
        length = family.length(config.network) if classes[0] in (T5, GEMMA) else None
        parts.append(load_part(folder, *names, classes, length, device))
    width, whole = family.sizes([part.net.config for part in parts], sizes)
    if (width, whole) != (sizes.token, sizes.whole):
        raise GsdError(f"the text encoders in {folder} give vectors of {width}, its network takes {sizes}", hint=HINT)
    if not sizes.image:
        return TextEncoder(parts, family, sizes)
    return TextEncoder(parts, family, sizes, uncropped(config.network), _has_zeros_for_empty(folder))


def _has_zeros_for_empty(folder: Path) -> bool:
    """Whether an SDXL's index says that zeros stand for the empty text, as its pipeline assumes by default."""
    index = folder / "model_index.json"
    return not index.exists() or bool(read_object(index).get("force_zeros_for_empty_prompt", True))
