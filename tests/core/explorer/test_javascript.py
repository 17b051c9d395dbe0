"""The page's modules without a browser, in node, compared with gsd's own functions."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from gsd_cli.cli.parser import parse_and_run
from gsd_cli.compute.random import latents
from gsd_cli.core.editing.direction import move_latents
from gsd_cli.core.latents.files import Anchor, load_anchors, save_anchors
from gsd_cli.core.latents.walks import _space_evenly
from gsd_cli.core.models.sphere import angle, slerp
from tests.support.browser import run_javascript

SEEDS = [0, 1, 42, 65535, 65536, 123456789, 2**32 + 7, 2**53 - 1]


@pytest.mark.parametrize("count", [16, 19, 1024])
def test_latents_of_seeds_are_those_of_gsd(tmp_path: Path, count: int) -> None:
    script = f"""import {{ latentOfSeed }} from "./page/random.js";
        console.log(JSON.stringify({SEEDS}.map((seed) => Array.from(latentOfSeed(seed, {count})))))"""
    found = torch.tensor(run_javascript(tmp_path, script))
    torch.testing.assert_close(found, latents(SEEDS, (count,)), rtol=0, atol=3e-6)


def test_a_stream_has_numbers_of_its_own(tmp_path: Path) -> None:
    script = """import { latentOfSeed } from "./page/random.js";
        console.log(JSON.stringify(Array.from(latentOfSeed(3, 64, "neighbour"))))"""
    found = torch.tensor(run_javascript(tmp_path, script))
    torch.testing.assert_close(found, latents([3], (64,), "neighbour")[0], rtol=0, atol=3e-6)


def test_the_sphere_is_that_of_gsd(tmp_path: Path) -> None:
    a, b, shift = torch.randn(3, 1, 1, 4, 6)
    given = {"a": a.flatten().tolist(), "b": b.flatten().tolist(), "shift": shift.flatten().tolist()}
    script = f"""import {{ moveLatent, neighbour, slerp }} from "./page/latents.js";
        const given = {json.dumps(given)};
        const [a, b, shift] = [given.a, given.b, given.shift].map((x) => Float32Array.from(x));
        const found = [moveLatent(a, shift), slerp(a, b, 0.3), slerp(a, b, 0), slerp(a, a, 0.5), neighbour(a, 5, 0.4)];
        console.log(JSON.stringify(found.map((x) => Array.from(x))))"""
    moved, between, start, still, near = (torch.tensor(x).reshape(a.shape) for x in run_javascript(tmp_path, script))
    torch.testing.assert_close(moved, move_latents(a, shift), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(between, slerp(a, b, 0.3), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(start, a, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(still, a, rtol=1e-5, atol=1e-6)
    assert angle(a, near).item() == pytest.approx(0.4, abs=1e-5)
    assert near.norm().item() == pytest.approx(a.norm().item(), rel=1e-5)


def test_even_places_are_those_of_gsd(tmp_path: Path) -> None:
    s, steps = torch.linspace(0, 1, 9), torch.rand(8)
    script = f"""import {{ readTable, spaceEvenly }} from "./page/latents.js";
        console.log(JSON.stringify([spaceEvenly({s.tolist()}, {steps.tolist()}, 5), spaceEvenly([0, 1], [0], 3),
            readTable([0, 0.2, 1], 0.75)]))"""
    found, flat, read = run_javascript(tmp_path, script)
    assert found == pytest.approx(_space_evenly(s, steps, 5).tolist(), abs=1e-6)
    assert flat == [0, 0.5, 1]
    assert read == pytest.approx(0.6)


def test_latent_files_go_both_ways(tmp_path: Path) -> None:
    z = torch.randn(2, 4, 3)
    save_anchors(tmp_path / "ours.safetensors", [Anchor(z, {"image": "a"})], "mark")
    script = """import { readFileSync, writeFileSync } from "node:fs";
        import { decodeLatent, encodeLatent } from "./page/files.js";
        const read = (shape, mark) => {
            const bytes = readFileSync("ours.safetensors");
            const buffer = bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.length);
            try { return decodeLatent(buffer, shape, mark); }
            catch (error) { return error.message; }
        };
        const z = read([2, 4, 3], "mark");
        writeFileSync("theirs.safetensors", encodeLatent(z, [2, 4, 3], "mark", { image: "seed 1 · moved" }));
        let broken;
        try { decodeLatent(new Uint8Array(20).buffer, [2, 4, 3], "mark"); } catch (error) { broken = error.message; }
        console.log(JSON.stringify([Array.from(z), read([1, 4, 3], "mark"), read([2, 4, 3], "other"), broken]))"""
    found, shape, model, broken = run_javascript(tmp_path, script)
    torch.testing.assert_close(torch.tensor(found), z.flatten(), rtol=0, atol=0)
    assert "shape 2 x 4 x 3" in shape
    assert "another model (mark)" in model
    assert "latent" in broken
    (anchor,), mark = load_anchors(tmp_path / "theirs.safetensors", (2, 4, 3))
    assert mark == "mark" and anchor.figures == {"image": "seed 1 · moved"}
    torch.testing.assert_close(anchor.z, z, rtol=0, atol=0)


@pytest.mark.parametrize("grey", [True, False])
def test_gifs_hold_the_frames(tmp_path: Path, grey: bool) -> None:
    """Enough pixels that the table of codes is filled and begun again."""
    random = np.random.default_rng(0)
    levels = random.integers(0, 256, (3, 40, 60, 1 if grey else 3), np.uint8)
    if not grey:
        levels = levels // 64 * 64  # 64 colours, which a palette of 256 holds
    frames = np.concatenate([np.broadcast_to(levels, (3, 40, 60, 3)), np.full((3, 40, 60, 1), 255, np.uint8)], 3)
    script = f"""import {{ writeFileSync }} from "node:fs";
        import {{ encodeGif }} from "./page/gif.js";
        const frames = {frames.reshape(3, -1).tolist()}.map((data) => ({{ data, width: 60, height: 40 }}));
        writeFileSync("walk.gif", encodeGif(frames, 12, 3));
        console.log("null")"""
    run_javascript(tmp_path, script)
    with Image.open(tmp_path / "walk.gif") as image:
        assert image.n_frames == 3 and image.size == (180, 120)
        for k in range(3):
            image.seek(k)
            assert image.info["duration"] == 120
            shown = np.asarray(image.convert("RGB"))[::3, ::3]
            assert np.array_equal(shown, frames[k, ..., :3])


def test_commands_are_commands(tmp_path: Path) -> None:
    """Each command that the page shows is one that gsd takes."""
    model = {
        "command_name": "fashion",
        "directions": [
            {"name": "pc0", "space": "bottleneck", "group": "components"},
            {"name": "ankle-boot", "space": "latent", "group": "classes"},
            {"name": "smile", "space": "latent", "group": "learnt", "file": "my/smile.safetensors"},
        ],
    }
    script = f"""import {{ editCommand, walkCommand }} from "./page/command.js";
        const model = {json.dumps(model)};
        const [pc, boot, own] = model.directions;
        const seed = {{ source: "seed:42" }};
        const shown = (base, moves, cut = 1, label = null) => editCommand(model, base, moves, cut, label);
        console.log(JSON.stringify([
            shown(seed, []), shown(seed, [], 0.7), shown(seed, [{{ direction: boot, strength: -1.5 }}]),
            shown(seed, [{{ direction: pc, strength: 2 }}, {{ direction: boot, strength: 0 }}], 0.8),
            shown(seed, [{{ direction: pc, strength: 2 }}, {{ direction: boot, strength: -0.3 }}]),
            shown({{ source: null }}, [{{ direction: boot, strength: 1 }}, {{ direction: pc, strength: 1 }}], 0.5),
            shown({{ source: "my latent's.safetensors" }}, [], 1, 3),
            walkCommand(model, [seed, {{ source: null }}], 17, null),
            shown(seed, [{{ direction: own, strength: 1 }}]),
            shown(seed, [{{ direction: own, strength: 1 }}, {{ direction: pc, strength: -1 }}]),
        ]))"""
    shown = run_javascript(tmp_path, script)
    assert [one["text"] for one in shown] == [
        "gsd sample --seeds 42 --precision fp32 --model fashion -o image.png",
        "gsd sample --seeds 42 --truncation 0.7 --precision fp32 --model fashion -o image.png",
        "gsd edit seed:42 --attribute ankle-boot --method direction --strength=-1.5 --model fashion -o image.png",
        "gsd edit seed:42 --truncation 0.8 --direction pc0 --strength=2 --model fashion -o image.png",
        "gsd edit seed:42 --move=pc0=2,ankle-boot=-0.3 --model fashion -o image.png",
        "gsd edit latent.safetensors --direction pc0 --strength=1 --model fashion -o image.png",
        """gsd edit 'my latent'"'"'s.safetensors' --direction pc0 --strength=0 --model fashion"""
        " --class 3 -o image.png",
        "gsd interpolate seed:42 latent-2.safetensors --frames 17 --model fashion -o walk.gif",
        "gsd edit seed:42 --direction my/smile.safetensors --strength=1 --model fashion -o image.png",
        "gsd edit seed:42 --move=my/smile.safetensors=1,pc0=-1 --model fashion -o image.png",
    ]
    seen = []
    for one in shown:
        parse_and_run(shlex.split(one["text"])[1:], seen.append)
    assert [call.command.name for call in seen] == ["sample"] * 2 + ["edit"] * 5 + ["interpolate"] + ["edit"] * 2
    assert not any(call.extra for call in seen)
    assert shown[5]["note"] and not shown[0]["note"]
