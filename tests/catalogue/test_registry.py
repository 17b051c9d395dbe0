"""The modules that do the work know exactly the names that the registry lists."""

from __future__ import annotations

from gsd_cli.catalogue.registry import DATA_SETS, MEASURED_ATTRIBUTES, PUBLISHED_STATISTICS
from gsd_cli.core.editing.attributes import ATTRIBUTES
from gsd_cli.data.sources.manual import ORIGINS
from gsd_cli.data.sources.open import DOWNLOADED
from gsd_cli.metrics.published import PUBLISHED
from gsd_cli.options import PrepareOptions


def test_data_sets() -> None:
    assert {*DOWNLOADED, *ORIGINS} == set(DATA_SETS)
    assert ", ".join(DATA_SETS) in (PrepareOptions.model_fields["source"].description or "")


def test_published_statistics() -> None:
    assert tuple(PUBLISHED) == PUBLISHED_STATISTICS


def test_measured_attributes() -> None:
    assert tuple(ATTRIBUTES) == MEASURED_ATTRIBUTES
