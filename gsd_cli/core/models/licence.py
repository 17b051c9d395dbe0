"""The licence of a teacher, as the hub names licences."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

from gsd_cli.base.errors import GsdError
from gsd_cli.catalogue.diffusers_layout import locate_model
from gsd_cli.catalogue.find import local_teacher
from gsd_cli.catalogue.registry import TEACHERS
from gsd_cli.catalogue.run_layout import README
from gsd_cli.core.models.edm_config import CLASS_NAMES, LICENCE
from gsd_cli.core.models.hub import fetch

Licence = dict[str, str]
"""The keys `license`, and for another than the hub knows `license_name` and `license_link`; empty if it is unknown."""
KEYS = ("license", "license_name", "license_link")


def hub_identifier(licence: str) -> str:
    """The hub's identifier of a licence: `cc-by-nc-sa-4.0` of CC BY-NC-SA 4.0."""
    return licence.lower().replace(" ", "-")


def teacher_licence(teacher: str, network: str, revision: str | None = None, *, offline: bool = False) -> Licence:
    """The licence of a teacher as `--teacher` names it: of the catalogue, of the network EDM publishes, or of its card.

    The card is the README.md of its folder, or of its repository on the hub, which is fetched. network: the name of
    the class of its network.
    """
    entry = TEACHERS.get(teacher)
    if entry is not None:
        return {"license": hub_identifier(entry.licence)}
    found: Licence = {}
    place = local_teacher(teacher)
    with suppress(GsdError):
        if place is None:
            place, _ = fetch(teacher, offline=offline, revision=revision, only=(README,))
            found = read_licence(place / README)
        else:
            found = read_licence(locate_model(place).folder / README)
    return found or ({"license": hub_identifier(LICENCE)} if network in CLASS_NAMES else {})


def read_licence(card: Path) -> Licence:
    """The licence in the front matter of a model card; empty where there is none or it cannot be read."""
    from huggingface_hub import metadata_load

    try:
        stated: Any = metadata_load(card) or {}
    except Exception:  # the parser of YAML and the reader of the file raise unrelated kinds
        return {}
    return {key: stated[key] for key in KEYS if isinstance(stated.get(key), str)} if "license" in stated else {}
