"""A text-conditional generator with random weights, next to its teacher and its prompts."""

from __future__ import annotations

from pathlib import Path

import torch

from gsd_cli.core.models.generator import Generator, save_generator
from gsd_cli.core.models.prompts import Prompts, save_prompts
from gsd_cli.core.models.teacher import load_teacher
from gsd_cli.core.models.teacher_config import read_text_teacher
from gsd_cli.core.models.text_encoder import load_text_encoder
from tests.support import teachers

TEXTS = ("a cat", "two dogs", "a red house")


def build(folder: Path, kind: str) -> Path:
    """A folder with a teacher, its prompts, and a generator that texts change by far."""
    place = teachers.with_text_encoders(folder / "teacher", kind)
    encoder = load_text_encoder(read_text_teacher(place))
    prompts = Prompts(TEXTS, encoder.encode(TEXTS), str(place), encoder.encode_empty())
    teacher = load_teacher(str(place), prompts=save_prompts(folder / "prompts.safetensors", prompts, half=False))
    generator = Generator.from_teacher(teacher.denoiser, 2.5)
    generator.autoencoder = teacher.autoencoder
    with torch.no_grad():
        for name, value in generator.named_parameters():  # random ones change the image by less than a grey level
            if any(part in name for part in ("attn2.to_v", "attn2.to_out", "context_embedder", "add_v_proj")):
                value *= 8
    save_generator(generator, folder / "run", {"teacher": str(place)}, "", half=False, prompts=prompts)
    return folder
