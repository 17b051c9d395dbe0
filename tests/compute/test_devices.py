"""What every command computes, on a device that is not the CPU: nothing is mixed, and the figures are the CPU's.

See tests/support/devices.py: a pretended device with real values, which refuses what a GPU refuses.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import VQModel
from torch import Tensor

from gsd_cli.base.console import Console
from gsd_cli.base.session import Session
from gsd_cli.comparison.contenders import Contender, Row, generator_subject
from gsd_cli.comparison.metric import Entry
from gsd_cli.comparison.resources import MEMORY
from gsd_cli.compute.device import to_device
from gsd_cli.compute.random import latents
from gsd_cli.core.distillation import adversarial_term as adversarial
from gsd_cli.core.distillation.isometric_forms import FORMS
from gsd_cli.core.distillation.real_images import EncodedImages
from gsd_cli.core.distillation.refinement import RefinementDistillation
from gsd_cli.core.distillation.step import Distillation
from gsd_cli.core.editing import supervised
from gsd_cli.core.editing import unsupervised as components
from gsd_cli.core.editing.known_attributes import TRAITS, Knowledge
from gsd_cli.core.latents import inversion
from gsd_cli.core.latents import pivotal_tuning as tuning
from gsd_cli.core.latents.files import Anchor
from gsd_cli.core.latents.inversion import encoder_features
from gsd_cli.core.latents.render import render_between
from gsd_cli.core.models.autoencoder import Autoencoder
from gsd_cli.core.models.beta_schedule import BetaSchedule
from gsd_cli.core.models.denoiser import Denoiser
from gsd_cli.core.models.feature_maps import FeatureMapSources, build_feature_map
from gsd_cli.core.models.feature_nets import ARCHITECTURES
from gsd_cli.core.models.generator import Generator, Model
from gsd_cli.core.models.teacher import Teacher
from gsd_cli.core.sampling import images as sampling
from gsd_cli.core.sampling.samplers import parse_sampler
from gsd_cli.core.training.fit_features import FeatureFit
from gsd_cli.core.training.fit_teacher import TeacherFit
from gsd_cli.data.dataset import ImageArchive
from gsd_cli.metrics import diversity, edit_quality, evaluation, isometry
from gsd_cli.metrics import path_length as ppl
from gsd_cli.metrics.features import ClassifierFeatures, TeacherFeatures
from gsd_cli.metrics.image_quality import kernel_figures
from gsd_cli.metrics.statistics import gaussian_statistics
from gsd_cli.options import DistillSettings, FitSettings
from tests.support.devices import CPU, PRETEND, pretend
from tests.support.stepping import run_step
from tests.support.teachers import FIRST_STAGE, TINY, unet

pytestmark = pytest.mark.filterwarnings("ignore:.*copying from a non-meta parameter")
SHAPE = (1, 8, 8)
EXACT: dict[str, Any] = {"batch_size": 6, "precision": "fp32", "noise_device": "cpu"}


def teacher(**changes: Any) -> Denoiser:
    return Denoiser(unet(TINY, **changes), BetaSchedule.linear())


def generator(model: Denoiser | None = None, autoencoder: Autoencoder | None = None) -> Generator:
    made = Generator(model or teacher(), 2.5, autoencoder)
    return to_device(made, PRETEND, training=False).eval().requires_grad_(False)


class Images:
    """Ten real images of three classes."""

    def __init__(self, *shape: int):
        self.shape, self.labels = shape, torch.arange(10) % 3

    def __len__(self) -> int:
        return 10

    def batch(self, indices: Tensor) -> Tensor:
        return latents(indices.tolist(), self.shape, "pictures").clamp(-1, 1)


@pytest.fixture(autouse=True)
def _few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gsd_cli.core.distillation.fit_sources.IMAGES", 32)
    monkeypatch.setattr(adversarial, "HEAD_START", 0)
    monkeypatch.setattr(supervised, "CALIBRATION", 4)
    monkeypatch.setattr(edit_quality, "FIT_SAMPLES", 24)
    # the package has a function of the module's name
    monkeypatch.setattr(import_module("gsd_cli.core.sampling.hybrid"), "PILOT_STEPS", 8)
    monkeypatch.setattr(isometry, "PROBES", 2)
    monkeypatch.setattr(diversity, "PAIRS", 8)


# -- the stand-in itself ------------------------------------------------------------------------


def test_the_device_refuses_what_a_gpu_refuses() -> None:
    with pretend() as seen:
        here, cpu = torch.randn(3, 4, device=PRETEND), torch.randn(3, 4)
        mixtures: list[Callable[[], object]] = [
            lambda: here + cpu, lambda: torch.cat([here, cpu]), lambda: cpu[here[:, 0] > 0],
            lambda: here.lerp(here, cpu), lambda: here @ cpu.T, lambda: torch.stack([here[0], cpu[0]]),
        ]  # fmt: skip
        for mixture in mixtures:
            with pytest.raises(RuntimeError, match="on one device"):
                mixture()
        with pytest.raises(TypeError, match="numpy"):
            here.numpy()
        assert not seen.waits


def test_the_device_takes_what_a_gpu_takes_and_counts_waits() -> None:
    with pretend() as seen:
        here, cpu = torch.randn(3, 4, device=PRETEND), torch.randn(3, 4)
        assert here.device == PRETEND
        assert (here + torch.tensor(2.0))[torch.tensor([0, 2])].device == PRETEND
        assert torch.equal(cpu.to(PRETEND).cpu(), cpu)
        assert seen.waits.total() == 1
        assert here.sum().item() == pytest.approx(here.cpu().sum().item())
        assert here.tolist() == here.cpu().tolist()
        assert seen.waits.total() == 5


def test_a_device_without_double_precision_says_so() -> None:
    with pretend(float64=False), pytest.raises(TypeError, match="float64"):
        torch.randn(3, device=PRETEND).double()


# -- distill ------------------------------------------------------------------------------------

STEPS: dict[str, dict[str, Any]] = {
    **{form: {"irl": form} for form in FORMS},
    "speed, manifold": {"irl": "speed", "irl_gradient": "manifold"},
    "cells, manifold, micro-batches": {"irl": "cells", "irl_gradient": "manifold", "micro_batch": 4},
    "recompute, reuse, dropout, clip": {"recompute": True, "reuse_images": True, "dropout": 0.1, "clip_grad": 1.0},
    "classes": {"irl": "borders", "classes": 3},
    "discriminator": {"irl": "off", "adversarial": 0.1},
    "discriminator, penalty, classes, micro-batches": {
        "irl": "off", "adversarial": 0.1, "discriminator_penalty": 0.1, "classes": 3, "micro_batch": 4,
    },
}  # fmt: skip


def distillation(device: torch.device, settings: dict[str, Any]) -> Distillation:
    settings = dict(settings)
    model = teacher(num_class_embeds=settings.pop("classes", None))
    chosen = DistillSettings(**{**EXACT, **settings})
    data = Images(*SHAPE) if chosen.adversarial == 0.1 else None
    return Distillation(model, chosen, 10, device, lambda *_: {}, data=data)


@pytest.mark.parametrize("settings", STEPS.values(), ids=list(STEPS))
def test_a_step_is_the_cpu_s(settings: dict[str, Any]) -> None:
    with pretend():
        found = run_step(distillation(PRETEND, settings), 4)
    expected = run_step(distillation(CPU, settings), 4)
    assert found == pytest.approx(expected, rel=2e-2, abs=1e-6, nan_ok=True)


@pytest.mark.parametrize("settings", STEPS.values(), ids=list(STEPS))
def test_a_step_waits_for_its_optimizers_alone(settings: dict[str, Any]) -> None:
    """This device has no fused Adam, so each of three optimizers is asked on the host; a GPU's is not."""
    with pretend() as seen:
        task = distillation(PRETEND, settings)
        task.step(4)  # forms are fitted in it
        seen.waits.clear()
        task.step(5)
    assert set(seen.waits) <= {"aten._local_scalar_dense.default"}
    assert seen.waits.total() <= 3


def test_a_resumed_step_is_the_uninterrupted_one() -> None:
    settings = DistillSettings(**EXACT, irl="cells", adversarial=0.1)
    with pretend():
        first, second = (
            Distillation(teacher(), settings, 10, PRETEND, lambda *_: {}, data=Images(*SHAPE)) for _ in range(2)
        )
        first.step(4)
        second.load({name: value.cpu() for name, value in first.tensors().items()})
        assert run_step(second, 5) == pytest.approx(run_step(first, 5), rel=1e-5, nan_ok=True)


@pytest.mark.parametrize("settings", [{}, {"classes": 3, "micro_batch": 4}], ids=["plain", "classes, micro-batches"])
def test_a_refinement_is_learnt(settings: dict[str, Any]) -> None:
    def made(device: torch.device) -> RefinementDistillation:
        given = dict(settings)
        model = teacher(num_class_embeds=given.pop("classes", None))
        chosen = DistillSettings(**{**EXACT, **given, "refine": 2})
        return RefinementDistillation(Generator.from_teacher(model, 2.5), model, chosen, 10, device, lambda *_: {})

    with pretend() as seen:
        task = made(PRETEND)
        found = run_step(task, 4)
        seen.waits.clear()
        task.step(5)
    assert seen.waits.total() <= 1  # its optimizer, as above
    assert found == pytest.approx(run_step(made(CPU), 4), rel=2e-2, abs=1e-6)


def first_stage() -> Autoencoder:
    torch.manual_seed(0)
    return Autoencoder(VQModel(**FIRST_STAGE, num_vq_embeddings=8).eval().requires_grad_(False), 1.0)


@pytest.mark.parametrize("phi", ["teacher", "pixels"])
def test_a_latent_teacher_is_distilled(phi: str) -> None:
    with pretend():
        model, stage = teacher(in_channels=3, out_channels=3).to(PRETEND), first_stage().to(PRETEND)
        sources = FeatureMapSources(model, stage, [0.5] * 3, Path(), True, PRETEND)
        data = EncodedImages(Images(3, 16, 16), first_stage(), (3, 8, 8), PRETEND)
        settings = DistillSettings(**EXACT, adversarial=0.1)
        task = Distillation(
            model, settings, 10, PRETEND, lambda *_: {}, build_feature_map(phi, sources), data=data, pixels=False
        )
        assert math.isfinite(task.step(4)["sidl_loss"])


# -- sample and the samplers --------------------------------------------------------------------

SAMPLERS = ["msa", "ddim-5", "euler-4", "heun-4", "dpm++-4", "hybrid-6", "pc-4", "one-step-teacher"]


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("float64", [True, False], ids=["", "no float64"])
def test_samplers(name: str, float64: bool) -> None:
    schedule = BetaSchedule.linear(12) if name == "msa" else BetaSchedule.linear()

    def made(device: torch.device) -> Tensor:
        model = Denoiser(unet(TINY), schedule).to(device)
        sampler = parse_sampler(name).fit(model, device)
        images = Teacher("a", model, "a", None, Autoencoder())
        return sampling.sample_teacher(images, sampler, latents(range(2), SHAPE).to(device), range(2)).cpu()

    with pretend(float64=float64) as seen:
        found = made(PRETEND)
    assert torch.allclose(found, made(CPU), rtol=1e-3, atol=1e-3)
    # nothing but the result is waited for: not once a step
    assert seen.waits.total() <= 1 + (name == "hybrid-6")


@pytest.mark.parametrize("classes", [None, 3])
def test_sampling_the_generator(classes: int | None) -> None:
    with pretend():
        found = list(sampling.sample(generator(teacher(num_class_embeds=classes)), range(5), 4))
    expected = sampling.sample(Generator(teacher(num_class_embeds=classes)).eval(), range(5), 4)
    assert all(torch.allclose(a, b, atol=1e-5) for (_, a), (_, b) in zip(found, expected, strict=True))


# -- interpolate --------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["lerp", "slerp", "uniform", "geodesic"])
def test_walks(path: str) -> None:
    from gsd_cli.commands.interpolate import _build_stage, _walk_leg

    z = latents(range(2), SHAPE)
    options: Any = SimpleNamespace(path=path, frames=4, batch_size=3, geodesic_steps=2)
    session = Session(Console(quiet=True))
    with pretend():
        ends = [Anchor(z[0], {}, residual=torch.zeros(SHAPE)), Anchor(z[1], {})]
        found = _walk_leg(*ends, _build_stage(generator(), ends, options.batch_size), options, session)
    assert found.z.device == found.images.device == CPU
    assert torch.allclose(found.z[0], z[0], atol=1e-5)


def test_inversion_gaussianity_and_pivotal_tuning() -> None:
    images = Images(*SHAPE).batch(torch.arange(2))
    with pretend():
        made = generator()
        found = inversion.invert(made, images, encoder_features(made), 2, 1, teacher=teacher().to(PRETEND))
        deltas = tuning.tune(made, found.z, images, 2)
        a, b = (Anchor(found.z[k], {}, deltas[k]) for k in range(2))
        assert render_between(made, a, b, found.z, torch.tensor([0.0, 1.0])).device == CPU
    assert len(found.gaussianity) == 2 and found.z.device == CPU


# -- edit ---------------------------------------------------------------------------------------


def test_unsupervised_directions() -> None:
    z = latents([3], SHAPE)[0]
    with pretend():
        made = generator()
        principal = components.principal_directions(made, 4, 8)
        own = components.sensitive_directions(made, z, encoder_features(made), 2, 1)
    assert {d.vector.device for d in (*principal, *own)} == {CPU}


def test_supervised_directions_of_a_learnt_attribute() -> None:
    with pretend():
        made = generator()
        knowledge = Knowledge(Model("a", Path(), made, {}))
        vectors = [knowledge.vectors([Images(*SHAPE).batch(torch.arange(8)) + shift]) for shift in (0.0, 1.0)]
        target, _ = knowledge.learn("bright", vectors[1], vectors[0])
        attributes = [*TRAITS, target]
        pool = supervised.gather(made, attributes, 8, 24)
        gradients = supervised.mean_gradients(made, attributes, 8, 8)
        supervised.fit(made, target, TRAITS[:1], pool, gradients, 8)
    assert pool.z.device == pool.h.device == gradients["bright"].device == CPU


def test_measuring_edits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(edit_quality, "TRAITS", TRAITS[:2])
    with pretend():
        made = generator(teacher(num_class_embeds=3))
        found = edit_quality.measure_edits(Model("a", Path(), made, {}), 2, 8)
    assert found.keys() <= {trait.name for trait in TRAITS[:2]} and found


# -- bench and evaluations ----------------------------------------------------------------------


@pytest.mark.parametrize("float64", [True, False], ids=["", "no float64"])
def test_measures_of_a_latent_space(float64: bool) -> None:
    def measured(made: Generator, device: torch.device) -> list[float]:
        judge = TeacherFeatures(teacher().to(device), Autoencoder())

        def images(z: Tensor) -> Tensor:
            return made(z.to(device))

        length = ppl.path_length(images, judge.squared_distance, SHAPE, 6, batch_size=4, epsilon=1e-2)
        report = isometry.isometry_report(images, judge.embed, SHAPE, paths=4)
        cheap = isometry.isometry(images, judge.embed, SHAPE, 8)
        spread = diversity.diversity(images, judge.squared_distance, SHAPE, 8)
        return [length.mean, report.speed_cv, report.mcn, cheap.speed_cv, cheap.pair_distance, spread["diversity"]]

    with pretend(float64=float64):
        found = measured(generator(), PRETEND)
    assert found == pytest.approx(measured(Generator(teacher()).eval(), CPU), rel=0.02)


def test_evaluations(tmp_path: Path) -> None:
    with pretend():
        made = generator()
        judges: list[Any] = [TeacherFeatures(teacher().to(PRETEND), Autoencoder())]
        judges += [ClassifierFeatures(net(1, 3).eval().to(PRETEND), name) for name, net in ARCHITECTURES.items()]
        for judge in judges:
            with torch.no_grad():
                features = torch.cat(list(evaluation.generator_features(made, judge, range(8), 4)))
            real = replace(gaussian_statistics([features], judge.name), features=features)
            found = evaluation.Evaluation(tmp_path, judge, real, 8, 4)(made, 1)
            assert found["fd"] == pytest.approx(0, abs=1e-3)
            assert found["recall"] == 1
            assert kernel_figures(features, features)["kid"] <= 0


@pytest.mark.parametrize("classes", [None, 3])
def test_memory_of_a_network_call(classes: int | None) -> None:
    """Class-conditional networks too, which refuse a call without a class."""
    model = teacher(num_class_embeds=classes)
    made = Generator(teacher(num_class_embeds=classes)).eval()
    context: Any = SimpleNamespace(
        options=SimpleNamespace(batch_size=2), precision="fp32", device=CPU, teacher=SimpleNamespace(denoiser=model),
        latent_shape=made.latent_shape,
    )  # fmt: skip
    ours = Contender(generator_subject("ours", made, CPU), made)
    msa = Contender(replace(ours.subject, name="msa"), parse_sampler("msa"))
    entries = [Entry(contender, Row(contender.name, 1, 1), {}) for contender in (msa, ours)]
    assert MEMORY.measure_together is not None
    MEMORY.measure_together(context, entries)
    assert entries[0].row.figures.keys() == entries[1].row.figures.keys()


# -- prepare ------------------------------------------------------------------------------------


def test_fitting_a_teacher(toy_archive_path: Path, tmp_path: Path) -> None:
    data, settings = ImageArchive(toy_archive_path), FitSettings(architecture="tiny", batch_size=4, conditional=True)
    with pretend():
        found = run_step(TeacherFit(data, settings, tmp_path, PRETEND), 3)
    assert found == pytest.approx(run_step(TeacherFit(data, settings, tmp_path, CPU), 3), rel=1e-3)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_fitting_features(architecture: str, toy_archive_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FeatureFit, "batch_size", 4)
    data = ImageArchive(toy_archive_path)

    def fitted(device: torch.device) -> dict[str, float]:
        task = FeatureFit(data, data, 10, 0, device, architecture)
        return run_step(task, 3) | task.evaluate(1)

    with pretend():
        found = fitted(PRETEND)
    assert found == pytest.approx(fitted(CPU), rel=1e-3)
