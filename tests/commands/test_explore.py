"""gsd edit --explore, --move and --truncation: what they refuse, and that moves are sums of moves."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError

from gsd_cli.base.errors import UsageError
from gsd_cli.commands.explore import find_named
from gsd_cli.core.editing.direction import Direction, move_latents, render_edits
from gsd_cli.core.editing.edit_image import edit_along, edit_moves
from gsd_cli.core.editing.store import DirectionStore
from gsd_cli.core.latents.files import Anchor
from gsd_cli.core.latents.render import render
from gsd_cli.core.models.denoiser import Denoiser
from gsd_cli.core.models.generator import Generator
from gsd_cli.options import EditOptions
from gsd_cli.options.edit import parse_moves, resolve_strengths
from tests.support.shell import Shell


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({}, "--explore DIR"),
        ({"open": True, "image": "seed:1"}, "--open needs --explore"),
        ({"explore": "page", "range": "-1:1:3", "output": "a.png"}, "leave out --range, --output"),
        ({"explore": "page", "tune": 10}, "leave out --tune"),
        ({"explore": "page", "move": "pc0=1"}, "leave out --move"),
        ({"image": "seed:1", "move": "pc0"}, "NAME=STRENGTH"),
        ({"image": "seed:1", "move": "pc0=1,pc0=2"}, "pc0 twice"),
        ({"image": "seed:1", "move": "pc0=21"}, "at most 20"),
        ({"image": "seed:1", "move": "pc0=1.2.3"}, "no strength"),
        (
            {"image": "seed:1", "move": "pc0=1", "attribute": "width", "strength": 2},
            "leave out --attribute, --strength",
        ),
        ({"image": "seed:1", "direction": "pc0", "truncation": 1.5}, "less than or equal to 1"),
        ({"image": "seed:1", "direction": "pc0", "truncation": 0}, "greater than 0"),
        ({"image": "seed:1", "fit": "pc0=a:b"}, "pc0 is a name of the model's own directions"),
        ({"image": "seed:1", "fit": "components=a:b"}, "components is a name of the model's own"),
        ({"image": "seed:1", "attribute": "jac", "data": "x.zip"}, "--attribute jac is a name of the model's own"),
    ],
)
def test_contradictions_are_named(given: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValidationError, match=problem):
        EditOptions.model_validate(given)


def test_only_directions_of_one_image_are_left_out_of_a_page(toy_teacher: Denoiser) -> None:
    class Store:
        """Finds everything."""

        def find(self, name: str, *_: object) -> Direction:
            return Direction(name, "latent", torch.ones(1, 16, 16) / 16, 1.0, "mean")

    store = cast("DirectionStore", Store())
    (found,) = find_named(store, EditOptions(explore=Path("page"), attribute="jacket"))
    assert found.name == "jacket"
    with pytest.raises(UsageError, match="jac0: it belongs to one image"):
        find_named(store, EditOptions(explore=Path("page"), direction="jac0"))


def test_moves_are_names_with_strengths() -> None:
    options = EditOptions.model_validate({"image": "seed:1", "move": "ankle-boot=-1.5,pc3=+2"})
    assert options.move is not None
    assert parse_moves(options.move) == {"ankle-boot": -1.5, "pc3": 2.0}
    assert resolve_strengths(options) == [1.0]


def test_moves_add_up(toy_teacher: Denoiser) -> None:
    generator = Generator(toy_teacher.eval().requires_grad_(False))
    z = torch.randn(generator.latent_shape)
    across, down = (Direction(n, "latent", torch.randn(z.shape) / 16, 2.0, "mean") for n in ("across", "down"))
    seen: list[torch.Tensor] = []
    handle = generator.denoiser.hook_bottleneck(lambda features: seen.append(features))
    generator(z[None])
    handle.remove()
    inside = Direction("pc0", "bottleneck", torch.randn(seen[0].shape[1:]), 0.5, "principal component")
    anchor = Anchor(z, {})
    one = edit_moves(generator, anchor, [(across, 1.5)])
    torch.testing.assert_close(one.images, edit_along(generator, anchor, across, [1.5], 8).images)
    both = edit_moves(generator, anchor, [(across, 1.5), (inside, -1.0), (down, 0.5)])
    moved = move_latents(z[None], 2.0 * (1.5 * across.vector + 0.5 * down.vector)[None])
    assert both.z is not None
    torch.testing.assert_close(both.z, moved)
    torch.testing.assert_close(both.images, render_edits(generator, moved, inside, [-1.0]))
    still = edit_moves(generator, anchor, [(across, 0.0), (inside, 0.0)])
    torch.testing.assert_close(still.images, render(generator, z[None]))


def test_truncation_shortens_the_latent_that_is_edited(workshop: Shell, tmp_path: Path) -> None:
    """A move of nothing is what gsd sample draws."""
    shared = ("--truncation", "0.6", "--model", "run")
    edited = workshop.gsd(
        "edit", "seed:4", "--move=pc0=0", *shared, "--fit-samples", "64", "-o", str(tmp_path / "a.png")
    )
    drawn = workshop.gsd("sample", "--seeds", "4", *shared, "-o", str(tmp_path / "b.png"))
    assert (edited.returncode, drawn.returncode) == (0, 0), edited.stderr.decode() + drawn.stderr.decode()
    a, b = (np.asarray(Image.open(tmp_path / name)).astype(int) for name in ("a.png", "b.png"))
    assert np.abs(a - b).max() <= 1


@pytest.mark.parametrize(
    ("words", "code", "line"),
    [
        (("--move=nonsense=1",), 2, "--move: unknown 'nonsense'"),
        (("--move=pc99=1",), 2, "--move: no 'pc99'"),
        (("--explore", "full"), 3, "full holds other files, and no explorer"),
        (("--explore", "file"), 8, "file is a file, a folder is needed"),
        (("--explore", "page", "--offline"), 4, "onnxruntime-web 1.30.0 is not in the cache"),
        (("--explore", "page", "--attribute", "nonsense"), 2, "--attribute: unknown 'nonsense'"),
    ],
)
def test_wrong_input_is_a_line(shell: Shell, words: tuple[str, ...], code: int, line: str) -> None:
    (shell.folder / "full").mkdir()
    (shell.folder / "full" / "thesis.tex").write_text("all of it")
    (shell.folder / "file").write_text("")
    done = shell.gsd("edit", "seed:1", "--model", "fashion", *words)
    assert done.returncode == code, done.stderr.decode()
    assert line in done.stderr.decode() and b"Traceback" not in done.stderr
    assert not (shell.folder / "page").exists()
    assert (shell.folder / "full" / "thesis.tex").read_text() == "all of it"
