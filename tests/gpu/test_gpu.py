"""A GPU computes what a CPU computes; the CPU's figures are made by the same test. Skipped where there is no GPU."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from gsd_cli.comparison.contenders import generator_subject
from gsd_cli.compute.device import adam, autocast, exact_if_fp32, to_device
from gsd_cli.compute.random import latents
from gsd_cli.core.distillation import adversarial_term as adversarial
from gsd_cli.core.distillation.step import Distillation
from gsd_cli.core.latents.inversion import encoder_features, invert
from gsd_cli.core.latents.render import render
from gsd_cli.core.latents.walks import walk
from gsd_cli.core.models.autoencoder import Autoencoder
from gsd_cli.core.models.denoiser import Denoiser
from gsd_cli.core.models.generator import Generator, load_model
from gsd_cli.core.sampling.images import sample
from gsd_cli.core.training.checkpoint import CheckpointStore
from gsd_cli.core.training.descent import descend
from gsd_cli.data.dataset import ImageArchive
from gsd_cli.data.pixels import to_uint8
from gsd_cli.metrics.features import TeacherFeatures
from gsd_cli.metrics.path_length import noise_floor, path_length
from gsd_cli.options import DistillSettings
from tests.support.stepping import run_step

pytestmark = pytest.mark.gpu
CPU, GPU = torch.device("cpu"), torch.device("cuda")
STEPS = range(2, 6)
"""Of ten: the isometric term joins in."""


def bundled(device: torch.device) -> Generator:
    return to_device(load_model("fashion").generator, device, training=False).eval().requires_grad_(False)


def samples(device: torch.device, precision: str) -> Tensor:
    with autocast(device, precision):
        made = sample(bundled(device), range(32), 16)
        return torch.stack([to_uint8(image) for _, image in made]).int()


def test_samples_in_fp32_are_the_cpu_s_to_a_grey_level() -> None:
    assert (samples(GPU, "fp32") - samples(CPU, "fp32")).abs().max() <= 1


def test_samples_in_bf16_are_near() -> None:
    assert (samples(GPU, "bf16") - samples(CPU, "fp32")).abs().float().mean() < 3


SETTINGS = {
    "default": {},
    "literal, manifold, micro-batches": {"irl": "literal", "irl_gradient": "manifold", "micro_batch": 4},
    "cells": {"irl": "cells"},
    "dropout-free recompute, reuse": {"recompute": True, "reuse_images": True},
}


def distillation(teacher: Denoiser, data: Path, device: torch.device, settings: dict[str, object]) -> Distillation:
    chosen = DistillSettings(
        **{"batch_size": 8, "precision": "fp32", "noise_device": "cpu", "adversarial": 0.5, **settings}
    )
    return Distillation(teacher, chosen, 10, device, lambda *_: {}, data=ImageArchive(data))


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=list(SETTINGS))
def test_four_steps_have_the_cpu_s_losses(
    settings: dict[str, object], toy_teacher: Denoiser, toy_archive_path: Path, monkeypatch: pytest.MonkeyPatch,
    quick_layout: None,
) -> None:  # fmt: skip
    monkeypatch.setattr(adversarial, "HEAD_START", 0)
    losses = {}
    for device in (CPU, GPU):
        task = distillation(toy_teacher, toy_archive_path, device, settings)
        with exact_if_fp32(device, "fp32"):
            rows = [run_step(task, step) for step in STEPS]
        losses[device] = [value for row in rows for name, value in row.items() if name.endswith("_loss")]
    assert losses[GPU] == pytest.approx(losses[CPU], rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_recorded_steps_do_what_steps_do(toy_teacher: Denoiser, toy_archive_path: Path, precision: str) -> None:
    """CUDA graphs: three rehearsals of each variant, then recordings."""
    found = []
    for graphs in (False, True):
        settings = {"cuda_graphs": graphs, "noise_device": "device", "precision": precision, "irl_every": 2}
        task = distillation(toy_teacher, toy_archive_path, GPU, settings)
        task.set_length(40)
        with exact_if_fp32(GPU, precision):
            found.append([run_step(task, step) for step in range(24)])
    assert task.recorded is not None
    assert task.recorded.failure is None
    near = 1e-3 if precision == "fp32" else 0.05  # a GPU adds in any order
    for plain, recorded in zip(*found, strict=True):
        losses = {name: value for name, value in plain.items() if name.endswith("_loss")}
        assert {name: recorded[name] for name in losses} == pytest.approx(losses, rel=near, abs=1e-4)


def test_a_resumed_run_goes_on_as_it_would_have(toy_teacher: Denoiser, toy_archive_path: Path, tmp_path: Path) -> None:
    """Through a file: channels last on the device, contiguous in the checkpoint."""
    first, second = (distillation(toy_teacher, toy_archive_path, GPU, {}) for _ in range(2))
    for step in STEPS:
        first.step(step)
    CheckpointStore(tmp_path).save(6, first.tensors(), {})
    checkpoint, _ = CheckpointStore(tmp_path).latest()
    assert checkpoint is not None
    second.load(checkpoint.tensors)
    assert run_step(second, 6) == pytest.approx(run_step(first, 6), rel=1e-4, abs=1e-6, nan_ok=True)
    for parameter in second.generator.parameters():
        state = second.generator_adam.state[parameter]
        assert parameter.stride() == state["exp_avg"].stride() == state["exp_avg_sq"].stride()


def test_path_lengths_are_the_cpu_s() -> None:
    """TF32 is on by default in cuDNN, and would make the figure forty times as large."""
    found = {}
    for device in (CPU, GPU):
        generator = bundled(device)
        images = generator_subject("ours", generator, device).images
        judge = TeacherFeatures(generator.denoiser, Autoencoder())
        length = path_length(images, judge.squared_distance, generator.latent_shape, 64).untrimmed
        assert noise_floor(images, judge.squared_distance, generator.latent_shape) / 1e-8 < 0.05 * length
        found[device] = length
    assert found[GPU] == pytest.approx(found[CPU], rel=0.02)


def test_a_step_that_is_skipped_is_skipped_without_a_wait() -> None:
    net = to_device(torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3), torch.nn.Conv2d(4, 1, 3)), GPU)
    optimizer = adam(net, 0.1, (0.9, 0.999), GPU)
    x = torch.randn(2, 1, 8, 8, device=GPU)

    def step(scale: float) -> Tensor:
        optimizer.zero_grad()
        (scale * net(x).square().mean()).backward()
        torch.cuda.set_sync_debug_mode("error")
        try:
            return descend(net, optimizer, clip=1.0).skipped
        finally:
            torch.cuda.set_sync_debug_mode("default")

    assert step(1.0).item() == 0
    before = [p.detach().clone() for p in net.parameters()]
    assert step(math.inf).item() == 1
    assert all(torch.equal(a, b) for a, b in zip(before, net.parameters(), strict=True))
    assert step(1.0).item() == 0


def test_walks_inversions_and_edits() -> None:
    generator = bundled(GPU)
    features = encoder_features(generator)
    z = latents(range(2), generator.latent_shape)

    def images(z: Tensor, _: Tensor) -> Tensor:
        return generator(z.to(GPU)) if torch.is_grad_enabled() else render(generator, z)

    found = walk(z[0], z[1], 6, "geodesic", images, lambda x: features(x.to(GPU)), 3)
    assert found.images.device == found.z.device == CPU
    begun = invert(generator, render(generator, z).clamp(-1, 1), features, 20, 1)
    assert min(begun.psnr) > 12


def test_a_compiled_generator_makes_the_same_images(toy_teacher: Denoiser) -> None:
    generator = to_device(Generator(toy_teacher), GPU, training=False).eval().requires_grad_(False)
    z = latents(range(4), generator.latent_shape)
    plain, moved = render(generator, z), render(generator, z, shifts=torch.ones(4, *_bottleneck(generator)))
    generator.denoiser.net.compile()
    torch.testing.assert_close(render(generator, z), plain, atol=1e-3, rtol=1e-3)
    again = render(generator, z, shifts=torch.ones(4, *_bottleneck(generator)))
    torch.testing.assert_close(again, moved, atol=1e-3, rtol=1e-3)


def _bottleneck(generator: Generator) -> tuple[int, ...]:
    from gsd_cli.core.latents.render import record_bottleneck

    seen: list[Tensor] = []
    with record_bottleneck(generator, seen):
        render(generator, latents([0], generator.latent_shape))
    return tuple(seen[0].shape[1:])
