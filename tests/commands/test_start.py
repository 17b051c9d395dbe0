"""gsd distill --start: a run that goes on from a generator."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from gsd_cli.base.errors import GsdError
from gsd_cli.core.distillation.start import open_start
from gsd_cli.core.distillation.step import Distillation
from gsd_cli.core.models.denoiser import Denoiser
from gsd_cli.core.models.generator import Generator, load_model, save_generator
from gsd_cli.core.models.prompts import load_prompts
from gsd_cli.core.models.teacher import load_teacher
from gsd_cli.options import DistillSettings
from tests.support import kinds
from tests.support.shell import DISTILL, Shell
from tests.support.stepping import run_step

CPU = torch.device("cpu")


def weights(generator: Generator) -> list[torch.Tensor]:
    return [value.detach().clone() for value in generator.denoiser.net.state_dict().values()]


def same(a: list[torch.Tensor], b: list[torch.Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_a_run_starts_as_the_generator_and_resumes(workshop: Shell) -> None:
    before = weights(load_model(str(workshop.folder / "run")).generator)
    begun = workshop.gsd(*DISTILL, "--steps", "2", "--start", "run", "--fake-warmup", "1", "-o", "second")
    assert begun.returncode == 0, begun.stderr.decode()
    # two steps of eight images: the generator still waits, for the whole run
    assert "the first 1,000 images train the fake score alone (--fake-warmup), and this run has 16" in " ".join(
        begun.stderr.decode().split()
    )
    assert same(before, weights(load_model(str(workshop.folder / "second")).generator))
    rows = [json.loads(line) for line in (workshop.folder / "second" / "metrics.jsonl").read_text().splitlines()]
    assert "fake_loss" in rows[-1] and "sidl_loss" not in rows[-1]
    other = workshop.gsd(*DISTILL, "--steps", "3", "--fake-warmup", "1", "-o", "second")
    assert other.returncode == 2
    assert "start (run -> None)" in other.stderr.decode()
    again = workshop.gsd(*DISTILL, "--steps", "3", "--start", "run", "--fake-warmup", "1", "-o", "second")
    assert again.returncode == 0, again.stderr.decode()
    card = json.loads((workshop.folder / "second" / "generator" / "gsd.json").read_text())
    assert card["settings"]["start"] == "run"
    assert "the generator `run`, not the teacher" in (workshop.folder / "second/generator/README.md").read_text()


def test_the_generator_waits_while_the_fake_score_learns(toy_teacher: Denoiser) -> None:
    settings = DistillSettings(batch_size=8, fake_warmup=0.016, irl="off", precision="fp32")
    task = Distillation(toy_teacher, settings, 6, CPU, lambda *_: {}, start=Generator(toy_teacher, 2.5))
    start, fake = weights(task.generator), [p.clone() for p in task.fake_score.network.parameters()]
    for step in range(2):
        assert "sidl_loss" not in run_step(task, step)
    assert same(start, weights(task.generator)) and same(start, weights(task.average))
    assert not same(fake, list(task.fake_score.network.parameters()))
    assert "sidl_loss" in run_step(task, 2)
    assert not same(start, weights(task.generator))


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--start", "nowhere"], 3, "nowhere"),
        (["--start", "fashion"], 3, "fashion makes images of (1, 32, 32) in no classes, the teacher (1, 16, 16)"),
        (["--start", "run", "--sigma-init", "5"], 2, "--sigma-init 2.5"),
        (["--start", "run", "--adapters", "4"], 2, "--start replaces the weights that adapters"),
    ],
)
def test_what_cannot_be_started_from(workshop: Shell, arguments: list[str], code: int, message: str) -> None:
    done = workshop.gsd(*DISTILL, "--steps", "3", *arguments, "-o", "refused")
    assert done.returncode == code
    assert message in " ".join(done.stderr.decode().split())
    assert not (workshop.folder / "refused").exists()


def test_half_weights_are_trained_in_float32(tmp_path: Path) -> None:
    teacher = load_teacher("ddpm-fashion")
    save_generator(Generator(teacher.denoiser, 2.5), tmp_path / "half", {}, "", half=True)
    start = open_start(str(tmp_path / "half"), teacher, DistillSettings())
    assert start is not None
    assert {p.dtype for p in start.generator.parameters()} == {torch.float32}
    assert open_start(None, teacher, DistillSettings()) is None
    with pytest.raises(GsdError, match=r"at sigma 2\.5, this run at 3"):
        open_start(str(tmp_path / "half"), teacher, DistillSettings(sigma_init=3.0))


def test_a_start_is_trained_and_measured_on_the_prompts_of_the_run(tmp_path: Path) -> None:
    """A generator of texts keeps only some prompts, so that it can be sampled from without a text encoder."""
    path = kinds.prompts("SD", tmp_path / "five.safetensors")
    teacher = load_teacher(str(kinds.text("SD")(tmp_path / "teacher")), prompts=path)
    kept = load_prompts(path).spread(2)
    save_generator(Generator(teacher.denoiser, 2.5), tmp_path / "start", {}, "", half=False, prompts=kept)
    assert len(load_model(str(tmp_path / "start")).generator.conditions) == 2
    start = open_start(str(tmp_path / "start"), teacher, DistillSettings())
    assert start is not None
    found, wanted = start.generator.conditions.embeddings, teacher.denoiser.conditions.embeddings
    assert found is not None and wanted is not None and torch.equal(found, wanted)
