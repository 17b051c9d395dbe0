"""The Python API takes the same option models, prints nothing, and is fast to import."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import gsd_cli
from tests import typed
from tests.support.shell import Shell


def test_importing_loads_nothing_heavy() -> None:
    script = (
        "import sys, gsd_cli\n"
        "assert not {'pydantic', 'typer', 'rich', 'numpy', 'torch'} & set(sys.modules)\n"
        "from gsd_cli import distill, sample, invert, edit, bench, SampleOptions\n"
        "assert not {'typer', 'rich', 'numpy', 'torch', 'PIL'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
    assert all(getattr(gsd_cli, name) is not None for name in gsd_cli.__all__)
    with pytest.raises(AttributeError, match="nothing"):
        _ = gsd_cli.nothing


def _require_images_are_made_once(model: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With an output the images are written and returned, of one call of the generator each."""
    from gsd_cli.core.models.generator import Generator

    sizes: list[int] = []
    plain = Generator.forward
    monkeypatch.setattr(Generator, "forward", lambda self, z, *rest: (sizes.append(len(z)), plain(self, z, *rest))[1])
    options = gsd_cli.SampleOptions(model=model, num_samples=3, output=str(folder))
    images = gsd_cli.sample(options)
    calls = len(sizes)
    written = [np.asarray(Image.open(path)) for path in sorted(folder.glob("*.png"))]
    assert np.array_equal(np.stack(written)[..., None], images)
    sizes.clear()
    assert np.array_equal(gsd_cli.sample(gsd_cli.SampleOptions(model=model, num_samples=3)), images)
    assert len(sizes) == calls == 1


def test_every_function_on_a_toy_run(
    workshop: Shell, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(workshop.folder)  # the run names its teacher relative to it
    model = str(workshop.folder / "run")
    images = typed.make(model)
    assert images.shape == (3, 16, 16, 1)
    assert images.dtype == np.uint8
    assert list(tmp_path.iterdir()) == []
    Image.fromarray(images[0, ..., 0]).save(tmp_path / "zero.png")
    shape, psnr = typed.look(model, tmp_path / "zero.png")
    assert shape == [2, 1, 16, 16]
    assert psnr > 3
    assert typed.move(model, tmp_path / "moved.png") == [str(tmp_path / "moved.png")]
    assert set(typed.measure(model).metrics["rows"]) == {"ddim-2", model}
    made = typed.shorten(str(workshop.folder / "toy-teacher"), tmp_path / "short")
    assert made == tmp_path / "short" / "generator"
    assert gsd_cli.sample(gsd_cli.SampleOptions(model=str(made), num_samples=2)).shape[0] == 2
    _require_images_are_made_once(model, tmp_path / "kept", monkeypatch)
    captured = capfd.readouterr()
    assert captured.out == ""
    assert captured.err == ""


def test_presets_and_errors() -> None:
    from gsd_cli.options.presets import with_preset

    paper = with_preset(gsd_cli.DistillOptions(preset="sid", lr=1e-4))
    assert (paper.kimg, paper.lr, paper.alpha) == (400_000, 1e-4, 1.2)
    with pytest.raises(gsd_cli.GsdError, match="no such model") as caught:
        gsd_cli.sample(gsd_cli.SampleOptions(model="fasion"))
    assert caught.value.code == 3
    assert caught.value.hint == "did you mean fashion?"
