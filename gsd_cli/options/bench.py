"""Options of gsd bench."""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, PositiveInt, model_validator

from gsd_cli.base.text import did_you_mean
from gsd_cli.catalogue.registry import BASELINES, METRIC_ALIASES, METRICS, sampler_words
from gsd_cli.options.common import Common
from gsd_cli.options.fields import MODEL, Positive, opt

NEEDS = {"max_fid": "fd", "max_ppl": "ppl", "min_speedup": "time"}
"""What each threshold judges."""


def split(names: str) -> list[str]:
    """The words of a list with commas."""
    return [name for name in (name.strip() for name in names.split(",")) if name]


def _known(names: str, what: str, known: Collection[str], fits: Callable[[str], object]) -> str:
    wrong = [f"{name!r}{did_you_mean(name, known)}" for name in split(names) if not fits(name)]
    if wrong:
        raise ValueError(f"no {what}: {', '.join(wrong)}; there are {', '.join(known)}")
    return names


def _metrics(names: str) -> str:
    if not split(names):
        raise ValueError(f"no metric is named; there are {', '.join(METRICS)}")
    return _known(names, "metric", METRICS, METRICS.__contains__)


def _metric_list() -> str:
    """The metrics without their aliases, for --help."""
    names = [name for name in METRICS if name not in METRIC_ALIASES]
    return ", ".join(f"{name} ({METRICS[name]})" if METRICS[name] else name for name in names)


def _baselines(names: str) -> str:
    """Samplers, or folders; whether a folder holds a generator is seen when it is opened."""
    return _known(names, "sampler or folder", BASELINES, lambda name: sampler_words(name) or is_folder(name))


def is_folder(name: str) -> bool:
    """Whether a word of --compare means a generator's folder."""
    return "/" in name or Path(name).is_dir()


class BenchOptions(Common):
    """Measure a generator against its teacher: the paper's Table 1."""

    model: str | None = MODEL
    compare: Annotated[str, AfterValidator(_baselines)] = opt(
        "msa",
        "Baselines, comma-separated: msa, msa-100, ddim-50, heun-18, euler-50, dpm++-20, pc-500, hybrid-18, "
        "one-step-teacher; or other generators, by folder: runs/a.",
    )
    num_samples: Annotated[int, Field(ge=2)] | None = opt(
        None, "Samples for the Frechet distance; default: as many as the shipped baseline has.", short="-N"
    )
    metrics: Annotated[str, AfterValidator(_metrics)] = opt(
        "fd,grain,ppl,time",
        f"Which figures: {_metric_list()}.",
    )
    features: str | None = opt(
        None,
        "Features: inception, clip, fashion, fashion-2, or a folder made by --fit-features; default: all of the "
        "model's domain.",
        metavar="DIR",
    )
    stats: str | None = opt(
        None,
        "What is real: statistics (.npz), a prepared data set, or clean-fid's by name (cifar10-train, ffhq-256, ...); "
        "default: of the model's own data.",
        metavar="REF.npz|DATA.zip|NAME",
    )
    ppl_samples: Annotated[int, Field(ge=10)] = opt(200, "Pairs for the perceptual path length.")
    edit_samples: Annotated[int, Field(ge=10)] = opt(100, "Pictures edited for each attribute.")
    time_batch: PositiveInt = opt(1, "Images a call while timing.")
    compile: bool = opt(False, "Compile the networks first: minutes, worth it when thousands are sampled.")
    ablate: bool = opt(
        False, "Also distil the variants without either loss and compare them: the paper's Table 2.", panel="Ablation"
    )
    ablate_preset: Literal["quick", "standard", "long", "paper", "sid"] = opt(
        "quick", "Preset of the variants' runs.", panel="Ablation"
    )
    ablate_kimg: Positive | None = opt(
        None, "Length of the variants' runs in thousand images; default: the preset's.", panel="Ablation"
    )
    ablate_runs: Path | None = opt(
        None, "Where the variants' runs live; default runs/ablate-TEACHER-PRESET.", panel="Ablation", metavar="DIR"
    )
    report: Path | None = opt(
        None, "Also write report.html, tables (.md, .csv, .tex), bench.json and pictures here.", metavar="DIR"
    )
    max_fid: Positive | None = opt(None, "Exit 7 when the Frechet distance is above this.", panel="Thresholds")
    max_ppl: Positive | None = opt(None, "Exit 7 when the perceptual path length is above this.", panel="Thresholds")
    min_speedup: Positive | None = opt(
        None, "Exit 7 when the model is not this many times faster than the first baseline.", panel="Thresholds"
    )

    @property
    def wanted(self) -> set[str]:
        """The metrics asked for, by one name each."""
        return {METRIC_ALIASES.get(name, name) for name in split(self.metrics)}

    @model_validator(mode="after")
    def _thresholds_are_measured(self) -> BenchOptions:
        missing = [
            f"--{threshold.replace('_', '-')} needs {metric} among --metrics"
            for threshold, metric in NEEDS.items()
            if getattr(self, threshold) is not None and metric not in self.wanted
        ]
        if missing:
            raise ValueError("; ".join(missing))
        return self
