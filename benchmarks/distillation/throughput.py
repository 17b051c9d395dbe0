"""How many images per second does gsd's distillation train on, compared with a plain loop of the same method?

    python -m benchmarks.distillation.throughput [--teacher ddpm-fashion] [--batch-size 64] [--rounds 7] [-o FILE.json]

Takes about ten minutes, prints a table and writes the figures to -o. The plain loop below is written for clarity, in
the manner of the published code: float32, every image of every loss from its own forward pass, as with
`--irl-gradient free --fake-score plain --adversarial off`. Each variant runs in its own process, because the
allocator's settings belong to a process. The variants take turns, so a machine whose speed drifts slows all of them
equally. Ratios are of one round's times: median and quartiles. Page faults are the cost of giving memory back and
asking for it again.
"""

from __future__ import annotations

import argparse
import copy
import json
import multiprocessing
import platform
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gsd_cli.base.versions import versions
from gsd_cli.compute.device import resolve_device, synchronize
from gsd_cli.compute.memory import keep_freed_memory
from gsd_cli.core.distillation.isometric_forms import distance, speed_loss
from gsd_cli.core.distillation.latent_pairs import pair_count
from gsd_cli.core.distillation.losses import fake_score_loss, score_identity_loss
from gsd_cli.core.distillation.noise_levels import build_recipe
from gsd_cli.core.distillation.step import Distillation
from gsd_cli.core.models.denoiser import Denoiser
from gsd_cli.core.models.feature_maps import teacher_features
from gsd_cli.core.models.generator import Generator
from gsd_cli.core.models.sphere import angle, rotate
from gsd_cli.core.models.teacher import load_teacher
from gsd_cli.options import DistillSettings

FULL = 1_000_000
"""The length of the run that steps are taken from the middle of: the isometric term is at full weight there."""
Step = Callable[[int], None]


def plain(teacher: Denoiser, settings: DistillSettings, device: torch.device) -> Step:
    """The method and nothing else."""
    f = copy.deepcopy(teacher).to(device).requires_grad_(False)
    g = copy.deepcopy(teacher).to(device).requires_grad_(True)
    G = Generator.from_teacher(teacher, settings.sigma_init).to(device)
    average = copy.deepcopy(G)
    adam_G = torch.optim.Adam(G.parameters(), settings.lr, (settings.beta1, settings.beta2), foreach=False)
    adam_g = torch.optim.Adam(g.parameters(), settings.lr, (settings.beta1, settings.beta2), foreach=False)
    batch, pairs = settings.batch_size, pair_count(settings.batch_size, settings.pair_every)
    recipe, random = build_recipe(settings, teacher.schedule), torch.Generator()

    def normal(n: int) -> torch.Tensor:
        return torch.randn(n, *teacher.shape).to(device)

    def levels() -> torch.Tensor:
        return recipe.fake_sigma(batch, random).to(device)

    def step(_: int) -> None:
        # the fake score learns the generator's images
        with torch.no_grad():
            y = G(normal(batch))
        sigma = levels()
        x = y + sigma.reshape(-1, 1, 1, 1) * normal(batch)
        adam_g.zero_grad()
        fake_score_loss(y, g(x, sigma), sigma**-2).mean().backward()
        adam_g.step()
        # the generator moves
        g.requires_grad_(False)
        y, sigma = G(normal(batch)), levels()
        x = y + sigma.reshape(-1, 1, 1, 1) * normal(batch)
        sidl = score_identity_loss(y, f(x, sigma), g(x, sigma), settings.alpha).mean()
        z = normal(pairs)
        low, high = np.log(settings.tau_min), np.log(settings.tau_max)
        tau = (low + (high - low) * torch.rand(pairs)).exp().to(device)
        near = rotate(z, normal(pairs), tau)
        rho = distance(teacher_features(f, G(z)), teacher_features(f, G(near)))
        isometric = speed_loss(rho, angle(z, near)).mean()
        adam_G.zero_grad()
        (sidl + 10.0 * isometric).backward()
        adam_G.step()
        g.requires_grad_(True)
        with torch.no_grad():
            for mine, theirs in zip(average.parameters(), G.parameters(), strict=True):
                mine.mul_(0.999).add_(theirs, alpha=0.001)

    return step


def ours(teacher: Denoiser, settings: DistillSettings, device: torch.device) -> Step:
    """gsd's."""
    task = Distillation(teacher, settings, FULL, device, lambda *_: {})
    return lambda step: (task.step(FULL // 2 + step), None)[1]


VARIANTS: dict[str, tuple[Callable[..., Step], bool, dict[str, Any]]] = {
    "plain loop": (plain, False, {"precision": "fp32"}),
    "plain loop, memory kept": (plain, True, {"precision": "fp32"}),
    "gsd, memory not kept": (ours, False, {}),
    "gsd, the plain loop's method": (ours, True, {"irl_gradient": "free", "fake_score": "plain"}),
    "the same in bf16": (ours, True, {"irl_gradient": "free", "fake_score": "plain", "precision": "bf16"}),
    "gsd": (ours, True, {}),
    "gsd in bf16": (ours, True, {"precision": "bf16"}),
    "gsd --irl-every 4": (ours, True, {"irl_every": 4}),
    "gsd --reuse-images": (ours, True, {"reuse_images": True}),
    "gsd --reuse-images --irl-every 4": (ours, True, {"reuse_images": True, "irl_every": 4}),
}
ON_A_GPU: dict[str, tuple[Callable[..., Step], bool, dict[str, Any]]] = {
    "gsd in float32": (ours, True, {"precision": "fp32"}),
    "gsd --compile": (ours, True, {"compile": True}),
    "gsd --compile --reuse-images": (ours, True, {"compile": True, "reuse_images": True}),
}


def serve(name: str, arguments: argparse.Namespace, pipe: Any) -> None:
    """A variant's process: for every number received, that step is taken and timed."""
    torch.set_num_threads(arguments.threads)
    device = resolve_device(arguments.device)
    build, keep, changes = {**VARIANTS, **ON_A_GPU}[name]
    if keep:
        keep_freed_memory()
    settings = DistillSettings(**{"batch_size": arguments.batch_size, **changes})
    step = build(load_teacher(arguments.teacher).denoiser, settings, device)
    pipe.send("ready")
    while (number := pipe.recv()) is not None:
        synchronize(device)
        start, faults = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        for k in range(arguments.steps):
            step(number * arguments.steps + k)
        synchronize(device)
        seconds, usage = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF)
        peak = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else usage.ru_maxrss * 1024
        pipe.send((seconds, (usage.ru_minflt - faults) // arguments.steps, peak))


def main() -> None:
    """Measure, print a table, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", default="ddpm-fashion")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--steps", type=int, default=4, help="steps a turn; a multiple of 4 holds --irl-every 4 whole")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--only", help="variants in addition to the plain loop, with ; between them")
    parser.add_argument("-o", "--output", type=Path)
    arguments = parser.parse_args()
    names = [*VARIANTS, *(ON_A_GPU if resolve_device(arguments.device).type == "cuda" else ())]
    if arguments.only:
        names = [names[0], *(name for name in names[1:] if name in arguments.only.split(";"))]
    context = multiprocessing.get_context("spawn")
    pipes = {}
    for name in names:
        pipes[name], other = context.Pipe()
        context.Process(target=serve, args=(name, arguments, other), daemon=True).start()
        pipes[name].recv()
    seconds: dict[str, list[float]] = {name: [] for name in names}
    faults: dict[str, list[int]] = {name: [] for name in names}
    peaks: dict[str, int] = {}
    for number in range(arguments.rounds + 1):
        for name in names:
            pipes[name].send(number)
            taken, faulted, peaks[name] = pipes[name].recv()
            if number:  # the first turn warms up
                seconds[name].append(taken)
                faults[name].append(faulted)
    for pipe in pipes.values():
        pipe.send(None)
    report = {
        "machine": platform.machine(), "versions": versions(), "rounds": arguments.rounds, "steps": arguments.steps,
        "batch_size": arguments.batch_size, "teacher": arguments.teacher, "threads": arguments.threads,
        "variants": {
            name: {
                **summary(seconds, name, names[0], arguments),
                "page_faults": int(np.median(faults[name])),
                "peak_memory_bytes": peaks[name],
            }
            for name in names
        },
    }  # fmt: skip
    print("| variant | images/s | times the plain loop (quartiles) | page faults a step | peak memory, GB |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for name, found in report["variants"].items():
        low, middle, high = found["ratio"]
        rate = f"{found['images_per_second']:.1f} | {middle:.2f} ({low:.2f} to {high:.2f})"
        print(f"| {name} | {rate} | {found['page_faults']:,} | {found['peak_memory_bytes'] / 1e9:.1f} |")
    if arguments.output:
        arguments.output.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


def summary(seconds: dict[str, list[float]], name: str, base: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """A variant's rate, and its ratio to the plain loop round by round."""
    ratios = np.array(seconds[base]) / np.array(seconds[name])
    return {
        "images_per_second": arguments.batch_size * arguments.steps / float(np.median(seconds[name])),
        "ratio": np.percentile(ratios, [25, 50, 75]).round(3).tolist(),
    }


if __name__ == "__main__":
    main()
