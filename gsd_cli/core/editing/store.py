"""The directions of a model: found once, kept in the cache or in the model's folder, read from there after."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from gsd_cli.base.atomic import sweep
from gsd_cli.base.errors import ExitCode, GsdError, UsageError
from gsd_cli.base.session import Session
from gsd_cli.base.storage import tolerate_storage_errors
from gsd_cli.core.editing.direction import Direction, load_directions, save_directions
from gsd_cli.core.editing.known_attributes import TRAITS, Knowledge
from gsd_cli.core.editing.labelled import from_data, from_folders
from gsd_cli.core.editing.supervised import Attribute, fit, gather, mean_gradients
from gsd_cli.core.editing.unsupervised import principal_directions
from gsd_cli.core.models.fingerprint import weights_fingerprint
from gsd_cli.core.models.generator import Model
from gsd_cli.options import EditOptions

DIRECTIONS = "directions"
"""The folder of stored directions, in the cache and in a model's folder."""
COMPONENTS = "components"


class Directory:
    """Finds directions by name for one model: stored ones at once, others after fitting them."""

    def __init__(self, model: Model, options: EditOptions, session: Session):

        self.model, self.options, self.session = model, options, session
        self.knowledge: Knowledge = Knowledge(model)
        self.built_in: dict[str, Attribute] = {a.name: a for a in self.knowledge.built_in()}
        self.mark = weights_fingerprint(model.folder)
        label = model.generator.label if model.generator.denoiser.classes else None
        self.about: dict[str, Any] = {"model": self.mark, "class": label}
        key = self.mark if label is None else f"{self.mark}-{label}"
        self.cache = session.cache / DIRECTIONS / key
        sweep(self.cache)

    # -- storage ----------------------------------------------------------------------------

    def stored(self, name: str, **about: Any) -> list[Direction] | None:
        """What the cache or the model's folder holds under this name, if it belongs to this model.

        A number of samples counts only where it was asked for.
        """
        if "fit_samples" in self.options.model_fields_set:
            about["samples"] = self.options.fit_samples
        file = f"{quote(name, safe='')}.safetensors"
        for path in (self.cache / file, self.model.folder / DIRECTIONS / file):
            if (found := load_directions(path, self.about | about)) is not None:
                return found
        return None

    def _keep(self, name: str, found: Sequence[Direction], **about: Any) -> None:

        with tolerate_storage_errors(self.session.warn):
            save_directions(self.cache / f"{quote(name, safe='')}.safetensors", found, self.about | about)

    def fitted_names(self) -> list[str]:
        """Attributes stored beside the built-in ones."""
        files = [*self.cache.glob("*.safetensors"), *(self.model.folder / DIRECTIONS).glob("*.safetensors")]
        names = {unquote(path.stem) for path in files} - {COMPONENTS, *self.built_in}
        return sorted(name for name in names if self.stored(name) is not None)

    # -- directions -------------------------------------------------------------------------

    def components(self) -> list[Direction]:
        """The principal components of the bottleneck."""
        samples = self.options.fit_samples
        if (found := self.stored(COMPONENTS)) is None:
            with self.session.progress("principal components", samples) as bar:
                found = principal_directions(self.model.generator, self.options.batch_size, samples, bar.update)
            self._keep(COMPONENTS, found, samples=samples)
        return found

    def attribute(self, name: str, option: str = "--attribute") -> list[Direction]:
        """The best direction of each space for an attribute, the better space first.

        From --fit or --data where they name it, else stored, else built in. Raises UsageError for an
        unknown name.
        """
        source, folders = self._source(name)
        found = self.stored(name, source=source) if source is not None else self.stored(name)
        if found is not None:
            return found
        if source is None and name not in self.built_in:
            known = ", ".join([*self.built_in, *self.fitted_names()])
            raise UsageError([f"{option}: unknown {name!r}"], hint=f"known: {known}; or --fit {name}=WITH:WITHOUT")
        if source is None:
            target, quality = self.built_in[name], None
        else:
            target, quality = self._learnt(name, folders)
        found = self._fit(target)
        if not found:
            raise GsdError(
                f"no direction of the model changes {name}", hint="try more --fit-samples, or --direction pc0"
            )
        if quality is not None:
            self.session.say(f"{name}: told from pictures with AUROC {quality:.3f}")
        self._keep(name, found, source=source or "built in", samples=self.options.fit_samples)
        return found

    def _source(self, name: str) -> tuple[str | None, tuple[Path, Path] | None]:
        """What identifies the pictures an attribute is learnt from, and the two folders if they are such."""
        fitted, _, pair = (self.options.fit or "").partition("=")
        if self.options.fit and fitted == name:
            if name in self.built_in:
                raise UsageError([f"--fit: {name} is built in; choose another name"])
            positive, _, negative = pair.partition(":")
            folders = Path(positive), Path(negative)
            return _fingerprint(*folders), folders
        if self.options.data is not None and self.options.attribute == name:
            return _fingerprint(self.options.data), None
        return None, None

    def _learnt(self, name: str, folders: tuple[Path, Path] | None) -> tuple[Attribute, float]:

        if folders is not None:
            positive, negative = from_folders(*folders, self.knowledge, self.session)
        else:
            assert self.options.data is not None
            positive, negative = from_data(self.options.data, name, self.knowledge, self.session)
        return self.knowledge.learnt(name, positive, negative)

    def _fit(self, target: Attribute) -> list[Direction]:

        generator, options = self.model.generator, self.options
        attributes = [*(t for t in TRAITS if t.name != target.name), target]
        gradients_of = max(16, options.fit_samples // 10)
        with self.session.progress(f"finding {target.name}", options.fit_samples + 4 * gradients_of) as bar:
            pool = gather(generator, attributes, options.batch_size, options.fit_samples, bar.update)
            gradients = mean_gradients(
                generator, attributes, options.batch_size, gradients_of,
                lambda done: bar.update(options.fit_samples + 4 * done),
            )  # fmt: skip
            return fit(generator, target, TRAITS, pool, gradients, options.batch_size)

    def in_space(self, name: str, space: str, option: str | None = None) -> Direction:
        """The direction of an attribute or component in one space, or in the better one for `auto`.

        option: what the name was given to, where that is neither --attribute nor --direction. Raises
        GsdError (exit 2) when there is none in that space.
        """
        if name.startswith("pc") and name[2:].isdigit():
            found = self.components()
            if int(name[2:]) >= len(found):
                hint = f"pc0 to pc{len(found) - 1}; see --list"
                raise UsageError([f"{option or '--direction'}: no {name!r}"], hint=hint)
            found = [found[int(name[2:])]]
        else:
            found = self.attribute(name, option or "--attribute")
        for direction in found:
            if space in ("auto", direction.space):
                return direction
        raise GsdError(f"no direction of {name} in the {space}", hint="--space auto", code=ExitCode.USAGE)


def _fingerprint(*paths: Path) -> str:
    """What pictures an attribute was learnt from: names, sizes and times of the files."""
    listed = []
    for path in paths:
        if not path.exists():
            raise GsdError(f"no such file or folder: {path}", hint="pictures with the attribute, and without it")
        files = sorted(path.rglob("*")) if path.is_dir() else [path]
        listed.append([(f.name, f.stat().st_size, f.stat().st_mtime_ns) for f in files if f.is_file()])
    return hashlib.sha256(json.dumps(listed).encode()).hexdigest()[:16]
