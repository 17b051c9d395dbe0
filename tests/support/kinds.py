"""Small teachers of every kind that gsd reads, with random weights, and generators that are such a teacher."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from diffusers import (
    DDPMScheduler,
    EDMDPMSolverMultistepScheduler,
    EDMEulerScheduler,
    FlowMatchEulerDiscreteScheduler,
    ScoreSdeVeScheduler,
)

from gsd_cli.core.models.condition import Condition
from gsd_cli.core.models.generator import Generator, Model, load_model, save_generator
from gsd_cli.core.models.prompts import Prompts, save_prompts
from gsd_cli.core.models.teacher import Teacher, load_teacher
from tests.support import edm_files, teachers


def flow(folder: Path) -> Path:
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    return teachers.with_scheduler(folder, teachers.unet(teachers.SMALL), scheduler)


def score_sde(folder: Path) -> Path:
    return teachers.with_scheduler(folder, teachers.unet(teachers.NCSNPP), ScoreSdeVeScheduler(sigma_max=50.0))


def learned_sigma(folder: Path) -> Path:
    scheduler = DDPMScheduler(variance_type="learned_range")
    return teachers.with_scheduler(folder, teachers.unet(teachers.SMALL, out_channels=2), scheduler)


def edm(folder: Path) -> Path:
    return teachers.with_scheduler(folder, teachers.unet(teachers.SMALL), EDMEulerScheduler(sigma_data=0.6))


def edm_dpm(folder: Path) -> Path:
    scheduler = EDMDPMSolverMultistepScheduler(prediction_type="v_prediction", solver_order=3)
    return teachers.with_scheduler(folder, teachers.unet(teachers.SMALL), scheduler)


def ddp(folder: Path) -> Path:
    folder.mkdir()
    return teachers.ddp_file(folder / "model-1.pt")


def song(folder: Path) -> Path:
    """The file of a network of EDM's with classes."""
    arguments = {**edm_files.TINY, "img_resolution": 16, "in_channels": 1, "out_channels": 1, "label_dim": 2}
    folder.mkdir()
    edm_files.write_edm(folder / "edm.pkl", arguments=arguments | {"augment_dim": 9})
    return folder / "edm.pkl"


def guided(folder: Path) -> Path:
    folder.mkdir()
    return teachers.guided_file(folder / "x.pt", widths=(32, 32), attends=())


ASSUMED = {"denoising-diffusion-pytorch": "size=16", "guided-diffusion": "eps,linear,size=8,heads=16,order=split"}
"""What `--assume` says of the files of bare weights."""
SIDES = {"guided-diffusion": (8, 8)}  # its norms need 32 channels
FAMILIES: dict[str, Callable[[Path], Path]] = {
    "flow": flow, "learned-sigma": learned_sigma, "dit": teachers.dit_pipeline, "edm": edm, "edm-dpm": edm_dpm,
    "score-sde": score_sde,
    "denoising-diffusion-pytorch": ddp, "guided-diffusion": guided, "edm-file": song,
}  # fmt: skip
"""Writes a small teacher of 16 x 16 images (but for SIDES) into a folder, and returns what `--teacher` takes."""


def text(kind: str) -> Callable[[Path], Path]:
    return lambda folder: teachers.text_pipeline(folder, kind)


def latent(kind: str) -> Callable[[Path], Path]:
    return lambda folder: teachers.latent_pipeline(folder, teachers.unet(teachers.LATENT), kind)


def adm(folder: Path) -> Path:
    """ADM as EDM has it."""
    folder.mkdir()
    edm_files.write_edm(folder / "edm.pkl", "DhariwalUNet", edm_files.ADM)
    return folder / "edm.pkl"


KINDS = {
    **FAMILIES,
    "adm": adm,
    "vq": latent("VQModel"),
    "kl": latent("AutoencoderKL"),
    "SD": text("SD"),
    "SDXL": text("SDXL"),
    "SD3": text("SD3"),
    "FLUX-dev": text("FLUX-dev"),
    "SANA": text("SANA"),
}


SIZES = {"SD": (8, 0), "SDXL": (8, 6), "SD3": (10, 12), "FLUX-dev": (10, 8), "SANA": (8, 0)}
"""The sizes of a token's and of a whole text's vectors."""


def prompts(kind: str, path: Path) -> Path:
    """A file of five random texts for `teachers.text_pipeline`."""
    generator = torch.Generator().manual_seed(3)
    token, whole = SIZES[kind]
    tensors = {"embeddings": torch.randn(5, teachers.TOKENS, token, generator=generator)}
    if whole:
        tensors["pooled"] = torch.randn(5, whole, generator=generator)
    if kind == "SDXL":
        tensors["time_ids"] = torch.full((5, 6), 64.0)
    if kind == "SANA":
        tensors["mask"] = (torch.arange(teachers.TOKENS) < torch.arange(5, 10)[:, None]).float()
    return save_prompts(path, Prompts(tuple("abcde"), Condition(**tensors), "toy"), half=False)


def build_teacher(name: str, folder: Path) -> Teacher:
    """An untrained teacher of a kind, with prompts where it takes texts."""
    place = KINDS[name](folder / "teacher")
    texts = prompts(name, folder / "p.safetensors") if name in SIZES else None
    return load_teacher(str(place), assume=ASSUMED.get(name), prompts=texts)


def store(generator: Generator, teacher: Teacher, folder: Path) -> Model:
    """The generator, written into a folder and read again."""
    card = {"kind": "generator", "classes": list(teacher.class_names)}
    save_generator(generator, folder, card, "# A toy\n", half=False, prompts=teacher.prompts)
    return load_model(str(folder))


def build_model(name: str, folder: Path) -> Model:
    """A generator that is the untrained teacher of a kind."""
    teacher = build_teacher(name, folder)
    return store(Generator(teacher.denoiser, 2.5, teacher.autoencoder), teacher, folder / "generator")
