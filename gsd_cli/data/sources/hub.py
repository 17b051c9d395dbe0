"""Image data sets of the Hugging Face hub, read with its library `datasets` (an extra). No code of theirs is run."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from gsd_cli.base.errors import ExitCode, GsdError
from gsd_cli.data.decode import Payload
from gsd_cli.data.labels import Labels
from gsd_cli.data.sources.source import Source, identity

_ROWS = 64
OLDEST = 4
"""The first version of `datasets` that runs no scripts of a data set."""


def open_hub(name: str, split: str, *, offline: bool) -> Source:
    """OWNER/NAME or OWNER/NAME@REVISION: the first image column, with the first class column as labels.

    The set is downloaded once into the hub's own cache and read from there. Raises GsdError: exit 2 (split), 3 (no
    images, or the extra is missing), 4 (not found, gated, no network, or offline and not in the cache).
    """
    if offline:
        os.environ["HF_HUB_OFFLINE"] = "1"  # read when the library is imported
    try:
        import datasets
    except ImportError:
        raise GsdError("hf: data sets need the library datasets", hint="pip install datasets") from None
    if int(str(datasets.__version__).partition(".")[0]) < OLDEST:
        raise GsdError(
            f"datasets {datasets.__version__} can run scripts of a data set", hint=f"pip install 'datasets>={OLDEST}'"
        )
    repository, _, revision = name.partition("@")
    table = _load(datasets, repository, revision or None, split)
    image = next((c for c, kind in table.features.items() if isinstance(kind, datasets.Image)), None)
    if image is None:
        raise GsdError(f"hf:{name} has no column of images", hint=f"its columns: {', '.join(table.features)}")
    label = next((c for c, kind in table.features.items() if isinstance(kind, datasets.ClassLabel)), None)
    labels = _labels(table, label) if label is not None else None
    table = table.select_columns([image]).cast_column(image, datasets.Image(decode=False))
    files = [Path(file["filename"]) for file in table.cache_files]
    commit = files[0].parent.name if files else None

    def payloads(places: Sequence[int]) -> Iterator[Payload]:
        for first in range(0, len(places), _ROWS):
            yield from (_payload(cell) for cell in table[list(places[first : first + _ROWS])][image])

    return Source(
        f"{name.split('/')[-1]} ({split})",
        [f"{split}/{i}" for i in range(len(table))],
        payloads,
        identity((name, split, len(table), commit)),
        labels,
        licence=table.info.license or None,
        facts={"hub": repository, "revision": commit},
    )


def _load(datasets: Any, repository: str, revision: str | None, split: str) -> Any:
    try:
        return datasets.load_dataset(repository, split=split, revision=revision, keep_in_memory=False)
    except ValueError as error:
        if "split" in str(error):
            raise GsdError(f"hf:{repository}: {error}", hint="choose with --split", code=ExitCode.USAGE) from error
        raise GsdError(f"hf:{repository} cannot be read: {error}", hint="is it a set of images?") from error
    except Exception as error:  # the network's, the hub's and the library's own
        cause = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise GsdError(
            f"cannot get hf:{repository}: {cause}",
            hint="is the name right, is it gated (hf auth login), is there a network?",
            code=ExitCode.NETWORK,
        ) from error


def _labels(table: Any, column: str) -> Labels | None:
    values = [-1 if value is None else int(value) for value in table[column]]
    return Labels(values, tuple(table.features[column].names)) if min(values, default=-1) >= 0 else None


def _payload(cell: dict[str, Any] | None) -> Payload:
    if cell is not None and cell.get("bytes"):
        return bytes(cell["bytes"])
    if cell is not None and cell.get("path"):
        return Path(cell["path"])
    return ValueError("an empty cell")
