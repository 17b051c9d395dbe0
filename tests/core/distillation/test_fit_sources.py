"""What `borders` and `cells` fit, and a distillation that stops, is shared or cut into parts after the fit."""

from __future__ import annotations

import copy
import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gsd_cli.core.distillation import fit_sources
from gsd_cli.core.distillation.cells import Cells
from gsd_cli.core.distillation.clusters import Clusters
from gsd_cli.core.distillation.fit_sources import FitSources
from gsd_cli.core.distillation.isometric_term import SETTLING, IsometricTerm
from gsd_cli.core.distillation.step import Distillation
from gsd_cli.core.models.beta_schedule import BetaSchedule
from gsd_cli.core.models.condition import UNCONDITIONAL, Condition, every_class
from gsd_cli.core.models.denoiser import Denoiser
from gsd_cli.core.training.loop import Cadence, train
from gsd_cli.data.dataset import ImageArchive
from gsd_cli.options import DistillSettings
from tests.core.distillation.test_processes import require_alike, run
from tests.support import teachers
from tests.support.stepping import place, run_step, weigh
from tests.support.timeless import timeless

CPU = torch.device("cpu")
EVERY = Cadence(evaluate_steps=100, log_steps=1, checkpoint_seconds=0.0)
FORMS = ("borders", "cells")
NO_ANGLES = torch.empty(0)


def flat(images: Tensor) -> Tensor:
    return images.flatten(1)


def sources(shape: tuple[int, int, int], **changes: Any) -> FitSources:
    values = {
        "phi": flat,
        "generator": lambda z, condition: z.tanh(),
        "shape": shape,
        "conditions": UNCONDITIONAL,
        "device": CPU,
    }
    return FitSources(**{**values, **changes})


def make(teacher: Denoiser, total: int = 6, data: ImageArchive | None = None, **settings: object) -> Distillation:
    values = DistillSettings(**{"batch_size": 8, **settings})
    return Distillation(teacher, values, total, CPU, lambda *_: {}, flat, data=data)


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize("shape", [(1, 16, 16), (3, 20, 12), (4, 8, 8), (16, 4, 4), (1, 2, 3)])
@pytest.mark.usefixtures("quick_layout")
def test_a_layout_fits_any_shape(shape: tuple[int, int, int]) -> None:
    layout = Cells.fit(sources(shape), 0, 10)
    values = shape[0] * min(8, shape[1]) * min(8, shape[2])
    count = min(16, values + 1)
    assert layout.centres.shape == (count, shape[0] * shape[1] * shape[2])
    assert layout.anchors is not None and layout.anchors.shape == (count, values)
    z = torch.randn(50, *shape)
    torch.testing.assert_close(layout.of_latents(z, UNCONDITIONAL, NO_ANGLES).sum(1), torch.ones(50))


@pytest.mark.usefixtures("quick_layout")
def test_a_layout_is_a_function_of_its_seed() -> None:
    once, other = (Cells.fit(sources((1, 16, 16)), 3, chunk) for chunk in (7, 64))
    assert same(once.tensors(), other.tensors())
    assert not same(once.tensors(), Cells.fit(sources((1, 16, 16)), 4, 64).tensors())
    torch.manual_seed(99)  # of torch's own state it is none
    assert same(once.tensors(), Cells.fit(sources((1, 16, 16)), 3, 64).tensors())


@pytest.mark.usefixtures("quick_layout")
def test_real_images_are_taken_where_they_fit(toy_archive_path: Path) -> None:
    data = ImageArchive(toy_archive_path)
    layout = Clusters.fit(sources((1, 16, 16), data=data), 0, 5)
    assert type(layout) is Clusters
    images = data.batch(torch.arange(len(data)))
    assert len(layout.centres) == len(data)  # fewer than there may be centres: each is its own
    assert torch.cdist(layout.centres, flat(images)).amin(0).max() < 1e-3
    for unfit in ({"conditions": every_class(2)}, {"shape": (1, 8, 8)}):  # labels 0..2, 16 x 16
        assert sources(**{"shape": (1, 16, 16), "data": data, **unfit}).real is None
    assert sources((1, 16, 16), data=data, conditions=every_class(3)).real is data


@pytest.mark.usefixtures("quick_layout")
def test_a_generator_of_one_image_has_one_cluster() -> None:
    layout = Cells.fit(sources((1, 16, 16), generator=lambda z, condition: 0 * z), 0, 64)
    assert len(layout.centres) == 1
    assert torch.equal(layout.of_latents(torch.randn(4, 1, 16, 16), UNCONDITIONAL, NO_ANGLES), torch.ones(4, 1))
    assert torch.equal(layout.log_memberships(torch.randn(4, 256)), torch.zeros(4, 1))


def test_few_images_are_seen_where_features_are_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fit_sources, "FLOATS", 2**16)
    made = []
    generator = lambda z, condition: made.append(len(z)) or z.tanh()  # noqa: E731
    layout = Clusters.fit(sources((1, 16, 16), generator=generator), 0, 64)
    assert sum(made) == 2**16 // 256
    assert len(layout.centres) == 16


@pytest.mark.usefixtures("quick_layout")
def test_each_class_has_its_own_shares() -> None:
    """Images of class k have one of two looks, 2k or 2k + 1, with odds of 3 to 1, whatever z says."""

    def generator(z: Tensor, condition: Condition) -> Tensor:
        assert condition.classes is not None
        look = 2 * condition.classes + (torch.arange(len(z)) % 4 == 0)
        return torch.nn.functional.one_hot(look, 256).float().reshape(-1, 1, 16, 16) + 0 * z

    layout = Cells.fit(sources((1, 16, 16), generator=generator, conditions=every_class(3)), 0, 64)
    assert layout.biases is not None and layout.biases.shape == (3, 6)
    z, looks = torch.randn(20000, 1, 16, 16), layout.centres.argmax(1)
    for k in range(3):
        mean = layout.of_latents(z, Condition(torch.full((len(z),), k)), NO_ANGLES).mean(0)
        # one more image has all classes' shares, and 0.9 is the largest membership
        assert mean[(looks // 2) == k].sum() > 0.8
        assert mean[looks == 2 * k].item() > 1.5 * mean[looks == 2 * k + 1].item()


# -- in a distillation ---------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.usefixtures("quick_layout")
def test_a_layout_is_fitted_once_when_the_term_is_switched_on(toy_teacher: Denoiser, form: str) -> None:
    task = make(toy_teacher, 20, irl=form, irl_every=3)
    layouts = []
    for step in range(9):
        run_step(task, step)
        layouts.append(task.isometric.fitted)
    # the first turn after a tenth of the run is step 5
    assert layouts[:5] == [None] * 5
    assert layouts[5] is not None
    assert all(layout is layouts[5] for layout in layouts[5:])


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.usefixtures("quick_layout")
def test_a_run_resumed_after_the_fit_is_bit_identical(toy_teacher: Denoiser, tmp_path: Path, form: str) -> None:
    settings: dict[str, object] = {"irl": form, "dropout": 0.2}
    straight = make(toy_teacher, **settings)
    list(train(straight, 6, tmp_path / "straight", EVERY))
    first, asked = make(toy_teacher, **settings), itertools.count(1)
    list(train(first, 6, tmp_path / "halves", EVERY, lambda: next(asked) == 3))
    assert first.isometric.fitted is not None
    torch.manual_seed(78)
    second = make(toy_teacher, **settings)
    list(train(second, 6, tmp_path / "halves", EVERY))
    assert same(straight.tensors(), second.tensors())
    assert any(name.startswith("layout/") for name in second.tensors())
    rows = [timeless(tmp_path / name) for name in ("straight", "halves")]
    assert rows[0] == rows[1]
    last = rows[0][-1]
    assert last["irl_norm"] > 0
    assert (last["speed_spread"] is None) == (form == "cells")


@pytest.mark.slow
@pytest.mark.usefixtures("quick_layout")
def test_a_layout_of_another_form_is_not_taken(toy_teacher: Denoiser) -> None:
    """`--force` may change the form of a run."""
    tasks = {form: make(toy_teacher, irl=form) for form in ("stress", *FORMS)}
    for task in tasks.values():
        run_step(task, 1)
    saved = {form: copy.deepcopy(task.tensors()) for form, task in tasks.items()}
    for before, after in itertools.product(saved, tasks):
        tasks[after].load(saved[before])
        kept = tasks[after].isometric.fitted is not None
        assert kept == ((before, after) in {("borders", "borders"), ("cells", "cells"), ("cells", "borders")})
        assert torch.isfinite(tasks[after].step(2)["irl_loss"])


def test_the_weight_of_cells_is_found_and_held() -> None:
    def weights(form: str) -> list[float]:
        it = IsometricTerm(DistillSettings(irl=form, irl_ratio=2.0), flat, 1000)
        return [weigh(it, 1.0, 1.0 if step < 250 else 0.1, step) for step in range(1000)]

    held, followed = weights("cells"), weights("stress")
    assert held[:101] == [0.0] * 101
    assert held[200:] == pytest.approx([2.0] * 800)
    assert followed[-1] == pytest.approx(20.0, rel=1e-3)
    it = IsometricTerm(DistillSettings(irl="cells", irl_ratio=2.0), flat, 10)
    found = [weigh(it, 1.0, 1.0 + step, step) for step in range(2, 100)]
    assert found[SETTLING:] == [found[SETTLING - 1]] * (98 - SETTLING)
    assert len(set(found[:SETTLING])) == SETTLING


@pytest.mark.usefixtures("quick_layout")
def test_the_gradient_of_cells_keeps_its_scale_along_the_manifold(toy_teacher: Denoiser) -> None:
    """A held weight must weigh the gradient, not a step of given length."""
    task = make(toy_teacher, irl="cells")
    batch = task._generate(1)
    found = task.isometric.measure(batch.images.detach(), batch.latents)
    once, weaker = (
        task.isometric.restrict(term, batch.latents, batch.condition, task.generator).gradient
        for term in (found, replace(found, gradient=found.gradient / 8))
    )
    torch.testing.assert_close(weaker, once / 8, rtol=1e-3, atol=1e-3 * once.abs().max().item())


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.usefixtures("quick_layout")
def test_class_conditional_teachers_train(form: str) -> None:
    teacher = Denoiser(teachers.unet(teachers.SMALL, num_class_embeds=4), BetaSchedule.linear())
    task, parts = make(teacher, irl=form, batch_size=12), make(teacher, irl=form, batch_size=12, micro_batch=5)
    rows = [(run_step(task, step), run_step(parts, step)) for step in range(3)]
    for whole, cut in rows:
        assert cut == pytest.approx(whole, rel=1e-3, nan_ok=True)
    layout = task.isometric.fitted
    assert layout is not None
    if form == "cells":
        assert layout.biases is not None and len(layout.biases) == 4
        z = torch.randn(9, 1, 16, 16)
        assert not torch.allclose(
            *(layout.of_latents(z, Condition(classes.long()), NO_ANGLES) for classes in (torch.zeros(9), torch.ones(9)))
        )


class Ring(nn.Module):
    """Images on a circle, at the angle w . z: of the same distribution for every long w, with borders as long as it."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.nn.functional.normalize(torch.randn(4), dim=0) * 4)

    def forward(self, z: Tensor) -> Tensor:
        angle = z.flatten(1) @ self.w
        return torch.stack([angle.cos(), angle.sin()], 1)[:, None, None]


def trained(form: str, net: nn.Module, shape: tuple[int, int, int], steps: int) -> tuple[float, float]:
    """The form on fresh latents, before and after training for it alone."""
    it = IsometricTerm(DistillSettings(irl=form, sidl_weight=0.0, pair_every=2), flat, 100)
    it.prepare(0, sources(shape, generator=lambda z, condition: net(z)))

    def loss(step: int, batch: int) -> tuple[float, Tensor, Tensor]:
        latents = place(it, torch.randn(batch, *shape), step)
        y = net(torch.cat([latents.z, latents.extra]))
        found = it.measure(y.detach(), latents)
        return found.loss.item(), found.gradient, y

    before, adam = loss(0, 2048)[0], torch.optim.Adam(net.parameters(), 1e-2)
    for step in range(steps):
        _, gradient, y = loss(step, 256)
        adam.zero_grad()
        y.backward(gradient)
        adam.step()
    return before, loss(0, 2048)[0]


@pytest.mark.slow
def test_training_for_borders_makes_them_shorter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fit_sources, "IMAGES", 512)
    net = Ring()
    before, after = trained("borders", net, (1, 2, 2), 400)
    assert after < 0.9 * before
    assert net.w.norm() < 3.4


def test_training_for_cells_finds_the_targets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fit_sources, "IMAGES", 1024)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 16))
    before, after = trained("cells", net, (1, 8, 8), 150)
    assert after < 0.5 * before


# -- real processes ------------------------------------------------------------------------------

TRAIN = """
import sys
from pathlib import Path
import torch
from safetensors.torch import save_file
from gsd_cli.core.distillation import fit_sources
from gsd_cli.core.distillation.cells import Cells
from gsd_cli.core.distillation.clusters import Clusters
from gsd_cli.core.distillation.step import Distillation
from gsd_cli.core.models.diffusers_folder import load_denoiser
from gsd_cli.compute.distributed import join_world
from gsd_cli.data.dataset import ImageArchive
from gsd_cli.options import DistillSettings
from tests.support.stepping import run_step
torch.set_num_threads(1)
fit_sources.IMAGES = 64
world, state = join_world(torch.device("cpu")), {}
for form in ("borders", "cells"):
    settings = DistillSettings(batch_size=16, lr=1e-4, micro_batch=3, precision="fp32", irl=form, irl_ratio=1.0)
    teacher, data = load_denoiser(Path(sys.argv[1])), ImageArchive(Path(sys.argv[3]))
    data = None if form == "cells" else data
    task = Distillation(teacher, settings, 3, torch.device("cpu"), lambda *_: {}, world=world, data=data)
    if world.rank:  # another process may round otherwise
        task.average.requires_grad_(False)
        for parameter in task.average.parameters():
            parameter.mul_(1.001)
    metrics = [run_step(task, step) for step in range(3)]
    state |= {f"{form}.generator.{k}": p.grad.contiguous() for k, p in task.generator.named_parameters()}
    state |= {f"{form}.metric.{i}.{k}": torch.tensor(v) for i, row in enumerate(metrics) for k, v in row.items()}
    state |= {f"{form}.{k}": v.contiguous() for k, v in task.isometric.tensors().items()}
for form in ("borders", "cells"):
    for name, value in list(state.items()):
        if name.startswith(f"{form}.layout/"):
            assert torch.equal(world.gather(value[None])[-1], world.from_main(value)), name
if world.main:
    save_file(state, sys.argv[2])
world.wait()
"""


@pytest.mark.slow  # test_sharing has the default form in two processes
@pytest.mark.fault(19, "forms that are fitted, in 1 and 2 processes")
def test_two_processes_fit_and_train_as_one_does(
    toy_teacher_folder: Path, toy_archive_path: Path, tmp_path: Path
) -> None:
    one, two = (run(tmp_path, toy_teacher_folder, toy_archive_path, n, TRAIN) for n in (1, 2))
    assert one.keys() == two.keys()
    for name, value in one.items():
        if "layout" in name or "metric" in name:
            torch.testing.assert_close(two[name], value, rtol=2e-3, atol=1e-5, msg=name, equal_nan=True)
    for form in FORMS:
        names = {name for name in one if name.startswith(f"{form}.generator")}
        require_alike({name: one[name] for name in names}, {name: two[name] for name in names})


def test_a_layout_survives_a_checkpoint() -> None:
    layout = Cells.fit(sources((1, 8, 8)), 0, 64)
    restored = Cells.from_tensors({"norms": torch.zeros(2), **layout.tensors()}, CPU)
    assert restored is not None
    assert same(restored.tensors(), layout.tensors())
    assert Cells.from_tensors({"norms": torch.zeros(2)}, CPU) is None
