from __future__ import annotations

from pathlib import Path

import pytest
import torch

from gsd_cli.base.errors import ExitCode, GsdError
from gsd_cli.compute.random import latents
from gsd_cli.core.latents.files import Anchor, cache_key, load_anchors, save_anchors
from gsd_cli.core.latents.inversion import psnr
from gsd_cli.core.latents.pivotal_tuning import tune, tuned_parameters
from gsd_cli.core.latents.render import blend, record_bottleneck, render, render_between
from gsd_cli.core.models.beta_schedule import BetaSchedule
from gsd_cli.core.models.denoiser import Denoiser
from gsd_cli.core.models.fingerprint import weights_fingerprint
from gsd_cli.core.models.generator import Generator
from tests.support.teachers import TINY, unet


def test_tuning_comes_nearer_and_never_touches_the_model(toy_teacher: Denoiser) -> None:
    generator = Generator(toy_teacher)
    before = {name: value.clone() for name, value in generator.state_dict().items()}
    z, images = latents([1, 2], generator.latent_shape), torch.zeros(2, 1, 16, 16)
    deltas = tune(generator, z, images, steps=40)
    assert set(deltas[0]) == set(tuned_parameters(generator))
    plain, tuned = render(generator, z), render(generator, z, deltas)
    assert all(b > a + 0.5 for a, b in zip(psnr(plain, images), psnr(tuned, images), strict=True))
    for name, value in generator.state_dict().items():
        assert torch.equal(value, before[name])
        assert not value.requires_grad


def test_no_change_of_weights_is_the_model_itself(toy_teacher: Denoiser) -> None:
    generator = Generator(toy_teacher)
    z = latents([1, 2], generator.latent_shape)
    nothing = {name: torch.zeros(()) for name in tuned_parameters(generator)}
    torch.testing.assert_close(render(generator, z, [nothing, {}]), render(generator, z), atol=1e-5, rtol=1e-4)


def test_blend_is_linear_and_takes_what_is_missing_for_zero() -> None:
    a, b = {"x": torch.tensor(1.0)}, {"x": torch.tensor(3.0), "y": torch.tensor(2.0)}
    mixed = blend(a, b, 0.25)
    assert mixed["x"].item() == pytest.approx(1.5)
    assert mixed["y"].item() == pytest.approx(0.5)
    assert blend({}, {}, 0.5) == {}


def test_residuals_make_the_ends_of_a_walk_the_pictures_themselves(toy_teacher: Denoiser) -> None:
    generator = Generator(toy_teacher)
    z = latents([1, 2], generator.latent_shape)
    pictures, made = torch.rand(2, 1, 16, 16), render(generator, z)
    a, b = (Anchor(z[k], {}, {}, pictures[k] - made[k]) for k in (0, 1))
    found = render_between(generator, a, b, z, torch.tensor([0.0, 1.0]))
    torch.testing.assert_close(found, pictures, atol=1e-5, rtol=1e-4)


def test_anchors_are_read_back_whole(tmp_path: Path) -> None:
    z = latents([0, 1], (1, 8, 8))
    anchors = [Anchor(z[0], {"psnr": 30.0}, {"a.b": torch.ones(2)}, torch.zeros(1, 8, 8)), Anchor(z[1], {})]
    path = save_anchors(tmp_path / "x.safetensors", anchors, "mark")
    found, mark = load_anchors(path, (1, 8, 8))
    assert mark == "mark"
    assert found[0].figures == {"psnr": 30.0}
    torch.testing.assert_close(found[0].delta["a.b"], torch.ones(2))
    torch.testing.assert_close(found[1].z, z[1])
    assert found[0].residual is not None
    assert found[1].residual is None
    with pytest.raises(GsdError, match="the model takes") as error:
        load_anchors(path, (3, 8, 8))
    assert error.value.code == ExitCode.INPUT
    path.write_bytes(b"no tensors")
    with pytest.raises(GsdError, match="cannot read latents"):
        load_anchors(path, (1, 8, 8))


def test_a_key_depends_on_picture_model_and_settings() -> None:
    image = torch.zeros(1, 4, 4)
    keys = {
        cache_key(image, "m", {"steps": 1}), cache_key(image + 1, "m", {"steps": 1}),
        cache_key(image, "n", {"steps": 1}), cache_key(image, "m", {"steps": 2}),
    }  # fmt: skip
    assert len(keys) == 4
    assert cache_key(image.clone(), "m", {"steps": 1}) in keys


def test_a_fingerprint_is_of_the_weights(toy_teacher_folder: Path, tmp_path: Path) -> None:
    first = weights_fingerprint(toy_teacher_folder)
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in toy_teacher_folder.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    assert weights_fingerprint(copy) == first
    (copy / "diffusion_pytorch_model.safetensors").write_bytes(b"other")
    assert weights_fingerprint(copy) != first


def test_a_compiled_network_s_bottleneck_is_moved_and_watched() -> None:
    """A hook that comes after compiling is not called by what was compiled."""
    generator = Generator(Denoiser(unet(TINY), BetaSchedule.linear())).eval().requires_grad_(False)
    z = latents([1, 2], generator.latent_shape)
    seen: list[torch.Tensor] = []
    with record_bottleneck(generator, seen):
        generator(z)
    shifts = seen[0].std() * torch.ones_like(seen[0])
    expected = render(generator, z, shifts=shifts)
    torch._dynamo.reset()
    generator.denoiser.net.compile(backend="eager")
    plain = render(generator, z)  # compiled here, before there is a hook
    assert (expected - plain).abs().max() > 0.1
    torch.testing.assert_close(render(generator, z, shifts=shifts), expected)
    again: list[torch.Tensor] = []
    with record_bottleneck(generator, again):
        generator(z)
    torch.testing.assert_close(again, seen)
    torch.testing.assert_close(render(generator, z), plain)
