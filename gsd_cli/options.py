"""The options of every subcommand: one frozen model each, the single source of flags, help, defaults,
environment variables, config keys and a run's options.json. No heavy imports here."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)
from pydantic.config import JsonDict

from gsd_cli.seeds import SeedList

Share = Annotated[float, Field(ge=0, le=1)]
Beta = Annotated[float, Field(ge=0, lt=1)]
NonNegativeFloat = Annotated[float, Field(ge=0, allow_inf_nan=False)]


def _device(value: str) -> str:
    if not re.fullmatch(r"auto|cpu|mps|cuda(:\d{1,3})?", value):
        raise ValueError(f"{value!r} is no device; use auto, cpu, cuda, cuda:1 or mps")
    return value


def _finite(value: float) -> float:
    if not math.isfinite(value):
        raise ValueError(f"must be a finite number, not {value}")
    return value


Device = Annotated[str, AfterValidator(_device)]
Positive = Annotated[PositiveFloat, AfterValidator(_finite)]
Finite = Annotated[float, AfterValidator(_finite)]


def opt(default: Any, help: str, *, panel: str = "Options", short: str | None = None, metavar: str = "") -> Any:
    """A field that is an option: its help, panel, short flag and metavar."""
    extra: JsonDict = {"panel": panel, "short": short, "metavar": metavar}
    return Field(default, description=help, json_schema_extra=extra)


def argument(default: Any, help: str, metavar: str) -> Any:
    """A field that is a positional argument."""
    return Field(default, description=help, json_schema_extra={"argument": True, "metavar": metavar})


MODEL = opt(None, "A run, a generator folder or a bundled name; default: newest run, else bundled.", metavar="MODEL")
CLASS = Field(
    None,
    alias="class",
    description="The class to make, by number or name, of a class-conditional model.",
    json_schema_extra={"panel": "Options", "short": None, "metavar": "K"},
)


class Common(BaseModel):
    """Options that every subcommand takes."""

    # by name too: from Python an option is class_, in a file it is class
    model_config = ConfigDict(
        frozen=True, defer_build=True, extra="forbid", validate_by_name=True, validate_by_alias=True
    )

    device: Device = opt("auto", "Where to compute: auto, cpu, cuda, cuda:1, mps.", panel="Common", metavar="DEVICE")
    precision: Literal["auto", "fp32", "bf16", "fp16"] = opt(
        "auto", "Arithmetic of the networks; auto is bf16 on a GPU that has it, else fp32.", panel="Common"
    )
    batch_size: PositiveInt = opt(64, "Images computed at a time.", panel="Common")
    seed: NonNegativeInt = opt(0, "Seed of everything random that --seeds does not name.", panel="Common")
    offline: bool = opt(False, "Never use the network.", panel="Common")
    cache_dir: Path | None = opt(None, "Where caches live.", panel="Common", metavar="DIR")
    json_: bool = Field(
        default=False,
        alias="json",
        description="Print one JSON object on stdout instead of paths.",
        json_schema_extra={"panel": "Common", "short": None, "metavar": ""},
    )
    show: bool = opt(False, "Show the picture on the terminal.", panel="Common")
    quiet: bool = opt(False, "Nothing on stderr but errors.", panel="Common", short="-q")
    verbose: bool = opt(False, "More on stderr.", panel="Common", short="-v")


class FitSettings(BaseModel):
    """How a small DDPM is trained on images."""

    model_config = ConfigDict(frozen=True, defer_build=True)

    architecture: Literal["tiny", "small", "base"] = "small"
    steps: PositiveInt = 20_000
    batch_size: PositiveInt = 64
    lr: Positive = 1e-3
    warmup_steps: NonNegativeInt = 500
    decay: Share = 0.25
    clip_grad: Positive = 1.0
    ema_half_life: Positive = 50_000
    conditional: bool = False
    seed: NonNegativeInt = 0


class PrepareOptions(Common):
    """Turn images into a data set, reference statistics and, if asked, a teacher."""

    source: str = argument(
        ...,
        "cifar10, fashion-mnist, celeba-hq, lsun-bedroom, lsun-church, hf:OWNER/NAME, "
        "or a folder, zip, tar or LMDB of images.",
        "SOURCE",
    )
    output: Path | None = opt(
        None, "The zip to write, or with --shards their index; default SOURCE.zip.", short="-o", metavar="DATA.zip"
    )
    size: Annotated[int, Field(ge=8, le=1024, multiple_of=8)] = opt(32, "Side of the pictures, in pixels.")
    grey: bool | None = opt(None, "One channel instead of three; default: as the source is.")
    split: str = opt("train", "Which part of a known data set: train, test or val.", metavar="NAME")
    limit: PositiveInt | None = opt(None, "Stop after this many images.")
    labels: Path | None = opt(
        None,
        "Labels: a CSV of name,label, list_attr_celeba.txt, or EDM's dataset.json; default: the folders' names.",
        metavar="FILE",
    )
    shards: Annotated[int, Field(ge=1, le=999_999)] | None = opt(
        None, "Write this many WebDataset tars and their index DATA.json instead of one zip.", metavar="N"
    )
    workers: PositiveInt | None = opt(None, "Processes that decode and resize; default: one a core.", metavar="N")
    skip_bad: bool = opt(False, "Leave out pictures that cannot be read instead of stopping.")
    force: bool = opt(False, "Overwrite a data set that is already there.")
    fit_teacher: Literal["tiny", "small", "base"] | None = opt(
        None, "Train a DDPM of this size on the data: a teacher for gsd distill.", panel="Training"
    )
    conditional: bool = opt(False, "Make the teacher class-conditional: needs labelled data.", panel="Training")
    fit_features: bool = opt(
        False, "Train a small classifier on the labels: features for Frechet distances.", panel="Training"
    )
    fit_steps: PositiveInt | None = opt(None, "Training steps of what is fitted.", panel="Training")
    fit_lr: Positive | None = opt(None, "Learning rate of the teacher.", panel="Training")
    weights: Literal["fp32", "fp16"] = opt("fp32", "How the weights are stored.", panel="Training")


class DistillSettings(BaseModel):
    """The mathematics of a distillation: what a resumed run must agree on."""

    model_config = ConfigDict(frozen=True, defer_build=True, extra="forbid")

    seed: NonNegativeInt = 0
    batch_size: PositiveInt = 64
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    alpha: Annotated[Finite, Field(ge=0)] = opt(1.0, "The alpha of score identity distillation.", panel="Method")
    sidl_weight: NonNegativeFloat = opt(
        1.0, "Weight of the distillation loss; 0 is the paper's ablation.", panel="Method"
    )
    irl: Literal["speed", "stress", "literal", "jacobian", "off"] = opt(
        "speed", "Form of the isometric term.", panel="Method"
    )
    irl_weight: Literal["auto"] | NonNegativeFloat = opt(
        "auto", "Weight of the isometric term; auto holds --irl-ratio.", panel="Method", metavar="auto|X"
    )
    irl_ratio: NonNegativeFloat = opt(
        1.0, "Gradient norm of the isometric term over the distillation's.", panel="Method"
    )
    irl_every: PositiveInt = opt(1, "Isometric term every so many steps, its weight scaled to match.", panel="Method")
    irl_phi: Literal["teacher", "lpips", "pixels"] = opt(
        "teacher", "Features that the isometric term measures pictures in.", panel="Method"
    )
    tau_min: Positive = opt(0.05, "Smallest angle of a pair, radians.", panel="Method")
    tau_max: Positive = opt(0.5, "Largest angle of a pair, radians.", panel="Method")
    sigma_init: Positive = opt(2.5, "Noise level at which the generator calls its network.", panel="Method")
    noise: Literal["auto", "ddpm", "edm"] = opt(
        "auto", "Noise levels: ddpm (uniform t, the choice for discrete teachers) or edm.", panel="Method"
    )
    t_min: NonNegativeInt = opt(20, "Smallest timestep of the distillation.", panel="Method")
    t_max: PositiveInt = opt(793, "Largest timestep of the distillation.", panel="Method")
    adversarial: NonNegativeFloat = opt(
        0.0, "Weight of an adversarial term against --data, after SiDA; 0 is off.", panel="Method"
    )
    fake_steps: PositiveInt = opt(1, "Fake-score updates per generator update.", panel="Optimizer")
    lr: Positive = opt(1e-4, "Adam's learning rate.", panel="Optimizer")
    fake_lr: Positive | None = opt(None, "Adam's learning rate for the fake score; default --lr.", panel="Optimizer")
    beta1: Beta = opt(0.0, "Adam's first beta.", panel="Optimizer")
    beta2: Beta = opt(0.999, "Adam's second beta.", panel="Optimizer")
    fake_beta1: Beta | None = opt(None, "The same for the fake score; default --beta1.", panel="Optimizer")
    fake_beta2: Beta | None = opt(None, "The same for the fake score; default --beta2.", panel="Optimizer")
    warmup: NonNegativeFloat = opt(0.0, "Thousand images over which learning rates rise from 0.", panel="Optimizer")
    clip_grad: NonNegativeFloat = opt(0.0, "Clip gradient norms here; 0 is off.", panel="Optimizer")
    micro_batch: PositiveInt | None = opt(
        None, "Images at a time through the networks: less memory, the same result.", panel="Optimizer"
    )
    recompute: bool = opt(
        False, "Recompute activations in backward passes: less memory, about a third slower.", panel="Optimizer"
    )
    compile: bool = opt(False, "Compile the networks: worth it on a GPU, for long runs.", panel="Optimizer")
    reuse_images: bool = opt(
        False,
        "Show the fake score the generator step's own images instead of fresh ones: a call less.",
        panel="Optimizer",
    )
    dropout: Annotated[float, Field(ge=0, lt=1)] = opt(0.0, "Dropout of generator and fake score.", panel="Optimizer")
    ema_half_life: Positive = opt(
        50_000, "Half-life of the moving average, in images; ramped up from the start.", panel="Optimizer"
    )


PRESETS: dict[str, dict[str, Any]] = {
    "quick": {"kimg": 11, "lr": 1e-4},
    "standard": {"kimg": 100, "lr": 1e-4},
    "paper": {"epochs": 100, "lr": 1e-4},
    "sid": {"kimg": 400_000, "batch_size": 256, "lr": 1e-5, "alpha": 1.2, "ema_half_life": 500_000},
}
"""Defaults of `--preset`; any flag, variable or config key wins over them."""


class DistillOptions(Common, DistillSettings):
    """Distil a teacher into a one-step generator."""

    teacher: str = opt("ddpm-fashion", "A name, a diffusers folder or a hub id.", metavar="NAME|FOLDER|HUB_ID")
    revision: str | None = opt(None, "Branch, tag or commit of a hub teacher.", metavar="REVISION")
    list_teachers: bool = opt(False, "Show the teachers known by name, and stop.")
    data: Path | None = opt(None, "Prepared real images, to measure against.", metavar="DATA.zip")
    features: str | None = opt(
        None,
        "Features of the Frechet distance: a folder made by --fit-features; default: the teacher's.",
        metavar="DIR",
    )
    output: Path | None = opt(None, "The run folder; default runs/TEACHER-PRESET.", short="-o", metavar="RUN")
    preset: Literal["quick", "standard", "paper", "sid"] = opt("quick", "A set of defaults.")
    kimg: Positive | None = opt(None, "Length of the run in thousand images.")
    steps: PositiveInt | None = opt(None, "Length of the run in steps.")
    epochs: Positive | None = opt(None, "Length of the run in passes over --data (or 50,000 images).")
    resume: bool = opt(True, "Go on where the run stopped.")
    force: bool = opt(False, "Accept other options than the run was started with.")
    eval_every: Positive = opt(4.0, "Thousand images between evaluations.", panel="Progress")
    eval_samples: Annotated[int, Field(ge=16)] = opt(2000, "Samples of each evaluation.", panel="Progress")
    tracker: Literal["tensorboard", "wandb", "trackio"] | None = opt(
        None, "Send figures to an experiment tracker too.", panel="Progress"
    )
    weights: Literal["fp32", "fp16"] = opt("fp32", "How the generator's weights are stored.")

    @model_validator(mode="after")
    def _one_length(self) -> DistillOptions:
        given = [name for name in ("kimg", "steps", "epochs") if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"give one of --{', --'.join(given)}")
        if self.tau_min > self.tau_max:
            raise ValueError("--tau-min is larger than --tau-max")
        if self.t_min > self.t_max:
            raise ValueError("--t-min is larger than --t-max")
        return self


class SampleOptions(Common):
    """Make pictures: one network call each."""

    model: str | None = MODEL
    num_samples: PositiveInt | None = opt(None, "How many: short for --seeds 0-(N-1); default 64.", short="-N")
    seeds: SeedList | None = opt(None, "Which: 0-63,100. An image depends on its seed alone.", metavar="LIST")
    output: str = opt(
        "samples", "A folder, or x.png, x.npz, x.zip, x.tar; - for bytes on stdout.", short="-o", metavar="PATH"
    )
    grid: bool = opt(False, "One tiled picture instead of one file an image.")
    format: Literal["png", "npz", "zip", "tar"] | None = opt(None, "What -o - writes; default png.")
    truncation: Share = opt(1.0, "Scale latents towards 0: less variety, more typical.")
    class_: str | None = CLASS

    @model_validator(mode="after")
    def _one_count(self) -> SampleOptions:
        if self.num_samples is not None and self.seeds is not None:
            raise ValueError("give --num-samples or --seeds, not both")
        if self.num_samples is not None and self.num_samples > 10_000_000:
            raise ValueError("--num-samples is limited to 10,000,000")
        return self


def _latent_file(value: Path | None) -> Path | None:
    if value is not None and value.suffix != ".safetensors":
        raise ValueError(f"{value} must end in .safetensors")
    return value


class InvertSettings(BaseModel):
    """How a picture is turned into a latent."""

    model_config = ConfigDict(frozen=True, defer_build=True)

    invert_steps: PositiveInt = opt(80, "L-BFGS steps of an inversion.", panel="Inversion")
    invert_starts: Annotated[int, Field(ge=1, le=64)] = opt(
        2, "Noised copies of the picture to begin at, beside the teacher's own noise for it.", panel="Inversion"
    )
    invert_prior: NonNegativeFloat = opt(
        1.0, "Pull of latents towards Gaussian noise: more is more walkable, less more faithful.", panel="Inversion"
    )
    tune: NonNegativeInt = opt(
        0, "Steps of pivotal tuning: weights fitted to each picture, beside the model.", panel="Inversion"
    )
    keep_residual: bool = opt(False, "Add what the model misses of a picture to what comes out.", panel="Inversion")
    save_latent: Annotated[Path | None, AfterValidator(_latent_file)] = opt(
        None, "Keep the latents; the file serves wherever an IMAGE does.", panel="Inversion", metavar="X.safetensors"
    )


class InvertOptions(Common, InvertSettings):
    """Find the latents of pictures; from Python only."""

    images: tuple[str, ...] = argument(..., "Pictures: files, or seed:42.", "IMAGE...")
    model: str | None = MODEL
    class_: str | None = CLASS


class InterpolateOptions(Common, InvertSettings):
    """Walk between pictures through the generator's latent space."""

    images: Annotated[tuple[str, ...], Field(min_length=1)] = argument(
        ..., "Two or more pictures: files, - for stdin, saved latents, seed:42 or example:bag.", "IMAGE IMAGE..."
    )
    model: str | None = MODEL
    frames: Annotated[int, Field(ge=2, le=10_000)] = opt(16, "Pictures from each IMAGE to the next, ends included.")
    path: Literal["uniform", "slerp", "lerp", "geodesic"] = opt(
        "uniform", "uniform: slerp with equal perceptual steps; slerp; lerp; geodesic: least energy on the sphere."
    )
    geodesic_steps: PositiveInt = opt(30, "L-BFGS steps of --path geodesic.")
    loop: bool = opt(False, "Walk from the last picture back to the first.")
    pingpong: bool = opt(False, "Show the frames forth and back.")
    output: str = opt(
        "interpolation.png",
        "A strip .png, a .gif, .webp or .mp4, a folder of frames with latents.npz, or -.",
        short="-o",
        metavar="PATH",
    )
    format: Literal["png", "gif", "webp", "mp4"] = opt("png", "What -o - writes.")
    fps: Annotated[Positive, Field(le=1000)] = opt(12.0, "Frames a second of an animation.")
    class_: str | None = CLASS

    @model_validator(mode="after")
    def _two_pictures(self) -> InterpolateOptions:
        # one file of saved latents may hold several
        if len(self.images) < 2 and not self.images[0].endswith(".safetensors"):
            raise ValueError("give two or more of IMAGE")
        return self


def _fit_source(value: str | None) -> str | None:
    if value is not None and not re.fullmatch(r"[^=:/]+=[^:]+:[^:]+", value):
        raise ValueError(f"{value!r} is not NAME=POSITIVE_DIR:NEGATIVE_DIR")
    return value


class EditOptions(Common, InvertSettings):
    """Change one thing in a picture, or move it along a direction the generator knows."""

    image: str | None = argument(None, "A file, - for stdin, a saved latent, seed:42 or example:bag.", "[IMAGE]")
    attribute: str | None = opt(
        None,
        "What to change: brightness, contrast, width, height, symmetry, a class, or what was fitted.",
        metavar="NAME",
    )
    direction: str | None = opt(
        None, "Instead: pc0, pc1, ... (principal) or jac0, ... (the picture's own).", metavar="pcK|jacK"
    )
    strength: Finite = opt(2.0, "How far, in standard deviations over the generator's own samples.")
    range: Annotated[str, Field(pattern=r"^-?[\d.]+:-?[\d.]+:\d+$")] | None = opt(
        None, "A strip of strengths, first:last:count, as in --range=-3:3:7.", metavar="A:B:N"
    )
    preserve: str | None = opt(
        None, "Attributes to project out of the direction, comma-separated.", metavar="NAME,NAME"
    )
    list: bool = opt(False, "Name what can be edited and stop; with -o FILE.png, show it.")
    model: str | None = MODEL
    class_: str | None = CLASS
    output: str = opt(
        "edit.png",
        "A picture (a strip with --range), a .gif, .webp or .mp4, a folder, or - for bytes on stdout.",
        short="-o",
        metavar="PATH",
    )
    format: Literal["png", "gif", "webp", "mp4"] = opt("png", "What -o - writes.")
    fps: Annotated[Positive, Field(le=1000)] = opt(4.0, "Frames a second of an animation.")
    fit: Annotated[str | None, AfterValidator(_fit_source)] = opt(
        None, "Learn an attribute from two folders of pictures.", panel="Directions", metavar="NAME=POSITIVE:NEGATIVE"
    )
    data: Path | None = opt(
        None, "A prepared data set whose labels --attribute names.", panel="Directions", metavar="DATA.zip"
    )
    space: Literal["auto", "latent", "bottleneck"] = opt(
        "auto", "Where attributes are moved; auto takes what worked better.", panel="Directions"
    )
    fit_samples: Annotated[int, Field(ge=32, le=1_000_000)] = opt(
        1024, "Samples that a direction is found on.", panel="Directions"
    )

    @model_validator(mode="after")
    def _one_direction(self) -> EditOptions:
        problems = []
        if self.image is None and not self.list:
            problems.append("give an IMAGE, or --list")
        if self.attribute is not None and self.direction is not None:
            problems.append("give --attribute or --direction, not both")
        if self.data is not None and self.attribute is None:
            problems.append("--data needs --attribute: which of its labels?")
        if problems:
            raise ValueError("; ".join(problems))
        return self


class BenchOptions(Common):
    """Measure a generator against its teacher: the paper's Table 1."""

    model: str | None = MODEL
    compare: str = opt(
        "msa",
        "Baselines, comma-separated: msa, msa-100, ddim-50, heun-18, euler-50, dpm++-20, pc-500, hybrid-18, "
        "one-step-teacher; or other generators, by folder: runs/a.",
    )
    num_samples: Annotated[int, Field(ge=2)] | None = opt(
        None, "Samples for the Frechet distance; default: as many as the shipped baseline has.", short="-N"
    )
    metrics: str = opt(
        "fd,ppl,time",
        "Which figures: fd (or fid), kid, pr (precision, recall, density, coverage), ppl, isometry, diversity, time, "
        "memory, throughput.",
    )
    features: str | None = opt(
        None, "Features: inception, or a folder made by --fit-features; default: of the model's domain.", metavar="DIR"
    )
    stats: Path | None = opt(None, "Reference statistics (.npz); default: of the model's own data.", metavar="REF.npz")
    ppl_samples: Annotated[int, Field(ge=10)] = opt(200, "Pairs for the perceptual path length.")
    time_batch: PositiveInt = opt(1, "Images a call while timing.")
    compile: bool = opt(False, "Compile the networks first: minutes, worth it when thousands are sampled.")
    ablate: bool = opt(
        False, "Also distil the variants without either loss and compare them: the paper's Table 2.", panel="Ablation"
    )
    ablate_preset: Literal["quick", "standard", "paper", "sid"] = opt(
        "quick", "Preset of the variants' runs.", panel="Ablation"
    )
    ablate_kimg: Positive | None = opt(
        None, "Length of the variants' runs in thousand images; default: the preset's.", panel="Ablation"
    )
    ablate_runs: Path | None = opt(
        None, "Where the variants' runs live; default runs/ablate-TEACHER-PRESET.", panel="Ablation", metavar="DIR"
    )
    report: Path | None = opt(
        None, "Also write report.html, tables (.md, .csv, .tex), bench.json and pictures here.", metavar="DIR"
    )
    max_fid: Positive | None = opt(None, "Exit 7 when the Frechet distance is above this.", panel="Thresholds")
    max_ppl: Positive | None = opt(None, "Exit 7 when the perceptual path length is above this.", panel="Thresholds")
    min_speedup: Positive | None = opt(
        None, "Exit 7 when the model is not this many times faster than the first baseline.", panel="Thresholds"
    )
