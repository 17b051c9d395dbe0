from __future__ import annotations

from pathlib import Path

import pytest

from gsd_cli.base.text import format_bytes
from gsd_cli.catalogue.cost import describe_sample_size, disk_needed, distillation, growth, teacher_parameters
from gsd_cli.options.seeds import format_seeds, parse_seeds


def test_parameters_of_the_bundled_teacher_and_of_a_folder(toy_teacher_folder: Path) -> None:
    from gsd_cli.core.models.diffusers_folder import load_denoiser

    assert teacher_parameters("ddpm-cifar10") == 35_746_307
    assert teacher_parameters("someone/else") is None
    counted = sum(p.numel() for p in load_denoiser(toy_teacher_folder).parameters())
    assert teacher_parameters(str(toy_teacher_folder)) == pytest.approx(counted, rel=0.1)


def test_what_is_said() -> None:
    (passes,) = distillation("ddpm-fashion", 132_096.4)
    assert passes.startswith("about 132,096 forward passes of 1.7 M parameters")
    assert distillation("someone/else", 10) == []
    (passes,) = distillation("ddpm-fashion", 12, own_passes=4, growth=2.5)
    assert passes.startswith("about 8 forward passes of 1.7 M parameters and 4 of the student's 4.3 M; ")
    parameters = teacher_parameters("ddpm-fashion") or 0
    # checkpoints: fake score and its Adam; generator, average and Adam; two of them, and the generator's folder
    assert disk_needed("ddpm-fashion") == 4 * parameters * (2 * 7 + 1)
    assert disk_needed("ddpm-fashion", 3) == 4 * parameters * (2 * (3 + 3 * 4) + 3)
    # checkpoints: network, average and Adam; two networks in the generator's folder
    assert disk_needed("ddpm-fashion", refining=True) == 4 * parameters * (2 * 4 + 2)
    assert (growth(1, 1), growth(2, 1), growth(2, 3)) == (1, 4, 12)
    assert describe_sample_size("fashion", 64) == "64 images (one network call each, 66 kB of pixels)"
    assert describe_sample_size("fashion-refined", 64) == "64 images (2 network calls each, 66 kB of pixels)"
    assert describe_sample_size("nowhere", 1) == "1 image"
    assert [format_bytes(n) for n in (9, 1200, 75_800_000, 5e9)] == ["9 B", "1 kB", "76 MB", "5.0 GB"]


@pytest.mark.parametrize("text", ["0-63,100", "5", "3,1,2", "0-9999"])
def test_seeds_are_written_as_they_are_read(text: str) -> None:
    assert parse_seeds(format_seeds(parse_seeds(text))) == parse_seeds(text)
