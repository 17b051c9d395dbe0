from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from gsd_cli.base.errors import ExitCode, GsdError
from gsd_cli.compute.random import latents
from gsd_cli.core.editing.direction import (
    Direction,
    LinearScore,
    load_directions,
    load_score,
    move_latents,
    orthogonalise,
    render_edits,
    save_directions,
)
from gsd_cli.core.models.denoiser import Denoiser
from gsd_cli.core.models.generator import Generator
from tests.support.linear import linear

SHAPE = (1, 8, 8)


def unit(seed: int, name: str = "a", scale: float = 1.0) -> Direction:
    (vector,) = latents([seed], SHAPE)
    return Direction(name, "latent", vector / vector.norm(), scale, "test", {"auroc": 0.5})


def test_preserve_is_exactly_orthogonal_to_what_it_preserves() -> None:
    target, others = unit(0), [unit(1, "b"), unit(2, "c"), unit(0, "nearly", 1.0)]
    nearly = others[2].vector + 0.3 * unit(3).vector
    others[2] = Direction("nearly", "latent", nearly / nearly.norm(), 1.0, "test")
    found = orthogonalise(target, others)
    for other in others:
        product = (found.vector.double() * other.vector.double()).sum().item()
        assert product == pytest.approx(0, abs=1e-7)
    assert found.vector.norm().item() == pytest.approx(1, abs=1e-6)
    # the part that is left goes as far along the old direction as before
    along = (found.vector * target.vector).sum().item()
    assert found.scale * along == pytest.approx(target.scale, rel=1e-5)


def test_what_changes_an_attribute_is_preserved_and_not_what_edits_it() -> None:
    other = replace(unit(1, "b"), normal=unit(2).vector)
    found = orthogonalise(unit(0), [other])
    assert (found.vector * unit(2).vector).sum().item() == pytest.approx(0, abs=1e-6)
    assert abs((found.vector * unit(1).vector).sum().item()) > 1e-3


def test_preserving_itself_leaves_nothing() -> None:
    with pytest.raises(GsdError, match="nothing of a is left") as error:
        orthogonalise(unit(0), [unit(0, "b")])
    assert error.value.code == ExitCode.USAGE
    whole = unit(0)
    assert orthogonalise(whole, []) is whole


def test_moved_latents_stay_on_their_spheres() -> None:
    z = latents([1, 2], SHAPE) * torch.tensor([1.0, 2.0]).reshape(2, 1, 1, 1)
    far = move_latents(z, 5 * unit(3).vector.expand(2, *SHAPE))
    torch.testing.assert_close(far.flatten(1).norm(dim=1), z.flatten(1).norm(dim=1))


def test_strength_is_in_units_of_the_scale() -> None:
    generator, z = linear(), latents([1], SHAPE)
    there = render_edits(generator, z, unit(3, scale=2.0), [0.0, 1.5])
    by_hand = move_latents(z, 3.0 * unit(3).vector[None])
    torch.testing.assert_close(there[1:], generator(by_hand), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(there[:1], generator(z), atol=1e-5, rtol=1e-4)


def test_a_shift_of_the_bottleneck_acts_and_the_hook_is_gone_after(toy_teacher: Denoiser) -> None:
    generator = Generator(toy_teacher)
    z = latents([3], generator.latent_shape)
    with torch.no_grad():
        plain = generator(z)
    bottleneck = Direction("pc0", "bottleneck", torch.ones(1, 1, 1), 1.0, "test")
    still, away = render_edits(generator, z, bottleneck, [0.0, 5.0])
    torch.testing.assert_close(still, plain[0])
    assert (away - plain[0]).abs().max() > 1e-4
    with torch.no_grad():
        torch.testing.assert_close(generator(z), plain)


def test_directions_are_read_back_for_what_they_belong_to_only(tmp_path: Path) -> None:
    path = tmp_path / "cache" / "a.safetensors"
    save_directions(path, [unit(0), replace(unit(1, "b", 2.5), normal=unit(4).vector)], {"model": "abc", "samples": 8})
    found = load_directions(path, {"model": "abc"})
    assert found is not None
    assert [d.name for d in found] == ["a", "b"]
    assert found[1].scale == 2.5
    assert found[0].figures == {"auroc": 0.5}
    torch.testing.assert_close(found[1].vector, unit(1).vector)
    assert found[0].normal is None and found[1].normal is not None
    torch.testing.assert_close(found[1].normal, unit(4).vector)
    assert load_directions(path, {"model": "other"}) is None
    assert load_directions(tmp_path / "none", {}) is None
    path.write_bytes(path.read_bytes()[:100])
    assert load_directions(path, {"model": "abc"}) is None


def test_the_score_of_a_learnt_attribute_is_read_back(tmp_path: Path) -> None:
    weight = torch.arange(4.0)
    save_directions(tmp_path / "a.safetensors", [unit(0)], {"model": "m"}, LinearScore(weight, -1.5))
    found = load_score(tmp_path / "a.safetensors")
    assert found is not None
    torch.testing.assert_close(found.weight, weight)
    assert found.bias == -1.5
    assert load_directions(tmp_path / "a.safetensors", {"model": "m"}) is not None
    save_directions(tmp_path / "b.safetensors", [unit(0)], {"model": "m"})
    assert load_score(tmp_path / "b.safetensors") is None
    assert load_score(tmp_path / "missing.safetensors") is None
