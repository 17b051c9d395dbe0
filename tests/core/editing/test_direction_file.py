"""A file of one direction: read back as it was, refused where it does not belong, damaged files named."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from gsd_cli.base.errors import ExitCode, GsdError
from gsd_cli.catalogue.direction_files import FORMAT, read_direction_facts, require_direction_of
from gsd_cli.compute.random import latents
from gsd_cli.core.editing.direction import Direction, save_directions
from gsd_cli.core.editing.direction_file import load_direction, save_direction
from gsd_cli.core.models.denoiser import Denoiser
from gsd_cli.core.models.generator import Generator
from tests.support.linear import linear

MARK = "0123456789abcdef"
SHAPE = (1, 8, 8)


def unit(space: str = "latent", shape: tuple[int, ...] = SHAPE) -> Direction:
    vector = torch.randn(shape, generator=torch.Generator().manual_seed(3))
    known = "latent" if space == "latent" else "bottleneck"
    return Direction("smile", known, vector / vector.norm(), 1.25, "mean", {"auroc": 0.9, "std.smile": 2.0})


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    return save_direction(tmp_path / "smile.safetensors", unit(), MARK, None, (-2.5, 3.0))


def rewritten(path: Path, **changes: str | None) -> Path:
    """The file with other strings in its header; None leaves one out."""
    with safe_open(path, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        header = {k: v for k, v in (file.metadata() | changes).items() if v is not None}
    save_file(tensors, path, metadata=header)
    return path


def test_a_direction_is_read_back_as_it_was(saved: Path) -> None:
    found, reach = load_direction(saved, linear(), MARK)
    assert (found.name, found.space, found.scale, found.how) == ("smile", "latent", 1.25, "mean")
    assert found.figures == {"auroc": 0.9, "std.smile": 2.0} and found.normal is None
    torch.testing.assert_close(found.vector, unit().vector, rtol=0, atol=0)
    assert reach == (-2.5, 3.0)


def test_the_normal_of_a_direction_is_kept(tmp_path: Path) -> None:
    (other,) = latents([5], SHAPE)
    path = save_direction(
        tmp_path / "n.safetensors", replace(unit(), normal=other / other.norm()), MARK, None, (-1.0, 1.0)
    )
    found, _ = load_direction(path, linear(), MARK)
    assert found.normal is not None
    torch.testing.assert_close(found.normal, other / other.norm(), rtol=0, atol=0)


def test_everything_but_the_vectors_is_text_in_the_header(saved: Path) -> None:
    """What docs/editing.md documents."""
    with safe_open(saved, "np") as file:
        about = file.metadata()
        assert set(file.keys()) == {"vector"}
    assert about["format"] == FORMAT == "gsd-direction/1"
    assert (about["name"], about["space"], about["model"], about["how"]) == ("smile", "latent", MARK, "mean")
    assert float(about["scale"]) == 1.25
    assert json.loads(about["range"]) == [-2.5, 3.0]
    assert json.loads(about["figures"]) == {"auroc": 0.9, "std.smile": 2.0}
    assert json.loads(about["class"]) is None


def test_another_model_another_shape_and_another_space_are_refused(saved: Path) -> None:
    with pytest.raises(
        GsdError, match="is of another model: its weights are 0123456789abcdef, this model's are f"
    ) as e:
        load_direction(saved, linear(), "f" * 16)
    assert e.value.code == ExitCode.INPUT
    with pytest.raises(GsdError, match=r"has the shape \(1, 8, 8\), the model's latents have \(3, 4, 4\)") as e:
        require_direction_of(saved, read_direction_facts(saved), MARK, (3, 4, 4))
    assert e.value.code == ExitCode.INPUT
    with pytest.raises(GsdError, match=r"--space bottleneck: .* is a direction of the latent") as e:
        load_direction(saved, linear(), MARK, "bottleneck")
    assert e.value.code == ExitCode.USAGE


def test_a_direction_of_a_class_is_refused_for_a_model_without_classes(tmp_path: Path) -> None:
    path = save_direction(tmp_path / "c.safetensors", unit(), MARK, 3, (-1.0, 1.0))
    with pytest.raises(GsdError, match="found for class 3, not for the chosen one") as e:
        load_direction(path, linear(), MARK)
    assert e.value.code == ExitCode.USAGE


def test_a_bottleneck_of_another_shape_is_refused(tmp_path: Path, toy_teacher: Denoiser) -> None:
    generator = Generator(toy_teacher)
    path = save_direction(tmp_path / "h.safetensors", unit("bottleneck", (1, 2, 3)), MARK, None, (-1.0, 1.0))
    with pytest.raises(GsdError, match=r"its vector has the shape \(1, 2, 3\), the model needs"):
        load_direction(path, generator, MARK)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"format": "gsd-directions/3"}, "its format is 'gsd-directions/3', not gsd-direction/1"),
        ({"format": None}, "it has no format gsd-direction/1"),
        ({"scale": "nan"}, "not a finite number"),
        ({"scale": "a"}, "could not convert"),
        ({"range": "[1, -1]"}, "not a finite number"),
        ({"range": "[1]"}, "not enough values"),
        ({"space": "pixels"}, "its space is neither latent nor bottleneck"),
        ({"name": "a\x1b[31mb"}, "its name cannot be printed"),
        ({"name": ""}, "its name cannot be printed"),
        ({"figures": '{"a": "b"}'}, "its figures or its class are damaged"),
        ({"figures": "[" * 100_000}, "cannot read a direction"),
        ({"model": None}, "it lacks 'model'"),
    ],
)
def test_a_header_that_is_wrong_is_one_line(changes: dict[str, str | None], said: str, saved: Path) -> None:
    with pytest.raises(GsdError, match=said) as error:
        read_direction_facts(rewritten(saved, **changes))
    assert error.value.code == ExitCode.INPUT
    assert "\n" not in error.value.message


def test_other_files_are_no_directions(tmp_path: Path, saved: Path) -> None:
    several = tmp_path / "several.safetensors"
    save_directions(several, [unit()], {"model": MARK})
    text = tmp_path / "text.safetensors"
    text.write_text("not a direction")
    for path, said in ((several, "its format is"), (text, "it is no safetensors file"), (tmp_path, "cannot read")):
        with pytest.raises(GsdError, match=said) as error:
            read_direction_facts(path)
        assert error.value.code == ExitCode.INPUT
    with pytest.raises(GsdError, match="no such file"):
        read_direction_facts(tmp_path / "missing.safetensors")


@pytest.mark.parametrize("vector", [torch.zeros(SHAPE), torch.full(SHAPE, torch.nan), 2 * unit().vector])
def test_a_vector_that_is_no_unit_vector_is_refused(vector: torch.Tensor, tmp_path: Path) -> None:
    path = save_direction(tmp_path / "v.safetensors", replace(unit(), vector=vector), MARK, None, (-1.0, 1.0))
    with pytest.raises(GsdError, match=r"its vector has the length .*, not 1"):
        load_direction(path, linear(), MARK)
