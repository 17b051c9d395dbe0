"""Lays out two npm packages of emoji as one folder of images, with their captions and their categories.

    npm pack @lobehub/fluent-emoji-3d@1.1.0 emoji-datasource-google@16.0.0
    for package in *.tgz; do mkdir -p ${package%-*} && tar xzf $package -C ${package%-*}; done
    python -m benchmarks.text.emoji lobehub-fluent-emoji-3d emoji-datasource-google -o emoji

writes emoji/ (PNG and WebP), emoji-captions.csv (name, caption) and emoji-categories.csv (name, category). The captions
are Unicode's names with the tone of the skin and the style: "waving hand, dark skin tone, 3d style".
"""

from __future__ import annotations

import argparse
import csv
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

TONES = {
    "1F3FB": "light skin tone", "1F3FC": "medium light skin tone", "1F3FD": "medium skin tone",
    "1F3FE": "medium dark skin tone", "1F3FF": "dark skin tone",
}  # fmt: skip


def describe(emoji: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """(code, name) of an emoji and of its variants in other tones of skin; codes in lower case."""
    name = " ".join((emoji["name"] or emoji["short_name"]).lower().replace("_", " ").split())
    yield emoji["unified"].lower(), name
    for tones, variant in (emoji.get("skin_variations") or {}).items():
        worn = dict.fromkeys(TONES[tone] for tone in tones.split("-"))
        yield variant["unified"].lower(), ", ".join([name, *worn])


def lay_out(fluent: Path, google: Path, target: Path) -> dict[str, tuple[str, str]]:
    """Copy the images to `target`; returns (caption, category) by file name."""
    known = json.loads((google / "package" / "emoji.json").read_text(encoding="utf-8"))
    named = {code: (name, emoji["category"]) for emoji in known for code, name in describe(emoji)}
    named |= {code.replace("-fe0f", ""): value for code, value in named.items()}
    styles = {
        "flat": (google / "package" / "img" / "google" / "64").glob("*.png"),
        "3d": (fluent / "package" / "assets").glob("*.webp"),
    }
    target.mkdir(parents=True)
    found: dict[str, tuple[str, str]] = {}
    for style, paths in styles.items():
        for path in sorted(paths):
            code = path.stem.lower()
            if (entry := named.get(code) or named.get(code.replace("-fe0f", ""))) is None:
                continue
            file = f"{style}-{path.name}"
            shutil.copyfile(path, target / file)
            found[file] = (f"{entry[0]}, {style} style", entry[1])
    return found


def main() -> None:
    """Write the folder and the two tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("fluent", type=Path)
    parser.add_argument("google", type=Path)
    parser.add_argument("-o", "--output", type=Path, default=Path("emoji"))
    given = parser.parse_args()
    found = lay_out(given.fluent, given.google, given.output)
    for column, what in enumerate(("captions", "categories")):
        path = given.output.with_name(f"{given.output.name}-{what}.csv")
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(("name", "caption" if what == "captions" else "label"))
            writer.writerows((name, values[column]) for name, values in found.items())
    print(f"{len(found):,} images, {len({caption for caption, _ in found.values()}):,} captions")


if __name__ == "__main__":
    main()
