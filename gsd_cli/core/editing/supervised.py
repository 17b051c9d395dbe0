"""Directions for an attribute that a picture can be scored for: several ways to find one, the best kept.

The generator's own samples are scored, so that no inversion is needed (InterFaceGAN, Shen et al. 2020).
In either space: the difference of the means of samples with and without the attribute (`mean`), and the
normal of a linear SVM between them (`svm`). In z also the mean gradient of the score (`gradient`): by
Stein's lemma E[z s(G(z))] = E[grad s(G(z))] for z ~ N(0, I), so that it estimates what the difference of
means does, with far less noise; the part of it that leaves other traits' gradients alone (`partial`); and
for measurable attributes the mix of gradients that changes the target alone (`balanced`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from gsd_cli.compute.device import in_full_precision
from gsd_cli.compute.random import latents
from gsd_cli.core.editing.balance import balanced
from gsd_cli.core.editing.direction import Direction, Space, preserving
from gsd_cli.core.editing.probe import auroc, linear_svm
from gsd_cli.core.editing.response import Measure, measured, respond
from gsd_cli.core.latents.render import watched_bottleneck
from gsd_cli.core.models.generator import Generator

SAMPLES = 1024
GRADIENTS = 96
CALIBRATION = 96
"""Held-out latents that candidates are calibrated and compared on."""
MARGIN_WEIGHT = 1e-4
PROBE_STEP: dict[Space, float] = {"latent": 3.0, "bottleneck": 2.0}
"""How far candidates are moved to see what they do: a length in z, standard deviations in the bottleneck."""
LONGEST = 20.0
"""The longest strength 1 may be, in the same units: a direction that would need more does not work."""
GRADES, SIGNED_GRADES = (-2.0, -1.0, 1.0, 2.0), (1.0, 2.0, 4.0)
RARE = 0.02


@dataclass(frozen=True)
class Attribute:
    """A score of images [B, C, H, W] with gradients, [B]; `signed` when 0 is the border of having it."""

    name: str
    score: Measure
    signed: bool


@dataclass(frozen=True)
class Pool:
    """The generator's own samples: z [N, C, H, W], bottleneck h [N, c, h, w], scores [N] by attribute."""

    z: Tensor
    h: Tensor
    scores: Mapping[str, Tensor]

    def deviations(self) -> dict[str, float]:
        """The standard deviation of each score."""
        return {name: scores.std().item() for name, scores in self.scores.items()}


@torch.no_grad()
@in_full_precision
def gather(
    generator: Generator, attributes: Sequence[Attribute], batch_size: int, samples: int = SAMPLES,
    on_sample: Callable[[int], None] = lambda done: None,
) -> Pool:  # fmt: skip
    """Sample the generator and score every image."""
    device = generator.device
    z = latents(range(samples), generator.latent_shape, "attributes")
    seen: list[Tensor] = []
    scores: dict[str, list[Tensor]] = {a.name: [] for a in attributes}
    for part in z.split(batch_size):
        # only here: scores may run the network's encoder too
        with watched_bottleneck(generator, seen):
            images = generator(part.to(device))
        for a in attributes:
            scores[a.name].append(a.score(images).float().cpu())
        on_sample(sum(map(len, seen)))
    return Pool(z, torch.cat(seen), {name: torch.cat(found) for name, found in scores.items()})


@in_full_precision
def mean_gradients(
    generator: Generator, attributes: Sequence[Attribute], batch_size: int, samples: int = GRADIENTS,
    on_sample: Callable[[int], None] = lambda done: None,
) -> dict[str, Tensor]:  # fmt: skip
    """The mean over latents of each score's gradient with respect to z: [C, H, W] by attribute."""
    device = generator.device
    total = {a.name: torch.zeros(generator.latent_shape) for a in attributes}
    done = 0
    with torch.enable_grad():
        for part in latents(range(samples), generator.latent_shape, "gradients").split(min(batch_size, 32)):
            point = part.to(device).requires_grad_(True)
            images = generator(point)
            for k, a in enumerate(attributes):
                score = a.score(images).sum()
                (gradient,) = torch.autograd.grad(score, point, retain_graph=k + 1 < len(attributes))
                total[a.name] += gradient.sum(0).cpu()
            done += len(part)
            on_sample(done)
    return {name: found / samples for name, found in total.items()}


def fit(
    generator: Generator, target: Attribute, traits: Sequence[Attribute], pool: Pool,
    gradients: Mapping[str, Tensor], batch_size: int,
) -> list[Direction]:  # fmt: skip
    """The best direction of each space for an attribute, the better space first, strength 1 being one standard
    deviation of the attribute over the generator's samples.

    traits: what should stay, for `partial` and for the leakage. A candidate's worth is what it achieves
    (`signed`: the share of pictures it gives the attribute) less what it leaks. `figures` hold both, the
    AUROC on held-out samples, and the standard deviations of all scores as `std.NAME`. In z the mean
    gradient, where there is one, is the normal.
    """
    deviations = pool.deviations()
    kept = [t for t in traits if t.name != target.name]
    measures: dict[str, Measure] = {a.name: a.score for a in (target, *kept)}
    z = latents(range(CALIBRATION), generator.latent_shape, "calibration")
    judged = []
    idle = _candidate(target.name, "latent", z, torch.zeros(z[0].numel()), "")
    known = measured(generator, z, idle, [0.0] * len(z), measures, batch_size)
    tried = candidates(target, kept, pool, gradients)
    if kept and not target.signed and target.name in gradients:
        mixed = balanced(generator, target.name, measures, gradients, z, known, deviations, batch_size)
        tried += read([_candidate(target.name, "latent", z, mixed.flatten(), "balanced")], target, pool)
    for candidate in tried:
        scaled = calibrated(generator, candidate, target, z, known[target.name], deviations, batch_size)
        if scaled is None:
            continue
        grades = SIGNED_GRADES if target.signed else GRADES
        seen = respond(generator, scaled, z, grades, measures, deviations, batch_size, known)
        success = seen.reached(target.name) if target.signed else seen.achieved(target.name)
        leakage = seen.leakage(target.name, [t.name for t in kept])
        figures = {**scaled.figures, "success": success, "leakage": leakage}
        judged.append(replace(scaled, figures=figures | {f"std.{n}": d for n, d in deviations.items()}))
    judged.sort(key=lambda d: d.figures["leakage"] - d.figures["success"])
    best = {d.space: d for d in reversed(judged)}
    ordered = sorted(best.values(), key=judged.index)
    if target.name not in gradients:
        return ordered
    normal = _unit(gradients[target.name])
    return [replace(d, normal=normal) if d.space == "latent" else d for d in ordered]


def candidates(
    target: Attribute, kept: Sequence[Attribute], pool: Pool, gradients: Mapping[str, Tensor]
) -> list[Direction]:
    """Unit vectors found each way, with their AUROC; their scale is 1 in z, a standard deviation in the bottleneck."""
    labels, test = _split(target, pool)
    found = []
    for space, vectors in (("latent", pool.z), ("bottleneck", pool.h)):
        train, side = vectors.flatten(1)[~test], labels[~test]
        found.append(_candidate(target.name, space, vectors, train[side].mean(0) - train[~side].mean(0), "mean"))
        spread = train.std(0).clamp(min=1e-6)
        normal, _ = linear_svm((train / spread).numpy(), side.numpy(), MARGIN_WEIGHT)
        found.append(_candidate(target.name, space, vectors, torch.from_numpy(normal).float() / spread, "svm"))
    if target.name in gradients:
        steepest = _candidate(target.name, "latent", pool.z, gradients[target.name].flatten(), "gradient")
        found.append(steepest)
        others = [_candidate(k.name, "latent", pool.z, gradients[k.name].flatten(), "") for k in kept]
        if others:
            found.append(replace(preserving(steepest, others), how="partial"))
    return read(found, target, pool)


def read(directions: Sequence[Direction], target: Attribute, pool: Pool) -> list[Direction]:
    """With the AUROC of the held-out samples' places along each direction, and the space's unit of length."""
    labels, test = _split(target, pool)
    found = []
    for direction in directions:
        place = (pool.z if direction.space == "latent" else pool.h).flatten(1) @ direction.vector.flatten()
        scale = 1.0 if direction.space == "latent" else place.std().item()
        found.append(replace(direction, scale=scale, figures={"auroc": auroc(place[test], labels[test])}))
    return found


def _split(target: Attribute, pool: Pool) -> tuple[Tensor, Tensor]:
    """Which samples have the attribute, and which are held out of fits: bool [N] each."""
    scores = pool.scores[target.name]
    share = (scores > 0).double().mean().item()
    labels = scores > 0 if target.signed and RARE < share < 1 - RARE else scores > scores.median()
    test = torch.zeros(len(labels), dtype=torch.bool)
    test[3::4] = True
    return labels, test


def _candidate(name: str, space: str, like: Tensor, flat: Tensor, how: str) -> Direction:
    vector = _unit(flat).reshape(like.shape[1:])
    return Direction(name, "latent" if space == "latent" else "bottleneck", vector, 1.0, how)


def _unit(vector: Tensor) -> Tensor:
    return vector / vector.norm().clamp(min=1e-12)


def calibrated(
    generator: Generator, direction: Direction, target: Attribute, z: Tensor, base: Tensor,
    deviations: Mapping[str, float], batch_size: int,
) -> Direction | None:  # fmt: skip
    """Scaled so that strength 1 changes the target by one standard deviation, as far as a small step tells.

    Points towards more of the target. None when the target hardly moves.
    """
    step = PROBE_STEP[direction.space]
    measures = {target.name: target.score}
    seen = respond(generator, direction, z, (-step, step), measures, deviations, batch_size, {target.name: base})
    # attributes that saturate move one way only: the better side counts
    falls, rises = (-seen.change(target.name)[0]).mean().item(), seen.change(target.name)[1].mean().item()
    slope = (falls + rises) / (2 * step)
    best = max(abs(falls), abs(rises)) / step
    if best < 1 / LONGEST:
        return None
    slope = slope if abs(slope) > 0.5 * best else best * (1 if slope >= 0 else -1)
    return replace(direction, vector=direction.vector * (1 if slope > 0 else -1), scale=direction.scale / abs(slope))
