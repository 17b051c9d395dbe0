"""Devices that are not there, memory that runs out, and images that depend on their seed whatever the machine."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch

from gsd_cli.core.models.denoiser import Denoiser
from gsd_cli.core.models.generator import Generator
from gsd_cli.core.sampling.images import sample
from tests.faults.conftest import contents, require_refusal
from tests.faults.test_hostile import allow
from tests.support.shell import DISTILL, Shell

SAMPLE = ("sample", "--model", "run")


@pytest.mark.fault(14, "--device cuda, cuda:1 and mps on a machine without")
@pytest.mark.parametrize("device", ["cuda", "cuda:1", "mps"])
@pytest.mark.parametrize(
    "arguments", [SAMPLE, (*DISTILL, "-o", "new"), ("bench", "--model", "run")], ids=lambda words: words[0]
)
def test_no_such_device(arguments: tuple[str, ...], device: str, desk: Shell) -> None:
    hidden = {"CUDA_VISIBLE_DEVICES": ""}
    done = desk.running(*arguments, "--device", device, env=hidden).wait()
    require_refusal(done, 5, device, "--device auto or --device cpu")
    assert not (desk.folder / "new").exists()


@pytest.mark.slow
@pytest.mark.fault(14, "a memory limit that a call of 4,000 images does not fit in")
def test_sampling_needs_no_more_memory_for_a_larger_batch(desk: Shell) -> None:
    """On a CPU calls have one size; a GPU's halving is tested below."""
    assert desk.gsd(*SAMPLE, "-N", "4000", "-o", "free.npz").returncode == 0
    many = (*SAMPLE, "-N", "4000", "--batch-size", "4000", "-o", "tight.npz")
    done = desk.running(*many, prepare=partial(allow, 100)).wait()
    assert done.returncode == 0, done.stderr.decode()
    free, tight = np.load(desk.folder / "free.npz"), np.load(desk.folder / "tight.npz")
    np.testing.assert_array_equal(tight["images"], free["images"])


@pytest.mark.fault(14, "a GPU whose memory does not hold the batch")
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_the_batch_is_halved_and_the_work_goes_on(toy_teacher: Denoiser) -> None:
    generator = Generator(toy_teacher).to("cuda").eval()
    asked: list[int] = []
    generator.register_forward_pre_hook(lambda _, given: asked.append(len(given[0])))
    _, total = torch.cuda.mem_get_info()
    torch.cuda.set_per_process_memory_fraction(2e8 / total)
    try:
        images = dict(sample(generator, range(8192), 8192))
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert asked[0] == 8192 and asked[1] == 4096 and len(images) == 8192
    alone = dict(sample(generator, [7000], 1))
    torch.testing.assert_close(images[7000], alone[7000], rtol=1e-3, atol=1e-3)


@pytest.mark.fault(14, "a memory limit that nothing fits in")
@pytest.mark.parametrize(
    "arguments",
    [(*DISTILL, "--steps", "1", "-o", "new", "--batch-size", "40000"),
     ("bench", "--model", "run", "--compare", "ddim-2", "--metrics", "time", "--time-batch", "60000")],
    ids=lambda words: words[0],
)  # fmt: skip
def test_no_memory_is_exit_5_with_the_option_that_helps(arguments: tuple[str, ...], desk: Shell) -> None:
    done = desk.running(*arguments, prepare=partial(allow, 400)).wait()
    require_refusal(done, 5, "memory", "--batch-size")
    assert not list(desk.folder.glob("new/generator*"))


@pytest.mark.fault(19, "batches of 1, 7 and 64")
def test_images_of_any_batch_size_are_the_same(desk: Shell) -> None:
    made = {}
    for size in ("1", "7", "64"):
        done = desk.gsd(*SAMPLE, "--seeds", "0-66", "--batch-size", size, "-o", f"{size}.npz")
        assert done.returncode == 0, done.stderr.decode()
        made[size] = np.load(desk.folder / f"{size}.npz")["images"]
    np.testing.assert_array_equal(made["1"], made["7"])
    np.testing.assert_array_equal(made["1"], made["64"])


@pytest.mark.fault(15, "wrong numbers of every kind, at once")
def test_every_wrong_number_is_named(desk: Shell) -> None:
    wrong = {"--alpha": "nan", "--lr": "0", "--steps": "-1", "--batch-size": "0", "--ema-half-life": "inf",
             "--seed": "-1", "--dropout": "1", "--beta1": "1e999", "--eval-samples": "1.5"}  # fmt: skip
    before = contents(desk.folder)
    done = desk.gsd("distill", *(word for pair in wrong.items() for word in pair))
    require_refusal(done, 2, *(f"{name}:" for name in wrong))
    assert contents(desk.folder) == before


@pytest.mark.fault(18, "a Frechet distance of 1 image, and of fewer than there are features")
def test_too_few_images_for_a_frechet_distance(desk: Shell) -> None:
    bench = ("bench", "--model", "run", "--compare", "ddim-2", "--metrics", "fd", "--features", "toy-features")
    require_refusal(desk.gsd(*bench, "-N", "1"), 2, "--num-samples")
    done = desk.gsd(*bench, "-N", "8")
    assert done.returncode == 0, done.stderr.decode()
    assert "warning: " in done.stderr.decode() and "128" in done.stderr.decode()
