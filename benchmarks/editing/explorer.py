"""Images per second of the explorer in Chromium: python -m benchmarks.editing.explorer [DIR]

DIR is a folder that `gsd edit --explore DIR` wrote; without one, that of the bundled generator is written. The page's
own queue and worker draw images of random latents, one at a time as when a slider is dragged, and in fours as for the
walls. The median and the best of several rounds are printed, since other programs of the machine may disturb a round,
with the largest difference of the images from torch's.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gsd_cli import EditOptions, edit
from gsd_cli.compute.random import latents
from gsd_cli.core.explorer.serve import serving
from gsd_cli.core.latents.inversion import psnr
from gsd_cli.core.latents.render import render
from gsd_cli.core.models.generator import load_model

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
GOAL = 15.0
"""Images per second on two CPU cores, for the bundled generator."""
SCRIPT = """async ({ backend, rounds, images, threads }) => {
    const { Engine } = await import("./engine.js");
    const { latentOfSeed } = await import("./random.js");
    const facts = await (await fetch("model.json")).json();
    const size = facts.latent_shape.reduce((a, b) => a * b);
    const buffer = await (await fetch("directions.bin")).arrayBuffer();
    const image = new Float32Array(buffer.slice(facts.check.at[0], facts.check.at[0] + 4 * facts.check.at[1]));
    const check = { z: latentOfSeed(facts.check.seed, size), image, label: facts.label };
    const engine = new Engine();
    const options = { model: facts, check, backend, threads, base: new URL("./", location.href).href };
    const ready = await engine.start(options, () => {});
    const z = Array.from({ length: images }, (_, seed) => ({ z: latentOfSeed(seed, size), shift: null }));
    const drawn = [];
    const rates = { image: [], wall: [] };
    for (let round = -1; round < rounds; round++) {
        let begun = performance.now();
        for (const one of z) await engine.render("image", [one], facts.label);
        if (round >= 0) rates.image.push((1000 * images) / (performance.now() - begun));
        begun = performance.now();
        await engine.render("wall", z, facts.label, (k, pixels) => (drawn[k] = Array.from(pixels)));
        if (round >= 0) rates.wall.push((1000 * images) / (performance.now() - begun));
    }
    return { ready, rates, drawn };
}"""


def measure(folder: Path, given: argparse.Namespace) -> dict[str, Any]:
    """Rates and images of the page in `folder`."""
    from playwright.sync_api import sync_playwright

    browser = next(path for name in BROWSERS if (path := shutil.which(name)))
    with serving(folder) as url, sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=browser, args=["--no-sandbox"])
        page = opened.new_page()
        page.goto(url + "explorer.css")  # the origin, without a page that draws by itself
        found: dict[str, Any] = page.evaluate(
            SCRIPT, {"backend": given.backend, "rounds": given.rounds, "images": given.images, "threads": given.threads}
        )
        opened.close()
    return found


def main() -> None:
    """Print one line per way to draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--model", default="fashion")
    parser.add_argument("--backend", choices=["wasm", "webgpu"], default="wasm")
    parser.add_argument("--threads", type=int, default=min(4, len(os.sched_getaffinity(0))))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--images", type=int, default=32)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.folder
        if folder is None:
            folder = Path(temporary) / "page"
            edit(EditOptions(explore=folder, model=given.model))
        found = measure(folder, given)
    ready, load = found["ready"], os.getloadavg()[0]
    print(f"{ready['backend']}, {ready['threads']} threads, {os.cpu_count()} cores, load {load:.1f}")
    for name, rates in found["rates"].items():
        one = "one at a time" if name == "image" else "in fours"
        print(f"{one}: median {statistics.median(rates):.1f} images per second, best {max(rates):.1f} (goal {GOAL:g})")
    generator = load_model(given.model).generator.eval()
    images = render(generator, latents(range(given.images), generator.latent_shape)).clamp(-1, 1)
    drawn = torch.from_numpy(np.array(found["drawn"], np.float32)).reshape(images.shape)
    print(f"largest difference from torch {(drawn - images).abs().max():.1e}, PSNR {min(psnr(drawn, images)):.0f} dB")


if __name__ == "__main__":
    main()
