"""gsd interpolate and gsd edit on a toy run: called directly, or as processes to check bytes and exit codes."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from gsd_cli.base.console import Console, Result
from gsd_cli.base.errors import ExitCode, GsdError, UsageError
from gsd_cli.base.session import Session
from gsd_cli.cli.preflight import plan_interpolate
from gsd_cli.commands import edit, interpolate
from gsd_cli.core.editing.examples import read_data_set
from gsd_cli.core.editing.known_attributes import Knowledge
from gsd_cli.core.models.generator import load_model
from gsd_cli.options import EditOptions, InterpolateOptions
from tests.support.shell import Shell

FAST: dict[str, Any] = {"invert_steps": 4, "invert_starts": 1}
PROCESS = ("--model", "run", "--invert-steps", "4", "--invert-starts", "1")


@dataclass
class Workbench:
    """Runs commands in this process, in the toy run's folder, and keeps their messages."""

    said: pytest.CaptureFixture[str]

    def interpolate(self, *images: str, **options: Any) -> Result:
        given = {"images": images, "model": "run", "frames": 3, **FAST, **options}
        chosen = InterpolateOptions.model_validate(given)
        return interpolate.run(chosen, Session.start(chosen, Console()))

    def edit(self, image: str | None, **options: Any) -> Result:
        """Edit along pc0 where nothing else is named."""
        if not {"attribute", "direction", "fit", "list"} & options.keys():
            options["direction"] = "pc0"
        given = {"image": image, "model": "run", "fit_samples": 64, **FAST, **options}
        chosen = EditOptions.model_validate(given)
        return edit.run(chosen, Session.start(chosen, Console()))

    def stderr(self) -> str:
        return self.said.readouterr().err


@pytest.fixture(scope="module")
def four(workshop: Shell) -> str:
    """An image that the model made: seed 4."""
    assert workshop.gsd("sample", "--model", "run", "--seeds", "4", "-o", "four.png").returncode == 0
    return "four.png"


@pytest.fixture
def bench(
    workshop: Shell, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> Workbench:
    """A workbench in the workshop's folder, with an empty cache."""
    monkeypatch.chdir(workshop.folder)
    monkeypatch.setenv("GSD_CACHE_DIR", str(tmp_path / "cache"))
    return Workbench(capsys)


# -- as processes -------------------------------------------------------------------------------


def test_interpolate_as_a_process(workshop: Shell, four: str) -> None:
    done = workshop.gsd("interpolate", four, "seed:5", "--model", "run", "--frames", "5", "--json")
    report = json.loads(done.stdout)
    assert done.returncode == 0, done.stderr.decode()
    assert Image.open(workshop.folder / report["outputs"][0]).size == (5 * 16, 16)
    found = report["metrics"]["images"][0]
    assert found["psnr"] > 10
    assert found["norm"] == pytest.approx(1, abs=1e-4)
    assert {"correlation", "kurtosis", "feature_distance", "domain_distance"} <= set(found)
    leg = report["metrics"]["legs"][0]
    assert leg["largest_over_mean_step"] >= 1
    assert leg["cross_fade"]["length"] > 0
    assert b"PSNR" in done.stderr and b"kurtosis" not in done.stderr


@pytest.mark.slow
def test_bytes_through_a_pipe(workshop: Shell) -> None:
    piped = workshop.sh(
        "gsd sample --model run -N 1 -o - "
        "| gsd interpolate - seed:3 --model run --invert-steps 3 --frames 3 -o - --format gif > piped.gif"
    )
    assert piped.returncode == 0, piped.stderr.decode()
    assert Image.open(workshop.folder / "piped.gif").n_frames == 3  # type: ignore[attr-defined]
    strip = workshop.gsd(
        "edit", "seed:2", *PROCESS, "--direction", "pc0", "--fit-samples", "64", "--range=0:2:3", "-o", "-"
    )  # fmt: skip
    assert Image.open(io.BytesIO(strip.stdout)).size == (48, 16)


def test_an_attribute_learnt_from_two_folders_is_kept(workshop: Shell) -> None:
    for folder, shade in (("dark", 40), ("light", 200)):
        (workshop.folder / folder).mkdir(exist_ok=True)
        for i in range(8):
            pixels = np.random.default_rng(i).integers(shade - 30, shade + 30, (20, 16), dtype=np.uint8)
            Image.fromarray(pixels).save(workshop.folder / folder / f"{i}.png")
    call = ("edit", "seed:2", *PROCESS, "--fit-samples", "64", "-o", "l.png", "--json")
    first = workshop.gsd(*call, "--fit", "lit=light:dark")
    assert first.returncode == 0, first.stderr.decode()
    found = json.loads(first.stdout)["metrics"]
    assert found["direction"] == "lit"
    assert found["method"] == "reached on this image"
    assert len(found["reached"]) == 1
    assert b"AUROC" in first.stderr
    again = workshop.gsd(*call, "--attribute", "lit")
    assert again.returncode == 0, again.stderr.decode()
    assert b"AUROC" not in again.stderr
    listed = workshop.gsd("edit", "--list", "--model", "run").stdout.decode().split()
    assert listed[:2] == ["pc0", "pc1"]
    assert {"brightness", "width", "symmetry", "lit"} <= set(listed)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["edit", "seed:1", "--attribute", "brightness", "--direction", "pc0", "--data", "x.zip"], "not both"),
        (["edit", "seed:1", "--fit", "smile"], "NAME=POSITIVE"),
        (["edit", "seed:1", "--data", "toy.zip", "--save-latent", "x.npz"], ".safetensors"),
    ],
)
def test_wrong_options_are_exit_2(arguments: list[str], said: str, workshop: Shell) -> None:
    done = workshop.gsd(*arguments, "--model", "run")
    assert done.returncode == 2, done.stderr.decode()
    assert said in done.stderr.decode()


# -- interpolate --------------------------------------------------------------------------------


def test_a_second_call_reads_the_inversion_from_the_cache(bench: Workbench, four: str, tmp_path: Path) -> None:
    bench.interpolate(four, "seed:5", output=str(tmp_path / "a.png"))
    folder = tmp_path / "cache" / "inversions"
    stored = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert len(stored) == 1
    bench.interpolate(four, "seed:5", output=str(tmp_path / "b.png"))
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == stored
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    bench.interpolate(four, "seed:5", output=str(tmp_path / "c.png"), invert_prior=3)
    assert len(list(folder.iterdir())) == 2  # other options: another inversion
    next(iter(stored)).write_bytes(b"damaged")
    bench.interpolate(four, "seed:5", output=str(tmp_path / "d.png"))
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "d.png").read_bytes()


def test_saved_latents_replace_images(bench: Workbench, four: str, tmp_path: Path) -> None:
    latents, one = str(tmp_path / "two.safetensors"), str(tmp_path / "one.safetensors")
    bench.interpolate(four, "seed:5", output=str(tmp_path / "a.png"), save_latent=latents)
    bench.interpolate(latents, output=str(tmp_path / "b.png"))
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    with pytest.raises(GsdError, match="holds 2 latents"):
        bench.edit(latents)
    bench.edit(four, output=str(tmp_path / "e.png"), save_latent=one)
    bench.edit(one, output=str(tmp_path / "f.png"))
    assert (tmp_path / "e.png").read_bytes() == (tmp_path / "f.png").read_bytes()


@pytest.mark.parametrize("suffix", [".gif", ".webp", ".mp4"])
def test_animations(suffix: str, bench: Workbench, tmp_path: Path) -> None:
    if suffix == ".mp4":
        pytest.importorskip("av")
    target = tmp_path / f"w{suffix}"
    done = bench.interpolate("seed:1", "seed:2", "seed:3", frames=4, output=str(target))
    assert done.outputs == [str(target)]
    assert target.stat().st_size > 100
    if suffix != ".mp4":
        assert Image.open(target).n_frames == 7  # type: ignore[attr-defined]  # the shared frame once
    assert bench.edit("seed:1", range="-1:1:3", output=str(tmp_path / f"e{suffix}")).outputs


def test_frames_go_round_and_back(bench: Workbench, tmp_path: Path) -> None:
    def frames(**flags: bool) -> int:
        done = bench.interpolate("seed:1", "seed:2", frames=4, output=str(tmp_path / "x.png"), **flags)
        return int(done.metrics["frames"])

    assert frames() == 4
    assert frames(loop=True) == 6
    assert frames(pingpong=True) == 6
    both = InterpolateOptions(images=("seed:1", "seed:2"), frames=4, loop=True, pingpong=True)
    assert list(plan_interpolate(both)) == ["10 frames to interpolation.png"]
    assert frames(loop=True, pingpong=True) == 10


def test_a_folder_of_frames_with_their_latents(bench: Workbench, tmp_path: Path) -> None:
    done = bench.interpolate("seed:1", "seed:1", path="slerp", output=str(tmp_path / "frames"))
    *images, latents = done.outputs
    frames = [np.asarray(Image.open(line)) for line in images]
    assert len(frames) == 3
    np.testing.assert_array_equal(frames[0], frames[2])
    with np.load(latents, allow_pickle=False) as stored:
        assert stored["z"].shape == (3, 1, 16, 16)


def test_a_geodesic_keeps_the_ends(bench: Workbench, tmp_path: Path) -> None:
    strips = []
    for path in ("geodesic", "slerp"):
        target = str(tmp_path / f"{path}.png")
        bench.interpolate("seed:1", "seed:2", frames=4, path=path, geodesic_steps=3, output=target)
        strips.append(np.asarray(Image.open(target)))
    np.testing.assert_array_equal(strips[0][:, :16], strips[1][:, :16])
    np.testing.assert_array_equal(strips[0][:, -16:], strips[1][:, -16:])


def test_with_residuals_the_ends_are_the_original_images(bench: Workbench, four: str, tmp_path: Path) -> None:
    bench.interpolate(four, "seed:5", keep_residual=True, output=str(tmp_path / "k.png"))
    strip = np.asarray(Image.open(tmp_path / "k.png"))
    np.testing.assert_array_equal(strip[:, :16], np.asarray(Image.open(four)))


def test_pivotal_tuning_is_closer_to_the_image(bench: Workbench, four: str, tmp_path: Path) -> None:
    done = bench.edit(four, strength=0, tune=30, output=str(tmp_path / "t.png"))
    figures = done.metrics["image"]
    assert figures["psnr_tuned"] > figures["psnr"]
    assert "tuned" in bench.stderr()


def test_an_image_of_another_kind_is_a_warning(bench: Workbench, tmp_path: Path) -> None:
    board = np.kron(np.indices((2, 2)).sum(0) % 2, np.ones((16, 16))).astype(np.uint8) * 255
    Image.fromarray(board).save(tmp_path / "board.png")
    done = bench.interpolate(
        str(tmp_path / "board.png"), "example:bag", model="fashion", output=str(tmp_path / "x.png")
    )
    far, near = (found["domain_distance"] for found in done.metrics["images"])
    assert near < 1 < far
    warned = [line for line in bench.stderr().splitlines() if "is not of the model's kind" in line]
    assert len(warned) == 1
    assert f"board.png: this image is not of the model's kind: {far:.2f} times as far" in warned[0]


# -- edit ---------------------------------------------------------------------------------------


def test_edit_moves_more_the_stronger_it_is(bench: Workbench, tmp_path: Path) -> None:
    bench.edit("seed:2", direction="pc0", range="-3:3:7", output=str(tmp_path / "strip.png"))
    strip = np.asarray(Image.open(tmp_path / "strip.png"), dtype=float).reshape(16, 7, 16).transpose(1, 0, 2)
    moved = np.abs(strip - strip[3]).mean((1, 2))
    assert moved[0] > moved[1] > 0 < moved[5] < moved[6]


@pytest.mark.parametrize("name", ["brightness", "jac0"])
def test_edit_changes_what_it_names(name: str, bench: Workbench, tmp_path: Path) -> None:
    kind = "direction" if name == "jac0" else "attribute"
    done = bench.edit("seed:2", range="-1:1:3", output=str(tmp_path / "b.png"), **{kind: name})
    assert done.metrics["direction"] == name
    low, _, high = done.metrics["measured"]["brightness"]
    assert high > low or name == "jac0"
    assert done.metrics["measured"]["feature_distance"][1] == pytest.approx(0, abs=1e-6)


def test_a_measured_attribute_is_solved_for_on_this_image(bench: Workbench, tmp_path: Path) -> None:
    solved = bench.edit("seed:2", attribute="brightness", strength=0.5, output=str(tmp_path / "s")).metrics
    assert solved["method"] == "solved for this image"
    assert solved["reached"] == pytest.approx([0.5], abs=0.25)
    assert set(solved["others_changed"]) == {"contrast", "width", "height", "symmetry"}
    for name, (change,) in solved["others_changed"].items():
        assert np.sign(change) == np.sign(solved["measured"][name][0] - solved["before"][name])
    with np.load(tmp_path / "s" / "latents.npz", allow_pickle=False) as stored:
        assert stored["z"].shape == (1, 1, 16, 16)
    moved = bench.edit(
        "seed:2", attribute="brightness", strength=0.5, method="direction", output=str(tmp_path / "d.png")
    )
    assert moved.metrics["method"] == "along the direction"
    assert abs(moved.metrics["reached"][0] - 0.5) >= abs(solved["reached"][0] - 0.5)


def test_what_is_built_in_is_learnt_from_no_images(bench: Workbench, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--data: brightness is built in"):
        bench.edit("seed:2", attribute="brightness", data="toy.zip", output=str(tmp_path / "x.png"))


def test_a_change_that_is_not_reached_is_a_warning(bench: Workbench, tmp_path: Path) -> None:
    done = bench.edit("seed:2", attribute="brightness", strength=20, output=str(tmp_path / "s.png"))
    assert done.metrics["reached"][0] < 19
    assert "of +20 standard deviations" in bench.stderr()


def test_a_bundled_garment_keeps_its_class_or_the_change_is_a_warning(bench: Workbench, tmp_path: Path) -> None:
    done = bench.edit("seed:2", model="fashion", attribute="brightness", strength=-0.5, output=str(tmp_path / "b.png"))
    assert done.metrics["class_changed"] == [False]
    assert done.metrics["reached"] == pytest.approx([-0.5], abs=0.25)
    assert "the class changed" not in bench.stderr()
    done = bench.edit("seed:2", model="fashion", direction="pc0", range="-9:9:2", output=str(tmp_path / "p.png"))
    assert any(done.metrics["class_changed"])
    assert "the class changed: it was" in bench.stderr()


def test_a_class_is_approached_in_equal_steps(bench: Workbench, tmp_path: Path) -> None:
    done = bench.edit("seed:2", model="fashion", attribute="pullover", range="0:2:9", output=str(tmp_path / "c.png"))
    first, *inner, last = done.metrics["reached"]
    assert first == pytest.approx(0, abs=1e-3)
    assert last == pytest.approx(2, abs=0.25)
    assert all(first - 1 < value < last + 1 for value in inner)
    assert done.metrics["largest_over_mean_step"] < 2.5
    begins = done.metrics["begins_at"]
    # the likeliest class may be less likely than all others together
    assert done.metrics["measured"]["class"][-1] == "pullover" or last < begins
    assert ("pullover is more likely than not from a strength of" in bench.stderr()) == (begins > 2)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"direction": "pc0", "method": "image"}, "--method image needs --attribute"),
        ({"attribute": "width", "method": "image", "space": "latent"}, "--space: width is solved for in the latent"),
    ],
)
def test_ways_that_contradict_each_other_are_refused(options: dict[str, str], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        EditOptions.model_validate({"image": "seed:1", **options})


def test_preserve_and_space(bench: Workbench, tmp_path: Path) -> None:
    done = bench.edit("seed:2", attribute="brightness", space="latent", output=str(tmp_path / "p.png"))
    assert done.metrics["space"] == "latent"
    kept = bench.edit("seed:2", direction="pc0", preserve="pc1,pc2", output=str(tmp_path / "q.png"))
    assert kept.metrics["figures"]["kept"] == pytest.approx(1, abs=1e-3)  # components are orthogonal as they are
    with pytest.raises(GsdError, match="is the edited attribute itself"):
        bench.edit("seed:2", attribute="brightness", preserve="brightness")
    with pytest.raises(GsdError, match="--preserve: unknown 'nonsense'"):
        bench.edit("seed:2", attribute="brightness", preserve="nonsense")
    with pytest.raises(GsdError, match="--preserve: no 'pc99'"):
        bench.edit("seed:2", direction="pc0", preserve="pc99")
    with pytest.raises(GsdError, match="no direction of pc1 in the latent"):
        bench.edit("seed:2", direction="jac0", preserve="pc1")


def test_an_attribute_from_the_labels_of_a_data_set(bench: Workbench) -> None:
    with pytest.raises(GsdError, match="has no labels called") as error:
        bench.edit("seed:2", data="toy.zip", attribute="nothing-like-it")
    assert error.value.code == ExitCode.USAGE
    known = str(error.value.hint).split(", ")[0]
    has, without = read_data_set(Path("toy.zip"), known, _knowledge(), Session(Console(quiet=True)))
    assert len(has) == 10
    assert len(without) == 90


def _knowledge() -> Knowledge:
    return Knowledge(load_model("run"))


@pytest.mark.slow
def test_edit_draws_its_directions(bench: Workbench, tmp_path: Path) -> None:
    drawn = bench.edit(None, list=True, output=str(tmp_path / "all.png"))
    assert drawn.outputs == [str(tmp_path / "all.png")]
    image = Image.open(tmp_path / "all.png")
    assert image.width == 5 * 16
    assert image.height >= 16 * 16
    assert set(drawn.metrics) >= {"pc0", "brightness"}


# -- faults, row 22 -----------------------------------------------------------------------------


@pytest.mark.fault(22, "two identical images")
def test_two_identical_images_give_equal_frames(bench: Workbench, four: str, tmp_path: Path) -> None:
    done = bench.interpolate(four, four, output=str(tmp_path / "still.png"))
    assert done.metrics["legs"][0]["length"] == pytest.approx(0, abs=1e-3)
    assert done.metrics["legs"][0]["largest_over_mean_step"] == 1


@pytest.mark.fault(22, "other sizes and modes")
def test_images_of_other_sizes_and_modes_are_converted_with_a_message(bench: Workbench, tmp_path: Path) -> None:
    wide = Image.new("RGBA", (40, 24), (200, 10, 10, 128))
    wide.save(tmp_path / "wide.png")
    turned = Image.new("L", (30, 20), 90)
    exif = turned.getexif()
    exif[0x0112] = 6
    turned.save(tmp_path / "turned.jpg", exif=exif)
    bench.interpolate(str(tmp_path / "wide.png"), str(tmp_path / "turned.jpg"), output=str(tmp_path / "x.png"))
    said = bench.stderr()
    assert "40 x 24 RGB -> 16 x 16 grey" in said
    assert "20 x 30 grey -> 16 x 16 grey" in said


@pytest.mark.parametrize("bad", ["text.png", "text.safetensors", "missing.png"])
@pytest.mark.fault(22, "no images")
def test_a_file_that_is_no_image_is_refused_and_nothing_is_written(bad: str, bench: Workbench, tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("not an image")
    (tmp_path / "text.safetensors").write_text("not an image")
    for command in (bench.interpolate, bench.edit):
        images = [str(tmp_path / bad)] + ["seed:1"] * (command == bench.interpolate)
        with pytest.raises(GsdError, match=bad) as error:
            command(*images, output=str(tmp_path / "o.png"))
        assert error.value.code == ExitCode.INPUT
        assert not (tmp_path / "o.png").exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"attribute": "smile"}, "smile"),
        ({"direction": "pc99"}, "pc99"),
        ({"direction": "jac99"}, "jac99"),
        ({"fit": "width=a:b"}, "built in"),
        ({"output": "x.avi"}, ".avi"),
        ({"range": "1:2:1"}, "2 to 1000"),
    ],
)
def test_wrong_use_of_edit_is_exit_2(options: dict[str, str], said: str, bench: Workbench) -> None:
    with pytest.raises(GsdError, match=said) as error:
        bench.edit("seed:1", **options)
    assert error.value.code == ExitCode.USAGE


@pytest.mark.parametrize(
    ("images", "options", "said"),
    [
        (["seed:1", "seed:2"], {"output": "x.avi"}, ".avi"),
        (["-", "-"], {}, "one stdin"),
        (["seed:x", "seed:2"], {}, "seed:x"),
        (["example:hat", "seed:2"], {}, "no example"),
    ],
)
def test_wrong_use_of_interpolate_is_exit_2(
    images: list[str], options: dict[str, str], said: str, bench: Workbench
) -> None:
    with pytest.raises(GsdError, match=said) as error:
        bench.interpolate(*images, **options)
    assert error.value.code == ExitCode.USAGE
