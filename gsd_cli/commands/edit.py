"""gsd edit: a picture moved along a direction of the generator's bottleneck."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from gsd_cli.console import Console, Result
from gsd_cli.errors import UsageError
from gsd_cli.interrupts import StopRequest
from gsd_cli.options import EditOptions
from gsd_cli.paths import cache_dir, require_writable
from gsd_cli.table import Table

if TYPE_CHECKING:
    from gsd_cli.core.directions import Directions
    from gsd_cli.core.generator import Model

LISTED = (-3.0, -1.5, 0.0, 1.5, 3.0)
LISTED_SEED = 0


def plan(options: EditOptions) -> list[str]:
    """What a run would write."""
    if options.list:
        return ["lists the directions"]
    return [f"{len(strengths(options))} picture(s) along {options.direction} to {options.output}"]


def run(options: EditOptions, console: Console, stop: StopRequest) -> Result:
    """Locate the picture, move its bottleneck by each strength, write what comes out."""
    target = Path(options.output)
    streaming = options.output == "-"
    wanted = strengths(options)
    if not (streaming or options.list):
        require_writable(target, folder=target.suffix == "")

    from gsd_cli.commands.loading import keep_to_class, open_model
    from gsd_cli.commands.locating import locate
    from gsd_cli.core.device import resolve_device
    from gsd_cli.core.directions import edited, stored_directions
    from gsd_cli.data.film import film_bytes, write_film

    model = open_model(options.model, resolve_device(options.device), console)
    keep_to_class(model, options.class_, console)
    with console.progress("directions"):
        store = cache_dir(options.cache_dir) / "directions" / f"{_fingerprint(model)}.safetensors"
        directions = stored_directions(model.generator, store, options.batch_size)
    if options.list:
        return _list(options, model, directions)
    import torch

    shifts = torch.stack([directions.shift(options.direction, s) for s in wanted])
    assert options.image is not None  # the option model asks for one unless --list
    located = locate([options.image or "-"], model, options, options.invert_steps, options.invert_lr, console, stop)
    frames = edited(model.generator, located.z.expand(len(wanted), *located.z.shape[1:]), shifts)
    metrics = {"image": located.figures[0], "direction": options.direction, "strengths": wanted}
    if streaming:
        console.write_bytes(film_bytes(frames, ".png", 1.0))
        return Result(metrics=metrics)
    return Result([str(path) for path in write_film(frames, target, 4.0)], metrics)


def strengths(options: EditOptions) -> list[float]:
    """One strength, or those of --range first:last:count. Raises UsageError for a bad range."""
    if options.range is None:
        return [options.strength]
    first, last, count = options.range.split(":")
    try:
        a, b, n = float(first), float(last), int(count)
    except ValueError:
        raise UsageError([f"--range: {options.range!r} is not first:last:count"], hint="--range=-3:3:7") from None
    if not 2 <= n <= 1000:
        raise UsageError([f"--range: {n} strengths; 2 to 1000 are possible"], hint="--range=-3:3:7")
    return [a + (b - a) * i / (n - 1) for i in range(n)]


def _list(options: EditOptions, model: Model, directions: Directions) -> Result:
    """Names on stdout; with -o FILE.png a strip of each on one seed."""
    rows = [[n, f"{d:.3f}"] for n, d in zip(directions.names(), directions.deviations.tolist(), strict=True)]
    metrics = {name: float(deviation) for name, deviation in rows}
    table = Table("principal directions of the bottleneck", ["direction", "standard deviation"], rows)
    if "output" in options.model_fields_set:
        import torch

        from gsd_cli.core.directions import edited
        from gsd_cli.core.noise import latents
        from gsd_cli.data.pictures import save_grid

        shifts = torch.stack([directions.shift(name, s) for name in directions.names() for s in LISTED])
        z = latents([LISTED_SEED], model.generator.latent_shape).expand(len(shifts), -1, -1, -1)
        path = save_grid(edited(model.generator, z, shifts), Path(options.output), columns=len(LISTED))
        return Result([str(path)], metrics, table)
    return Result(directions.names(), metrics, table)


def _fingerprint(model: Model) -> str:
    """A name for the model's weights: the sha256 of its file."""
    weights = next(model.folder.glob("**/diffusion_pytorch_model.*"))
    with weights.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]
