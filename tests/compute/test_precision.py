"""Which precision a training takes: what was given, what a GPU has, what a CPU turns out to be fast in."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from gsd_cli.base.console import Console
from gsd_cli.base.session import Session
from gsd_cli.cli.flags import MODELS
from gsd_cli.comparison.contenders import Contender, Row, baseline_subject, generator_subject
from gsd_cli.comparison.latent_space import PPL
from gsd_cli.comparison.metric import Entry
from gsd_cli.compute import device
from gsd_cli.compute.device import (
    autocast,
    cast_for_autocast,
    choose_precision,
    exact_if_fp32,
    full_precision,
    in_full_precision,
)
from gsd_cli.compute.distributed import join_world
from gsd_cli.core.models.beta_schedule import BetaSchedule
from gsd_cli.core.models.condition import UNCONDITIONAL, Condition
from gsd_cli.core.models.denoiser import Denoiser
from gsd_cli.core.models.generator import Generator
from gsd_cli.core.models.teacher import Teacher
from gsd_cli.core.sampling.discrete import ddim
from gsd_cli.core.sampling.samplers import parse_sampler
from gsd_cli.metrics.generated import generated_batches
from gsd_cli.metrics.path_length import noise_floor, path_length
from gsd_cli.options import PRESETS
from tests.support.teachers import TINY, unet

CPU = torch.device("cpu")


class Clock:
    """A clock that moves when a pass is made: by `fp32` or `bf16` seconds."""

    def __init__(self, fp32: float, bf16: float):
        self.now, self.seconds, self.passes = 0.0, {False: fp32, True: bf16}, 0

    def perf_counter(self) -> float:
        return self.now

    def train(self) -> None:
        low = torch.is_autocast_enabled("cpu")
        assert not low or torch.get_autocast_dtype("cpu") == torch.bfloat16
        # the first pass of either loads kernels
        self.now += self.seconds[low] * (50 if self.passes < 2 else 1)
        self.passes += 1


@pytest.mark.parametrize(
    ("fp32", "bf16", "wanted", "gain"),
    [(1.0, 0.5, "bf16", 2.0), (1.0, 1.0, "fp32", 1.0), (1.0, 0.9, "fp32", 1.11), (1.0, 20.0, "fp32", 0.05)],
)
def test_a_cpu_takes_bf16_where_it_is_clearly_faster(
    fp32: float, bf16: float, wanted: str, gain: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(fp32, bf16)
    monkeypatch.setattr(device, "time", clock)
    assert choose_precision("auto", CPU, clock.train) == (wanted, pytest.approx(gain, rel=0.01))


@pytest.mark.parametrize("given", ["fp32", "bf16", "fp16"])
def test_what_is_given_is_taken_untried(given: str) -> None:
    def train() -> None:
        raise AssertionError("nothing is to be tried")

    chosen, gain = choose_precision(given, CPU, train)
    assert chosen == given
    assert math.isnan(gain)


@pytest.mark.parametrize(("native", "wanted"), [(True, "bf16"), (False, "fp32")])
def test_a_gpu_that_only_emulates_bf16_takes_fp32(native: bool, wanted: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def supported(including_emulation: bool = True) -> bool:
        return native or including_emulation

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", supported)
    assert choose_precision("auto", torch.device("cuda"), lambda: None)[0] == wanted


def test_weights_cast_ahead_give_what_autocast_gives(toy_teacher: Denoiser) -> None:
    cast = cast_for_autocast(toy_teacher, "bf16")
    assert cast_for_autocast(toy_teacher, "fp32") is toy_teacher
    kinds = {type(m): m.weight.dtype for m in cast.modules() if hasattr(m, "weight")}
    assert kinds[torch.nn.Conv2d] == kinds[torch.nn.Linear] == torch.bfloat16
    assert kinds[torch.nn.GroupNorm] == torch.float32
    x, sigma = torch.randn(3, *toy_teacher.shape), torch.tensor([0.1, 1.0, 10.0])
    with autocast(torch.device("cpu"), "bf16"):
        assert torch.equal(cast(x, sigma), toy_teacher(x, sigma))
        for ours, theirs in zip(cast.encode(x, sigma), toy_teacher.encode(x, sigma), strict=True):
            assert torch.equal(ours, theirs)
    assert next(toy_teacher.parameters()).dtype == torch.float32


# -- float32 without TF32 ------------------------------------------------------------------------


def tf32() -> tuple[str, str]:
    """What convolutions and matrix products may use, by either generation of torch's settings."""
    return torch.backends.cudnn.conv.fp32_precision, torch.backends.cuda.matmul.fp32_precision


@pytest.fixture(params=["older", "newer", "newer, all"])
def _tf32_allowed(request: pytest.FixtureRequest) -> Iterator[None]:
    if not hasattr(torch.backends.cudnn, "conv"):
        pytest.skip("this torch has the older settings alone")
    if request.param == "older":
        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.allow_tf32 = True
    elif request.param == "newer":
        torch.backends.cudnn.conv.fp32_precision = "tf32"
        torch.backends.cuda.matmul.fp32_precision = "tf32"
    else:
        torch.backends.fp32_precision = "tf32"
        torch.backends.cudnn.conv.fp32_precision = "none"
    yield
    torch.backends.fp32_precision = "none"
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = True
    assert torch.get_float32_matmul_precision() == "highest"


@pytest.mark.usefixtures("_tf32_allowed")
def test_full_precision_is_without_tf32_however_it_was_allowed() -> None:
    before = tf32()
    assert "tf32" in before
    with full_precision(CPU):
        assert "tf32" not in tf32()
        with full_precision(CPU):
            assert "tf32" not in tf32()
        assert "tf32" not in tf32()
    assert tf32() == before


def test_fp32_means_no_autocast_and_no_tf32() -> None:
    assert torch.backends.cudnn.allow_tf32
    with torch.autocast("cpu", torch.bfloat16):
        for context in (autocast(CPU, "fp32"), autocast(CPU, "auto"), exact_if_fp32(CPU, "fp32")):
            with context:
                assert not torch.is_autocast_enabled("cpu")
                assert not torch.backends.cudnn.allow_tf32
        with exact_if_fp32(CPU, "bf16"):
            assert torch.is_autocast_enabled("cpu") and torch.backends.cudnn.allow_tf32
    assert torch.backends.cudnn.allow_tf32


def test_a_function_in_full_precision_finds_its_device() -> None:
    @in_full_precision
    def product(_: object, a: torch.Tensor) -> torch.Tensor:
        assert not torch.backends.cudnn.allow_tf32
        return a @ a

    with torch.autocast("cpu", torch.bfloat16):
        assert product("self", torch.ones(2, 2)).dtype == torch.float32
    with pytest.raises(TypeError, match="device"):
        product("self", "nothing")


# -- every command obeys --precision or refuses it ------------------------------------------------

OBEYED = {
    "sample": {"auto", "fp32", "bf16", "fp16"},
    "bench": {"auto", "fp32", "bf16", "fp16"},
    "distill": {"auto", "fp32", "bf16"},
    "prepare": {"auto", "fp32", "bf16"},
    "interpolate": {"auto", "fp32"},
    "edit": {"auto", "fp32"},
}
"""Training in fp16 would need scaled gradients; walks and edits are differences of near images."""


@pytest.mark.parametrize("command", OBEYED)
def test_a_precision_is_obeyed_or_refused(command: str) -> None:
    options = MODELS[command]
    needed = {
        "prepare": {"source": "a"}, "interpolate": {"images": ["seed:1", "seed:2"]}, "edit": {"image": "seed:1"},
    }.get(command, {})  # fmt: skip
    for precision in ("auto", "fp32", "bf16", "fp16"):
        if precision in OBEYED[command]:
            assert options(precision=precision, **needed).precision == precision
        else:
            with pytest.raises(ValidationError, match="precision"):
                options(precision=precision, **needed)


def test_the_recipe_of_sid_is_in_fp32() -> None:
    assert PRESETS["sid"]["precision"] == "fp32"


class Watched(torch.nn.Module):
    """A one-step generator that notes in which precision it is called."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Conv2d(1, 1, 1)
        self.conditions = UNCONDITIONAL
        self.latent_shape, self.device, self.calls = (1, 8, 8), CPU, 1
        self.seen: list[torch.dtype] = []

    def forward(self, z: torch.Tensor, condition: Condition | None = None) -> torch.Tensor:
        made = self.layer(z)
        self.seen.append(made.dtype)
        return made


def test_bench_makes_samples_in_the_precision_and_measures_paths_in_full() -> None:
    net: Any = Watched()
    subject = generator_subject("ours", net, CPU, "bf16")
    z = torch.randn(2, 1, 8, 8)
    subject.sample(z, range(2))
    subject.images(z)
    list(generated_batches(net, [], range(2), 2, "bf16"))
    list(generated_batches(net, [], range(2), 2))
    assert net.seen == [torch.bfloat16, torch.float32, torch.bfloat16, torch.float32]


# -- what TF32 would do to a path length -----------------------------------------------------------


def rounded(x: torch.Tensor) -> torch.Tensor:
    """To TF32's ten bits of mantissa, half to even."""
    bits = x.contiguous().view(torch.int32)
    return ((bits + 0xFFF + ((bits >> 13) & 1)) & ~0x1FFF).view(torch.float32)


@pytest.fixture
def _tf32_emulated(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = torch.nn.Conv2d._conv_forward

    def forward(self: Any, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        if torch.backends.cudnn.allow_tf32:
            x, weight = rounded(x), rounded(weight)
        return plain(self, x, weight, bias)

    monkeypatch.setattr(torch.nn.Conv2d, "_conv_forward", forward)


def path_figures(images: Any) -> tuple[float, float]:
    def squared(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return (a - b).square().flatten(1).sum(1)

    floor = noise_floor(images, squared, (1, 8, 8), 8) / 1e-8
    return path_length(images, squared, (1, 8, 8), 16, 1e-4).mean, floor


@pytest.mark.usefixtures("_tf32_emulated")
def test_path_lengths_are_taken_without_tf32() -> None:
    generator = Generator(Denoiser(unet(TINY), BetaSchedule.linear())).eval().requires_grad_(False)
    length, floor = path_figures(generator_subject("ours", generator, CPU).images)
    with torch.no_grad():
        bare, shown = path_figures(generator)
    assert floor < 0.01 * length
    # with TF32 the figure is mostly rounding, and the floor, of two roundings, shows it
    assert bare > 2 * length
    assert shown > 0.5 * bare


@pytest.mark.usefixtures("_tf32_emulated")
def test_a_noisy_path_length_is_said_to_be() -> None:
    generator = Generator(Denoiser(unet(TINY), BetaSchedule.linear())).eval().requires_grad_(False)
    subject = generator_subject("ours", generator, CPU)
    options: Any = SimpleNamespace(ppl_samples=16, seed=0, batch_size=16)
    judge: Any = SimpleNamespace(squared_distance=lambda a, b: (a - b).square().flatten(1).sum(1))
    for images, noisy in ((subject.images, False), (generator, True)):
        context: Any = SimpleNamespace(
            options=options, perceptual=judge, latent_shape=generator.latent_shape, notes=[],
            session=Session(Console(quiet=True)),
        )  # fmt: skip
        assert PPL.measure is not None
        with torch.no_grad():
            PPL.measure(context, Entry(Contender(replace(subject, images=images), generator), Row("ours", 1, 1), {}))
        assert bool(context.notes) == noisy


@pytest.mark.usefixtures("_tf32_emulated")
def test_the_noise_of_a_sampler_of_several_calls_is_measured_too() -> None:
    teacher = Denoiser(unet(TINY), BetaSchedule.linear()).eval().requires_grad_(False)
    options: Any = SimpleNamespace(ppl_samples=10, seed=0, batch_size=16)
    judge: Any = SimpleNamespace(squared_distance=lambda a, b: (a - b).square().flatten(1).sum(1))
    context: Any = SimpleNamespace(
        options=options, perceptual=judge, latent_shape=teacher.shape, notes=[], session=Session(Console(quiet=True))
    )
    sampler = parse_sampler("ddim-2")
    subject = baseline_subject(sampler, Teacher("toy", teacher, "toy"), CPU, lambda: None)
    bare = replace(subject, images=lambda z: ddim(teacher, z, 2, clip=False))
    for one, noisy in ((subject, False), (bare, True)):
        row = Row("ddim-2", 2, 1)
        assert PPL.measure is not None
        PPL.measure(context, Entry(Contender(one, sampler), row, {}))
        assert (row.figures["ppl_noise_floor"] > 0.01 * row.figures["ppl"]) == noisy == bool(context.notes)


# -- several processes ------------------------------------------------------------------------------


def test_accelerate_leaves_precision_alone_and_waits_for_long_measures(monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {}
    monkeypatch.setattr("gsd_cli.compute.distributed.process_count", lambda: 2)
    monkeypatch.setattr("accelerate.Accelerator", lambda **kwargs: given.update(kwargs))
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    join_world(CPU)
    assert given["mixed_precision"] == "no"
    assert given["kwargs_handlers"][0].timeout >= timedelta(hours=12)


def test_a_compiled_network_may_have_many_variants(monkeypatch: pytest.MonkeyPatch) -> None:
    """Dynamo gives up after 8 and runs as written, with a line in a log nobody reads."""
    compiled: list[object] = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self: compiled.append(self))
    net = torch.nn.Linear(2, 2)
    # torch's settings take no monkeypatch: undone, one is hidden
    with torch._dynamo.config.patch(recompile_limit=8):
        device.compile_network(net)
        assert torch._dynamo.config.recompile_limit >= 64
    assert compiled == [net]


def test_norms_keep_the_type_of_their_input() -> None:
    """A CUDA autocast computes group normalisation in float32; where it does not, results differ by a rounding."""
    net = torch.nn.Sequential(torch.nn.Conv2d(1, 8, 3), torch.nn.GroupNorm(2, 8))
    torch.nn.init.normal_(net[1].weight)
    x = torch.randn(2, 1, 8, 8)
    wanted, names = net(x), list(net.state_dict())
    device.lower_norms(net, torch.device("cpu"))
    assert type(net[1]) is torch.nn.GroupNorm
    device.lower_norms(net, torch.device("cuda"))
    assert type(net[1]) is device.LowPrecisionGroupNorm
    assert list(net.state_dict()) == names
    assert torch.equal(net(x), wanted)
    with autocast(torch.device("cpu"), "bf16"):
        found = net(x)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), wanted, rtol=0.02, atol=0.05)
    found.float().sum().backward()
    assert net[1].weight.grad is not None
    assert net[1].weight.grad.dtype == torch.float32


def test_auto_makes_pixels_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = torch.device("cuda")
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: True)
    assert device.resolve_precision("auto", cuda) == "bf16"
    assert device.image_precision("auto", cuda, latent=False) == "fp32"
    assert device.image_precision("auto", cuda, latent=True) == "bf16"
    assert device.image_precision("auto", torch.device("cpu"), latent=True) == "fp32"
    assert device.image_precision("bf16", cuda, latent=False) == "bf16"
