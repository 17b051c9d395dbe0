"""Parts b to e of `python -m benchmarks.gpu`: parity with the CPU, speed, memory, and a distillation to its end."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from statistics import quantiles
from typing import Any

import torch

from benchmarks.gpu.plain_loop import plain_step
from benchmarks.gpu.plan import GIGABYTE, ROOT, Plan, Row, Rows
from benchmarks.gpu.random_teachers import random_teacher
from gsd_cli.compute.device import choose_precision, full_precision, resolve_device, synchronize
from gsd_cli.compute.memory import peak_memory
from gsd_cli.compute.random import latents
from gsd_cli.core.distillation.recorded_steps import REHEARSALS, RecordedSteps
from gsd_cli.core.distillation.step import Distillation
from gsd_cli.core.models.feature_maps import teacher_features
from gsd_cli.core.models.generator import load_model
from gsd_cli.core.models.teacher import load_teacher
from gsd_cli.core.training.log import read_metrics
from gsd_cli.core.training.profiling import Profiler
from gsd_cli.data.pixels import to_uint8
from gsd_cli.metrics.path_length import path_length
from gsd_cli.options import DistillSettings

BUDGET = 24 * GIGABYTE
"""The memory of the card that the 256 x 256 teachers are promised to fit."""


def parity(plan: Plan, rows: Rows) -> None:
    """The device against this machine's CPU, in float32 with TF32 off."""
    devices = [torch.device("cpu"), resolve_device(plan.device)]
    count, pairs, batch = (4, 10, 4) if plan.small else (64, 100, 32)
    teacher = load_teacher("ddpm-fashion").denoiser

    def samples() -> Row:
        found = []
        for device in devices:
            generator = load_model("fashion").generator.to(device).eval().requires_grad_(False)
            with full_precision(device), torch.no_grad():
                found.append(to_uint8(generator(latents(range(count), generator.latent_shape).to(device)).cpu()).int())
        apart = (found[0] - found[1]).abs()
        return {"levels_apart": apart.max().item(), "pixels_apart": (apart > 0).float().mean().item(),
                "passed": apart.max().item() <= 1}  # fmt: skip

    def losses() -> Row:
        found = []
        for device in devices:
            settings = DistillSettings(batch_size=batch, precision="fp32", irl_weight=0.1, noise_device="cpu")
            with full_precision(device):
                task = Distillation(teacher, settings, 4, device, lambda *_: {})
                steps = [task.step(k) for k in range(4)]
            found.append([[float(v) for k, v in sorted(step.items()) if "loss" in k] for step in steps])
        apart = max(
            abs(a - b) / max(abs(a), 1e-3) for x, y in zip(*found, strict=True) for a, b in zip(x, y, strict=True)
        )
        return {"relative": apart, "cpu": found[0], "device": found[1], "passed": apart <= 1e-4}

    def ppl() -> Row:
        found = []
        for device in devices:
            generator = load_model("fashion").generator.to(device).eval().requires_grad_(False)
            judge = load_teacher("ddpm-fashion").denoiser.to(device).eval().requires_grad_(False)

            def images(z: torch.Tensor, generator: Any = generator, device: Any = device) -> torch.Tensor:
                return generator(z.to(device)).float()

            def squared(a: torch.Tensor, b: torch.Tensor, judge: Any = judge) -> torch.Tensor:
                return (teacher_features(judge, a) - teacher_features(judge, b)).square().sum(1)

            with full_precision(device):
                found.append(path_length(images, squared, generator.latent_shape, pairs).mean)
        return {"cpu": found[0], "device": found[1], "passed": abs(found[1] / found[0] - 1) < 0.05}

    rows.add("samples within one grey level", samples)
    rows.add("losses of four steps", losses)
    rows.add("perceptual path length", ppl)


SIZES = [("fashion", 64), ("fashion", 256), ("fashion", 1024), ("cifar10", 64), ("cifar10", 256)]
COMPARED = ["gsd", "fair plain loop", "gsd --no-cuda-graphs"]
"""Measured at every size; the variants of OTHERS at the first one only."""
TIMED = "gsd, cuDNN times its convolutions"
OTHERS = ["peers' way", "gsd --reuse-images", "gsd, the plain loops' arithmetic", "gsd fp32", TIMED]
WARM_UP = REHEARSALS + 2
"""Steps before the clock starts, the one that is recorded among them."""


def rates(plan: Plan, rows: Rows) -> None:
    """Images a second of gsd's step and of two plain loops; launches and host waits a step."""
    device = resolve_device(plan.device)
    sizes = [("tiny", 8)] if plan.small else SIZES
    wanted = [(*size, variant) for size in sizes for variant in COMPARED]
    wanted += [(*sizes[0], variant) for variant in OTHERS[: 1 if plan.small else None]]
    seconds = plan.seconds / (4 * len(wanted))
    for name, batch, variant in wanted:
        rows.add(f"{name}, batch {batch}: {variant}", partial(_rate, name, batch, variant, device, seconds))
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()


def _rate(name: str, batch: int, variant: str, device: Any, seconds: float) -> Row:
    teacher = load_teacher("ddpm-fashion").denoiser if name == "fashion" else random_teacher(name)
    ways: dict[str, dict[str, Any]] = {
        "gsd --reuse-images": {"reuse_images": True}, "gsd fp32": {"precision": "fp32"},
        "gsd, the plain loops' arithmetic": {"irl_gradient": "free", "fake_score": "plain"},
        "gsd --no-cuda-graphs": {"cuda_graphs": False},
    }  # fmt: skip
    precision = "fp32" if device.type == "cpu" else choose_precision("auto", device, lambda: None)[0]
    settings = DistillSettings(**{"batch_size": batch, "precision": precision, **ways.get(variant, {})})
    torch.set_float32_matmul_precision("high" if variant == "fair plain loop" else "highest")
    torch.backends.cudnn.benchmark = variant == TIMED
    recorded: RecordedSteps | None = None
    if variant.startswith("gsd"):
        task = Distillation(teacher, settings, 1000, device, lambda *_: {})
        number = iter(range(500, 10**9))  # the isometric term is at full weight
        recorded = task.recorded

        def step() -> None:
            task.step(next(number))
    else:
        step = plain_step(teacher, settings, device, fair=variant == "fair plain loop")
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    for _ in range(WARM_UP):
        step()
    times = list(_timed(step, seconds, lambda: synchronize(device)))
    profiler = Profiler(device)
    for _ in range(2):
        profiler.run(step)
    found = profiler.profile()
    low, middle, high = (batch / seconds for seconds in sorted(quantiles(times, n=4), reverse=True))
    return {
        "images_per_second": middle, "lower_quartile": low, "upper_quartile": high, "steps": 2 * len(times),
        "launches": found.launches, "host_waits": found.host_waits, "reads": found.reads,
        "peak_memory": peak_memory(device), "precision": settings.precision,
        "graphs": recorded is not None and recorded.failure is None,
        **({"failure": recorded.failure} if recorded is not None and recorded.failure else {}),
        "table": found.table[:6000],
    }  # fmt: skip


def _timed(step: Callable[[], None], seconds: float, wait: Callable[[], None]) -> Iterator[float]:
    """Seconds a step, of groups of steps that are waited for together; five groups at least."""
    begun, groups = time.perf_counter(), 0
    while groups < 5 or time.perf_counter() - begun < seconds:
        wait()
        start = time.perf_counter()
        for _ in range(2):
            step()
        wait()
        taken = (time.perf_counter() - start) / 2
        yield taken
        groups += 1
        if groups >= 2 and time.perf_counter() - begun > 3 * seconds:
            return


def memory(plan: Plan, rows: Rows) -> None:
    """The peak of the 113.7 M-parameter configuration at 256 x 256, against a card of 24 GB."""
    name = "tiny" if plan.small else "ddpm-256"
    ways: dict[str, dict[str, Any]] = {
        "--micro-batch 1 --recompute": {"micro_batch": 1, "recompute": True},
        "--micro-batch 2 --recompute": {"micro_batch": 2, "recompute": True},
        "--micro-batch 1": {"micro_batch": 1},
        "--micro-batch 1 --precision fp32": {"micro_batch": 1, "precision": "fp32"},
    }
    for title, changes in ways.items():
        rows.add(f"{name}, batch 4, {title}", partial(_memory, name, changes, plan))


def _memory(name: str, changes: dict[str, Any], plan: Plan) -> Row:
    device = resolve_device(plan.device)
    precision = "fp32" if device.type == "cpu" else choose_precision("auto", device, lambda: None)[0]
    if device.type == "cuda":
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    settings = DistillSettings(**{"batch_size": 4, "precision": precision, **changes})
    task = Distillation(random_teacher(name), settings, 1000, device, lambda *_: {})
    for k in range(2):
        task.step(500 + k)
    peak = peak_memory(device) or 0
    return {"peak_memory": peak, "gib": round(peak / GIGABYTE, 2), "of": "24 GiB", "passed": peak <= BUDGET}


def long(plan: Plan, rows: Rows) -> None:
    """A distillation by the clock to its end, then its figures."""
    run, bench = plan.out / "long", 0.2 * plan.seconds
    minutes = (plan.seconds - bench - 10) / 60
    sizes = ["--teacher", "ddpm-fashion", "--preset", "standard"]
    sizes += ["--batch-size", "8", "--eval-samples", "16"] if plan.small else ["--batch-size", "128"]

    def gsd(words: list[str], limit: float) -> Row:
        line = [sys.executable, "-m", "gsd_cli", *words, "--device", plan.device, "--offline", "--json"]
        environment = os.environ | {"PYTHONPATH": str(ROOT), "GSD_DEBUG": "1"}
        done = subprocess.run(line, cwd=plan.out, capture_output=True, text=True, timeout=limit, env=environment)
        if done.returncode:
            raise RuntimeError(f"exit code {done.returncode}: {done.stderr[-3000:]}")
        return {"stderr": done.stderr[-1500:], "stdout": done.stdout[-4000:]}

    def distil() -> Row:
        begun = time.monotonic()
        found = gsd(["distill", *sizes, "--minutes", f"{minutes:.3f}", "-o", str(run)], 60 * minutes + 60)

        rows_there = read_metrics(run / "metrics.jsonl")
        distances = [(row["images"], row["fd"]) for row in rows_there if row.get("fd") is not None]
        took = time.monotonic() - begun
        return {**found, "minutes": minutes, "took": took / 60, "passed": took <= 60 * minutes,
                "images": rows_there[-1]["images"], "fd": distances}  # fmt: skip

    def measure() -> Row:
        count = ["-N", "16", "--ppl-samples", "10", "--metrics", "fd"] if plan.small else ["-N", "2000"]
        compare = "ddim-2" if plan.small else "ddim-50"
        return gsd(["bench", "--model", str(run), "--compare", compare, *count], max(60.0, bench))

    rows.add(f"distill --minutes {minutes:.1f}", distil)
    rows.add("bench", measure)
