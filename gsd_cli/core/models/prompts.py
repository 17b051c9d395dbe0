"""Prompts as a text-conditional teacher's own text encoders see them, in one file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from gsd_cli.base.atomic import atomic_file
from gsd_cli.base.errors import GsdError
from gsd_cli.catalogue.prompt_files import PROMPTS_FORMAT, PROMPTS_HINT, find_rows
from gsd_cli.core.models.condition import UNCONDITIONAL, Condition

FORMAT = PROMPTS_FORMAT
_DIMENSIONS = {"embeddings": 3, "mask": 2, "pooled": 2, "time_ids": 2}
_EMPTY = "empty."
"""What the names of the empty text's tensors begin with."""


@dataclass(frozen=True)
class Prompts:
    """Texts, and the condition that they stand for: a row each, float32 on the CPU; teacher: whose encoders made it.

    empty: the condition of the empty text, one row. Files from before it was kept have none.
    """

    texts: tuple[str, ...]
    condition: Condition
    teacher: str
    empty: Condition = UNCONDITIONAL

    def spread(self, count: int) -> Prompts:
        """At most `count` of the prompts, evenly spread over their order: a file may be sorted by what it is about."""
        count = min(count, len(self.texts))
        rows = torch.arange(count) * len(self.texts) // count
        return replace(self, texts=tuple(self.texts[k] for k in rows.tolist()), condition=self.condition.rows(rows))


def read_texts(path: Path) -> list[str]:
    """The lines of a text file that are not empty. Raises GsdError (exit 3) where there are none."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise GsdError(f"cannot read {path}: {error}", hint="give a text file in UTF-8, one prompt per line") from error
    found = [line.strip() for line in lines if line.strip()]
    if not found:
        raise GsdError(f"{path} has no prompts", hint="write one prompt per line")
    return found


def save_prompts(path: Path, prompts: Prompts, *, half: bool) -> Path:
    """Write prompts as safetensors; `half` stores the vectors in float16."""
    tensors = _columns(prompts.condition, half=half)
    tensors |= {f"{_EMPTY}{name}": value for name, value in _columns(prompts.empty, half=half).items()}
    header = {"format": FORMAT, "teacher": prompts.teacher, "prompts": json.dumps(prompts.texts)}
    with atomic_file(path) as temporary:
        save_file(tensors, temporary, metadata=header)
    return path


def _columns(condition: Condition, *, half: bool) -> dict[str, Tensor]:
    """The tensors of a condition by name; `half`: vectors in float16."""
    kind = torch.float16 if half else torch.float32
    found = {name: getattr(condition, name) for name in _DIMENSIONS}
    kinds = {"time_ids": torch.float32}
    return {name: value.to(kinds.get(name, kind)).contiguous() for name, value in found.items() if value is not None}


def load_prompts(path: Path) -> Prompts:
    """Read what `save_prompts` wrote. Raises GsdError (exit 3) where it is missing or damaged."""
    try:
        with safe_open(path, "pt") as file:
            header = file.metadata() or {}
            names = set(file.keys())
            tensors, empty = (
                {name: file.get_tensor(f"{part}{name}").float() for name in _DIMENSIONS if f"{part}{name}" in names}
                for part in ("", _EMPTY)
            )
        if header.get("format") != FORMAT:
            raise ValueError("it holds no prompts")
        texts = json.loads(header["prompts"])
        _require_rows(texts, tensors)
        if empty:
            _require_rows([""], empty)
    except FileNotFoundError as error:
        raise GsdError(f"no such file: {path}", hint=PROMPTS_HINT) from error
    except (OSError, SafetensorError, ValueError, KeyError, RecursionError) as error:
        cause = (str(error).splitlines() or [type(error).__name__])[0][:160]
        raise GsdError(f"{path} is not a file of prompts: {cause}", hint=PROMPTS_HINT) from error
    return Prompts(tuple(texts), Condition(**tensors), str(header.get("teacher", "")), Condition(**empty))


def pick_prompts(path: Path, texts: Sequence[str]) -> Prompts:
    """Those prompts of a file whose texts these are, in their order; all without texts.

    Raises as `load_prompts`, and UsageError for a text that the file does not hold.
    """
    found = load_prompts(path)
    if not texts:
        return found
    rows = torch.tensor(find_rows(path, found.texts, texts))
    return replace(found, texts=tuple(texts), condition=found.condition.rows(rows))


def _require_rows(texts: Sequence[str], tensors: dict[str, Tensor]) -> None:
    """Raise ValueError unless there is a finite row for each text in every tensor."""
    if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
        raise ValueError("it names no prompts")
    if "embeddings" not in tensors:
        raise ValueError("it has no embeddings")
    for name, tensor in tensors.items():
        if tensor.ndim != _DIMENSIONS[name] or len(tensor) != len(texts) or not tensor.numel():
            raise ValueError(f"its {name} have the shape {tuple(tensor.shape)}, for {len(texts)} prompts")
        if not tensor.isfinite().all():
            raise ValueError(f"its {name} are not finite")
    if "mask" in tensors and tensors["mask"].shape != tensors["embeddings"].shape[:2]:
        raise ValueError(f"its mask is of {tensors['mask'].shape[1]} tokens, not {tensors['embeddings'].shape[1]}")
