"""The isometric term inside the distillation: its gradient, its cost, its weight, and its harm."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from gsd_cli.compute.random import latents
from gsd_cli.core.distillation.isometric_forms import FORMS
from gsd_cli.core.distillation.step import Distillation
from gsd_cli.core.models.beta_schedule import BetaSchedule
from gsd_cli.core.models.condition import UNCONDITIONAL
from gsd_cli.core.models.denoiser import Denoiser
from gsd_cli.core.models.generator import Generator
from gsd_cli.core.training.loop import Cadence, train
from gsd_cli.core.training.watchdog import review
from gsd_cli.metrics.statistics import Statistics, frechet_distance, gaussian_statistics
from gsd_cli.options import DistillSettings
from tests.support.stepping import GOOD, run_step

CPU = torch.device("cpu")
SHAPE = (1, 4, 4)


def flat(images: Tensor) -> Tensor:
    return images.flatten(1)


def make(teacher: Denoiser, total: int = 1, **settings: object) -> Distillation:
    values = {"batch_size": 8, **settings}
    return Distillation(teacher, DistillSettings(**values), total, CPU, lambda *_: {}, flat)


@pytest.mark.parametrize("form", list(FORMS))
@pytest.mark.usefixtures("quick_layout")
def test_the_gradient_through_the_generator_is_that_of_the_form(toy_teacher: Denoiser, form: str) -> None:
    task = make(toy_teacher, irl=form, irl_gradient="free", sidl_weight=0.0)
    reference = make(toy_teacher, irl=form, sidl_weight=0.0)
    task._begin(0)
    metrics, _ = task._update_generator(task._generate(0), 0, GOOD)
    fitted = task.isometric.fitted
    placed = reference.isometric.make_pairs(reference.draws.normal("generator", 0, "z"), reference.draws, 0)
    y = reference.generator(torch.cat([placed.z, placed.extra]))
    shared = reference.isometric.form.shared * placed.pairs
    features = flat(torch.cat([y[:shared], y[8:]])).unflatten(0, (-1, placed.pairs))
    seen = features if fitted is None else fitted.log_memberships(features)
    wanted = (
        placed.theta if fitted is None else fitted.of_latents(placed.z[: placed.pairs], UNCONDITIONAL, placed.theta)
    )
    loss = reference.isometric.form.compare(seen, wanted)[0].mean()
    assert metrics["irl_loss"] == pytest.approx(loss.item(), rel=1e-3)
    wanted = torch.autograd.grad(loss, list(reference.generator.parameters()), allow_unused=True)
    largest = max(g.abs().max().item() for g in wanted if g is not None)
    for parameter, gradient in zip(task.generator.parameters(), wanted, strict=True):
        # float32 differences of near images: a per cent
        torch.testing.assert_close(parameter.grad, gradient, rtol=2e-2, atol=2e-2 * largest)


@pytest.mark.parametrize(
    ("form", "images", "looked_at"),
    [
        ("off", 8, 0),
        ("speed", 8, 4),
        ("stress", 8, 4),
        ("straight", 8, 6),
        ("literal", 14, 10),
        ("jacobian", 16, 8),
        ("borders", 8, 4),
        ("cells", 8, 2),
    ],
)
@pytest.mark.usefixtures("quick_layout")
def test_pairs_share_the_images_of_the_distillation(
    toy_teacher: Denoiser, form: str, images: int, looked_at: int
) -> None:
    for gradient in ("free", "manifold"):
        task, seen = make(toy_teacher, irl=form, irl_gradient=gradient), []
        task.generator.register_forward_hook(lambda module, inputs, output, seen=seen: seen.append(len(output)))
        task._update_generator(task._generate(1), 1, GOOD)  # past the warm-up of a run of one step
        calls = [8] if images == 8 else [8, images - 8]
        # along the manifold: to the latents and from there, once each
        assert seen == calls + ([looked_at] * 2 if gradient == "manifold" and looked_at else [])


def test_extra_images_are_made_in_float32_whatever_the_precision(toy_teacher: Denoiser) -> None:
    task = make(toy_teacher, irl="jacobian", irl_gradient="manifold", precision="bf16")
    seen = []
    conv = task.generator.denoiser.net.conv_in
    conv.register_forward_hook(lambda module, inputs, output: seen.append((len(output), output.dtype)))
    metrics, _ = task._update_generator(task._generate(1), 1, GOOD)
    assert seen == [(8, torch.bfloat16), *[(8, torch.float32)] * 3]  # extra images, and twice along the manifold
    assert metrics["irl_norm"] > 0


def test_every_kth_step_measures_and_the_others_say_nothing(toy_teacher: Denoiser) -> None:
    task = make(toy_teacher, irl_every=3, irl_weight=0.2)
    rows = [run_step(task, step) for step in range(6)]
    assert ["irl_weight" in row for row in rows] == [False, False, True] * 2
    assert rows[5]["irl_weight"] == pytest.approx(0.6)
    assert rows[5]["irl_ratio"] == pytest.approx(0.6 * rows[5]["irl_norm"] / rows[5]["sidl_norm"])
    assert all(row["sidl_norm"] > 0 for row in rows)


# -- a teacher of one Gaussian: trained in milliseconds, measured exactly ------------------------


class GaussianNet(nn.Module):
    """The exact eps of pixels ~ N(mean, scale^2): what a DDPM would learn of them."""

    def __init__(self) -> None:
        super().__init__()
        self.config = SimpleNamespace(sample_size=SHAPE[1], in_channels=SHAPE[0])
        self.mean = nn.Parameter(torch.linspace(-0.5, 0.5, 16).reshape(SHAPE))
        self.log_scale = nn.Parameter(torch.linspace(0.1, 1.0, 16).reshape(SHAPE).log())
        self.sigmas = BetaSchedule.linear()

    def forward(self, x: Tensor, t: Tensor) -> SimpleNamespace:
        sigma = self.sigmas.sigma(t).reshape(-1, 1, 1, 1)
        variance = self.log_scale.exp().square() + sigma**2
        return SimpleNamespace(sample=sigma * (x * (1 + sigma**2).sqrt() - self.mean) / variance)


@pytest.fixture
def gaussian_teacher() -> Denoiser:
    return Denoiser(GaussianNet(), BetaSchedule.linear())


def distance_to_teacher(teacher: Denoiser, generator: Generator) -> float:
    net = teacher.net
    truth = Statistics(
        net.mean.detach().flatten().double().numpy(),
        np.diag(net.log_scale.detach().exp().square().flatten().double().numpy()),
        10**6,
        "pixels",
    )
    with torch.no_grad():
        made = generator(latents(range(1000), SHAPE))
    return frechet_distance(gaussian_statistics([flat(made)], "pixels"), truth)


def distil(teacher: Denoiser, run: Path, steps: int, **settings: object) -> tuple[list[dict[str, float]], list[str]]:
    values = {"batch_size": 32, "lr": 3e-3, "ema_half_life": 1000.0, **settings}
    task = Distillation(
        teacher, DistillSettings(**values), steps, CPU, lambda g, _: {"fd": distance_to_teacher(teacher, g)}, flat
    )
    reports = list(train(task, steps, run, Cadence(evaluate_steps=steps // 10, checkpoint_seconds=1e9)))
    return [r.metrics | r.evaluation for r in reports], [note for r in reports for note in r.notes]


@pytest.mark.slow
@pytest.mark.parametrize("gradient", ["free", "manifold"])
@pytest.mark.parametrize(("ratio", "every"), [(2.0, 1), (0.5, 4)])
def test_auto_reaches_its_target_ratio_and_holds_it(
    gaussian_teacher: Denoiser, tmp_path: Path, ratio: float, every: int, gradient: str
) -> None:
    # along the manifold the norm is one of images moved, which does not fall as this toy converges: the memory of 20
    # turns, 80 steps with `every`, would lag behind a fast one
    settings = {"irl_ratio": ratio, "irl_every": every, "irl_gradient": gradient, "lr": 3e-3 if every == 1 else 3e-4,
                "fake_score": "plain"}  # fmt: skip
    rows, _ = distil(gaussian_teacher, tmp_path, 320, **settings)
    assert max(row.get("irl_ratio", 0.0) for row in rows[:32]) == 0  # the first tenth

    def held(window: list[dict[str, float]]) -> float:
        """Of norms, each a mean over the window: single batches scatter by a factor of two."""
        due = [row for row in window if "irl_norm" in row]
        turned = sum(row["irl_weight"] * row["irl_norm"] for row in due) / every
        return turned / sum(row["sidl_norm"] for row in due)

    assert held(rows[64:]) == pytest.approx(ratio, rel=0.25)
    for start in range(64, 320, 64):  # with `every` there are few in a window
        assert held(rows[start : start + 64]) == pytest.approx(ratio, rel=0.25 * every**0.5)


def test_a_weight_a_hundred_times_too_large_is_noticed_and_reported(gaussian_teacher: Denoiser, tmp_path: Path) -> None:
    settings = {"irl": "jacobian", "batch_size": 16, "lr": 1.5e-2, "fake_lr": 6e-2, "ema_half_life": 200.0}
    rows, notes = distil(gaussian_teacher, tmp_path, 120, irl_ratio=3.0, **settings)
    good = [row["fd"] for row in rows if "fd" in row]
    assert notes == []
    assert good[-1] < 0.2 * good[0]
    held = sum(row["irl_weight"] for row in rows[-50:]) / 50
    # the run goes on, lengthened, with the weight that `auto` had found times a hundred
    rows, notes = distil(gaussian_teacher, tmp_path, 240, irl_weight=100 * held, **settings)
    harmed = [row["fd"] for row in rows if "fd" in row]
    assert min(harmed[-3:]) > 2 * good[-1]
    resumed, *warnings = notes
    assert resumed == "resumed at step 120"
    assert any("times the others': the images will suffer; use --irl-weight auto" in note for note in warnings)
    assert any(f"the Frechet distance rises, from {min(good):.4g}" in note for note in warnings)


def rows_of(*distances: float | None, ratio: float = 1.0) -> list[dict[str, object]]:
    return [{"step": i, "irl_ratio": ratio, **({} if d is None else {"fd": d})} for i, d in enumerate(distances)]


def test_a_good_run_is_not_blamed() -> None:
    # the bundled generator's own run: one evaluation lay a third above the one before
    assert review(rows_of(70.8, 15.8, 20.9, 13.9, 13.0, 11.9, 11.3, 9.3)) == []
    for distances in ((70.8, 15.8, 20.9, 13.9), (70, 10, 90), (5, 90, 90), (None, None), ()):
        assert [n for n in review(rows_of(*distances)) if "rises" not in n] == []
    assert review(rows_of(70, 10, 90)) == []


def test_a_rise_is_told_once_and_blamed_on_what_leads() -> None:
    (light,) = review(rows_of(70, 10, None, 16, 19))
    assert "from 10 at step 1 to 19" in light
    assert "--lr" in light
    assert review(rows_of(70, 10, None, 16, 19, 25)) == []  # reported before
    assert review(rows_of(70, 10, 16, 19, 12)) == []
    assert len(review(rows_of(70, 10, 16, 9, 20, 21))) == 1  # a second time, after it had ended


def test_a_leading_term_is_told_once() -> None:
    (first,) = review(rows_of(70, ratio=90.0))
    assert "90 times" in first
    assert review(rows_of(70, 60, ratio=90.0)) == []
    (rise,) = review(rows_of(70, 10, 16, 19, ratio=90.0))
    assert "90 times" in rise
    assert review(rows_of(70, 10, ratio=3.0)) == []


def test_a_fall_of_recall_is_said_once() -> None:
    def rows_with(*recalls: float) -> list[dict[str, object]]:
        return [{"step": i, "fd": 10.0 - i, "recall": recall} for i, recall in enumerate(recalls)]

    assert review(rows_with(0.5, 0.6, 0.55, 0.58)) == []
    (note,) = review(rows_with(0.5, 0.7, 0.5, 0.55))
    assert "recall has fallen" in note
    assert review(rows_with(0.5, 0.7, 0.5, 0.55, 0.55)) == []
    assert review(rows_with(0.5, 0.7, 0.5)) == [], "one evaluation may be an accident"


@pytest.mark.parametrize(
    ("real", "fake", "word"),
    [(0.9, 0.85, "nearly always"), (0.95, 0.1, "the same of nearly every image"), (0.6, 0.55, "")],
)
def test_a_discriminator_that_wins_or_collapses_is_named(real: float, fake: float, word: str) -> None:
    rows = [{"step": i, "fd": 10.0 - i, "accuracy_real": real, "accuracy_fake": fake} for i in range(2)]
    notes = review(rows[:1])
    assert [word in note for note in notes] == ([True] if word else [])
    assert review(rows) == []
