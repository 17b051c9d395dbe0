"""gsd edit --save-direction and --direction FILE on a toy run: the same strips, and clear refusals."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from gsd_cli.base.console import Console, Result
from gsd_cli.base.errors import ExitCode, GsdError
from gsd_cli.base.session import Session
from gsd_cli.catalogue.direction_files import read_direction_facts
from gsd_cli.cli.checks import check_edit
from gsd_cli.cli.preflight import plan_edit
from gsd_cli.commands import edit, explore
from gsd_cli.core.editing.direction import load_directions
from gsd_cli.core.editing.store import DirectionStore
from gsd_cli.core.models.open import open_model
from gsd_cli.options import EditOptions
from tests.support.shell import Shell


def options(image: str | None, **given: Any) -> EditOptions:
    fast = {"model": "run", "fit_samples": 64, "invert_steps": 4, "invert_starts": 1}
    return EditOptions.model_validate({"image": image, **fast, **given})


def run(image: str | None, **given: Any) -> Result:
    chosen = options(image, **given)
    return edit.run(chosen, Session.start(chosen, Console()))


@pytest.fixture
def folder(workshop: Shell, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A folder for files, in the workshop's folder, with an empty cache."""
    monkeypatch.chdir(workshop.folder)
    monkeypatch.setenv("GSD_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path


@pytest.mark.parametrize(
    "named",
    [
        {"direction": "pc1"},
        {"direction": "pc0", "preserve": "pc1"},
        {"attribute": "brightness", "method": "direction", "space": "latent"},
        {"direction": "jac0"},
    ],
)
def test_a_strip_along_a_loaded_direction_is_that_of_the_direction_itself(named: dict[str, str], folder: Path) -> None:
    """With an IMAGE: the strip and the file are both written."""
    saved, own, loaded = (str(folder / name) for name in ("d.safetensors", "own.png", "loaded.png"))
    done = run("seed:2", range="-1:1:3", output=own, save_direction=saved, **named)
    assert done.outputs == [own, saved]
    about = done.metrics["saved_direction"]
    assert about["name"] == done.metrics["direction"] == (named.get("direction") or named["attribute"])
    again = run("seed:2", range="-1:1:3", output=loaded, direction=saved)
    assert Path(own).read_bytes() == Path(loaded).read_bytes()
    assert again.metrics["direction"] == about["name"]
    assert again.metrics["space"] == about["space"]


def test_a_direction_is_saved_without_an_image(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    saved = folder / "pc0.safetensors"
    done = run(None, direction="pc0", save_direction=str(saved))
    assert done.outputs == [str(saved)]
    low, high = done.metrics["saved_direction"]["range"]
    assert -4 <= low <= -1 and 1 <= high <= 4
    (stored,) = (folder / "cache" / "directions").glob("*/components.safetensors")
    found = load_directions(stored, {})
    assert found is not None
    facts = read_direction_facts(saved)
    assert facts.scale == found[0].scale
    assert facts.figures == found[0].figures
    assert facts.range == (low, high)
    assert "direction saved" in capsys.readouterr().err


def test_an_explorer_takes_a_direction_file(folder: Path) -> None:
    """Among its sliders, as a direction of the model itself."""
    saved = str(folder / "pc1.safetensors")
    run(None, direction="pc1", save_direction=saved)
    chosen = options(None, direction=saved, explore=str(folder / "page"))
    session = Session.start(chosen, Console())
    store = DirectionStore(open_model("run", torch.device("cpu"), session), chosen, session)
    (found,) = explore.find_named(store, chosen)
    assert found.name == "pc1" and torch.equal(found.vector, store.find("pc1", "auto").vector)


def test_a_file_is_moved_along_with_others(folder: Path) -> None:
    """The command that an explorer shows for a slider from a file."""
    saved = str(folder / "pc1.safetensors")
    run(None, direction="pc1", save_direction=saved)
    check_edit(options("seed:2", move=f"{saved}=1,pc0=-1"))
    one = run("seed:2", move=f"{saved}=1,pc0=-1", output=str(folder / "one"))
    other = run("seed:2", move="pc1=1,pc0=-1", output=str(folder / "other"))
    first, second = (Path(done.outputs[0]).read_bytes() for done in (one, other))
    assert first == second
    with pytest.raises(GsdError, match="is of another model"):
        check_edit(options("seed:2", move=f"{saved}=1", model="fashion"))


def test_a_solved_edit_saves_the_direction_of_its_attribute(folder: Path) -> None:
    saved = str(folder / "b.safetensors")
    done = run("seed:2", attribute="brightness", strength=0.5, output=str(folder / "b.png"), save_direction=saved)
    assert done.metrics["method"] == "solved for this image"
    assert done.metrics["saved_direction"]["name"] == "brightness"
    assert read_direction_facts(Path(saved)).figures["std.brightness"] > 0


def test_a_strength_outside_the_range_is_a_warning(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    saved = str(folder / "d.safetensors")
    low, high = run(None, direction="pc0", save_direction=saved).metrics["saved_direction"]["range"]
    run("seed:2", direction=saved, strength=high, output=str(folder / "in.png"))
    assert "outside the range" not in capsys.readouterr().err
    run("seed:2", direction=saved, strength=high + 1, output=str(folder / "out.png"))
    assert f"pc0: {high + 1:+g} is outside the range of {saved}, {low:+g} to {high:+g}" in capsys.readouterr().err


def test_what_does_not_belong_to_the_model_is_refused_before_torch(folder: Path) -> None:
    saved = str(folder / "d.safetensors")
    run(None, direction="pc0", save_direction=saved)
    check_edit(options("seed:1", direction=saved))
    with pytest.raises(GsdError, match="is of another model: its weights are") as error:
        check_edit(options("seed:1", direction=saved, model="fashion"))
    assert error.value.code == ExitCode.INPUT
    with pytest.raises(GsdError, match="is of another model: its weights are"):
        run("seed:1", direction=saved, model="fashion")
    with pytest.raises(GsdError, match=r"--space latent: .* is a direction of the bottleneck") as error:
        check_edit(options("seed:1", direction=saved, space="latent"))
    assert error.value.code == ExitCode.USAGE
    with pytest.raises(GsdError, match="no such file"):
        check_edit(options("seed:1", direction=str(folder / "none.safetensors")))
    with pytest.raises(GsdError, match="pc0 is the edited attribute itself"):
        run("seed:1", direction=saved, preserve="pc0", output=str(folder / "x.png"))


def test_as_a_process(workshop: Shell, tmp_path: Path) -> None:
    """The bytes of the image alone on stdout, one JSON object without an image, and a refusal in one line."""
    call = ("edit", "--model", "run", "--direction", "pc0", "--fit-samples", "64", "--save-direction", "p.safetensors")
    done = workshop.gsd(*call, "--json")
    assert done.returncode == 0, done.stderr.decode()
    assert json.loads(done.stdout)["outputs"] == ["p.safetensors"]
    streamed = workshop.gsd(*call, "seed:3", "-o", "-")
    assert streamed.stdout.startswith(b"\x89PNG")
    shutil.copy(workshop.folder / "p.safetensors", workshop.folder / "cut.safetensors")
    with (workshop.folder / "cut.safetensors").open("rb+") as file:
        file.truncate(200)
    refused = workshop.gsd("edit", "seed:1", "--model", "run", "--direction", "cut.safetensors", "-o", "x.png")
    assert refused.returncode == 3
    assert refused.stderr.decode().splitlines()[0].startswith("error: cannot read a direction from cut.safetensors: ")
    assert not (workshop.folder / "x.png").exists()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "give an IMAGE, --list, --save-direction or --explore DIR"),
        ({"direction": "jac0", "save_direction": "d.safetensors"}, "jac0 is found for an image"),
        ({"direction": "pc0", "save_direction": "d.npz"}, "must end in .safetensors"),
        ({"direction": "pc0", "save_direction": "d.safetensors", "output": "-"}, "-o - needs an IMAGE"),
        ({"explore": "page", "save_direction": "d.safetensors"}, "--explore writes a page: leave out --save-direction"),
        ({"image": "seed:1", "move": "pc0=1", "save_direction": "d.safetensors"}, "leave out --save-direction"),
        ({"list": True, "save_direction": "d.safetensors"}, "give one of the two"),
    ],
)
def test_options_that_do_not_go_together(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        EditOptions.model_validate(given)


def test_the_plan_names_what_is_written() -> None:
    both = EditOptions(image="seed:1", direction="pc0", save_direction=Path("d.safetensors"))
    assert list(plan_edit(both)) == ["1 image along pc0 to edit.png", "saves the direction pc0 to d.safetensors"]
    assert list(plan_edit(both.model_copy(update={"image": None}))) == ["saves the direction pc0 to d.safetensors"]
