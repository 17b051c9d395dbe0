"""A batch in parts, and over processes, trains as it does whole."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from gsd_cli.base.errors import ExitCode, GsdError
from gsd_cli.compute.distributed import World, require_whole_weights
from gsd_cli.compute.random import normal_rows
from gsd_cli.core.distillation.latent_pairs import row_order
from gsd_cli.core.distillation.step import Distillation
from gsd_cli.core.models.denoiser import Denoiser
from gsd_cli.options import DistillSettings
from tests.support.stepping import run_step

CPU = torch.device("cpu")


class Share(World):
    """One of several, for arithmetic on rows."""

    def __init__(self, rank: int, size: int):
        super().__init__()
        self.rank, self.size = rank, size


def grouped(rows: list[int], every: int, group: int) -> set[tuple[int, ...]]:
    count = len(rows) // every
    return set(zip(*(rows[k * count : (k + 1) * count] for k in range(group)), strict=True))


@pytest.mark.parametrize(("every", "group"), [(2, 2), (4, 2), (4, 3)])
@pytest.mark.parametrize("size", [1, 2, 4])
def test_pairs_are_the_same_however_a_batch_is_shared(size: int, every: int, group: int) -> None:
    whole, found, rows = row_order(32, every, World(), group), set(), []
    pairs = grouped(whole, every, group)
    for rank in range(size):
        own = row_order(32, every, Share(rank, size), group)
        found |= grouped(own, every, group)
        rows += own
    assert found == pairs
    assert sorted(rows) == list(range(32))


@pytest.mark.parametrize("every", [2, 3, 4, 100])
@pytest.mark.parametrize("batch", [1, 2, 3, 4, 5, 7, 8, 63])
@pytest.mark.parametrize("group", [2, 3])
def test_every_row_has_its_place(batch: int, every: int, group: int) -> None:
    assert sorted(row_order(batch, every, World(), group)) == list(range(batch))


def test_a_row_depends_on_its_number_alone() -> None:
    whole = normal_rows(range(6), (2, 3), 7, "x", 1)
    assert torch.equal(normal_rows([4, 1], (2, 3), 7, "x", 1), whole[[4, 1]])
    assert not torch.equal(whole[0], whole[1])
    assert not torch.equal(normal_rows([0], (2, 3), 7, "x", 2)[0], whole[0])


def gradients(task: Distillation) -> dict[str, torch.Tensor]:
    named = {f"generator.{k}": p for k, p in task.generator.named_parameters()}
    named |= {f"fake.{k}": p for k, p in task.fake_score.network.named_parameters()}
    return {name: parameter.grad.clone() for name, parameter in named.items() if parameter.grad is not None}


def require_alike(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    """Gradients, not weights: where one is zero but for rounding, Adam moves by its sign."""
    assert one.keys() == other.keys()
    largest = max(value.abs().max().item() for value in one.values())
    for name, value in one.items():
        torch.testing.assert_close(other[name], value, rtol=2e-3, atol=1e-4 * largest, msg=name)


def two_steps(teacher: Denoiser, **settings: object) -> dict[str, torch.Tensor]:
    task = Distillation(teacher, DistillSettings(batch_size=10, lr=1e-4, **settings), 2, CPU, lambda *_: {})
    for step in range(2):
        run_step(task, step)
    return gradients(task)


@pytest.mark.parametrize(
    ("irl", "gradient", "steps"),
    [
        ("speed", "free", 1), ("straight", "free", 1), ("literal", "free", 1), ("literal", "manifold", 1),
        ("borders", "free", 1), ("cells", "manifold", 1), ("off", "free", 1), ("stress", "manifold", 2),
    ],
)  # fmt: skip
@pytest.mark.usefixtures("quick_layout")
def test_micro_batches_give_the_whole_batch_s_gradient(
    toy_teacher: Denoiser, irl: str, gradient: str, steps: int
) -> None:
    settings = {"irl": irl, "irl_gradient": gradient, "student_steps": steps}
    whole = two_steps(toy_teacher, **settings)
    require_alike(whole, two_steps(toy_teacher, **settings, micro_batch=3))
    with pytest.raises(AssertionError):
        require_alike(whole, two_steps(toy_teacher, **settings, seed=1))


# -- real processes ------------------------------------------------------------------------------

TRAIN = """
import sys
from pathlib import Path
import torch
from safetensors.torch import save_file
from gsd_cli.core.distillation import adversarial_term
from gsd_cli.core.distillation.refinement import RefinementDistillation
from gsd_cli.core.distillation.step import Distillation
from gsd_cli.core.training.fit_teacher import TeacherFit
from gsd_cli.core.models.generator import Generator
from gsd_cli.core.sampling.images import sample
from gsd_cli.core.models.diffusers_folder import load_denoiser
from gsd_cli.compute.distributed import join_world
from gsd_cli.core.models.autoencoder import Autoencoder
from gsd_cli.data.dataset import ImageArchive
from gsd_cli.metrics.evaluation import Evaluation
from gsd_cli.metrics.features import TeacherFeatures
from gsd_cli.metrics.statistics import gaussian_statistics
from gsd_cli.options import DistillSettings, FitSettings
from tests.support.stepping import run_step
torch.set_num_threads(1)
adversarial_term.HEAD_START = 0
world = join_world(torch.device("cpu"))
irl = {"irl_weight": 0.5, "irl_gradient": "manifold"}
student = {"student_width": 2, "student_depth": 2, "student_steps": STEPS}
common = {"batch_size": 16, "lr": 1e-4, "micro_batch": 3, "adversarial": 1.0, "precision": "fp32"}
settings = DistillSettings(**common, **irl, **student)
teacher, data = load_denoiser(Path(sys.argv[1])), ImageArchive(Path(sys.argv[3]))
task = Distillation(teacher, settings, 2, torch.device("cpu"), lambda *_: {}, world=world, data=data)
metrics = [run_step(task, step) for step in range(2)]
images = dict(sample(Generator(task.teacher), [4, 9, 2, 7, 5], 2, world=world))
resolve_fit_settings = FitSettings(architecture="tiny", batch_size=8)
fit = TeacherFit(data, resolve_fit_settings, Path("fit"), torch.device("cpu"), world)
metrics += [run_step(fit, step) for step in range(2)]
refining = DistillSettings(batch_size=16, micro_batch=4, precision="fp32", refine=2)
learnt = RefinementDistillation(
    Generator(teacher), teacher, refining, 2, torch.device("cpu"), lambda *_: {}, world=world
)
two = Generator(load_denoiser(Path(sys.argv[1])), (2.5, 0.6), later=load_denoiser(Path(sys.argv[1])))
second = Distillation(
    teacher, DistillSettings(**common, **irl), 2, torch.device("cpu"), lambda *_: {}, world=world, data=data, start=two
)
judge = TeacherFeatures(teacher, Autoencoder())
real = gaussian_statistics([judge.features(data.batch(torch.arange(12)))], judge.name)
measured = Evaluation(Path(sys.argv[2]).parent / "grids", judge, real, 10, 3, world=world)(Generator(task.teacher), 1)
assert world.main or not measured
metrics.append(measured)
metrics += [run_step(learnt, step) for step in range(2)]
metrics += [run_step(second, step) for step in range(2)]
if world.main:
    state = {f"generator.{k}": p.grad.contiguous() for k, p in task.generator.named_parameters()}
    state |= {f"fake.{k}": p.grad.contiguous() for k, p in task.fake_score.network.named_parameters()}
    state |= {f"discriminator.{k}": p.grad.contiguous() for k, p in task.adversarial.heads.named_parameters()}
    state |= {f"fitted.{k}": p.grad.contiguous() for k, p in fit.net.named_parameters()}
    state |= {f"refining.{k}": p.grad.contiguous() for k, p in learnt.network.named_parameters()}
    state |= {f"second.{k}": p.grad.contiguous() for k, p in second.generator.later.named_parameters()}
    state |= {f"image.{k}": v.contiguous() for k, v in images.items()}
    state |= {f"metric.{i}.{k}": torch.tensor(v) for i, row in enumerate(metrics) for k, v in row.items()}
    save_file(state, sys.argv[2])
world.wait()
"""


def run(folder: Path, teacher: Path, data: Path, processes: int, source: str = TRAIN) -> dict[str, torch.Tensor]:
    script, out = folder / "train.py", folder / f"{processes}.safetensors"
    script.write_text(source)
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"] if processes > 1 else []
    command = [sys.executable, *launcher, str(script), str(teacher), str(out), str(data)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, capture_output=True, timeout=280, env=environment)
    assert done.returncode == 0, done.stderr.decode()[-3000:]
    return load_file(out)


@pytest.mark.slow
@pytest.mark.fault(19, "1 and 2 processes")
@pytest.mark.parametrize("steps", [1, 2])
def test_two_processes_train_and_sample_as_one_does(
    toy_teacher_folder: Path, toy_archive_path: Path, tmp_path: Path, steps: int
) -> None:
    source = TRAIN.replace("STEPS", str(steps))
    one, two = (run(tmp_path, toy_teacher_folder, toy_archive_path, n, source) for n in (1, 2))
    assert one.keys() == two.keys()
    for name, value in one.items():
        if name.startswith("image"):
            assert torch.equal(value, two[name]), name
        if name.startswith("metric.4"):  # an evaluation, of batches of three: the same to the last bit
            assert torch.equal(two[name], value), name
        elif name.startswith("metric"):
            torch.testing.assert_close(two[name], value, rtol=1e-3, atol=1e-5, msg=name)
    for kind in ("generator", "fake", "discriminator", "fitted", "refining", "second"):
        names = {name for name in one if name.startswith(kind)}
        require_alike({name: one[name] for name in names}, {name: two[name] for name in names})


@pytest.mark.parametrize("kind", ["FSDP", "DEEPSPEED"])
def test_launchers_that_cut_weights_in_pieces_are_refused(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"ACCELERATE_USE_{kind}", "true")
    with pytest.raises(GsdError, match="whole") as caught:
        require_whole_weights()
    assert caught.value.code == ExitCode.USAGE
    assert "--shard" in str(caught.value.hint)
