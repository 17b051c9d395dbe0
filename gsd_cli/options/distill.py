"""Options of gsd distill: the mathematics, its presets, and how a run is kept."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveInt, model_validator

from gsd_cli.options.common import Common
from gsd_cli.options.fields import NO_FP16, Beta, Finite, NonNegativeFloat, Positive, Share, opt

ADVERSARIAL_RATIO = 2.0
"""What `--adversarial auto` is where there are real images."""
MATCHING_RATIO = 2.0
"""What `--feature-matching auto` is where there is a discriminator."""

FITTED_FORMS = ("borders", "cells")
"""The forms of `--irl` that are fitted to images, real ones if there are any."""


class DistillSettings(BaseModel):
    """The mathematics of a distillation: what a resumed run must agree on."""

    model_config = ConfigDict(frozen=True, defer_build=True, extra="forbid")

    seed: NonNegativeInt = 0
    batch_size: PositiveInt = 64
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    noise_device: Literal["auto", "cpu", "device"] = opt(
        "auto",
        "Where random numbers are drawn: cpu gives the same on every device; device is faster. auto: device on a GPU.",
        panel="Optimizer",
    )
    alpha: Annotated[Finite, Field(ge=0)] = opt(1.0, "The alpha of score identity distillation.", panel="Method")
    sidl_weight: NonNegativeFloat = opt(
        1.0, "Weight of the distillation loss; 0 is the paper's ablation.", panel="Method"
    )
    irl: Literal["speed", "stress", "straight", "literal", "jacobian", "borders", "cells", "off"] = opt(
        "stress", "Form of the isometric term.", panel="Method"
    )
    irl_weight: Literal["auto"] | NonNegativeFloat = opt(
        "auto", "Weight of the isometric term; auto holds --irl-ratio.", panel="Method", metavar="auto|X"
    )
    irl_ratio: NonNegativeFloat = opt(
        0.1, "Gradient norm of the isometric term over that of everything else.", panel="Method"
    )
    irl_every: PositiveInt = opt(
        1, "Apply the isometric term at every K-th step, its weight scaled to match.", panel="Method", metavar="K"
    )
    irl_phi: Literal["teacher", "lpips", "pixels"] = opt(
        "teacher", "Feature map in which the isometric term measures distances.", panel="Method"
    )
    irl_gradient: Literal["free", "manifold"] = opt(
        "manifold",
        "free: any image gradient. manifold: only changes that the generator can make by moving the latent.",
        panel="Method",
    )
    tau_min: Positive = opt(0.05, "Smallest angle of a pair, radians.", panel="Method")
    tau_max: Positive = opt(0.5, "Largest angle of a pair, radians.", panel="Method")
    pair_every: Annotated[int, Field(ge=2)] = opt(
        4, "Pair one in every K images with a neighbouring latent.", panel="Method"
    )
    sigma_init: Positive = opt(2.5, "Noise level at which the generator calls its network.", panel="Method")
    student_width: PositiveInt = opt(
        1, "Give the generator K times the teacher's channels; it starts with the same images.", panel="Method",
        metavar="K",
    )  # fmt: skip
    student_depth: PositiveInt = opt(
        1, "Give the generator K times the teacher's layers per block; it starts with the same images.",
        panel="Method", metavar="K",
    )  # fmt: skip
    noise: Literal["auto", "pixels", "ddpm", "edm"] = opt(
        "auto",
        "Noise levels: pixels (uniform t and a third down to an image's grain), ddpm (uniform t) or edm.",
        panel="Method",
    )
    t_min: NonNegativeInt | None = opt(None, "Smallest timestep of the distillation.", panel="Method")
    t_max: PositiveInt | None = opt(None, "Largest timestep of the distillation.", panel="Method")
    adversarial: Literal["auto", "off"] | NonNegativeFloat = opt(
        "auto",
        "Gradient norm of the discriminator over the distillation's; off needs no real images.",
        panel="Method",
        metavar="auto|RATIO|off",
    )
    feature_matching: Literal["auto", "off"] | NonNegativeFloat = opt(
        "auto",
        "How strongly the mean features of generated images are pulled to those of real ones: gradient norm over the "
        "distillation's at a gap of one standard deviation. auto: with a discriminator.",
        panel="Method",
        metavar="auto|RATIO|off",
    )
    fake_score: Literal["bounded", "plain"] = opt(
        "bounded",
        "bounded: the fake score is the teacher plus a correction that high noise does not amplify. plain: a network "
        "of its own, as published.",
        panel="Method",
    )
    fake_steps: PositiveInt = opt(1, "Fake-score updates per generator update.", panel="Optimizer")
    lr: Positive = opt(1e-4, "Adam's learning rate.", panel="Optimizer")
    fake_lr: Positive | None = opt(None, "Adam's learning rate for the fake score; default --lr.", panel="Optimizer")
    discriminator_lr: Positive = opt(1e-3, "Adam's learning rate for the discriminator.", panel="Optimizer")
    discriminator_steps: PositiveInt = opt(1, "Discriminator updates per generator update.", panel="Optimizer")
    discriminator_penalty: NonNegativeFloat = opt(
        0.0, "Weight of the penalty on a steep discriminator (R1 and R2); 0 is off.", panel="Optimizer"
    )
    beta1: Beta = opt(0.0, "Adam's first beta.", panel="Optimizer")
    beta2: Beta = opt(0.999, "Adam's second beta.", panel="Optimizer")
    fake_beta1: Beta | None = opt(None, "The same for the fake score; default --beta1.", panel="Optimizer")
    fake_beta2: Beta | None = opt(None, "The same for the fake score; default --beta2.", panel="Optimizer")
    warmup: NonNegativeFloat = opt(0.0, "Thousand images over which learning rates rise from 0.", panel="Optimizer")
    lr_decay: Share = opt(
        0.0, "Share of the run, at its end, over which the generator's learning rate falls to 0.", panel="Optimizer"
    )
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
    ema_half_life: Positive = opt(50_000, "Half-life of the moving average, in images.", panel="Optimizer")
    ema_ramp: Annotated[float, Field(gt=0, le=1)] = opt(
        0.05, "Longest half-life of the moving average, as a share of the images seen so far.", panel="Optimizer"
    )

    def adversarial_ratio(self, *, real: bool) -> float:
        """What `--adversarial` comes to, 0 for off; real: whether there are real images."""
        if self.adversarial == "auto":
            return ADVERSARIAL_RATIO if real and self.sidl_weight else 0.0
        return 0.0 if self.adversarial == "off" else float(self.adversarial)

    def matching_ratio(self, *, real: bool) -> float:
        """What `--feature-matching` comes to, 0 for off: `auto` follows the discriminator."""
        if self.feature_matching == "auto":
            return MATCHING_RATIO if self.adversarial_ratio(real=real) else 0.0
        return 0.0 if self.feature_matching == "off" else float(self.feature_matching)

    def ratios(self, *, real: bool) -> dict[str, float]:
        """The options that real images decide, with what they come to."""
        return {
            "adversarial": self.adversarial_ratio(real=real), "feature_matching": self.matching_ratio(real=real)
        }  # fmt: skip


class DistillOptions(Common, DistillSettings):
    """Distil a teacher into a one-step generator."""

    precision: Literal["auto", "fp32", "bf16"] = opt("auto", NO_FP16, panel="Common")
    teacher: str = opt("ddpm-fashion", "A name, a diffusers folder or a hub id.", metavar="NAME|FOLDER|HUB_ID")
    revision: str | None = opt(None, "Branch, tag or commit of a hub teacher.", metavar="REVISION")
    list_teachers: bool = opt(False, "Show the teachers known by name, and stop.")
    data: Literal["teacher"] | Path | None = opt(
        None,
        "Real images for the discriminator and the evaluation: a prepared file, or `teacher` for the teacher's own "
        "samples.",
        metavar="DATA.zip|teacher",
    )
    teacher_samples: Annotated[int, Field(ge=16)] = opt(5000, "Samples that --data teacher makes, once.", metavar="N")
    features: str | None = opt(
        None,
        "Features of the Frechet distance: a folder made by --fit-features; default: the teacher's.",
        metavar="DIR",
    )
    output: Path | None = opt(None, "The run folder; default runs/TEACHER-PRESET.", short="-o", metavar="RUN")
    preset: Literal["quick", "standard", "long", "paper", "sid"] = opt("quick", "A set of defaults.")
    kimg: Positive | None = opt(None, "Length of the run in thousand images.")
    steps: PositiveInt | None = opt(None, "Length of the run in steps.")
    epochs: Positive | None = opt(None, "Length of the run in passes over --data (or 50,000 images).")
    minutes: Positive | None = opt(
        None,
        "End within M minutes, evaluated and exported; without another length the run is as long as fits.",
        metavar="M",
    )
    resume: bool = opt(True, "Go on where the run stopped.")
    force: bool = opt(False, "Accept other options than the run was started with.")
    eval_every: Positive = opt(4.0, "Thousand images between evaluations.", panel="Progress")
    eval_samples: Annotated[int, Field(ge=16)] = opt(2000, "Samples of each evaluation.", panel="Progress")
    profile: Path | None = opt(
        None, "Write a trace and a table of a few early steps here: what takes their time.", panel="Progress",
        metavar="DIR",
    )  # fmt: skip
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
        if self.t_min is not None and self.t_max is not None and self.t_min > self.t_max:
            raise ValueError("--t-min is larger than --t-max")
        return self
