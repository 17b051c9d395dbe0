"""Finds the latents of images: interpolate, edit and invert take files, stdin, seeds and saved latents."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gsd_cli.base.atomic import sweep
from gsd_cli.base.errors import GsdError
from gsd_cli.base.session import Session
from gsd_cli.base.storage import tolerate_storage_errors
from gsd_cli.base.text import plural
from gsd_cli.catalogue.image_names import SEED, latents_in_file, parse_seed, require_one_stdin
from gsd_cli.compute.random import latents
from gsd_cli.core.latents.domain import domain_distances, read_sample_features
from gsd_cli.core.latents.files import SUFFIX, Anchor, cache_key, load_anchors, save_anchors
from gsd_cli.core.latents.gaussianity import Gaussianity
from gsd_cli.core.latents.inversion import Inversion, encoder_features, invert, psnr
from gsd_cli.core.latents.pivotal_tuning import tune
from gsd_cli.core.latents.read_image import read_image
from gsd_cli.core.latents.render import render
from gsd_cli.core.models.condition import Condition
from gsd_cli.core.models.denoiser import Denoiser
from gsd_cli.core.models.fingerprint import weights_fingerprint
from gsd_cli.core.models.generator import Generator, Model
from gsd_cli.core.models.teacher import load_teacher
from gsd_cli.options import EditOptions, InterpolateOptions, InvertOptions, InvertSettings

GOOD_PSNR = 24.0
"""dB. A lower PSNR suggests an image of another domain: noise, checkerboards and negatives reach 10 to 23."""


def locate(
    names: Sequence[str], model: Model, options: InvertOptions | InterpolateOptions | EditOptions, session: Session,
    texts: Condition | None = None,
) -> list[Anchor]:  # fmt: skip
    """The anchors of `names`, in their order: images are inverted, seeds drawn, and files of latents read.

    A file of latents may give several anchors. texts: a row for each anchor, which it keeps; its image is inverted
    under that text. The quality of each inversion is reported. Raises GsdError (exit 3) for a file that is not an
    image, UsageError for a bad seed.
    """
    generator, mark = model.generator, weights_fingerprint(model.folder)
    require_one_stdin(names)
    images = {
        name: read_image(name, generator, session)
        for name in dict.fromkeys(names)
        if not name.startswith(SEED) and not name.endswith(SUFFIX)
    }
    inverted: dict[int, Anchor] = {}
    for text, places in _group_by_text(names, texts):
        own = {names[k]: images[names[k]] for k in places if names[k] in images}
        with _given(generator, text):
            found = _find_anchors(own, model, mark, options, session) if own else {}
        inverted |= {k: found[names[k]] for k in places if names[k] in found}
    anchors = collect_anchors(names, inverted, generator.latent_shape, mark, options, session)
    return anchors if texts is None else give_texts(anchors, texts)


def give_texts(anchors: Sequence[Anchor], texts: Condition) -> list[Anchor]:
    """Each anchor with its row of the texts."""
    return [replace(anchor, condition=texts.rows(slice(k, k + 1))) for k, anchor in enumerate(anchors)]


def _group_by_text(names: Sequence[str], texts: Condition | None) -> list[tuple[Condition | None, list[int]]]:
    """The places of names that share a text, with it."""
    if texts is None:
        return [(None, list(range(len(names))))]
    groups: dict[object, tuple[Condition | None, list[int]]] = {}
    first = 0  # the row of a name's first anchor
    for place, name in enumerate(names):
        text = texts.rows(slice(first, first + 1))
        groups.setdefault(text.mark, (text, []))[1].append(place)
        first += len(latents_in_file(Path(name))) if name.endswith(SUFFIX) else 1
    return list(groups.values())


@contextmanager
def _given(generator: Generator, text: Condition | None) -> Iterator[None]:
    """A context in which the generator's condition is `text`, if there is one."""
    before = generator.condition
    generator.condition = before if text is None else text
    try:
        yield
    finally:
        generator.condition = before


def collect_anchors(
    names: Sequence[str], inverted: Mapping[int, Anchor], shape: tuple[int, int, int], mark: str,
    options: InvertSettings, session: Session,
) -> list[Anchor]:  # fmt: skip
    """The anchors of `names`, in their order, from those of inverted images by place, seeds and files of latents.

    shape: of the latents. mark: the fingerprint of the model's weights. --save-latent is obeyed.
    """
    anchors: list[Anchor] = []
    for place, name in enumerate(names):
        if place in inverted:
            anchors.append(inverted[place])
        elif name.startswith(SEED):
            anchors.append(Anchor(latents([parse_seed(name)], shape)[0], {"image": name}))
        else:
            anchors += _load_saved(Path(name), shape, mark, session)
    if options.save_latent is not None:
        save_anchors(options.save_latent, anchors, mark)
        session.say(f"latents saved: {options.save_latent}")
    return anchors


def _find_anchors(
    images: dict[str, Tensor], model: Model, mark: str, options: InvertSettings, session: Session
) -> dict[str, Anchor]:
    """The anchors of images by name: from the cache if they are there, else inverted together."""
    settings = {
        name: value
        for name, value in options.model_dump(include=set(InvertSettings.model_fields)).items()
        if name not in ("save_latent", "keep_residual")
    } | {"seed": getattr(options, "seed", 0), "label": model.generator.condition.mark or 0}
    folder = session.cache / "inversions"
    sweep(folder)
    paths = {name: folder / f"{cache_key(x, mark, settings)}{SUFFIX}" for name, x in images.items()}
    anchors: dict[str, Anchor] = {}
    for name, path in paths.items():
        if path.exists():
            try:
                anchors[name] = load_anchors(path, model.generator.latent_shape)[0][0]
            except GsdError:  # a damaged entry is replaced
                path.unlink(missing_ok=True)
    missing = [name for name in images if name not in anchors]
    if missing:
        anchors |= _invert_images(missing, images, model, options, session)
    for name in missing:
        with tolerate_storage_errors(session.warn):
            save_anchors(paths[name], [anchors[name]], mark)
    far = _measure_domain(images, model, mark, options, session)
    return {
        name: _complete_anchor(name, anchors[name], image, far[name], options, model, session)
        for name, image in images.items()
    }


def _measure_domain(
    images: dict[str, Tensor], model: Model, mark: str, options: Any, session: Session
) -> dict[str, float]:
    """How far each image is from those that the model makes."""
    generator, features = model.generator, encoder_features(model.generator)
    own = read_sample_features(generator, features, mark, session.cache, options.batch_size)
    stacked = torch.stack(list(images.values())).to(generator.device)
    return dict(zip(images, domain_distances(stacked, own, features, options.batch_size), strict=True))


def _invert_images(
    names: list[str], images: dict[str, Tensor], model: Model, options: Any, session: Session
) -> dict[str, Anchor]:
    """Invert the images of `names` in batches; with --tune, also tune the generator to each."""
    generator, teacher = model.generator, _load_local_teacher(model)
    features = encoder_features(generator)
    groups = [names[i : i + options.batch_size] for i in range(0, len(names), options.batch_size)]
    anchors: dict[str, Anchor] = {}
    with session.progress(f"inverting {plural(len(names), 'image')}") as bar:
        for index, group in enumerate(groups):

            def on_step(done: int, total: int, index: int = index) -> None:
                bar.update(index * total + done, len(groups) * total)

            batch = torch.stack([images[name] for name in group])
            found = invert(
                generator, batch, features, options.invert_steps, options.invert_starts, options.invert_prior,
                options.seed, teacher, on_step,
            )  # fmt: skip
            deltas = tune(generator, found.z, batch, options.tune, options.seed, on_step) if options.tune else []
            anchors |= {name: _build_anchor(name, k, found, deltas) for k, name in enumerate(group)}
    return anchors


def _build_anchor(name: str, k: int, found: Inversion, deltas: Sequence[dict[str, Tensor]]) -> Anchor:
    gaussian = asdict(found.gaussianity[k])
    figures = {"image": name, "psnr": found.psnr[k], "feature_distance": found.feature_distance[k], **gaussian}
    return Anchor(found.z[k], figures, deltas[k] if deltas else {})


def _complete_anchor(
    name: str, anchor: Anchor, image: Tensor, far: float, options: InvertSettings, model: Model, session: Session
) -> Anchor:
    """Give the anchor the name from the command line, add the residual if --keep-residual, and report its quality.

    far: its `domain_distances`.
    """
    anchor = replace(anchor, figures={**anchor.figures, "image": name, "domain_distance": far})
    if anchor.delta or options.keep_residual:
        rendered = render(model.generator, anchor.z[None], [anchor.delta])[0]
        if anchor.delta:
            anchor.figures["psnr_tuned"] = psnr(rendered.clamp(-1, 1)[None], image[None])[0]
        if options.keep_residual:
            anchor = replace(anchor, residual=image - rendered)
    _report_quality(anchor.figures, session)
    return anchor


def _report_quality(figures: dict[str, Any], session: Session) -> None:
    """Print how close the inversion is, and warn if it is poor or the latent is not Gaussian."""
    name = figures["image"]
    tuned = f" ({figures['psnr_tuned']:.1f} tuned)" if "psnr_tuned" in figures else ""
    session.say(f"{name}: the model reproduces it with a PSNR of {figures['psnr']:.1f} dB{tuned}")
    session.console.detail(
        f"{name}: feature distance {figures['feature_distance']:.4f}, |z|/sqrt(d) {figures['norm']:.3f}, "
        f"lag-1 correlation {figures['correlation']:+.3f}, kurtosis {figures['kurtosis']:.2f}"
    )
    strange = Gaussianity(figures["norm"], figures["correlation"], figures["kurtosis"], figures["size"]).strange
    if strange:
        why = ", ".join(strange)
        session.warn(f"{name}: its latent is not Gaussian ({why}), so walks and edits may give unlikely images")
    if figures["psnr"] < GOOD_PSNR:
        session.warn(f"{name}: the model does not reproduce this image well; is it like the training images?")
    if figures["domain_distance"] > 1:
        session.warn(
            f"{name}: this image is not of the model's kind: {figures['domain_distance']:.2f} times as far from the "
            "model's own images as nearly all of those are from each other; walks and edits of it mean little"
        )


def _load_local_teacher(model: Model) -> Denoiser | None:
    """The teacher of the model, if it can be loaded without the network and fits; else None."""
    if model.teacher is None:
        return None
    try:
        teacher = load_teacher(model.teacher, offline=True, assume=model.teacher_reading, prompts=model.prompts)
    except GsdError:
        return None
    generator = model.generator
    if teacher.denoiser.shape != generator.latent_shape or teacher.denoiser.classes != generator.denoiser.classes:
        return None
    device = generator.device
    denoiser = teacher.denoiser.to(device)
    return denoiser.with_condition(generator.condition.to(device))


def _load_saved(path: Path, shape: tuple[int, int, int], mark: str, session: Session) -> list[Anchor]:
    """The anchors in a file of saved latents. A file of another model gives a warning."""
    anchors, made_with = load_anchors(path, shape)
    if made_with != mark:
        session.warn(f"{path} was made with another model: here its latents give other images")
    return anchors
