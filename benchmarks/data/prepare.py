"""How fast is gsd prepare compared with torchvision's ImageFolder and Pillow, and how much memory does it take?

    python -m benchmarks.data.prepare [--rounds 5] [--workers 2] [--memory]

Takes about ten minutes for five rounds and prints tables; its files are temporary. Every contestant reads the same JPEG
or PNG files, crops and resizes them to the same pixels (checked) and writes one zip of uncompressed PNGs. They take
turns, and each ratio belongs to one round. gsd's time includes the start of its processes. Processor time says more
than wall time on a machine that does other work. With --memory, peak resident memory is measured instead, each size in
a fresh process.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from gsd_cli.base.cores import available_cores
from gsd_cli.base.signals import StopRequest
from gsd_cli.data.build import Preparation, prepare
from gsd_cli.data.png import encode_png
from gsd_cli.data.sources.open import open_source

SETS = {
    "CelebA-like: 178 x 218 JPEG to 64": (178, 218, "jpeg", 64, 4000),
    "LSUN-like: 341 x 256 JPEG to 256": (341, 256, "jpeg", 256, 1500),
    "photographs: 1600 x 1200 JPEG to 64": (1600, 1200, "jpeg", 64, 160),
    "CIFAR-like: 32 x 32 PNG to 32": (32, 32, "png", 32, 10000),
}
MEMORY_SIZES = (10_000, 50_000, 200_000)


def make_files(folder: Path, width: int, height: int, kind: str, count: int) -> None:
    """Smooth images with a little noise, as compressible as photographs."""
    random = np.random.default_rng(0)
    payloads = []
    for _ in range(16):
        coarse = Image.fromarray(random.integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8))
        smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), np.float64)
        noisy = (smooth + random.normal(0, 4, smooth.shape)).clip(0, 255).astype(np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(noisy).save(buffer, kind, **({"quality": 90} if kind == "jpeg" else {}))
        payloads.append(buffer.getvalue())
    (folder / "all").mkdir(parents=True)
    for i in range(count):
        (folder / "all" / f"{i:07d}.{kind}").write_bytes(payloads[i % 16])


def with_gsd(folder: Path, target: Path, size: int, workers: int) -> None:
    """The core of gsd prepare."""
    source = open_source(str(folder), "train", folder, offline=True)
    prepare(source, target, Preparation(size, 3), source.labels, False, workers, StopRequest(), lambda done: None)


def with_torchvision(folder: Path, target: Path, size: int, workers: int) -> None:
    """ImageFolder, CenterCrop and Resize, Pillow's PNG; in a loop, or in a DataLoader's processes."""
    from torch.utils.data import DataLoader
    from torchvision.datasets import ImageFolder
    from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Resize

    with Image.open(next((folder / "all").iterdir())) as image:
        side = min(image.size)
    resize = Compose([CenterCrop(side), Resize(size, InterpolationMode.BICUBIC), _pillow_png])
    images = ImageFolder(str(folder), resize)
    loaded = DataLoader(images, batch_size=32, num_workers=workers, collate_fn=list) if workers else None
    encoded = (png for batch in loaded for png, _ in batch) if loaded else (png for png, _ in images)
    with zipfile.ZipFile(target, "w") as archive:
        for i, png in enumerate(encoded):
            archive.writestr(f"{i // 1000:05d}/img{i:08d}.png", png)


def _pillow_png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "png", compress_level=0)
    return buffer.getvalue()


def pixels(path: Path) -> Iterator[np.ndarray]:
    """The images of a zip, in order."""
    with zipfile.ZipFile(path) as archive:
        for name in sorted(name for name in archive.namelist() if name.endswith(".png")):
            yield np.asarray(Image.open(io.BytesIO(archive.read(name))))


def seconds(
    run: Callable[[Path, Path, int, int], None], folder: Path, target: Path, size: int, workers: int
) -> tuple[float, float]:
    """Wall time and processor time of one run."""
    target.unlink(missing_ok=True)
    start, busy = time.perf_counter(), _processor_time()
    run(folder, target, size, workers)
    return time.perf_counter() - start, _processor_time() - busy


def _processor_time() -> float:
    """Of this process and of its ended children."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(u.ru_utime + u.ru_stime for u in used)


def compare(rounds: int, workers: int) -> None:
    """Rounds of all contestants in turn; medians, and quartiles of the ratios."""
    import torchvision.datasets  # noqa: F401 - not a part of what is timed

    contestants = {
        "ImageFolder + Pillow, a loop": (with_torchvision, 0),
        f"ImageFolder + Pillow, {workers} loader processes": (with_torchvision, workers),
        "gsd, 1 worker": (with_gsd, 1),
        f"gsd, {workers} workers": (with_gsd, workers),
    }
    print(f"{platform.machine()}, {available_cores()} cores, load {os.getloadavg()[0]:.1f}; {rounds} rounds")
    for title, (width, height, kind, size, count) in SETS.items():
        with tempfile.TemporaryDirectory() as temporary:
            folder, out = Path(temporary) / "in", Path(temporary)
            make_files(folder, width, height, kind, count)
            times: dict[str, list[tuple[float, float]]] = {name: [] for name in contestants}
            for _ in range(rounds):
                for i, (name, (run, processes)) in enumerate(contestants.items()):
                    times[name].append(seconds(run, folder, out / f"{i}.zip", size, processes))
            first, *others = (pixels(out / f"{i}.zip") for i in range(len(contestants)))
            for image, *rest in zip(first, *others, strict=True):
                assert all(np.array_equal(image, other) for other in rest)
        print(f"\n{title}, N = {count}; equal pixels", flush=True)
        baseline = next(iter(times.values()))
        for name, taken in times.items():
            pairs = list(zip(baseline, taken, strict=True))
            faster, leaner = (_quartiles([b[i] / t[i] for b, t in pairs]) for i in (0, 1))
            rate = count / statistics.median(wall for wall, _ in taken)
            print(f"  {name:42} {rate:6.0f} images/s   ratio {faster}   of processor time {leaner}", flush=True)


def _quartiles(values: list[float]) -> str:
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return f"{middle:.2f} ({low:.2f} to {high:.2f})"


def memory(workers: int) -> None:
    """Peak memory for more and more files."""
    for shards in (None, 4):
        for count in MEMORY_SIZES:
            command = [sys.executable, "-m", __spec__.name, "--one", str(count), "--workers", str(workers)]
            done = subprocess.run(
                [*command, *(["--shards", str(shards)] if shards else [])], capture_output=True, text=True, check=True
            )
            facts = json.loads(done.stdout)
            what = f"{shards} shards" if shards else "zip"
            sizes = f"parent {facts['parent']:.0f} MB, largest worker {facts['worker']:.0f} MB"
            print(f"{what:9} {count:8,} files: {sizes}, {facts['rate']:.0f} images/s", flush=True)


def one(count: int, workers: int, shards: int | None) -> None:
    """Prepare `count` tiny files; peak resident memory in MB as JSON."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "in"
        random = np.random.default_rng(0)
        payloads = [encode_png(random.integers(0, 256, (40, 40, 3), dtype=np.uint8)) for _ in range(16)]
        for i in range(count):
            if i % 1000 == 0:
                (folder / f"{i // 1000:04d}").mkdir(parents=True)
            (folder / f"{i // 1000:04d}" / f"{i:08d}.png").write_bytes(payloads[i % 16])
        source = open_source(str(folder), "train", folder, offline=True)
        target = Path(temporary) / ("x.json" if shards else "x.zip")
        recipe = Preparation(32, 3, shards=shards)
        start, worker = time.perf_counter(), 0.0

        def on_done(done: int) -> None:
            nonlocal worker
            worker = max(worker, *(peak(pid) for pid in _children()), 0)

        prepare(source, target, recipe, source.labels, False, workers, StopRequest(), on_done)
        taken = time.perf_counter() - start
    print(json.dumps({"parent": peak("self"), "worker": worker, "rate": count / taken}))


def peak(pid: str) -> float:
    """Peak resident memory of a process, in MB (Linux). getrusage would count what a child shared before its exec."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("VmHWM")), 0.0)


def _children() -> list[str]:
    return [pid for task in Path("/proc/self/task").glob("*/children") for pid in task.read_text().split()]


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--memory", action="store_true", help="measure peak memory instead")
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--shards", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        one(given.one, given.workers, given.shards)
    elif given.memory:
        memory(given.workers)
    else:
        compare(given.rounds, given.workers)


if __name__ == "__main__":
    main()
