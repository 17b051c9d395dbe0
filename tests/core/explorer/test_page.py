"""The page in headless Chromium with WebAssembly: its images are gsd's, for everything that can be moved."""

from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from gsd_cli.core.explorer.serve import serving
from gsd_cli.core.latents.files import load_anchors
from tests.support.browser import Visit, starting_browser, visiting
from tests.support.shell import Shell

pytestmark = pytest.mark.browser
CLOSE = 50.0
"""dB between an image of the page and that of gsd."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with starting_browser() as found:
        yield found


@pytest.fixture(scope="module")
def visit(browser: Any, explorer: Path) -> Iterator[Visit]:
    with (
        serving(explorer) as url,
        visiting(browser, url, accept_downloads=True, viewport={"width": 1280, "height": 900}) as found,
    ):
        yield found
        assert found.outside == []
        assert [line for line in found.printed if line.startswith(("error", "warning"))] == []


def psnr(pixels: list[int], image: np.ndarray) -> float:
    error = np.square(np.array(pixels, float) - image.ravel()).mean()
    return float(10 * np.log10(255**2 / max(error, 1e-9)))


def repeat(workshop: Shell, visit: Visit, tmp_path: Path) -> np.ndarray:
    """The image that the page's own command gives."""
    words = shlex.split(visit.page.inner_text("#command"))
    assert words[0] == "gsd" and words[-2:] == ["-o", "image.png"]
    files = {name: str(tmp_path / name) for name in ("latent.safetensors", "image.png", "image.safetensors")}
    done = workshop.gsd(*(files.get(word, word) for word in words[1:]))
    assert done.returncode == 0, done.stderr.decode()
    return np.asarray(Image.open(tmp_path / "image.png"))


def slide(visit: Visit, name: str, steps: int) -> None:
    """Move a slider by the keyboard."""
    visit.page.focus(f"#direction-{name}")
    for _ in range(abs(steps)):
        visit.page.keyboard.press("ArrowRight" if steps > 0 else "ArrowLeft")


@pytest.mark.parametrize(
    ("address", "moves", "command"),
    [
        ("#seed=42", {}, "gsd sample --seeds 42"),
        ("#seed=70000", {"truncation": -6}, "gsd sample --seeds 70000 --truncation 0.7"),
        ("#seed=3", {"brightness": 8}, "--attribute brightness --method direction --strength=0.8"),
        ("#seed=3", {"pc1": -7, "truncation": -1}, "--truncation 0.95 --direction pc1 --strength=-0.7"),
        ("#seed=3", {"pc0": 9, "brightness": -5, "pc2": 4}, "--move=brightness=-0.5,pc0=0.9,pc2=0.4"),
        ("#start=example%3Abag", {"brightness": 5}, "gsd edit image.safetensors"),
    ],
)
def test_its_images_are_those_of_its_command(
    visit: Visit, workshop: Shell, explorer: Path, tmp_path: Path, address: str, moves: dict[str, int], command: str
) -> None:
    shutil.copy(explorer / "image.safetensors", tmp_path)
    visit.page.goto("about:blank")
    visit.open(f"?backend=wasm{address}")
    for name, steps in moves.items():
        slide(visit, name, steps)
    visit.settle()
    assert command in visit.page.inner_text("#command")
    assert psnr(visit.pixels(), repeat(workshop, visit, tmp_path)) > CLOSE


def test_a_neighbour_is_downloaded_and_opened_by_gsd(
    visit: Visit, workshop: Shell, explorer: Path, tmp_path: Path
) -> None:
    visit.page.goto("about:blank")
    visit.open("?backend=wasm#seed=3")
    slide(visit, "pc0", 6)
    slide(visit, "brightness", 4)
    visit.page.focus("#wall button:nth-child(1)")
    visit.page.keyboard.press("ArrowRight")
    visit.page.keyboard.press("Enter")
    visit.settle()
    assert "a neighbour" in visit.page.inner_text("#name")
    with visit.page.expect_download() as waiting:
        visit.page.click("#save-latent")
    waiting.value.save_as(tmp_path / "latent.safetensors")
    model = json.loads((explorer / "model.json").read_text())
    (anchor,), mark = load_anchors(tmp_path / "latent.safetensors", tuple(model["latent_shape"]))
    assert mark == model["fingerprint"]
    assert anchor.z.norm().item() == pytest.approx(torch.tensor(anchor.z.shape).prod().item() ** 0.5, rel=0.3)
    assert "gsd edit latent.safetensors --direction pc0 --strength=0.6" in visit.page.inner_text("#command")
    assert psnr(visit.pixels(), repeat(workshop, visit, tmp_path)) > CLOSE
    before = visit.pixels()
    visit.page.go_back()
    visit.settle()
    assert "seed 3" in visit.page.inner_text("#name") and visit.pixels() != before
    # the file opens in the page, too: what was moved in z is part of it
    visit.page.click("#reset")
    visit.page.set_input_files("#latent-file", tmp_path / "latent.safetensors")
    slide(visit, "pc0", 6)
    visit.settle()
    assert psnr(visit.pixels(), np.array(before)) > CLOSE


def test_its_png_holds_what_it_shows(visit: Visit, tmp_path: Path) -> None:
    visit.page.goto("about:blank")
    visit.open("?backend=wasm#seed=5")
    with visit.page.expect_download() as waiting:
        visit.page.click("#save-png")
    waiting.value.save_as(tmp_path / "image.png")
    assert np.asarray(Image.open(tmp_path / "image.png").convert("L")).ravel().tolist() == visit.pixels()


def test_its_walks_are_those_of_interpolate(visit: Visit, workshop: Shell, tmp_path: Path) -> None:
    visit.page.goto("about:blank")
    visit.open("?backend=wasm#seed=6")
    visit.page.select_option("#walk-from", "seed 10")
    visit.page.select_option("#walk-to", "seed 2")  # the table was measured the other way
    visit.settle()
    assert "gsd measured this pair" in visit.page.inner_text("#walk-note")
    words = shlex.split(visit.page.inner_text("#walk-command"))
    made = workshop.gsd(*words[1:-1], str(tmp_path / "walk.png"))
    assert made.returncode == 0, made.stderr.decode()
    strip = np.asarray(Image.open(tmp_path / "walk.png"))
    frames = strip.reshape(strip.shape[0], 17, -1).transpose(1, 0, 2)
    for k, frame in enumerate(frames):
        # both measure the steps, in float32 and from two sides: fractions differ in the third digit
        assert psnr(visit.pixels(f"#strip canvas:nth-child({k + 1})"), frame) > 40
    assert psnr(visit.pixels("#strip canvas:nth-child(1)"), frames[0]) > CLOSE
    visit.page.focus("#walk-place")
    for _ in range(4):
        visit.page.keyboard.press("ArrowRight")
    assert visit.page.inner_text("#walk-number") == "5/17"
    assert visit.pixels("#walk-image") == visit.pixels("#strip canvas:nth-child(5)")
    with visit.page.expect_download() as waiting:
        visit.page.click("#save-gif")
    waiting.value.save_as(tmp_path / "walk.gif")
    with Image.open(tmp_path / "walk.gif") as film:
        assert film.n_frames == 32 and film.size == (256, 256)
        film.seek(20)
        large = np.asarray(film.convert("L"))[8::16, 8::16]
        assert large.ravel().tolist() == visit.pixels("#strip canvas:nth-child(13)")
    visit.page.select_option("#walk-to", "shown")
    visit.settle()
    assert "measured in this page" in visit.page.inner_text("#walk-note")


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_it_fits_the_window(browser: Any, explorer: Path, width: int, theme: str) -> None:
    shape = {"viewport": {"width": width, "height": 844}, "color_scheme": theme, "has_touch": width < 500}
    with serving(explorer) as url, visiting(browser, url, **shape) as visit:
        visit.open()
        assert visit.page.evaluate("document.documentElement.scrollWidth") == width
        paper = visit.page.evaluate("getComputedStyle(document.body).backgroundColor")
        visit.page.click("#theme")
        other = visit.page.evaluate("getComputedStyle(document.body).backgroundColor")
        light, dark = (other, paper) if theme == "dark" else (paper, other)
        assert (light, dark) == ("rgb(251, 251, 250)", "rgb(18, 20, 22)")
        visit.page.reload()
        visit.page.wait_for_selector("html[data-ready]")
        assert visit.page.evaluate("getComputedStyle(document.body).backgroundColor") == other
        unnamed = visit.page.evaluate(
            """() => [...document.querySelectorAll("button, input:not([hidden]), select")].filter((control) =>
                !control.labels?.length && !control.ariaLabel && !control.innerText.trim()).length"""
        )
        assert unnamed == 0
        assert (visit.outside, visit.printed) == ([], [])


def test_it_opens_without_a_network_once_seen(browser: Any, explorer: Path) -> None:
    with visiting(browser, "http://127.0.0.1:") as visit:
        with serving(explorer) as url:
            visit.url = url
            visit.open()
            visit.page.wait_for_selector("#kept:not([hidden])", timeout=60_000)
        visit.open("?backend=wasm#seed=8")  # the server is gone
        assert "seed 8" in visit.page.inner_text("#name")


def change(explorer: Path, folder: Path, name: str, old: str, new: str) -> Path:
    """A copy of an explorer with one file changed."""
    shutil.copytree(explorer, folder)
    text = (folder / name).read_text()
    assert old in text
    (folder / name).write_text(text.replace(old, new, 1))
    return folder


def test_what_does_not_fit_is_a_line(browser: Any, explorer: Path, tmp_path: Path) -> None:
    """A model of another export, a file that is missing, and a check that the images fail."""
    model = json.loads((explorer / "model.json").read_text())
    digest, seed = model["onnx"]["sha256"], json.dumps({"seed": model["check"]["seed"]})[1:-1]
    swapped = change(
        explorer, tmp_path / "swapped", "model.json", f'"sha256": "{digest}"', f'"sha256": "{digest[::-1]}"'
    )
    other = change(explorer, tmp_path / "other", "model.json", seed, '"seed": 99')
    partial = tmp_path / "partial"
    shutil.copytree(explorer, partial, ignore=shutil.ignore_patterns("generator.onnx"))
    for folder, line in (
        (swapped, "not the file that model.json describes"),
        (other, "images differ from gsd's"),
        (partial, "generator.onnx is missing"),
    ):
        with serving(folder) as url, visiting(browser, url) as visit:
            visit.page.goto(url + "?backend=wasm")
            visit.page.wait_for_selector("#alert:not([hidden])", timeout=60_000)
            assert line in visit.page.inner_text("#alert")


def test_it_says_what_a_browser_lacks(browser: Any, explorer: Path) -> None:
    with visiting(browser, "file://") as visit:
        visit.page.goto((explorer / "index.html").as_uri())
        visit.page.wait_for_selector("#alert:not([hidden])")
        assert "--open" in visit.page.inner_text("#alert")
    with serving(explorer) as url, visiting(browser, url) as visit:
        visit.page.add_init_script("delete globalThis.WebAssembly")
        visit.page.goto(url)
        visit.page.wait_for_selector("#alert:not([hidden])")
        assert "no WebAssembly" in visit.page.inner_text("#alert")


def test_little_memory_is_a_line(browser: Any, explorer: Path, tmp_path: Path) -> None:
    """An allocation of the generator that fails, as on a device with too little memory."""
    worker = "const found = Float32Array.from(images.data);"
    full = change(
        explorer, tmp_path / "full", "worker.js", worker, 'throw new RangeError("Array buffer allocation failed");'
    )
    with serving(full) as url, visiting(browser, url) as visit:
        visit.page.goto(url + "?backend=wasm")
        visit.page.wait_for_selector("#alert:not([hidden])", timeout=60_000)
        assert "too little memory" in visit.page.inner_text("#alert")
