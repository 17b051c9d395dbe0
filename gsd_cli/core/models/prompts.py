"""Prompts as a text-conditional teacher's own text encoders see them, in one file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from gsd_cli.base.atomic import atomic_file
from gsd_cli.base.errors import GsdError
from gsd_cli.core.models.condition import Condition

FORMAT = "gsd-prompts-1"
_DIMENSIONS = {"embeddings": 3, "pooled": 2, "time_ids": 2}


@dataclass(frozen=True)
class Prompts:
    """Texts, and the condition that they stand for: a row each, float32 on the CPU; teacher: whose encoders made it."""

    texts: tuple[str, ...]
    condition: Condition
    teacher: str

    def head(self, count: int) -> Prompts:
        """The first `count` prompts."""
        return Prompts(self.texts[:count], self.condition.rows(slice(count)), self.teacher)


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
    kind = torch.float16 if half else torch.float32
    condition = prompts.condition
    columns = {"embeddings": condition.embeddings, "pooled": condition.pooled}
    tensors = {name: value.to(kind).contiguous() for name, value in columns.items() if value is not None}
    if condition.time_ids is not None:
        tensors["time_ids"] = condition.time_ids.contiguous()
    header = {"format": FORMAT, "teacher": prompts.teacher, "prompts": json.dumps(prompts.texts)}
    with atomic_file(path) as temporary:
        save_file(tensors, temporary, metadata=header)
    return path


def load_prompts(path: Path) -> Prompts:
    """Read what `save_prompts` wrote. Raises GsdError (exit 3) where it is missing or damaged."""
    try:
        with safe_open(path, "pt") as file:
            header = file.metadata() or {}
            names = set(file.keys())
            tensors = {name: file.get_tensor(name).float() for name in _DIMENSIONS if name in names}
        if header.get("format") != FORMAT:
            raise ValueError("it holds no prompts")
        texts = json.loads(header["prompts"])
        _require_rows(texts, tensors)
    except FileNotFoundError as error:
        raise GsdError(f"no such file: {path}", hint="make it with: gsd prepare PROMPTS.txt --teacher T") from error
    except (OSError, SafetensorError, ValueError, KeyError, RecursionError) as error:
        cause = (str(error).splitlines() or [type(error).__name__])[0][:160]
        hint = "make it with: gsd prepare PROMPTS.txt --teacher T"
        raise GsdError(f"{path} is not a file of prompts: {cause}", hint=hint) from error
    return Prompts(tuple(texts), Condition(**tensors), str(header.get("teacher", "")))


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
