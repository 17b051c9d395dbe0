"""Every kind of teacher, saved by diffusers: what gsd reads is what diffusers reads, and samples alike."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import DDIMScheduler, DDPMPipeline, UNet2DModel, VQModel
from diffusers.pipelines import LDMPipeline
from safetensors.torch import load_file, save_file
from torch import Tensor

from gsd_cli.base.errors import GsdError
from gsd_cli.compute.random import generator_for, latents, seed_numbers
from gsd_cli.core.models.condition import UNCONDITIONAL, Condition, every_class, seed_conditions
from gsd_cli.core.models.diffusers_folder import save_denoiser
from gsd_cli.core.models.generator import Generator, load_model, save_generator
from gsd_cli.core.models.teacher import load_teacher
from gsd_cli.core.sampling.discrete import ancestral, ddim
from gsd_cli.core.sampling.images import sample, sample_teacher
from gsd_cli.core.sampling.samplers import parse_sampler
from tests.support import teachers

SEEDS = [3, 8]


@pytest.fixture(scope="module")
def cifar10(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return teachers.flat(tmp_path_factory.mktemp("cifar10") / "model", teachers.unet(teachers.CIFAR10))


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return teachers.pipeline(tmp_path_factory.mktemp("faces") / "model", teachers.unet(teachers.FACES))


@pytest.fixture(params=["cifar10", "faces"])
def folder(request: pytest.FixtureRequest) -> Path:
    return request.getfixturevalue(request.param)


def theirs(folder: Path) -> DDPMPipeline:
    pipeline = DDPMPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture
def shared_noise(monkeypatch: pytest.MonkeyPatch) -> Callable[[tuple[int, ...]], Tensor]:
    """Make diffusers draw the noise that gsd draws; returns the latents of SEEDS."""
    streams = [generator_for(seed, "ancestral") for seed in SEEDS]
    drawn: list[Tensor] = []

    def draw(shape: tuple[int, ...], **_: object) -> Tensor:
        if not drawn:
            drawn.append(latents(SEEDS, shape[1:]))
            return drawn[0]
        return torch.stack([torch.randn(*shape[1:], generator=g) for g in streams])

    for module in (
        "schedulers.scheduling_ddpm",
        "pipelines.ddpm.pipeline_ddpm",
        "pipelines.deprecated.latent_diffusion_uncond.pipeline_latent_diffusion_uncond",
    ):
        monkeypatch.setattr(f"diffusers.{module}.randn_tensor", draw)
    return lambda shape: latents(SEEDS, shape)


def test_the_full_configuration_has_the_published_size(cifar10: Path) -> None:
    assert sum(p.numel() for p in load_teacher(str(cifar10)).denoiser.parameters()) == 35_746_307


def test_the_network_is_the_one_diffusers_reads(folder: Path) -> None:
    ours = load_teacher(str(folder)).denoiser
    # in float64: in float32 some processors round by where the weights are in memory
    x, t = torch.randn(1, *ours.shape).double(), torch.tensor([417])
    with torch.no_grad():
        wanted = theirs(folder).unet.double()(x, t).sample
        torch.testing.assert_close(ours.net.double()(x, t).sample, wanted, rtol=0, atol=1e-6)


@torch.no_grad()
def test_ancestral_is_the_pipeline(folder: Path, shared_noise) -> None:
    model = load_teacher(str(folder)).denoiser
    wanted = theirs(folder)(batch_size=2, num_inference_steps=4, output_type="np").images
    made = ancestral(model, shared_noise(model.shape), SEEDS, steps=4)
    images = (made / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1)
    torch.testing.assert_close(images, torch.from_numpy(wanted), rtol=0, atol=1e-4)


@torch.no_grad()
def test_ddim_is_the_scheduler(folder: Path) -> None:
    model = load_teacher(str(folder)).denoiser
    scheduler = DDIMScheduler.from_config(theirs(folder).scheduler.config, set_alpha_to_one=True)
    scheduler.set_timesteps(4)
    noise = x = latents(SEEDS, model.shape)
    for t in scheduler.timesteps:
        x = scheduler.step(model.net(x, t).sample, t, x).prev_sample
    torch.testing.assert_close(ddim(model, noise, 4), x, rtol=0, atol=1e-4)


def test_old_folders_load(tmp_path: Path) -> None:
    """Attention under its old names, the old class and block names, and weights in a .bin."""
    net = teachers.unet(teachers.SMALL)
    folder = teachers.flat(tmp_path / "old", net)
    renamed = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    state = {}
    for name, value in load_file(folder / "diffusion_pytorch_model.safetensors").items():
        for new, old in renamed.items():
            name = name.replace(f".{new}.", f".{old}.") if "attentions" in name else name
        state[name] = value.contiguous()
    assert any("proj_attn" in name for name in state)
    (folder / "diffusion_pytorch_model.safetensors").unlink()
    torch.save(state, folder / "diffusion_pytorch_model.bin")
    config = json.loads((folder / "config.json").read_text())
    config["_class_name"] = "UNetUnconditionalModel"
    config["down_block_types"] = ["UNetRes" + kind for kind in config["down_block_types"]]
    config["up_block_types"] = ["UNetRes" + kind for kind in config["up_block_types"]]
    (folder / "config.json").write_text(json.dumps(config))
    x, t = torch.randn(2, 1, 16, 16), torch.tensor([5, 800])
    with torch.no_grad():
        torch.testing.assert_close(load_teacher(str(folder)).denoiser.net(x, t).sample, net(x, t).sample)


class TestClasses:
    @pytest.fixture
    def conditional(self, tmp_path: Path) -> Path:
        return teachers.flat(tmp_path / "teacher", teachers.unet(teachers.SMALL, num_class_embeds=4))

    @torch.no_grad()
    def test_labels_reach_the_network(self, conditional: Path) -> None:
        model, net = load_teacher(str(conditional)).denoiser, UNet2DModel.from_pretrained(conditional)
        assert model.classes == 4
        x, labels = torch.randn(3, 1, 16, 16), torch.tensor([0, 3, 1])
        sigma = model.schedule.sigmas[[100, 500, 900]].float()
        scale = (1 + sigma**2).sqrt().reshape(-1, 1, 1, 1)
        eps = net(x / scale, torch.tensor([100.0, 500.0, 900.0]), labels).sample
        clean = x - sigma.reshape(-1, 1, 1, 1) * eps
        torch.testing.assert_close(model.with_condition(Condition(labels))(x, sigma), clean, rtol=1e-4, atol=1e-3)
        assert model.condition is UNCONDITIONAL  # the view left the model as it was

    @torch.no_grad()
    def test_a_seed_draws_its_class_whatever_is_beside_it(self, conditional: Path) -> None:
        generator = Generator(load_teacher(str(conditional)).denoiser)
        many = dict(sample(generator, range(6), batch_size=4))
        alone = dict(sample(generator, [5], batch_size=1))
        torch.testing.assert_close(many[5], alone[5], rtol=0, atol=1e-5)
        label = seed_numbers([5], 4)
        named = dict(sample(generator, [5], 1, condition=Condition(label)))
        other = dict(sample(generator, [5], 1, condition=Condition((label + 1) % 4)))
        assert torch.equal(named[5], alone[5])
        assert not torch.allclose(other[5], alone[5], atol=1e-3)

    def test_classes_are_drawn_evenly(self) -> None:
        counts = torch.bincount(seed_numbers(range(4000), 10), minlength=10)
        assert ((counts - 400).abs() < 6 * (400 * 0.9) ** 0.5).all()
        assert seed_conditions(every_class(None), range(3)) is UNCONDITIONAL

    @torch.no_grad()
    def test_the_generator_survives_saving(self, conditional: Path, tmp_path: Path) -> None:
        generator = Generator(load_teacher(str(conditional)).denoiser)
        save_generator(generator, tmp_path / "g", {"classes": ["a", "b", "c", "d"]}, "card", half=False)
        back = load_model(str(tmp_path / "g"))
        assert back.class_names == ("a", "b", "c", "d")
        z, labels = torch.randn(2, 1, 16, 16), torch.tensor([2, 0])
        assert torch.equal(back.generator(z, Condition(labels)), generator(z, Condition(labels)))
        back.generator.condition = Condition(labels[:1])
        assert torch.equal(back.generator(z[:1]), generator(z[:1], Condition(labels[:1])))


class TestLatentDiffusion:
    @pytest.fixture(params=["VQModel", "AutoencoderKL"])
    def folder(self, request: pytest.FixtureRequest, tmp_path: Path) -> Path:
        return teachers.latent_pipeline(tmp_path / "ldm", teachers.unet(teachers.LATENT), request.param)

    @torch.no_grad()
    def test_sampling_is_the_pipeline(self, folder: Path, shared_noise) -> None:
        pipeline = LDMPipeline.from_pretrained(folder)
        pipeline.set_progress_bar_config(disable=True)
        pipeline.scheduler.register_to_config(set_alpha_to_one=True)
        pipeline.scheduler.final_alpha_cumprod = torch.tensor(1.0)
        wanted = pipeline(batch_size=2, num_inference_steps=4, output_type="np").images
        teacher = load_teacher(str(folder))
        assert teacher.denoiser.shape == (3, 16, 16)
        assert teacher.image_shape == (3, 32, 32)
        assert not teacher.denoiser.clip_sample
        made = sample_teacher(teacher, parse_sampler("ddim-4"), shared_noise((3, 16, 16)), SEEDS)
        images = (made / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1)
        torch.testing.assert_close(images, torch.from_numpy(wanted), rtol=0, atol=1e-4)

    @torch.no_grad()
    def test_encode_is_diffusers(self, folder: Path) -> None:
        teacher = load_teacher(str(folder))
        pictures = torch.rand(2, 3, 32, 32) * 2 - 1
        kind = type(teacher.autoencoder.net)
        stage = kind.from_pretrained(folder / "vqvae").eval()
        code = stage.encode(pictures)
        wanted = code.latents if kind is VQModel else code.latent_dist.mode()
        torch.testing.assert_close(teacher.autoencoder.encode(pictures), wanted * stage.config.scaling_factor)

    @torch.no_grad()
    def test_a_generator_keeps_its_first_stage(self, folder: Path, tmp_path: Path) -> None:
        teacher = load_teacher(str(folder))
        generator = Generator(teacher.denoiser, 2.5, teacher.autoencoder).eval()
        assert generator.image_shape == (3, 32, 32)
        save_generator(generator, tmp_path / "g", {}, "card", half=False)
        back = load_model(str(tmp_path / "g")).generator
        z = torch.randn(2, 3, 16, 16)
        assert back(z).shape == (2, 3, 32, 32)
        torch.testing.assert_close(back(z), generator(z), rtol=0, atol=1e-5)
        assert isinstance(LDMPipeline.from_pretrained(tmp_path / "g").unet, UNet2DModel)

    @torch.no_grad()
    def test_the_scale_of_vq_latents_is_one_unless_named(self, tmp_path: Path) -> None:
        """CompVis's config names none; diffusers would take 0.18215, at which its images are spoilt."""
        folder = teachers.latent_pipeline(tmp_path / "ldm", teachers.unet(teachers.LATENT))
        config = json.loads((folder / "vqvae" / "config.json").read_text())
        del config["scaling_factor"]
        (folder / "vqvae" / "config.json").write_text(json.dumps(config))
        teacher = load_teacher(str(folder))
        assert teacher.autoencoder.scale == 1.0
        # and it is named in what is saved, for diffusers to read alike
        save_denoiser(teacher.denoiser, tmp_path / "saved", half=False, autoencoder=teacher.autoencoder)
        assert VQModel.from_pretrained(tmp_path / "saved" / "vqvae").config.scaling_factor == 1.0

    @pytest.mark.parametrize("damage", [{"_class_name": "AutoencoderTiny"}, {"scaling_factor": -1}])
    def test_another_first_stage_is_refused(self, tmp_path: Path, damage: dict) -> None:
        folder = teachers.latent_pipeline(tmp_path / "ldm", teachers.unet(teachers.LATENT))
        path = folder / "vqvae" / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | damage))
        with pytest.raises(GsdError) as caught:
            load_teacher(str(folder))
        assert caught.value.code == 3


def test_a_pixel_teacher_has_no_first_stage(faces: Path) -> None:
    teacher = load_teacher(str(faces))
    pictures = torch.randn(1, 3, 64, 64)
    assert teacher.autoencoder.decode(pictures) is pictures
    assert teacher.autoencoder.encode(pictures) is pictures
    assert teacher.image_shape == teacher.denoiser.shape == (3, 64, 64)


@pytest.mark.parametrize("name", ["net.pkl", "edm-cifar10-32x32-uncond-vp.pkl", "x.ckpt"])
def test_files_that_are_missing_are_refused_with_a_way_out(name: str) -> None:
    with pytest.raises(GsdError) as caught:
        load_teacher(name)
    assert caught.value.code == 3
    assert "no such file" in caught.value.message and caught.value.hint


def test_weights_of_half_the_tensors_are_refused(tmp_path: Path) -> None:
    folder = teachers.latent_pipeline(tmp_path / "ldm", teachers.unet(teachers.LATENT))
    weights = folder / "vqvae" / "diffusion_pytorch_model.safetensors"
    state = load_file(weights)
    save_file(dict(list(state.items())[::2]), weights, metadata={"format": "pt"})
    with pytest.raises(GsdError) as caught:
        load_teacher(str(folder))
    assert caught.value.code == 3
