"""Directions for an attribute with a score per image: several methods find candidates, the best is kept.

The generator's own samples are scored, so that no inversion is needed (InterFaceGAN, Shen et al. 2020).
In both spaces: the difference of the means of samples with and without the attribute (`mean`), and the
normal of a linear SVM between them (`svm`). In z also:

* `gradient`: the mean gradient of the score. By Stein's lemma E[z s(G(z))] = E[grad s(G(z))] for z ~ N(0, I),
  so it estimates the same as the difference of means, with far less noise.
* `partial`: the part of it that is orthogonal to the gradients of other traits.
* `balanced`, for attributes measured in pixels: the mix of the traits' gradients that changes the target alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from gsd_cli.compute.device import in_full_precision
from gsd_cli.compute.random import latents
from gsd_cli.core.editing.direction import Direction, Space, orthogonalise
from gsd_cli.core.editing.probe import auroc, linear_svm
from gsd_cli.core.editing.response import Measure, measure_edits, respond
from gsd_cli.core.latents.render import record_bottleneck
from gsd_cli.core.models.generator import Generator

SAMPLES = 1024
GRADIENTS = 96
CALIBRATION = 96
"""Held-out latents that candidates are calibrated and compared on."""
MARGIN_WEIGHT = 1e-4
PROBE_STEP: dict[Space, float] = {"latent": 3.0, "bottleneck": 2.0}
"""The step at which candidates are measured: a length in z, standard deviations in the bottleneck."""
LONGEST = 20.0
"""The longest step for strength 1, in the same units: a direction that needs more does not work."""
GRADES, SIGNED_GRADES = (-2.0, -1.0, 1.0, 2.0), (1.0, 2.0, 4.0)
RARE = 0.02
"""The share of samples below which a class is too rare for its own border: the median score is used."""
BALANCE_STEP = 3.0
"""Length in z at which `balance_gradients` measures the effects of each gradient."""
BALANCE_TARGET = 1.5
"""Standard deviations by which it moves the target, each way."""
BALANCE_ROUNDS, BALANCE_DAMPING = 4, 0.7


@dataclass(frozen=True)
class Attribute:
    """A score [B] of images [B, C, H, W] with gradients; `signed` when images above 0 have the attribute."""

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
        # not around the scores: they may run the network's encoder too
        with record_bottleneck(generator, seen):
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
    """The gradient of each score with respect to z, averaged over latents: [C, H, W] by attribute."""
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
    """The best direction of each space for an attribute, the better space first.

    Strength 1 is one standard deviation of the attribute over the generator's samples. traits: the
    attributes that should not change, for `partial` and for the leakage. Candidates are ranked by success
    (for `signed` the share of images that gain the attribute) minus leakage. `figures` hold both, the AUROC
    on held-out samples, and the standard deviations of all scores as `std.NAME`. In z the mean gradient, if
    given, is the normal.
    """
    deviations = pool.deviations()
    kept = [t for t in traits if t.name != target.name]
    measures: dict[str, Measure] = {a.name: a.score for a in (target, *kept)}
    z = latents(range(CALIBRATION), generator.latent_shape, "calibration")
    judged = []
    idle = _candidate(target.name, "latent", z, torch.zeros(z[0].numel()), "")
    known = measure_edits(generator, z, idle, [0.0] * len(z), measures, batch_size)
    tried = find_candidates(target, kept, pool, gradients)
    if kept and not target.signed and target.name in gradients:
        mixed = balance_gradients(generator, target.name, measures, gradients, z, known, deviations, batch_size)
        tried += rate([_candidate(target.name, "latent", z, mixed.flatten(), "balanced")], target, pool)
    for candidate in tried:
        scaled = calibrate(generator, candidate, target, z, known[target.name], deviations, batch_size)
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


def find_candidates(
    target: Attribute, kept: Sequence[Attribute], pool: Pool, gradients: Mapping[str, Tensor]
) -> list[Direction]:
    """Unit vectors by every method, with their AUROC; the scale is 1 in z, a standard deviation in the bottleneck."""
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
            found.append(replace(orthogonalise(steepest, others), how="partial"))
    return rate(found, target, pool)


def rate(directions: Sequence[Direction], target: Attribute, pool: Pool) -> list[Direction]:
    """Add to each direction the AUROC of held-out samples' positions along it, and the space's unit of length."""
    labels, test = _split(target, pool)
    found = []
    for direction in directions:
        place = (pool.z if direction.space == "latent" else pool.h).flatten(1) @ direction.vector.flatten()
        scale = 1.0 if direction.space == "latent" else place.std().item()
        found.append(replace(direction, scale=scale, figures={"auroc": auroc(place[test], labels[test])}))
    return found


def _split(target: Attribute, pool: Pool) -> tuple[Tensor, Tensor]:
    """Whether each sample has the attribute, and whether it is held out of fits: bool [N] each."""
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


def calibrate(
    generator: Generator, direction: Direction, target: Attribute, z: Tensor, base: Tensor,
    deviations: Mapping[str, float], batch_size: int,
) -> Direction | None:  # fmt: skip
    """Scale a direction so that strength 1 changes the target by one standard deviation, judged by a small step.

    The result points towards more of the target. None when the target hardly moves.
    """
    step = PROBE_STEP[direction.space]
    measures = {target.name: target.score}
    seen = respond(generator, direction, z, (-step, step), measures, deviations, batch_size, {target.name: base})
    # an attribute that saturates moves one way only: the better side counts
    falls, rises = (-seen.change(target.name)[0]).mean().item(), seen.change(target.name)[1].mean().item()
    slope = (falls + rises) / (2 * step)
    best = max(abs(falls), abs(rises)) / step
    if best < 1 / LONGEST:
        return None
    slope = slope if abs(slope) > 0.5 * best else best * (1 if slope >= 0 else -1)
    return replace(direction, vector=direction.vector * (1 if slope > 0 else -1), scale=direction.scale / abs(slope))


def balance_gradients(
    generator: Generator, name: str, measures: Mapping[str, Measure], gradients: Mapping[str, Tensor], z: Tensor,
    base: Mapping[str, Tensor], deviations: Mapping[str, float], batch_size: int,
) -> Tensor:  # fmt: skip
    """An unscaled vector [C, H, W] that moves the target `name` by BALANCE_TARGET deviations, other measures by 0.

    A move is half the difference between a step ahead and a step back, averaged over latents z. The weights
    of the gradients come from a damped Newton iteration whose matrix holds the effects of each gradient
    alone. The best weights are kept. Effects are those of whole steps, not only of first order.
    """
    names = list(measures)
    basis = torch.stack([gradients[trait].flatten() for trait in names])
    basis = basis / basis.norm(dim=1, keepdim=True).clamp(min=1e-12)

    def response(flat: Tensor) -> Tensor:
        direction = Direction(name, "latent", flat.reshape(z.shape[1:]), 1.0, "balanced")
        seen = respond(generator, direction, z, (-1.0, 1.0), measures, deviations, batch_size, base)
        back, ahead = torch.stack([seen.change(trait).mean(1) for trait in names], 1)  # [names] each
        return (ahead - back) / 2

    matrix = torch.stack([response(BALANCE_STEP * vector) for vector in basis], 1) / BALANCE_STEP  # [trait, gradient]
    wanted = torch.tensor([BALANCE_TARGET if trait == name else 0.0 for trait in names])
    weights = _solve(matrix, wanted)
    best, least = weights, float("inf")
    for _ in range(BALANCE_ROUNDS):
        left = wanted - response(weights @ basis)
        if left.norm().item() < least:
            best, least = weights, left.norm().item()
        weights = weights + BALANCE_DAMPING * _solve(matrix, left)
    return (best @ basis).reshape(z.shape[1:])


def _solve(matrix: Tensor, wanted: Tensor) -> Tensor:
    """The least-squares solution by the pseudo-inverse, without directions of almost no effect."""
    return torch.linalg.pinv(matrix, rtol=1e-2) @ wanted
