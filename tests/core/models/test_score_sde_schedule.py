"""Variance-exploding score SDEs: closed forms, and diffusers' own pipeline on the same network and noise."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import ScoreSdeVePipeline, ScoreSdeVeScheduler, UNet2DModel
from torch import Tensor, nn

from gsd_cli.base.errors import GsdError, UsageError
from gsd_cli.catalogue.registry import TEACHERS
from gsd_cli.compute.random import generator_for, latents
from gsd_cli.core.models.denoiser import Denoiser, per_image
from gsd_cli.core.models.diffusers_folder import save_denoiser
from gsd_cli.core.models.fingerprint import teacher_fingerprint
from gsd_cli.core.models.generator import Generator
from gsd_cli.core.models.score_sde_schedule import VeSchedule
from gsd_cli.core.models.teacher import Teacher, load_teacher
from gsd_cli.core.sampling.samplers import parse_sampler
from tests.support import teachers
from tests.support.plain import PLAIN, amplifications, gaussian_estimates

SEED = 5
CHURCH = {
    **teachers.NCSNPP, "sample_size": 256, "layers_per_block": 2,
    "block_out_channels": (128, 128, 256, 256, 256, 256, 256),
    "down_block_types": ("SkipDownBlock2D",) * 4 + ("AttnSkipDownBlock2D",) + ("SkipDownBlock2D",) * 2,
    "up_block_types": ("SkipUpBlock2D",) * 2 + ("AttnSkipUpBlock2D",) + ("SkipUpBlock2D",) * 4,
}  # fmt: skip
"""google/ncsnpp-church-256 at full size, as its config.json says it."""
SCHEDULER = ScoreSdeVeScheduler(sigma_max=50.0, snr=0.17, num_train_timesteps=1000)


class GaussianScore(nn.Module):
    """The score of images ~ N(0.5, (spread / 2)^2) in [0, 1], which are N(0, spread^2) in [-1, 1]: a closed form."""

    def __init__(self, spread: float):
        super().__init__()
        self.spread = nn.Parameter(torch.tensor(spread))

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        return (0.5 - x) / ((self.spread / 2) ** 2 + sigma.reshape(-1, 1, 1, 1) ** 2)


def gaussian(spread: float = 0.5, **settings: float) -> Denoiser:
    return Denoiser(GaussianScore(spread), VeSchedule(**settings), "score", kind=PLAIN)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("ncsnpp") / "model"
    return teachers.with_scheduler(path, teachers.unet(teachers.NCSNPP), SCHEDULER)


@pytest.fixture(scope="module")
def ncsnpp(folder: Path) -> Denoiser:
    return load_teacher(str(folder)).denoiser


@pytest.mark.parametrize("sigma", [0.02, 0.1, 1.0, 2.5, 40.0, 700.0])
def test_the_clean_estimate_is_the_gaussian_one(sigma: float) -> None:
    found, expected = gaussian_estimates(gaussian(), 0.5, sigma)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_amplification_is_the_change_of_the_clean_estimate() -> None:
    change, amplification = amplifications(gaussian())
    torch.testing.assert_close(change, amplification)


@torch.no_grad()
def test_the_network_is_called_as_diffusers_calls_it(folder: Path, ncsnpp: Denoiser) -> None:
    """In [0, 1], at half of gsd's noise level."""
    net = UNet2DModel.from_pretrained(folder)
    x, sigma = 2 * torch.randn(2, 3, 16, 16), torch.tensor([0.3, 4.0])
    score = net((x + 1) / 2, sigma / 2).sample
    torch.testing.assert_close(ncsnpp.raw(x, sigma), score, rtol=0, atol=1e-6)
    half = (sigma / 2).reshape(-1, 1, 1, 1)
    torch.testing.assert_close(ncsnpp(x, sigma), 2 * ((x + 1) / 2 + half**2 * score) - 1, rtol=0, atol=1e-5)


def test_the_catalogue_has_the_size_of_the_published_networks() -> None:
    with torch.device("meta"):
        net = UNet2DModel(**CHURCH)
    published = {entry.parameters for name, entry in TEACHERS.items() if name.startswith("ncsnpp-")}
    assert published == {sum(p.numel() for p in net.parameters())}


def test_levels_are_twice_those_of_diffusers() -> None:
    schedule = VeSchedule.from_config(SCHEDULER.config)
    torch.testing.assert_close(schedule.sigmas.float(), 2 * SCHEDULER.discrete_sigmas, rtol=1e-5, atol=0)
    assert schedule.ode_range == pytest.approx((0.02, 100.0))
    theirs = ScoreSdeVeScheduler.from_config(SCHEDULER.config)
    theirs.set_timesteps(12)
    theirs.set_sigmas(12)
    assert schedule.own_levels(12) == pytest.approx([*(2 * theirs.sigmas).tolist(), 0.0], rel=1e-5)
    assert schedule.predictor_levels(12) == pytest.approx(
        [*(2 * theirs.discrete_sigmas.flip(0)).tolist(), 0.0], rel=1e-5
    )
    assert schedule.own_levels(1) == pytest.approx([100.0, 0.0]) == schedule.predictor_levels(1)


def shared_noise(monkeypatch: pytest.MonkeyPatch) -> Callable[[tuple[int, ...]], Tensor]:
    """Make diffusers draw the noise that gsd draws for one image; returns its latent."""
    stream, drawn = generator_for(SEED, "predictor-corrector"), []

    def draw(shape: tuple[int, ...], **_: object) -> Tensor:
        if not drawn:
            drawn.append(latents([SEED], shape[1:]))
            return drawn[0]
        return torch.randn(*shape[1:], generator=stream)[None]

    for module in ("schedulers.scheduling_sde_ve", "pipelines.deprecated.score_sde_ve.pipeline_score_sde_ve"):
        monkeypatch.setattr(f"diffusers.{module}.randn_tensor", draw)
    return lambda shape: latents([SEED], shape)


@pytest.mark.parametrize("change", [{}, {"correct_steps": 2}, {"correct_steps": 0}, {"sigma_max": 380.0, "snr": 0.075}])
@torch.no_grad()
def test_msa_is_the_pipeline(folder: Path, change: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scheduler = ScoreSdeVeScheduler.from_config({**SCHEDULER.config, **change})
    pipeline = ScoreSdeVePipeline(UNet2DModel.from_pretrained(folder), scheduler)
    pipeline.set_progress_bar_config(disable=True)
    model = load_teacher(str(teachers.with_scheduler(tmp_path / "t", pipeline.unet, scheduler))).denoiser
    noise = shared_noise(monkeypatch)(model.shape)
    wanted = pipeline(num_inference_steps=8, output_type="np").images
    sampler = parse_sampler("msa-8")
    images = (sampler(model, noise, [SEED]) / 2 + 0.5).permute(0, 2, 3, 1)
    assert images.std() > 0.05
    torch.testing.assert_close(images.clamp(0, 1), torch.from_numpy(wanted), rtol=0, atol=1e-4)
    assert sampler.calls(model) == 8 * (1 + scheduler.config.correct_steps)


def test_an_image_depends_on_its_seed_alone(ncsnpp: Denoiser) -> None:
    noise = latents([1, SEED], ncsnpp.shape)
    together = parse_sampler("msa-4")(ncsnpp, noise, [1, SEED])
    alone = parse_sampler("msa-4")(ncsnpp, noise[1:], [SEED])
    torch.testing.assert_close(together[1:], alone, rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", ["msa-400", "ddim-60"])
def test_its_own_steps_bring_noise_to_the_data_s_spread(name: str) -> None:
    noise = torch.randn(64, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    found = parse_sampler(name)(gaussian(sigma_max=50.0), noise, range(64))
    assert found.mean().item() == pytest.approx(0, abs=0.02)
    assert found.std().item() == pytest.approx(0.5, rel=0.05)


def test_msa_takes_every_level_and_corrects_at_each() -> None:
    assert parse_sampler("msa").calls(gaussian()) == 4000


@pytest.mark.parametrize("full", [False, True])
def test_features_are_the_maps_of_the_network_s_own_pass(ncsnpp: Denoiser, full: bool) -> None:
    x, sigma = torch.randn(2, 3, 16, 16, requires_grad=True), torch.tensor([0.2, 3.0])
    seen: dict[str, Tensor] = {}
    net = copy.deepcopy(ncsnpp.net)
    names = ["down_blocks.0", "down_blocks.1", "mid_block"]
    for name in names:
        net.get_submodule(name).register_forward_hook(
            lambda _, __, out, name=name: seen.update({name: out[0] if isinstance(out, tuple) else out})
        )
    net((x + 1) / 2, sigma / 2)
    maps = ncsnpp.encode(x, sigma, full=full)
    if full:
        assert maps.pop(0).shape == (2, 32, 16, 16)
    for found, name in zip(maps, names, strict=True):
        torch.testing.assert_close(found, seen[name])
    sum(found.square().mean() for found in maps).backward()  # type: ignore[union-attr]
    assert x.grad is not None and torch.isfinite(x.grad).all() and x.grad.abs().max() > 0
    caught: list[Tensor] = []
    with ncsnpp.hook_bottleneck(caught.append):
        ncsnpp(x, sigma)
    torch.testing.assert_close(caught[0], maps[-1])
    assert all(dict(ncsnpp.named_modules()).get(name) is not None for name in ncsnpp.output_layers())


def test_training_leaves_the_frequencies_of_the_time_embedding(ncsnpp: Denoiser) -> None:
    student = copy.deepcopy(ncsnpp).requires_grad_(True)
    student(torch.randn(1, 3, 16, 16), torch.tensor([2.5])).sum().backward()
    assert "net.time_proj.weight" in student.state_dict()
    assert "net.time_proj.weight" not in dict(student.named_parameters())


@pytest.mark.slow
def test_a_compiled_encoder_is_the_encoder(ncsnpp: Denoiser) -> None:
    x, sigma = torch.randn(2, 3, 16, 16), torch.tensor([0.2, 3.0])
    compiled = torch.compile(lambda x, sigma: ncsnpp.encode(x, sigma)[-1], backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x, sigma), ncsnpp.encode(x, sigma)[-1])


@pytest.mark.parametrize("scheduler", [
    {},
    {"_class_name": "VeSdeScheduler", "correct_steps": None},  # of diffusers 0.0.4
    {"_class_name": None},
], ids=["named", "early", "unnamed"])  # fmt: skip
def test_a_folder_is_read_and_written_back(folder: Path, tmp_path: Path, scheduler: dict) -> None:
    path = teachers.with_scheduler(tmp_path / "t", UNet2DModel.from_pretrained(folder), SCHEDULER)
    config = {**SCHEDULER.config, **scheduler}
    kept = {key: value for key, value in config.items() if value is not None}
    (path / "scheduler_config.json").write_text(json.dumps(kept))
    teacher = load_teacher(str(path))
    assert teacher.denoiser.prediction == "score" and teacher.reading is None
    save_denoiser(teacher.denoiser, tmp_path / "again", half=False)
    again = load_teacher(str(tmp_path / "again"))
    x = 2.5 * torch.randn(2, 3, 16, 16)
    assert torch.equal(again.denoiser(x, per_image(2.5, x)), teacher.denoiser(x, per_image(2.5, x)))
    assert teacher_fingerprint(again) == teacher_fingerprint(teacher)
    opened = ScoreSdeVeScheduler.from_pretrained(tmp_path / "again")
    assert (opened.config.sigma_max, opened.config.snr, opened.config.num_train_timesteps) == (50.0, 0.17, 1000)


def test_another_corrector_is_another_teacher(ncsnpp: Denoiser) -> None:
    other = ncsnpp.read_as("score", VeSchedule(sigma_max=50.0, snr=0.2, count=1000))
    assert teacher_fingerprint(Teacher("a", ncsnpp, "a")) != teacher_fingerprint(Teacher("b", other, "b"))
    sampler = parse_sampler("msa-4")
    assert sampler.cache_name(ncsnpp) != sampler.cache_name(other)


def test_a_generator_of_it_is_one_call(ncsnpp: Denoiser) -> None:
    z = torch.randn(2, 3, 16, 16)
    expected = ncsnpp(2.5 * z, per_image(2.5, z))
    torch.testing.assert_close(Generator(ncsnpp, 2.5)(z), expected)


# -- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize("change", [
    {"sigma_max": "high"}, {"sigma_min": 0}, {"sigma_max": 0.001}, {"sigma_max": 1e9}, {"num_train_timesteps": 1},
    {"snr": 0}, {"correct_steps": -1}, {"correct_steps": None}, {"sampling_eps": 1.0}, {"snr": float("nan")},
])  # fmt: skip
def test_what_is_no_score_sde_is_an_input_error(change: dict) -> None:
    with pytest.raises(GsdError) as caught:
        VeSchedule.from_config({"_class_name": "ScoreSdeVeScheduler", **change})
    assert caught.value.code == 3


@pytest.mark.parametrize(("scheduler", "message"), [
    ({"_class_name": "DDPMScheduler", "beta_schedule": "linear"}, "takes noise levels .* is of a discrete DDPM"),
    ({"_class_name": "ScoreSdeVpScheduler", "beta_min": 0.1}, "variance-preserving score SDE.*does not read"),
    ({"_class_name": "FlowMatchEulerDiscreteScheduler"}, "takes noise levels"),
])  # fmt: skip
def test_a_network_of_noise_levels_needs_their_scheduler(
    folder: Path, tmp_path: Path, scheduler: dict, message: str
) -> None:
    path = teachers.with_scheduler(tmp_path / "t", UNet2DModel.from_pretrained(folder), SCHEDULER)
    (path / "scheduler_config.json").write_text(json.dumps(scheduler))
    with pytest.raises(GsdError, match=message) as caught:
        load_teacher(str(path))
    assert caught.value.code == 3 and caught.value.hint


def test_a_network_of_timesteps_is_no_score_sde(tmp_path: Path) -> None:
    path = teachers.with_scheduler(tmp_path / "t", teachers.unet(teachers.TINY), SCHEDULER)
    with pytest.raises(GsdError, match=r"takes timesteps, and .* score SDE") as caught:
        load_teacher(str(path))
    assert caught.value.code == 3


def test_without_a_scheduler_the_network_says_the_kind(folder: Path, tmp_path: Path) -> None:
    path = teachers.with_scheduler(tmp_path / "t", UNet2DModel.from_pretrained(folder), SCHEDULER)
    (path / "scheduler_config.json").unlink()
    teacher = load_teacher(str(path))
    assert teacher.reading == "score-sde" and teacher.denoiser.prediction == "score"
    assert load_teacher(str(path), assume="score-sde").denoiser.schedule == teacher.denoiser.schedule
    with pytest.raises(UsageError, match=r"config\.json says something else"):
        load_teacher(str(path), assume="eps,linear")


def test_skip_blocks_are_for_three_channels(folder: Path, tmp_path: Path) -> None:
    path = teachers.with_scheduler(tmp_path / "t", UNet2DModel.from_pretrained(folder), SCHEDULER)
    config = json.loads((path / "config.json").read_text()) | {"in_channels": 1, "out_channels": 1}
    (path / "config.json").write_text(json.dumps(config))
    with pytest.raises(GsdError, match="Skip blocks with 1 channels"):
        load_teacher(str(path))
