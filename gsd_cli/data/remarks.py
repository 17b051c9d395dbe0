"""Values that do not fit the range of their data set: counted while images are decoded, wherever that happens."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import astuple, dataclass

import numpy as np

from gsd_cli.base.text import plural
from gsd_cli.data.raster import ANY, Ranges, Raster, number_kind, range_of
from gsd_cli.data.value_range import is_within, slack_of

OUTSIDE, NOT_FINITE, UNSEEN = "outside", "not finite", "unseen"
KINDS = {
    "float": "floats", "uint16": "16-bit numbers", "uint32": "32-bit numbers", "int8": "signed 8-bit numbers",
    "int16": "signed 16-bit numbers", "int32": "signed 32-bit numbers",
}  # fmt: skip
"""What people call a kind of numbers (`number_kind`)."""


@dataclass(frozen=True)
class Remark:
    """How many images share it, the index of the first, and the lowest and the highest value in any of them."""

    count: int
    first: int
    low: float
    high: float

    def merge(self, other: Remark | None) -> Remark:
        """This remark and a later one in one."""
        if other is None:
            return self
        return Remark(self.count + other.count, self.first, min(self.low, other.low), max(self.high, other.high))


Remarks = dict[str, Remark]
"""By what is remarked and the kind of numbers: `outside uint16`."""


def add_remarks(remarks: Remarks, raster: Raster, place: int, ranges: Ranges) -> None:
    """Add what one image, which is scaled by `ranges`, gives reason to say."""
    pixels = raster.pixels
    if pixels.dtype == np.uint8:
        return
    kind = number_kind(pixels.dtype)
    finite = np.isfinite(pixels)
    values = pixels if finite.all() else pixels[finite]
    found = float(values.min()), float(values.max())
    reasons = [] if values is pixels else [NOT_FINITE]
    if kind not in ranges and ANY not in ranges:
        reasons.append(UNSEEN)
    elif not is_within(found, range_of(pixels.dtype, ranges), slack_of(kind)):
        reasons.append(OUTSIDE)
    merge_remarks(remarks, {f"{reason} {kind}": Remark(1, place, *found) for reason in reasons})


def merge_remarks(remarks: Remarks, later: Mapping[str, Remark]) -> None:
    """Add the remarks on later images to those on earlier ones."""
    for key, remark in later.items():
        before = remarks.get(key)
        remarks[key] = remark if before is None else before.merge(remark)


def pack_remarks(remarks: Remarks) -> dict[str, list[float]]:
    """Remarks as JSON takes them."""
    return {key: list(astuple(remark)) for key, remark in remarks.items()}


def unpack_remarks(packed: Mapping[str, list[float]]) -> Remarks:
    """What `pack_remarks` packed."""
    return {key: Remark(int(count), int(first), low, high) for key, (count, first, low, high) in packed.items()}


def describe_remarks(
    remarks: Remarks, ranges: Ranges, total: int, name_of: Callable[[int], str], *, remedy: bool = True
) -> list[str]:
    """One line for each remark. name_of: the name of the image at an index; remedy: whether --value-range is one."""
    return [
        _describe(key, remark, ranges, total, name_of(remark.first), remedy) for key, remark in sorted(remarks.items())
    ]


def _describe(key: str, remark: Remark, ranges: Ranges, total: int, name: str, remedy: bool) -> str:
    reason, _, kind = key.rpartition(" ")
    what = KINDS.get(kind, kind)
    low, high = range_of(np.dtype(np.float32 if kind == "float" else kind), ranges)
    if total == 1:
        count, where = f"{name} has", ""
    else:
        count = f"{remark.count:,} of {plural(total, 'image')} {'has' if remark.count == 1 else 'have'}"
        where = f" ({name})" if remark.count == 1 else f" ({name} is the first)"
    if reason == NOT_FINITE:
        return f"{count} values that are not finite{where}: NaN became black, infinity black or white"
    if reason == UNSEEN:
        text = f"{count} {what}, unlike the images looked at{where}: scaled from {low:g} (black) to {high:g} (white)"
        return text + ("; --value-range changes it" if remedy else "")
    text = f"{count} {what} outside {low:g} to {high:g}{where}, which became black or white"
    wider = f"{min(low, remark.low):.6g}:{max(high, remark.high):.6g}"
    return text + (f"; --value-range={wider} keeps them" if remedy else "")
