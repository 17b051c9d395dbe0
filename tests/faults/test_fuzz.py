"""Damaged and made-up inputs to every reader: it reads or it refuses. GSD_TEST_FUZZ=5000 for more than CI's examples.

benchmarks/faults/fuzz.py gives the same readers to a coverage-guided fuzzer.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.fuzzing import Reader, readers

EXAMPLES = int(os.environ.get("GSD_TEST_FUZZ", "40"))
CHANGES = st.lists(
    st.tuples(st.sampled_from(["flip", "cut", "insert", "repeat", "drop"]), st.floats(0, 1), st.binary(max_size=9)),
    min_size=1,
    max_size=4,
)
SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(-3, 9), st.sampled_from([2**31, 2**63, 10**30, -(2**40), 1e308, 0.5]),
    st.text(max_size=4), st.sampled_from(["UNet2DModel", "DownBlock2D", "../x", "/etc/passwd", "NaN"]),
)  # fmt: skip
JSON = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4)
)
NAMES = [
    "json", "config file", "dataset.json", "labels.json", "labels.csv", "config.json", "scheduler_config.json",
    "weights", "gsd.json", "features card", "features", "picture", "zip", "tar", "prepared zip", "shards", "metrics",
    "seeds", "checkpoint manifest", "checkpoint state", "checkpoint tensors", "statistics", "latents",
    "direction",
]  # fmt: skip
OBJECTS = [
    "json", "dataset.json", "labels.json", "config.json", "scheduler_config.json", "gsd.json", "features card",
    "shards", "metrics", "checkpoint manifest", "checkpoint state",
]  # fmt: skip


@pytest.fixture(scope="module")
def all_readers(tmp_path_factory: pytest.TempPathFactory, toy_teacher_folder: Path) -> Iterator[dict[str, Reader]]:
    before = Path.cwd()
    folder = tmp_path_factory.mktemp("fuzz")
    os.chdir(folder)  # no config file of this machine is read
    yield readers(folder, toy_teacher_folder)
    os.chdir(before)


def changed(whole: bytes, changes: list[tuple[str, float, bytes]]) -> bytes:
    for kind, where, extra in changes:
        at = int(where * max(0, len(whole) - 1))
        if kind == "flip" and whole:
            whole = whole[:at] + bytes([whole[at] ^ (extra[0] if extra else 1)]) + whole[at + 1 :]
        elif kind == "cut":
            whole = whole[:at]
        elif kind == "insert":
            whole = whole[:at] + extra + whole[at:]
        elif kind == "repeat":
            whole = whole[:at] + whole[max(0, at - 40) : at] * 3 + whole[at:]
        elif kind == "drop":
            whole = whole[:at] + whole[at + 1 + len(extra) :]
    return whole


def test_the_readers_are_those_named(all_readers: dict[str, Reader]) -> None:
    assert list(all_readers) and sorted(all_readers) == sorted(NAMES)
    for name, reader in all_readers.items():
        for whole in reader.whole:
            if name not in ("config.json",):
                reader.read(whole)


@pytest.mark.fault(11, "fuzzed images, archives, indices, labels and models (examples: see GSD_TEST_FUZZ)")
@pytest.mark.parametrize("name", NAMES)
def test_damaged_bytes(name: str, all_readers: dict[str, Reader], record_property: Any) -> None:
    reader, tried = all_readers[name], [0]

    @settings(max_examples=EXAMPLES, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(whole=st.sampled_from(reader.whole), changes=CHANGES)
    def survives(whole: bytes, changes: list[tuple[str, float, bytes]]) -> None:
        tried[0] += 1
        reader.survives(changed(whole, changes))

    survives()
    record_property("injections", tried[0])


@pytest.mark.fault(5, "fuzzed values in every JSON file that is read (examples: see GSD_TEST_FUZZ)")
@pytest.mark.parametrize("name", OBJECTS)
def test_other_values(name: str, all_readers: dict[str, Reader], record_property: Any) -> None:
    reader, tried = all_readers[name], [0]
    base = json.loads(reader.whole[0].splitlines()[0] if name == "metrics" else reader.whole[0])

    @settings(max_examples=EXAMPLES, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(data=st.data())
    def survives(data: st.DataObject) -> None:
        tried[0] += 1
        value = dict(base) if data.draw(st.integers(0, 9)) else data.draw(JSON)
        if isinstance(value, dict):
            for key in data.draw(st.lists(st.sampled_from(sorted(base)), min_size=1, max_size=3)):
                value[key] = data.draw(JSON)
        reader.survives(json.dumps(value).encode())

    survives()
    record_property("injections", tried[0])
