"""Bundle a further feature set: python -m scripts.features FEATURES TRAIN.zip TEST.zip

Copies what `gsd prepare --fit-features` made into gsd_cli/assets/features-NAME, with the statistics of both data sets.
Unlike the domain's first set it stores no features of single images: KID, precision and recall use the first.
"""

from __future__ import annotations

import argparse
import shutil
from dataclasses import replace
from pathlib import Path

import torch

from gsd_cli.base.storage import ASSETS
from gsd_cli.catalogue.run_layout import CARD, FEATURE_WEIGHTS
from gsd_cli.metrics.features import classifier_features
from gsd_cli.metrics.reference import write_statistics
from gsd_cli.metrics.statistics import Statistics


def bundle(features: Path, train: Path, test: Path, assets: Path) -> Path:
    """Write the bundled folder and return it. Also leaves the statistics of TRAIN and TEST next to them."""
    cpu = torch.device("cpu")
    extractor = classifier_features(str(features), cpu)
    folder = assets / f"features-{extractor.name}"
    folder.mkdir(exist_ok=True)
    for name in (FEATURE_WEIGHTS, CARD):
        shutil.copy(features / name, folder / name)
    for split, data in (("train", train), ("test", test)):
        path = write_statistics(data, extractor, cpu, 64, lambda done: None)
        replace(Statistics.load(path), features=None).save(folder / f"{split}.npz")
    return folder


def main() -> None:
    """Bundle what the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("features", type=Path, help="a folder made by gsd prepare --fit-features")
    parser.add_argument("train", type=Path, help="the data set that it was trained on")
    parser.add_argument("test", type=Path, help="held-out images")
    given = parser.parse_args()
    print(bundle(given.features, given.train, given.test, ASSETS))


if __name__ == "__main__":
    main()
