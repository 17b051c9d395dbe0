"""gsd edit --explore: a page that runs the generator in the browser."""

from __future__ import annotations

import time
from pathlib import Path

from gsd_cli.base.console import Result
from gsd_cli.base.errors import GsdError, UsageError
from gsd_cli.base.session import Session
from gsd_cli.catalogue.direction_files import is_direction_file
from gsd_cli.catalogue.image_names import SEED, parse_seed
from gsd_cli.commands.edit_direction import choose_direction
from gsd_cli.compute.device import resolve_device
from gsd_cli.compute.random import latents
from gsd_cli.core.editing.direction import Direction
from gsd_cli.core.editing.direction_range import measure_range
from gsd_cli.core.editing.edit_image import usual_distance
from gsd_cli.core.editing.known_attributes import TRAITS
from gsd_cli.core.editing.store import DirectionStore
from gsd_cli.core.explorer.content import Content, Slider, Start
from gsd_cli.core.explorer.folder import OWN_IMAGE, page_files, require_own_folder, write_folder
from gsd_cli.core.explorer.runtime import fetch_runtime
from gsd_cli.core.explorer.serve import open_browser, serving
from gsd_cli.core.explorer.walk_tables import walk_tables
from gsd_cli.core.export.check import SEEDS as COMPARED
from gsd_cli.core.export.exported import find_shift_shape
from gsd_cli.core.export.onnx_file import write_onnx
from gsd_cli.core.latents.files import Anchor
from gsd_cli.core.latents.inversion import encoder_features
from gsd_cli.core.latents.locate import locate
from gsd_cli.core.latents.render import render
from gsd_cli.core.models.fingerprint import weights_fingerprint
from gsd_cli.core.models.generator import Generator
from gsd_cli.core.models.open import fix_class, open_model
from gsd_cli.options import EditOptions
from gsd_cli.options.edit import is_of_image, resolve_direction_name

SEEDS = (2, 5, 10, 23, 42)
"""The page's first latents, unless IMAGE is another seed."""
COMPONENTS = 10
LARGE = 200e6
"""Bytes of weights from which a page loads slowly."""


def explore(options: EditOptions, session: Session) -> Result:
    """Write the explorer of a model; with --open, serve it until Ctrl-C."""
    assert options.explore is not None
    folder = options.explore
    require_own_folder(folder)
    tarball = fetch_runtime(session)  # first: it fails early where there is no network
    model = open_model(options.model, resolve_device(options.device), session)
    generator = model.generator
    if generator.denoiser.kind.text_sizes(generator.denoiser.net) is not None:
        raise GsdError(f"{model.name} is text-conditional, and the explorer has no text encoder", hint="gsd sample")
    fix_class(model, options.class_, session)
    weights = 4 * sum(p.numel() for p in generator.parameters())
    if weights > LARGE:
        session.warn(f"the page loads {weights / 1e6:,.0f} MB of weights, and needs as much memory again")
    store = DirectionStore(model, options, session)
    named = find_named(store, options)
    starts, own = _find_starts(options, store, session)
    content = Content(
        model=model,
        mark=weights_fingerprint(model.folder),
        label=label if isinstance(label := generator.condition.mark, int) else None,
        starts=starts,
        sliders=_find_sliders(store, named, options, session),
        walks=_measure_walks(generator, starts, options, session),
        bottleneck=find_shift_shape(generator) or (),
        check=(SEEDS[0], render(generator, latents(SEEDS[:1], generator.latent_shape))[0].clamp(-1, 1)),
    )

    def export(path: Path) -> None:
        made = write_onnx(model, path, "fp32", session, require_shift=True)
        largest = made.difference.largest
        session.say(f"images of the page differ by at most {largest:.1e} from torch's, over {COMPARED} seeds")

    index = write_folder(folder, content, export, tarball, own)
    session.say(_describe(content))
    if options.open:
        _serve(folder, session)
    return Result([str(index)], _summarise(content, folder))


def find_named(store: DirectionStore, options: EditOptions) -> list[Direction]:
    """The direction that the command line names, found if it is not stored. It is checked before the slow work."""
    if options.attribute is None and options.direction is None and options.fit is None:
        return []
    name = resolve_direction_name(options)
    if is_of_image(options):
        raise UsageError([f"--direction {name}: it belongs to one image"], hint="--direction pc0, or --attribute NAME")
    return [choose_direction(store, options)]


def _find_starts(options: EditOptions, store: DirectionStore, session: Session) -> tuple[list[Start], Anchor | None]:
    """The latents that the page offers, the one of IMAGE last; and that of an own image, which is carried along."""
    model, image = store.model, options.image
    seeds = list(SEEDS)
    if image is not None and image.startswith(SEED):
        own = parse_seed(image)
        seeds = [*[seed for seed in SEEDS if seed != own][: len(SEEDS) - 1], own]
    every = zip(seeds, latents(seeds, model.generator.latent_shape), strict=True)
    starts = [Start(f"seed {seed}", f"{SEED}{seed}", z, seed) for seed, z in every]
    if image is None or image.startswith(SEED):
        return starts, None
    found = locate([image], model, options, session)
    if len(found) != 1:
        raise UsageError([f"{image} holds {len(found)} latents; the explorer takes one image"])
    if found[0].delta or found[0].residual is not None:
        raise UsageError(
            [f"{image}: tuned weights and residuals stay behind"], hint="leave out --tune, --keep-residual"
        )
    note = f"{OWN_IMAGE} lies in the folder of this page."
    return [*starts, Start(Path(image).name, OWN_IMAGE, found[0].z, note=note)], found[0]


def _find_sliders(
    store: DirectionStore, named: list[Direction], options: EditOptions, session: Session
) -> list[Slider]:
    """The stored directions, those named, and the first components, each with its range."""
    stored = {name: found[0] for name in [*store.built_in, *store.list_fitted()] if (found := store.load(name))}
    stored |= {direction.name: direction for direction in named}
    missing = [name for name in store.built_in if name not in stored]
    if missing:
        session.say(f"without a slider, because no direction is stored: {', '.join(missing)}")
        session.say("gsd edit --list -o all.png finds them; then run this command again")
    generator = store.model.generator
    components = store.find_components()[:COMPONENTS] if find_shift_shape(generator) else []
    chosen = [*stored.values(), *(c for c in components if c.name not in stored)]
    features = encoder_features(generator)
    usual = usual_distance(generator, features, options.batch_size)
    sliders = []
    with session.progress("measuring ranges", len(chosen)) as bar:
        for done, direction in enumerate(chosen):
            low, high = measure_range(generator, direction, features, usual, options.batch_size)
            own = any(direction is one for one in named) and is_direction_file(options.direction or "")
            file = options.direction if own else None
            sliders.append(Slider(direction, _group(direction, store), low, high, file))
            bar.update(done + 1)
    return sliders


def _group(direction: Direction, store: DirectionStore) -> str:
    """The heading under which the page shows a direction."""
    if direction.how == "principal component":
        return "components"
    if direction.name in {trait.name for trait in TRAITS}:
        return "attributes"
    return "classes" if direction.name in store.knowledge.classes else "learnt"


def _measure_walks(
    generator: Generator, starts: list[Start], options: EditOptions, session: Session
) -> dict[tuple[int, int], list[float]]:
    with session.progress("measuring walks") as bar:
        return walk_tables(generator, [start.z for start in starts], options.batch_size, bar.update)


def _serve(folder: Path, session: Session) -> None:
    with serving(folder) as url:
        session.console.announce(f"{url}  (Ctrl-C ends it)")
        if not open_browser(url):
            session.say("no browser was found: open the address by hand")
        while not session.stop():
            time.sleep(0.1)


def _describe(content: Content) -> str:
    groups = {slider.group: 0 for slider in content.sliders}
    for slider in content.sliders:
        groups[slider.group] += 1
    listed = ", ".join(f"{count} {group}" for group, count in groups.items())
    return f"sliders: {listed}; {len(content.walks)} measured walks between {len(content.starts)} latents"


def _summarise(content: Content, folder: Path) -> dict[str, object]:
    """Figures for --json: sizes in bytes, the ranges of the sliders, and the pairs with a measured walk."""
    sizes = {str(path.relative_to(folder)): path.stat().st_size for path in sorted(folder.rglob("*")) if path.is_file()}
    return {
        "fingerprint": content.mark,
        "page_bytes": sum(size for name, size in sizes.items() if name in page_files()),
        "sizes": sizes,
        "ranges": {slider.direction.name: [slider.low, slider.high] for slider in content.sliders},
        "walks": len(content.walks),
    }
