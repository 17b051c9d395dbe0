"""--limit: of every class its share, and the same images each time."""

from __future__ import annotations

from collections import Counter
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gsd_cli.data.labels import Labels
from gsd_cli.data.sources.source import Source
from gsd_cli.data.sources.subset import choose_places, spread, take, take_labels


@given(st.lists(st.integers(1, 60), min_size=1, max_size=6), st.data())
def test_every_class_has_its_share(sizes: list[int], data: st.DataObject) -> None:
    values = [kind for kind, size in enumerate(sizes) for _ in range(size)]
    names = [f"{kind}/{i}.png" for i, kind in enumerate(values)]
    count = data.draw(st.integers(1, len(names)))
    chosen = choose_places(names, Labels(values), count)
    assert chosen == sorted(set(chosen))
    assert len(chosen) == count
    found = Counter(values[place] for place in chosen)
    # no exchange of one image between two classes brings their shares nearer to each other (Sainte-Lague)
    for gives, takes in permutations(range(len(sizes)), 2):
        assert (found[takes] + 0.5) / sizes[takes] >= (found[gives] - 0.5) / sizes[gives]
    assert all(abs(found[kind] - count * size / len(names)) < 2 for kind, size in enumerate(sizes))


def test_the_order_of_names_does_not_matter() -> None:
    names = [f"{i}.png" for i in range(100)]
    labels = Labels([i % 3 for i in range(100)])
    chosen = {names[place] for place in choose_places(names, labels, 20)}
    back = Labels(list(reversed(labels.values)))
    assert {names[::-1][place] for place in choose_places(names[::-1], back, 20)} == chosen
    assert chosen != set(names[:20])


def test_a_larger_limit_keeps_most_images_of_a_smaller_one() -> None:
    names = [f"{i}.png" for i in range(100)]
    assert set(choose_places(names, None, 10)) < set(choose_places(names, None, 50))


@pytest.mark.parametrize("labels", [None, Labels([(i % 2, 1) for i in range(9)], attributes=("a", "b"))])
def test_attributes_are_no_classes(labels: Labels | None) -> None:
    assert len(choose_places([str(i) for i in range(9)], labels, 4)) == 4


def test_a_part_of_a_source_reads_its_own_images() -> None:
    pixels = np.arange(10, dtype=np.uint8).reshape(10, 1, 1)
    labels = Labels(list(range(10)), tuple("abcdefghij"))
    names = [str(i) for i in range(10)]
    source = Source("x", names, lambda places: (pixels[p] for p in places), "id", labels)
    part = take(source, [1, 4, 9])
    assert list(part.names) == ["1", "4", "9"]
    assert [int(np.asarray(p).item()) for p in part.payloads([1, 2])] == [4, 9]
    assert part.labels == take_labels(labels, [1, 4, 9])
    assert part.labels is not None
    assert (part.labels.values, part.labels.classes) == ([1, 4, 9], tuple("abcdefghij"))
    assert len({source.identity, part.identity, take(source, [1, 4]).identity}) == 3


def test_a_survey_is_spread_over_the_source() -> None:
    assert spread(5, 10) == [0, 1, 2, 3, 4]
    assert spread(1000, 4) == [0, 250, 500, 750]
