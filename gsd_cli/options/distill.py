"""Options of gsd distill: the settings of the method, the length of a run, and how a run is stored."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, NonNegativeInt, PositiveInt, model_validator

from gsd_cli.catalogue.exports import ExportPrecision
from gsd_cli.catalogue.readings import SCHEDULES, WHOLE, normalize
from gsd_cli.catalogue.registry import TEACHERS
from gsd_cli.options.common import Common
from gsd_cli.options.distill_choices import Adapters, Guidance, split_choice
from gsd_cli.options.fields import (
    EXPORT_PRECISION,
    NO_FP16,
    Beta,
    Finite,
    NonNegativeFloat,
    Positive,
    Refine,
    Share,
    opt,
)
from gsd_cli.options.hub import HubSettings
from gsd_cli.options.presets import PRESETS

ADVERSARIAL_RATIO = 2.0
"""Value of `--adversarial auto` when real images are available."""
MATCHING_RATIO = 2.0
"""Value of `--feature-matching auto` when there is a discriminator."""

MOST_STEPS = 8
"""Of `--student-steps`: with more calls, a sampler of the teacher needs no distillation."""

OF_REFINEMENT = {
    "seed", "batch_size", "precision", "noise_device", "sigma_init", "refine", "lr", "beta1", "beta2", "warmup",
    "lr_decay", "clip_grad", "micro_batch", "recompute", "compile", "ema_half_life", "ema_ramp",
}  # fmt: skip
"""The settings that `--refine` uses."""

FITTED_FORMS = ("borders", "cells")
"""The forms of `--irl` that are fitted to images, real ones if there are any."""


class DistillSettings(BaseModel):
    """Settings of the method and of its computation. A resumed run must share those that it uses; precision, noise
    device and what saves memory may change."""

    model_config = ConfigDict(frozen=True, defer_build=True, extra="forbid")

    seed: NonNegativeInt = 0
    batch_size: PositiveInt = 64
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    noise_device: Literal["auto", "cpu", "device"] = opt(
        "auto",
        "Where random numbers are drawn. cpu: the same numbers on every device. device: faster. auto: device on a GPU, "
        "else cpu.",
        panel="Optimizer",
    )
    alpha: Annotated[Finite, Field(ge=0)] = opt(
        1.0, "Coefficient alpha of score identity distillation.", panel="Method"
    )
    sidl_weight: NonNegativeFloat = opt(
        1.0, "Weight of the distillation loss; 0 removes it, for an ablation.", panel="Method"
    )
    irl: Literal["speed", "stress", "straight", "literal", "jacobian", "borders", "cells", "off"] = opt(
        "stress",
        "Form of the isometric term: speed, stress, straight, literal, jacobian, borders or cells; off removes it.",
        panel="Method", metavar="FORM",
    )  # fmt: skip
    irl_weight: Literal["auto"] | NonNegativeFloat = opt(
        "auto", "Weight of the isometric term. auto: adjust it to --irl-ratio.", panel="Method", metavar="auto|X"
    )
    irl_ratio: NonNegativeFloat = opt(
        0.1, "Gradient norm of the isometric term, as a multiple of the norm of all other terms.", panel="Method"
    )
    irl_every: PositiveInt = opt(
        1, "Apply the isometric term in every K-th step, with K times the weight.", panel="Method", metavar="K"
    )
    irl_phi: Literal["teacher", "lpips", "pixels"] = opt(
        "teacher", "Feature map phi in which the isometric term measures distances between images.", panel="Method"
    )
    irl_gradient: Literal["free", "manifold"] = opt(
        "manifold",
        "Gradient of the isometric term at an image. free: any change. manifold: only changes that the generator can "
        "make by moving the latent.",
        panel="Method",
    )
    tau_min: Positive = opt(0.05, "Smallest angle between the latents of a pair, in radians.", panel="Method")
    tau_max: Positive = opt(0.5, "Largest angle between the latents of a pair, in radians.", panel="Method")
    pair_every: Annotated[int, Field(ge=2)] = opt(
        4, "Pair one in every K images with a neighbouring latent.", panel="Method"
    )
    sigma_init: Positive = opt(2.5, "Noise level (sigma) of the generator's first network call.", panel="Method")
    student_steps: Annotated[int, Field(ge=1, le=MOST_STEPS)] = opt(
        1,
        f"Network calls per image of the generator, 1 to {MOST_STEPS}, for teachers for which one is not enough.",
        panel="Method",
        metavar="K",
    )
    refine: Refine | None = opt(
        None,
        "Give the generator of --start a second call: another network, which learns to do in one call what K calls of "
        "the teacher do, 2 to 64 (gsd sample --refine K). No other option of the method holds.",
        panel="Method",
        metavar="K",
    )
    student_width: PositiveInt = opt(
        1,
        "Give the generator K times the teacher's channels; the images before training stay the same.",
        panel="Method",
        metavar="K",
    )
    student_depth: PositiveInt = opt(
        1,
        "Give the generator K times the teacher's layers per block; the images before training stay the same.",
        panel="Method",
        metavar="K",
    )
    adapters: Adapters = opt(
        "off",
        "Train LoRA adapters of rank R on the teacher's frozen weights instead of whole networks: much less memory for "
        "large teachers, least in bf16 with --irl off. R: the generator and the fake score. fake:R: the fake score "
        "alone.",
        panel="Method",
        metavar="R|fake:R|off",
    )
    noise: Literal["auto", "pixels", "ddpm", "edm"] = opt(
        "auto",
        "Noise levels. pixels: uniform timesteps, and one level in three at image grain. ddpm: uniform timesteps. edm: "
        "the levels of EDM. auto: pixels, or ddpm for a latent teacher.",
        panel="Method",
    )
    t_min: NonNegativeInt | None = opt(
        None,
        "Smallest of the uniform noise levels, as a timestep of Ho et al.'s 1000 (20 is sigma 0.079), whatever the "
        "teacher's schedule; default: set by --noise.",
        panel="Method",
    )
    t_max: PositiveInt | None = opt(
        None,
        "Largest of the uniform noise levels, counted as --t-min (793 is sigma 24); default: set by --noise.",
        panel="Method",
    )
    adversarial: Literal["auto", "off"] | NonNegativeFloat = opt(
        "auto",
        "Gradient norm of the discriminator term, as a multiple of the distillation's. auto: 2 with real images, else "
        "off. off: train without real images.",
        panel="Method",
        metavar="auto|RATIO|off",
    )
    feature_matching: Literal["auto", "off"] | NonNegativeFloat = opt(
        "auto",
        "Pull of the mean features of generated images towards those of real images: gradient norm at a gap of one "
        "standard deviation, as a multiple of the distillation's. auto: 2 with a discriminator, else off.",
        panel="Method",
        metavar="auto|RATIO|off",
    )
    guidance: Guidance = opt(
        "off",
        "Classifier-free guidance of a class- or text-conditional teacher by a factor K: images closer to their "
        "condition, and less varied. K: the teacher and the fake score. teacher:K: the teacher alone.",
        panel="Method",
        metavar="K|teacher:K|off",
    )
    fake_score: Literal["bounded", "plain"] = opt(
        "bounded",
        "Form of the fake score. bounded: the teacher plus a correction that high noise does not amplify. plain: a "
        "separate network, as published.",
        panel="Method",
    )
    fake_steps: PositiveInt = opt(1, "Fake-score updates per generator update.", panel="Optimizer")
    lr: Positive = opt(1e-4, "Adam's learning rate for the generator.", panel="Optimizer")
    fake_lr: Positive | None = opt(
        None, "Adam's learning rate for the fake score; where no preset sets it: --lr.", panel="Optimizer"
    )
    discriminator_lr: Positive = opt(1e-3, "Adam's learning rate for the discriminator.", panel="Optimizer")
    discriminator_steps: PositiveInt = opt(1, "Discriminator updates per generator update.", panel="Optimizer")
    discriminator_penalty: NonNegativeFloat = opt(
        0.0, "Weight of the gradient penalties R1 and R2 on the discriminator; 0 turns them off.", panel="Optimizer"
    )
    beta1: Beta = opt(0.0, "Adam's beta1.", panel="Optimizer")
    beta2: Beta = opt(0.999, "Adam's beta2.", panel="Optimizer")
    fake_beta1: Beta | None = opt(None, "Adam's beta1 for the fake score; default: --beta1.", panel="Optimizer")
    fake_beta2: Beta | None = opt(None, "Adam's beta2 for the fake score; default: --beta2.", panel="Optimizer")
    warmup: NonNegativeFloat = opt(
        0.0, "Length of the learning-rate warm-up, in thousands of images.", panel="Optimizer"
    )
    fake_warmup: NonNegativeFloat | None = opt(
        None,
        "Length of the time in which only the fake score and the discriminator learn, in thousands of images; default: "
        "20 with --start, else 0.",
        panel="Optimizer",
    )
    lr_decay: Share = opt(
        0.0, "Last share of the run, 0 to 1, in which the generator's learning rate falls to 0.", panel="Optimizer"
    )
    clip_grad: NonNegativeFloat = opt(
        0.0, "Largest gradient norm; larger gradients are clipped. 0 turns clipping off.", panel="Optimizer"
    )
    micro_batch: PositiveInt | None = opt(
        None, "Images per pass through the networks. Fewer need less memory; the result is the same.", panel="Optimizer"
    )
    recompute: bool = opt(
        False, "Recompute activations in the backward pass: less memory, about a third slower.", panel="Optimizer"
    )
    compile: bool = opt(False, "Compile the networks; worthwhile for long runs on a GPU.", panel="Optimizer")
    cuda_graphs: bool = opt(
        True,
        "Record a step's kernels and start them together. Only on a CUDA device; not with several processes, --compile,"
        " --recompute or --dropout.",
        panel="Optimizer",
    )
    shard: bool = opt(
        False,
        "Cut the networks into pieces over the processes (FSDP2), for networks that do not fit one device; not with "
        "--compile.",
        panel="Optimizer",
    )
    reuse_images: bool = opt(
        False,
        "Train the fake score on the images of the generator step instead of fresh ones; saves one call per step.",
        panel="Optimizer",
    )
    dropout: Annotated[float, Field(ge=0, lt=1)] = opt(
        0.0, "Dropout rate of the generator and the fake score.", panel="Optimizer"
    )
    ema_half_life: Positive = opt(
        50_000, "Half-life of the moving average of the weights (EMA), in images.", panel="Optimizer"
    )
    ema_ramp: Annotated[float, Field(gt=0, le=1)] = opt(
        0.05, "Upper limit for the half-life of the EMA, as a share of the images seen so far.", panel="Optimizer"
    )

    def adversarial_ratio(self, *, real: bool) -> float:
        """The ratio that `--adversarial` selects, 0 for off. real: whether real images are available."""
        if self.refine is not None:
            return 0.0
        if self.adversarial == "auto":
            return ADVERSARIAL_RATIO if real and self.sidl_weight else 0.0
        return 0.0 if self.adversarial == "off" else float(self.adversarial)

    def matching_ratio(self, *, real: bool) -> float:
        """The ratio that `--feature-matching` selects, 0 for off. `auto` follows the discriminator."""
        if self.feature_matching == "auto":
            return MATCHING_RATIO if self.adversarial_ratio(real=real) else 0.0
        return 0.0 if self.feature_matching == "off" else float(self.feature_matching)

    def warmup_factor(self, seen: int) -> float:
        """The factor of the learning rates after `seen` images: it rises to 1 in --warmup thousand images."""
        return min(1.0, seen / (1000 * self.warmup)) if self.warmup else 1.0

    def guidance_scales(self) -> tuple[float, float]:
        """The factors of `--guidance` for the teacher and for the fake score; 1 is no guidance."""
        scale, of = split_choice(self.guidance, 1.0)
        return scale, 1.0 if of else scale

    def adapter_ranks(self) -> tuple[int, int]:
        """The ranks of `--adapters` for the generator and for the fake score; 0 is a whole network."""
        rank, of = split_choice(self.adapters, 0.0)
        return 0 if of else int(rank), int(rank)

    def ratios(self, *, real: bool) -> dict[str, float]:
        """The ratios whose `auto` depends on real images, by option name."""
        return {
            "adversarial": self.adversarial_ratio(real=real), "feature_matching": self.matching_ratio(real=real)
        }  # fmt: skip


class DistillOptions(Common, DistillSettings, HubSettings):
    """Distil a teacher into a generator of one network call, or of a few.

    The generator starts as a copy of the teacher. Two networks lead it: the frozen teacher, and the fake score, a
    denoiser of the generator's own images. With real images there is a discriminator too. The isometric term makes
    equal steps in the latent equal steps in the image.
    """

    precision: Literal["auto", "fp32", "bf16"] = opt("auto", NO_FP16, panel="Common")
    teacher: str = opt(
        "ddpm-fashion",
        "Teacher: a name from --list-teachers, a diffusers folder, a hub id, EDM's .pkl file, or bare weights (.pt).",
        metavar="NAME|FOLDER|HUB_ID",
    )
    revision: str | None = opt(None, "Branch, tag or commit of a teacher from the hub.", metavar="REVISION")
    assume: Annotated[str, AfterValidator(normalize)] | None = opt(
        None,
        "How the teacher was trained, where its folder does not say it: what its network predicts (eps, v, x0), and "
        f"the noise schedule ({', '.join(SCHEDULES)}); or {', '.join(WHOLE)}.",
        metavar="PREDICTION,SCHEDULE",
    )
    prompts: Path | None = opt(
        None,
        "Prompts for a text-conditional teacher, as gsd prepare PROMPTS.txt --teacher made them; default: for a "
        "teacher that gsd prepare trained, its captions.",
        metavar="FILE",
    )
    start: str | None = opt(
        None,
        "Start from a generator that was distilled from this teacher before: a run, its generator/, or a bundled name. "
        "Of one that --refine gave a second network, that network is trained. Default: the teacher.",
        metavar="MODEL",
    )
    list_teachers: bool = opt(False, "List the teachers known by name, then exit.")
    data: Literal["teacher"] | Path | None = opt(
        None,
        "Real images for the discriminator and the evaluation: a prepared data set, or `teacher` for samples of the "
        "teacher.",
        metavar="DATA.zip|teacher",
    )
    teacher_samples: Annotated[int, Field(ge=16)] = opt(
        5000, "Number of samples for --data teacher; they are cached.", metavar="N"
    )
    features: str | None = opt(
        None,
        "Feature set for the Frechet distance: a folder that gsd prepare --fit-features wrote; default: the set that "
        "came with the teacher (NAME-features next to NAME-teacher).",
        metavar="DIR",
    )
    output: Path | None = opt(
        None,
        "Run folder; default: runs/TEACHER-PRESET, with --refine runs/TEACHER-PRESET-refined.",
        short="-o",
        metavar="RUN",
    )
    preset: Literal["quick", "standard", "long", "paper", "sid"] = opt(
        "quick", "Set of defaults; any other option overrides it. The defaults shown here are those of quick."
    )
    kimg: Positive | None = opt(None, "Length of the run, in thousands of images.")
    steps: PositiveInt | None = opt(None, "Length of the run, in steps.")
    epochs: Positive | None = opt(None, "Length of the run, in passes over --data (or over 50,000 images).")
    minutes: Positive | None = opt(
        None,
        "Stop within M minutes, with the generator evaluated and exported. Without another length, the run is as long "
        "as M minutes allow.",
        metavar="M",
    )
    resume: bool = opt(True, "Resume the run where it stopped; --no-resume starts it again.")
    force: bool = opt(False, "Resume a run even when its options have changed.")
    eval_every: Positive = opt(4.0, "Interval between evaluations, in thousands of images.", panel="Progress")
    eval_samples: Annotated[int, Field(ge=16)] = opt(2000, "Samples per evaluation.", panel="Progress")
    profile: Path | None = opt(
        None, "Profile a few early steps and write a trace and a table to this folder.", panel="Progress",
        metavar="DIR",
    )  # fmt: skip
    tracker: Literal["tensorboard", "wandb", "trackio"] | None = opt(
        None, "Also send metrics to this experiment tracker.", panel="Progress"
    )
    weights: Literal["fp32", "fp16"] = opt("fp32", "Number format of the stored generator weights.")
    export: Path | None = opt(
        None,
        "At the end, also write the whole generator as one file that runs without gsd: .onnx, or .pt2 for torch.",
        panel="Export",
        metavar="FILE",
    )
    export_precision: ExportPrecision = EXPORT_PRECISION

    @model_validator(mode="after")
    def _refuse_contradictions(self) -> DistillOptions:
        if self.export is None and "export_precision" in self.model_fields_set:
            raise ValueError("--export-precision does nothing without --export FILE.onnx")
        given = [name for name in ("kimg", "steps", "epochs") if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"give one of --{', --'.join(given)}")
        if self.tau_min > self.tau_max:
            raise ValueError("--tau-min is larger than --tau-max")
        if self.t_min is not None and self.t_max is not None and self.t_min > self.t_max:
            raise ValueError("--t-min is larger than --t-max")
        if self.revision is not None and self.teacher in TEACHERS and TEACHERS[self.teacher].hub is None:
            raise ValueError(f"--revision names a version on the hub, and {self.teacher} is bundled")
        if problems := list(self.publishing_problems()):
            raise ValueError("; ".join(problems))
        if self.refine is not None and (problems := list(self._refinement_problems())):
            raise ValueError("; ".join(problems))
        if self.adapter_ranks()[0] and max(self.student_width, self.student_depth) > 1:
            raise ValueError("--student-width and --student-depth need weights of their own: give --adapters fake:R")
        if self.start is not None and self.adapter_ranks()[0]:
            raise ValueError("--start replaces the weights that adapters of the generator need: give --adapters fake:R")
        if self.shard and self.compile:
            raise ValueError("--shard gathers weights before each block, and --compile was not made for that")
        if self.reuse_images and self.dropout:
            raise ValueError(
                "--reuse-images shows the fake score images that were made with --dropout; give one of the two"
            )
        return self

    def _refinement_problems(self) -> Iterator[str]:
        """What is wrong with these options and --refine together."""
        if self.start is None:
            yield "--refine teaches a generator that exists: give --start MODEL"
        preset = PRESETS[self.preset]
        for name in sorted(DistillSettings.model_fields.keys() & self.model_fields_set - OF_REFINEMENT):
            default = DistillSettings.model_fields[name].default
            if getattr(self, name) not in (default, preset.get(name, default)):
                yield f"--{name.replace('_', '-')} does nothing with --refine"
