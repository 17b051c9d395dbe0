"""gsd's measures against other people's, on the same input: how far apart the figures are.

    python benchmarks/parity.py [-o docs/results/parity.md]

Everything is made here from seeds; nothing is downloaded. Inception is replaced by a file of the same
TorchScript interface with random weights: what is compared is all that happens around the network.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from gsd_cli.base.download import file_sha256
from gsd_cli.base.versions import versions
from gsd_cli.data.pixels import to_uint8
from gsd_cli.metrics import features as features_module
from gsd_cli.metrics.features import inception_features
from gsd_cli.metrics.kid import kernel_distance
from gsd_cli.metrics.precision_recall import precision_recall
from gsd_cli.metrics.statistics import frechet_distance, gaussian_statistics

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Parity:
    """One figure twice. limit: the largest relative difference that is accepted (0: equal bit for bit)."""

    measure: str
    against: str
    ours: float
    theirs: float
    limit: float

    @property
    def difference(self) -> float:
        """Relative to theirs."""
        return abs(self.ours - self.theirs) / max(abs(self.theirs), 1e-12)


def feature_sets(n: int = 1500, size: int = 64) -> tuple[Tensor, Tensor]:
    """Two correlated Gaussian clouds, float32 [n, size]."""
    random = torch.Generator().manual_seed(0)
    mix = torch.randn(size, size, generator=random) / size**0.5
    made, real = (torch.randn(n, size, generator=random) @ mix for _ in range(2))
    return 0.9 * made + 0.1, real


def frechet() -> list[Parity]:
    """On features."""
    from cleanfid.fid import frechet_distance as clean
    from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric

    made, real = feature_sets()
    ours = frechet_distance(gaussian_statistics([made], "x"), gaussian_statistics([real], "x"))
    arrays = [x.double().numpy() for x in (made, real)]
    moments = [m for x in arrays for m in (x.mean(0), np.cov(x, rowvar=False))]
    fidelity = fid_statistics_to_metric(*(fid_features_to_statistics(x.double()) for x in (made, real)), verbose=False)
    return [
        Parity("Frechet distance, 1,500 features of 64", "clean-fid", ours, float(clean(*moments)), 1e-4),
        Parity("the same", "torch-fidelity", ours, fidelity["frechet_inception_distance"], 1e-4),
    ]


def kernel() -> list[Parity]:
    """KID on one subset of everything: there is no choice in it."""
    from torch_fidelity.metric_kid import kid_features_to_metric

    made, real = feature_sets(800)
    theirs = kid_features_to_metric(
        made.double(), real.double(), kid_subsets=1, kid_subset_size=800, verbose=False, rng_seed=0
    )["kernel_inception_distance_mean"]
    return [Parity("KID, 800 features of 64", "torch-fidelity", kernel_distance(made, real, 1, 800).mean, theirs, 1e-9)]


def fidelity_and_variety() -> list[Parity]:
    """Improved precision and recall, k = 3."""
    from torch_fidelity.metric_prc import prc_features_to_metric

    made, real = feature_sets(800, 16)
    theirs = prc_features_to_metric(
        made, real, prc_neighborhood=3, prc_batch_size=100, save_cpu_ram=True, verbose=False
    )
    ours = precision_recall(made, real)
    return [
        Parity("precision, 800 features of 16", "torch-fidelity", ours.precision, theirs["precision"], 1e-6),
        Parity("recall, the same", "torch-fidelity", ours.recall, theirs["recall"], 1e-6),
    ]


class StandIn(torch.nn.Module):
    """A TorchScript file of Inception's interface: `layers` maps [B, 3, 299, 299] to 2048 features."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d((32, 64)), torch.nn.Conv2d(3, 1, 1))

    def forward(self, x: Tensor, return_features: bool = True) -> Tensor:
        """What clean-fid feeds Inception, to 2048 numbers."""
        return self.layers((x - 128) / 128)


def whole_road() -> list[Parity]:
    """Two folders of PNGs through clean-fid, and the same images through gsd."""
    from cleanfid.fid import compute_fid
    from cleanfid.inception_torchscript import InceptionV3W
    from cleanfid.resize import build_resizer

    random = torch.Generator().manual_seed(1)
    sets = [torch.rand(40, 3, 32, 32, generator=random) * 2 - 1, torch.rand(40, 3, 32, 32, generator=random) - 0.7]
    with tempfile.TemporaryDirectory() as place:
        cache = Path(place)
        path = cache / "inception" / features_module.INCEPTION_FILE
        path.parent.mkdir()
        torch.manual_seed(0)
        torch.jit.script(StandIn().eval()).save(str(path))
        folders = []
        for k, images in enumerate(sets):
            folders.append(cache / str(k))
            folders[-1].mkdir()
            for i, pixels in enumerate(to_uint8(images).permute(0, 2, 3, 1).numpy()):
                Image.fromarray(pixels).save(folders[-1] / f"{i:03}.png")
        net = InceptionV3W(str(path.parent), download=False)
        kept = slice(256)  # of 2048 features: clean-fid's matrix root of all of them takes most of a minute
        theirs = compute_fid(
            *map(str, folders), mode="clean", custom_feat_extractor=lambda batch: net(batch)[:, kept], num_workers=0,
            device=CPU, verbose=False,
        )  # fmt: skip
        seen: list[Tensor] = []
        digest = file_sha256(path)
        with mock.patch.object(features_module, "INCEPTION_SHA256", digest):
            extractor = inception_features(cache, CPU, offline=True)
        extractor.net.register_forward_pre_hook(lambda _m, inputs: seen.append(inputs[0]))
        made, real = (gaussian_statistics([extractor.features(one)[:, kept]], "inception") for one in sets)
    resize = build_resizer("clean")
    fed = np.stack([resize(image) for image in to_uint8(sets[0]).permute(0, 2, 3, 1).numpy()]).transpose(0, 3, 1, 2)
    off = float(np.abs(fed - seen[0].numpy()).max()) if seen else float("nan")
    return [
        Parity(
            "FID from two folders of 40 PNGs, stand-in Inception, 256 of its features",
            "clean-fid",
            frechet_distance(made, real),
            theirs,
            1e-4,
        ),
        Parity("largest difference of the pixels fed to Inception", "clean-fid", off, 0.0, 0.0),
    ]


CHECKS: list[Callable[[], list[Parity]]] = [frechet, kernel, fidelity_and_variety, whole_road]


def main() -> None:
    """Print the table, or write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path)
    arguments = parser.parse_args()
    found = [parity for check in CHECKS for parity in check()]
    lines = [
        "# Parity with other implementations",
        "",
        f"{sum(p.difference <= p.limit for p in found)} of {len(found)} figures agree with the same figure of another "
        "implementation within the limit.",
        "",
        "Made by `python benchmarks/parity.py -o docs/results/parity.md`; nothing is downloaded, seeds are fixed.",
        "`tests/metrics/test_parity.py` checks that every difference stays below its limit.",
        "",
        "| measure | against | gsd | theirs | relative difference | limit |",
        "| --- | --- | ---: | ---: | ---: | ---: |",
        *(
            f"| {p.measure} | {p.against} | {p.ours:.10g} | {p.theirs:.10g} | {p.difference:.1e} | {p.limit:.0e} |"
            for p in found
        ),
        "",
        "`tests/core/sampling/test_samplers.py` and `tests/core/sampling/test_ode.py` compare the samplers (ancestral,",
        "DDIM, Euler, Heun, DPM-Solver++) with diffusers' schedulers on the same noise.",
        "`tests/metrics/test_path_length.py` compares the perceptual path length with that of torchmetrics, within the",
        "sampling error.",
        "",
        "Versions: " + ", ".join(f"{name} {version}" for name, version in versions().items()) + ".",
        "",
    ]
    if arguments.output:
        arguments.output.write_text("\n".join(lines), encoding="utf-8")
    else:
        print("\n".join(lines))


if __name__ == "__main__":
    main()
