"""What interpolate and edit share: pictures in (files, stdin, seeds, saved latents), placed in latent space."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gsd_cli.base.atomic import sweep
from gsd_cli.base.errors import GsdError, UsageError
from gsd_cli.base.session import Session
from gsd_cli.base.storage import ASSETS, tolerate_storage_errors
from gsd_cli.base.text import plural
from gsd_cli.compute.random import latents
from gsd_cli.core.latents.files import SUFFIX, Anchor, cache_key, load_anchors, save_anchors
from gsd_cli.core.latents.gaussianity import Gaussianity
from gsd_cli.core.latents.inversion import Inversion, encoder_features, invert, psnr
from gsd_cli.core.latents.pivotal_tuning import tune
from gsd_cli.core.latents.render import render
from gsd_cli.core.models.denoiser import Denoiser
from gsd_cli.core.models.fingerprint import weights_fingerprint
from gsd_cli.core.models.generator import Generator, Model
from gsd_cli.core.models.teacher import load_teacher
from gsd_cli.data.decode import crop_and_resize, decode
from gsd_cli.data.pixels import from_uint8
from gsd_cli.options import EditOptions, InterpolateOptions, InvertOptions, InvertSettings

GOOD_PSNR = 24.0
"""dB below which a picture is taken for one of another domain: noise, checks and negatives reach 10 to 23."""


def locate(
    names: Sequence[str], model: Model, options: InvertOptions | InterpolateOptions | EditOptions, session: Session,
) -> list[Anchor]:  # fmt: skip
    """Seeds become their latents, files of latents what they hold; pictures are inverted, and how well is said.

    Raises GsdError (exit 3) for what is no picture, UsageError for a bad seed.
    """
    generator, mark = model.generator, weights_fingerprint(model.folder)
    seeds = {name: _seed(name) for name in names if name.startswith("seed:")}
    if sum(name == "-" for name in names) > 1:
        raise UsageError(["- can be given once: there is one stdin"])
    pictures = {
        name: read_picture(name, generator, session)
        for name in dict.fromkeys(names)
        if name not in seeds and not name.endswith(SUFFIX)
    }
    placed = _place(pictures, model, mark, options, session) if pictures else {}
    anchors: list[Anchor] = []
    for name in names:
        if name in seeds:
            anchors.append(Anchor(latents([seeds[name]], generator.latent_shape)[0], {"image": name}))
        elif name in placed:
            anchors.append(placed[name])
        else:
            anchors += _saved(Path(name), generator, mark, session)
    if options.save_latent is not None:
        save_anchors(options.save_latent, anchors, mark)
        session.say(f"latents saved: {options.save_latent}")
    return anchors


def _place(
    pictures: dict[str, Tensor], model: Model, mark: str, options: InvertSettings, session: Session
) -> dict[str, Anchor]:
    """Anchors of pictures, by name: those in the cache at once, the others inverted together."""
    settings = {
        name: value
        for name, value in options.model_dump(include=set(InvertSettings.model_fields)).items()
        if name not in ("save_latent", "keep_residual")
    } | {"seed": getattr(options, "seed", 0), "label": model.generator.label}
    folder = session.cache / "inversions"
    sweep(folder)
    paths = {name: folder / f"{cache_key(x, mark, settings)}{SUFFIX}" for name, x in pictures.items()}
    placed: dict[str, Anchor] = {}
    for name, path in paths.items():
        if path.exists():
            try:
                placed[name] = load_anchors(path, model.generator.latent_shape)[0][0]
            except GsdError:  # a damaged entry is made again
                path.unlink(missing_ok=True)
    missing = [name for name in pictures if name not in placed]
    if missing:
        placed |= _invert(missing, pictures, model, options, session)
    for name in missing:
        with tolerate_storage_errors(session.warn):
            save_anchors(paths[name], [placed[name]], mark)
    return {name: _finish(name, placed[name], pictures[name], options, model, session) for name in pictures}


def _invert(
    names: list[str], pictures: dict[str, Tensor], model: Model, options: Any, session: Session
) -> dict[str, Anchor]:

    generator, teacher = model.generator, _teacher_at_hand(model)
    features = encoder_features(generator)
    groups = [names[i : i + options.batch_size] for i in range(0, len(names), options.batch_size)]
    placed: dict[str, Anchor] = {}
    with session.progress(f"inverting {plural(len(names), 'picture')}") as bar:
        for turn, group in enumerate(groups):

            def on_step(done: int, total: int, turn: int = turn) -> None:
                bar.update(turn * total + done, len(groups) * total)

            images = torch.stack([pictures[name] for name in group])
            found = invert(
                generator, images, features, options.invert_steps, options.invert_starts, options.invert_prior,
                options.seed, teacher, on_step,
            )  # fmt: skip
            deltas = tune(generator, found.z, images, options.tune, options.seed, on_step) if options.tune else []
            placed |= {name: _anchor(name, k, found, deltas) for k, name in enumerate(group)}
    return placed


def _anchor(name: str, k: int, found: Inversion, deltas: Sequence[dict[str, Tensor]]) -> Anchor:

    gaussian = asdict(found.gaussianity[k])
    figures = {"image": name, "psnr": found.psnr[k], "feature_distance": found.feature_distance[k], **gaussian}
    return Anchor(found.z[k], figures, deltas[k] if deltas else {})


def _finish(
    name: str, anchor: Anchor, picture: Tensor, options: InvertSettings, model: Model, session: Session
) -> Anchor:
    """Name the anchor as it was given, add what is asked for, and say how good it is."""
    anchor = replace(anchor, figures={**anchor.figures, "image": name})
    if anchor.delta or options.keep_residual:
        made = render(model.generator, anchor.z[None], [anchor.delta])[0]
        if anchor.delta:
            anchor.figures["psnr_tuned"] = psnr(made.clamp(-1, 1)[None], picture[None])[0]
        if options.keep_residual:
            anchor = replace(anchor, residual=picture - made)
    _tell(anchor.figures, session)
    return anchor


def _tell(figures: dict[str, Any], session: Session) -> None:

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
        session.warn(f"{name}: its latent is not Gaussian ({why}); walks and edits may leave the model's images")
    if figures["psnr"] < GOOD_PSNR:
        session.warn(f"{name}: the model cannot make this picture well; is it of the model's domain?")


def _teacher_at_hand(model: Model) -> Denoiser | None:
    """The teacher the model was distilled from, where it can be read without the network and fits."""
    if model.teacher is None:
        return None
    try:
        teacher = load_teacher(model.teacher, offline=True)
    except GsdError:
        return None
    generator = model.generator
    if teacher.denoiser.shape != generator.latent_shape or teacher.denoiser.classes != generator.denoiser.classes:
        return None
    device = generator.device
    denoiser = teacher.denoiser.to(device)
    return denoiser.with_labels(torch.tensor([generator.label], device=device)) if denoiser.classes else denoiser


def _saved(path: Path, generator: Generator, mark: str, session: Session) -> list[Anchor]:

    anchors, made_with = load_anchors(path, generator.latent_shape)
    if made_with != mark:
        session.warn(f"{path} was made with another model: its latents mean other pictures here")
    return anchors


def _seed(name: str) -> int:
    text = name.removeprefix("seed:")
    if not (text.isascii() and text.isdigit() and len(text) < 19):
        raise UsageError([f"{name!r}: write seed:42, a whole number"])
    return int(text)


def read_picture(name: str, generator: Generator, session: Session | None = None) -> Tensor:
    """One picture as the model's size and channels, [C, H, W] in [-1, 1]; what was changed is said.

    Raises GsdError (exit 3) naming what is no picture.
    """
    channels, size, _ = generator.image_shape
    try:
        picture = decode(_stdin() if name == "-" else _path(name))
    except FileNotFoundError as error:
        raise GsdError(f"no such file: {name}", hint="a picture, - for stdin, or seed:42") from error
    except GsdError:
        raise
    except Exception as error:  # damaged pictures raise nearly anything
        cause = (str(error).splitlines() or [type(error).__name__])[0][:160]
        raise GsdError(f"{name} is not a picture: {cause}", hint="PNG, JPEG, WebP and the like") from error
    if session is not None and (picture.size != (size, size) or len(picture.getbands()) != channels):
        mode = "grey" if channels == 1 else "RGB"
        session.say(f"{name}: {picture.width} x {picture.height} {picture.mode} -> {size} x {size} {mode}")
    return from_uint8(torch.from_numpy(crop_and_resize(picture, size, channels).copy())).permute(2, 0, 1)


def _path(name: str) -> Path:
    """A file, or one of the bundled pictures: example:NAME."""
    if not name.startswith("example:"):
        return Path(name)
    bundled = {path.stem: path for path in sorted((ASSETS / "examples").glob("*.png"))}
    wanted = name.removeprefix("example:")
    if wanted not in bundled:
        raise UsageError([f"no example {wanted!r}"], hint=f"there are: {', '.join(bundled)}")
    return bundled[wanted]


def _stdin() -> bytes:
    if sys.stdin is None or sys.stdin.isatty():
        raise UsageError(["- reads a picture from a pipe, and stdin is a terminal"], hint="cat a.png | gsd ...")
    return sys.stdin.buffer.read()
