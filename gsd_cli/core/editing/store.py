"""Finds the directions of a model by name and stores them, so that each is computed only once."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from gsd_cli.base.atomic import sweep, write_json
from gsd_cli.base.errors import ExitCode, GsdError, UsageError
from gsd_cli.base.session import Session
from gsd_cli.base.storage import read_json, tolerate_storage_errors
from gsd_cli.catalogue.direction_files import is_direction_file
from gsd_cli.catalogue.model_facts import COMPONENTS
from gsd_cli.catalogue.run_layout import DIRECTIONS
from gsd_cli.core.editing.direction import Direction, LinearScore, load_directions, load_score, save_directions
from gsd_cli.core.editing.direction_file import load_direction
from gsd_cli.core.editing.examples import read_data_set, read_folders
from gsd_cli.core.editing.known_attributes import TRAITS, Knowledge
from gsd_cli.core.editing.probe import Probe
from gsd_cli.core.editing.supervised import Attribute, fit, gather, mean_gradients
from gsd_cli.core.editing.unsupervised import principal_directions
from gsd_cli.core.models.fingerprint import weights_fingerprint
from gsd_cli.core.models.generator import Model
from gsd_cli.options import EditOptions

DEVIATIONS = "deviations.json"


class DirectionStore:
    """The directions of one model. They are read from the cache or the model's folder, or found and then stored."""

    def __init__(self, model: Model, options: EditOptions, session: Session):
        self.model, self.options, self.session = model, options, session
        self.knowledge: Knowledge = Knowledge(model)
        self.learnt: dict[str, Attribute] = {}
        self.built_in: dict[str, Attribute] = {a.name: a for a in self.knowledge.built_in()}
        self.mark = weights_fingerprint(model.folder)
        label = model.generator.condition.mark
        self.about: dict[str, Any] = {"model": self.mark, "class": label}
        key = self.mark if label is None else f"{self.mark}-{label}"
        self.cache = session.cache / DIRECTIONS / key
        sweep(self.cache)

    # -- storage ----------------------------------------------------------------------------

    def load(self, name: str, **about: Any) -> list[Direction] | None:
        """The stored directions of this name and model; None if there are none.

        With --fit-samples, only directions from that number of samples count.
        """
        return self._read(name, **about)[1]

    def _read(self, name: str, **about: Any) -> tuple[Path | None, list[Direction] | None]:
        """The file of stored directions, and the directions."""
        if name in self.built_in:  # not what an example image taught under this name
            about["source"] = "built in"
        if "fit_samples" in self.options.model_fields_set:
            about["samples"] = self.options.fit_samples
        file = f"{quote(name, safe='')}.safetensors"
        for path in (self.cache / file, self.model.folder / DIRECTIONS / file):
            if (found := load_directions(path, self.about | about)) is not None:
                return path, found
        return None, None

    def _save(self, name: str, found: Sequence[Direction], score: LinearScore | None = None, **about: Any) -> None:
        with tolerate_storage_errors(self.session.warn):
            save_directions(self.cache / f"{quote(name, safe='')}.safetensors", found, self.about | about, score)

    def list_fitted(self) -> list[str]:
        """The names of the stored attributes that are not built in."""
        files = [*self.cache.glob("*.safetensors"), *(self.model.folder / DIRECTIONS).glob("*.safetensors")]
        names = {unquote(path.stem) for path in files} - {COMPONENTS, *self.built_in}
        return sorted(name for name in names if self.load(name) is not None)

    # -- directions -------------------------------------------------------------------------

    def find_components(self) -> list[Direction]:
        """The principal components of the bottleneck, stored after the first call."""
        samples = self.options.fit_samples
        if (found := self.load(COMPONENTS)) is None:
            with self.session.progress("principal components", samples) as bar:
                found = principal_directions(self.model.generator, self.options.batch_size, samples, bar.update)
            self._save(COMPONENTS, found, samples=samples)
        return found

    def find_attribute(self, name: str, option: str = "--attribute") -> list[Direction]:
        """The best direction of each space for an attribute, the better space first.

        It comes from --fit or --data if they name it, else from the store, else it is built in. option: the flag that
        an error names. Raises UsageError for an unknown name, GsdError if no direction changes the attribute.
        """
        source, folders = self._find_examples(name)
        found = self.load(name, source=source) if source is not None else self.load(name)
        if found is not None:
            return found
        if source is None and name not in self.built_in:
            known = ", ".join([*self.built_in, *self.list_fitted()])
            raise UsageError([f"{option}: unknown {name!r}"], hint=f"known: {known}; or --fit {name}=WITH:WITHOUT")
        score = None
        if source is None:
            target, quality = self.built_in[name], None
        else:
            target, quality = self._learn(name, folders)
            self.learnt[name] = target
            if isinstance(target.score, Probe):
                score = LinearScore(target.score.weight, target.score.bias)
        found = self._fit_directions(target)
        if not found:
            raise GsdError(
                f"no direction of the model changes {name}", hint="try more --fit-samples, or --direction pc0"
            )
        if quality is not None:
            self.session.say(f"{name}: learnt from images with AUROC {quality:.3f}")
        self._save(name, found, score, source=source or "built in", samples=self.options.fit_samples)
        return found

    def find_target(self, name: str, option: str = "--attribute") -> Attribute:
        """An attribute with its score, by name. Raises as `find_attribute`, which learns one from example images."""
        if name in self.built_in and self._find_examples(name)[0] is None:
            return self.built_in[name]
        self.find_attribute(name, option)
        if name not in self.learnt:
            path, _ = self._read(name)
            score = None if path is None else load_score(path)
            if score is None:
                raise GsdError(
                    f"the stored score of {name} is missing", hint=f"learn it again: --fit {name}=WITH:WITHOUT"
                )
            probe = Probe(self.knowledge.features, score.weight, score.bias, float("nan"))
            self.learnt[name] = Attribute(name, probe, signed=True)
        return self.learnt[name]

    def deviations(self, names: Sequence[str]) -> dict[str, float]:
        """The standard deviation of each attribute over the generator's own samples.

        They come from stored directions; those of measured attributes otherwise from --fit-samples new samples.
        """
        found: dict[str, float] = {}
        for name in names:
            for direction in self.load(name) or []:
                found |= {k.removeprefix("std."): v for k, v in direction.figures.items() if k.startswith("std.")}
            if name not in found and name in {t.name for t in TRAITS}:
                found |= self._trait_deviations()
            elif name not in found:
                figures = self.find_attribute(name)[0].figures
                found[name] = figures[f"std.{name}"]
        return {name: found[name] for name in names}

    def _trait_deviations(self) -> dict[str, float]:
        """The standard deviations of the measured attributes, stored after the first call."""
        path, samples = self.cache / DEVIATIONS, self.options.fit_samples
        about = {**self.about, "samples": samples}
        with suppress(GsdError, OSError):
            stored = read_json(path)
            if stored.get("about") == about:
                return dict(stored["deviations"])
        with self.session.progress("standard deviations", samples) as bar:
            pool = gather(self.model.generator, TRAITS, self.options.batch_size, samples, bar.update)
        with tolerate_storage_errors(self.session.warn):
            write_json(path, {"about": about, "deviations": pool.deviations()})
        return pool.deviations()

    def _find_examples(self, name: str) -> tuple[str | None, tuple[Path, Path] | None]:
        """The fingerprint of the images that teach an attribute, and their two folders if they come from --fit."""
        fitted, _, pair = (self.options.fit or "").partition("=")
        if self.options.fit and fitted == name:
            self._require_free(name, "--fit")
            positive, _, negative = pair.partition(":")
            folders = Path(positive), Path(negative)
            return _fingerprint_files(*folders), folders
        if self.options.data is not None and self.options.attribute == name:
            self._require_free(name, "--data")
            return _fingerprint_files(self.options.data), None
        return None, None

    def _require_free(self, name: str, flag: str) -> None:
        """Raise UsageError for a name of --fit or of a label in --data that is built in: each name means one thing."""
        if name in self.built_in:
            hint = f"leave out --data to edit by the built-in {name}" if flag == "--data" else "choose another name"
            raise UsageError([f"{flag}: {name} is built in"], hint=hint)

    def _learn(self, name: str, folders: tuple[Path, Path] | None) -> tuple[Attribute, float]:
        """The attribute learnt from example images, and the AUROC of its probe."""
        if folders is not None:
            positive, negative = read_folders(*folders, self.knowledge, self.session)
        else:
            assert self.options.data is not None
            positive, negative = read_data_set(self.options.data, name, self.knowledge, self.session)
        return self.knowledge.learn(name, positive, negative)

    def _fit_directions(self, target: Attribute) -> list[Direction]:
        """The best direction of each space for `target`, from samples of the generator."""
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

    def find(self, name: str, space: str, option: str | None = None) -> Direction:
        """The direction of an attribute or component in one space, or in the better one for `auto`.

        A name that ends in .safetensors is a file of one direction. option: the flag that an error names, if it is
        neither --attribute nor --direction. Raises GsdError (exit 2) if there is no direction in that space.
        """
        if is_direction_file(name):
            return self.read_file(Path(name), space)[0]
        if name.startswith("pc") and name[2:].isdigit():
            found = self.find_components()
            if int(name[2:]) >= len(found):
                hint = f"pc0 to pc{len(found) - 1}; see --list"
                raise UsageError([f"{option or '--direction'}: no {name!r}"], hint=hint)
            found = [found[int(name[2:])]]
        else:
            found = self.find_attribute(name, option or "--attribute")
        for direction in found:
            if space in ("auto", direction.space):
                return direction
        raise GsdError(f"no direction of {name} in the {space}", hint="--space auto", code=ExitCode.USAGE)

    def read_file(self, path: Path, space: str = "auto") -> tuple[Direction, tuple[float, float]]:
        """The direction in a file of `--save-direction`, and its measured range. Raises as `load_direction`."""
        return load_direction(path, self.model.generator, self.mark, space)


def _fingerprint_files(*paths: Path) -> str:
    """A fingerprint of example images: the names, sizes and times of the files."""
    listed = []
    for path in paths:
        if not path.exists():
            raise GsdError(
                f"no such file or folder: {path}", hint="give images with the attribute, and images without it"
            )
        files = sorted(path.rglob("*")) if path.is_dir() else [path]
        listed.append([(f.name, f.stat().st_size, f.stat().st_mtime_ns) for f in files if f.is_file()])
    return hashlib.sha256(json.dumps(listed).encode()).hexdigest()[:16]
