"""The folder of a teacher that `gsd prepare --fit-teacher` trained: a diffusers model with a card."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gsd_cli.base.atomic import atomic_folder, write_json
from gsd_cli.catalogue.run_layout import CARD
from gsd_cli.core.models.diffusers_folder import save_denoiser
from gsd_cli.core.models.sentence_encoder import save_sentence_encoder
from gsd_cli.core.models.text_encoder import TextEncoder
from gsd_cli.core.training.fit_objectives import OBJECTIVES
from gsd_cli.core.training.fit_teacher import TeacherFit


def save_teacher(
    task: TeacherFit, folder: Path, *, half: bool, features: str | None, encoder: TextEncoder | None = None
) -> Path:  # fmt: skip
    """Write the moving average as a diffusers folder with a card. encoder: of the texts that it was trained with."""
    s, classes, texts = task.settings, task.conditions.classes, task.conditions.prompts
    card = {
        "format": 1,
        "kind": "teacher",
        "name": folder.name,
        "features": features,
        "classes": (task.data.record.get("classes") or []) if classes else [],
        "captions": len(texts.texts) if texts is not None else 0,
        "image_shape": task.data.shape,
        "images": len(task.data),
        "data": task.data.record,
        "fit": s.model_dump(),
        "images_seen": s.steps * s.batch_size,
        "parameters": sum(p.numel() for p in task.net.parameters()),
    }
    with atomic_folder(folder) as temporary:
        save_denoiser(task.denoiser(), temporary, half=half)
        if encoder is not None:
            save_sentence_encoder(encoder, temporary)
        write_json(temporary / CARD, card)
        (temporary / "README.md").write_text(teacher_card(card), encoding="utf-8")
    return folder


def teacher_card(card: dict[str, Any]) -> str:
    """The model card of a fitted teacher."""
    fit, data, (channels, size, _) = card["fit"], card["data"], card["image_shape"]
    seen = f"{fit['steps']} steps of batch {fit['batch_size']} ({card['images_seen']:,} images)"
    texts = card["captions"]
    kind = "A text-conditional" if texts else "A class-conditional" if fit["conditional"] else "An unconditional"
    opener = "UNet2DConditionModel" if texts else "DDPMPipeline"
    captions = f"\n- captions: {texts:,} distinct; the encoder in text_encoder/ reads them" if texts else ""
    return f"""# {card["name"]}

{kind} {OBJECTIVES[fit["objective"]].title} for {size} x {size} images with
{channels} channel(s), {card["parameters"]:,} parameters, trained by `gsd prepare --fit-teacher`.

- data: {data.get("source", "unknown")}, {card["images"]} images, licence {data.get("licence") or "unknown"}{captions}
- training: {seen}, Adam {fit["lr"]:g}, seed {fit["seed"]}
- weights: moving average, half-life {fit["ema_half_life"]:g} images

Open it with `{opener}.from_pretrained`, distil it with
`gsd distill --teacher {card["name"]}`.
"""
