"""Finds the latents of images: interpolate, edit and invert take files, stdin, seeds and saved latents."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gsd_cli.base.atomic import sweep
from gsd_cli.base.errors import GsdError, UsageError
from gsd_cli.base.session import Session
from gsd_cli.base.storage import tolerate_storage_errors
from gsd_cli.base.text import plural
from gsd_cli.catalogue.image_names import (
    EXAMPLE,
    IMAGE_HINT,
    SEED,
    STDIN,
    STDIN_EMPTY,
    example_file,
    parse_seed,
    require_one_stdin,
)
from gsd_cli.compute.random import latents
from gsd_cli.core.latents.domain import domain_distances, read_sample_features
from gsd_cli.core.latents.files import SUFFIX, Anchor, cache_key, load_anchors, save_anchors
from gsd_cli.core.latents.gaussianity import Gaussianity
from gsd_cli.core.latents.inversion import Inversion, encoder_features, invert, psnr
from gsd_cli.core.latents.pivotal_tuning import tune
from gsd_cli.core.latents.render import render
from gsd_cli.core.models.denoiser import Denoiser
from gsd_cli.core.models.fingerprint import weights_fingerprint
from gsd_cli.core.models.generator import Generator, Model
from gsd_cli.core.models.teacher import load_teacher
from gsd_cli.data.decode import Decoded, Stored, crop_and_resize, open_stored, to_decoded
from gsd_cli.data.pixels import from_uint8
from gsd_cli.data.remarks import Remarks, add_remarks, describe_remarks
from gsd_cli.data.survey import Survey, survey
from gsd_cli.options import EditOptions, InterpolateOptions, InvertOptions, InvertSettings

GOOD_PSNR = 24.0
"""dB. A lower PSNR suggests an image of another domain: noise, checkerboards and negatives reach 10 to 23."""


def locate(
    names: Sequence[str], model: Model, options: InvertOptions | InterpolateOptions | EditOptions, session: Session,
) -> list[Anchor]:  # fmt: skip
    """The anchors of `names`, in their order: images are inverted, seeds drawn, and files of latents read.

    A file of latents may give several anchors. The quality of each inversion is reported. Raises GsdError (exit 3) for
    a file that is not an image, UsageError for a bad seed.
    """
    generator, mark = model.generator, weights_fingerprint(model.folder)
    require_one_stdin(names)
    images = {
        name: read_image(name, generator, session)
        for name in dict.fromkeys(names)
        if not name.startswith(SEED) and not name.endswith(SUFFIX)
    }
    inverted = _find_anchors(images, model, mark, options, session) if images else {}
    return collect_anchors(names, inverted, generator.latent_shape, mark, options, session)


def collect_anchors(
    names: Sequence[str], inverted: Mapping[str, Anchor], shape: tuple[int, int, int], mark: str,
    options: InvertSettings, session: Session,
) -> list[Anchor]:  # fmt: skip
    """The anchors of `names`, in their order, from those of inverted images, seeds and files of latents.

    shape: of the latents. mark: the fingerprint of the model's weights. --save-latent is obeyed.
    """
    anchors: list[Anchor] = []
    for name in names:
        if name in inverted:
            anchors.append(inverted[name])
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
    session.say(
        f"{name}: PSNR {figures['psnr']:.1f} dB{tuned}, feature distance {figures['feature_distance']:.4f}, "
        f"|z|/sqrt(d) {figures['norm']:.3f}, lag-1 correlation {figures['correlation']:+.3f}, "
        f"kurtosis {figures['kurtosis']:.2f}"
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


def read_image(name: str, generator: Generator, session: Session | None = None) -> Tensor:
    """One image at the model's size and channels, [C, H, W] in [-1, 1]. A change of size or mode is reported.

    Raises GsdError (exit 3) naming a file that is not an image.
    """
    channels, size, _ = generator.image_shape
    try:
        file = example_file(name) if name.startswith(EXAMPLE) else Path(name)
        payload = _read_stdin() if name == STDIN else file
        looked = survey([payload], [name], remedy="")
        stored = open_stored(payload)
        image = to_decoded(stored, looked.ranges)
        _require_channels(name, image, channels)
        pixels = crop_and_resize(image, size, channels)
    except FileNotFoundError as error:
        raise GsdError(f"no such file: {name}", hint=IMAGE_HINT) from error
    except GsdError:
        raise
    except Exception as error:  # damaged images raise nearly anything
        cause = (str(error).splitlines() or [type(error).__name__])[0][:160]
        raise GsdError(f"{name} is not an image: {cause}", hint="use PNG, JPEG, WebP or a similar format") from error
    height, width, found = _shape_of(image)
    if session is not None:
        for line in looked.messages:
            session.say(f"{name}: {line}")
        _warn_of_values(name, stored, looked, session)
        if (height, width, found) != (size, size, channels):
            session.say(f"{name}: {width} x {height} {_mode(found)} -> {size} x {size} {_mode(channels)}")
    return from_uint8(torch.from_numpy(pixels.copy())).permute(2, 0, 1)


def _warn_of_values(name: str, stored: Stored, looked: Survey, session: Session) -> None:
    """Say what the range of values does to the image."""
    remarks: Remarks = {}
    if stored.raster is not None:
        add_remarks(remarks, stored.raster, 0, looked.ranges)
    for line in (*looked.warnings, *describe_remarks(remarks, looked.ranges, 1, lambda _: name, remedy=False)):
        session.warn(line)


def _shape_of(image: Decoded) -> tuple[int, int, int]:
    if isinstance(image, np.ndarray):
        return image.shape[0], image.shape[1], image.shape[2]
    return image.height, image.width, len(image.getbands())


def _require_channels(name: str, image: Decoded, channels: int) -> None:
    """Raise GsdError (exit 3) unless the image can have as many channels as the model's: grey and RGB are converted."""
    found = _shape_of(image)[2]
    if found != channels and not (found in (1, 3) and channels in (1, 3)):
        raise GsdError(
            f"{name} has {plural(found, 'channel')}, the model's images have {channels}",
            hint=f"give a .npy or a TIFF with {plural(channels, 'channel')}",
        )


def _mode(channels: int) -> str:
    return {1: "grey", 3: "RGB"}.get(channels, f"of {channels} channels")


def _read_stdin() -> bytes:
    if sys.stdin is None or sys.stdin.isatty():
        raise UsageError(["- reads an image from a pipe, but stdin is a terminal"], hint="cat a.png | gsd ...")
    payload = sys.stdin.buffer.read()
    if not payload:
        raise GsdError(STDIN_EMPTY, hint="cat a.png | gsd ...")
    return payload
