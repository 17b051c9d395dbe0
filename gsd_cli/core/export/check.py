"""An exported file compared with the generator that it was made from, before it is put in place."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from gsd_cli.base.errors import GsdError
from gsd_cli.base.session import Session
from gsd_cli.compute.device import full_precision
from gsd_cli.compute.random import latents, normal_rows
from gsd_cli.core.export.exported import LATENT, SHIFT, ExportedGenerator, condition_inputs
from gsd_cli.core.models.condition import seed_conditions

SEEDS = 64
BATCHES = (1, 3)
"""Images per call, in turn: a file of a fixed batch fails here."""
SHIFTED = 4
"""Images, of the first ones, that are compared with their bottleneck shifted too."""
LIMITS = {"fp32": 1e-4, "fp16": 0.02, "int8": 0.1}
"""The largest root mean square difference of pixels in [-1, 1] that a file of each precision may have."""

Call = Callable[[Mapping[str, Tensor]], Tensor]
"""Inputs by name, of B images, to images [B, C, H, W]."""


@dataclass(frozen=True)
class Difference:
    """The difference of a file's images from torch's, pixels in [-1, 1]: the largest, and the root mean square."""

    largest: float
    rms: float


def compare(model: ExportedGenerator, call: Call, session: Session, *, leave_out: bool) -> Difference:
    """Compare a file with the generator on SEEDS seeds, in several batch sizes, and with shifts of the bottleneck.

    leave_out: leave the shift out of the call where it is zero. Raises what the file raises for inputs that it should
    take.
    """
    largest, squares, count = 0.0, 0.0, 0
    with session.progress("comparing with torch", SEEDS) as bar, torch.no_grad(), full_precision(torch.device("cpu")):
        start = 0
        while start < SEEDS:
            size = min(BATCHES[start % len(BATCHES)], SEEDS - start)
            for inputs in _inputs(model, range(start, start + size)):
                wanted = model(*(inputs[name] for name in model.names))
                given = {name: v for name, v in inputs.items() if name != SHIFT or v.any() or not leave_out}
                difference = (call(given) - wanted).double()
                # NaN must count as a difference
                largest = max(largest, difference.abs().nan_to_num(nan=torch.inf).max().item())
                squares, count = squares + difference.square().sum().item(), count + difference.numel()
            start += size
            bar.update(start)
    return Difference(largest, (squares / count) ** 0.5)


def _inputs(model: ExportedGenerator, seeds: range) -> list[dict[str, Tensor]]:
    """The inputs of these seeds; those of the first seeds with a shift too."""
    generator = model.generator
    found = {LATENT: latents(seeds, generator.latent_shape)}
    found |= condition_inputs(seed_conditions(generator.denoiser.conditions, seeds))
    if model.shift_shape is None:
        return [found]
    plain = found | {SHIFT: torch.zeros(len(seeds), *model.shift_shape)}
    if seeds[0] >= SHIFTED:
        return [plain]
    return [plain, found | {SHIFT: normal_rows(seeds, model.shift_shape, 0, "shift")}]


def require_close(difference: Difference, precision: str, name: str) -> None:
    """Raise GsdError (exit 3) for a file whose images are not those of the generator."""
    if not difference.rms <= LIMITS[precision]:
        hint = "the file was not kept" + ("" if precision == "fp32" else "; export with --export-precision fp32")
        raise GsdError(
            f"{name} in {precision} gives other images than torch: pixels in [-1, 1] differ by {difference.rms:.2g} "
            f"(root mean square), {LIMITS[precision]:g} is allowed",
            hint=hint,
        )
