"""Options of gsd bench."""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, PositiveInt, model_validator

from gsd_cli.base.text import did_you_mean
from gsd_cli.catalogue.exports import Backend
from gsd_cli.catalogue.registry import BASELINES, BUNDLED_MODELS, METRIC_ALIASES, METRICS, sampler_words
from gsd_cli.options.common import Common
from gsd_cli.options.fields import BACKEND_HELP, MODEL, REFINE_HELP, Positive, Refine, opt

NEEDS = {"max_fid": "fd", "max_ppl": "ppl", "min_speedup": "time"}
"""The metric that each threshold applies to."""


def split(names: str) -> list[str]:
    """Split a comma-separated list into its non-empty names."""
    return [name for name in (name.strip() for name in names.split(",")) if name]


def _known(
    names: str, what: str, known: Collection[str], fits: Callable[[str], object],
    spelt: Callable[[str], str] = lambda name: name,
) -> str:  # fmt: skip
    """The names, if all fit. spelt: a name as it would be spelt, which is suggested if it fits."""
    wrong = [
        f"{name!r}{did_you_mean(name, (spelt(name),) if fits(spelt(name)) else known)}"
        for name in split(names)
        if not fits(name)
    ]
    if wrong:
        raise ValueError(f"unknown {what}: {', '.join(wrong)}; known: {', '.join(known)}")
    return names


def _metrics(names: str) -> str:
    if not split(names):
        raise ValueError(f"no metric given; known: {', '.join(METRICS)}")
    return _known(names, "metric", METRICS, METRICS.__contains__)


def _metric_list() -> str:
    """The metrics without their aliases, for --help."""
    names = [name for name in METRICS if name not in METRIC_ALIASES]
    return ", ".join(f"{name} ({METRICS[name]})" if METRICS[name] else name for name in names)


def _baselines(names: str) -> str:
    """Check names of samplers and folders. Whether a folder holds a generator is checked when it is opened."""
    known = (*BASELINES, *BUNDLED_MODELS)
    return _known(names, "sampler or model", known, lambda name: sampler_words(name) or is_folder(name), _with_dash)


def _with_dash(name: str) -> str:
    """ddim-10 for ddim10."""
    kind = name.rstrip("0123456789")
    return f"{kind}-{name.removeprefix(kind)}"


def is_folder(name: str) -> bool:
    """Whether an entry of --compare names a generator: a folder, or one that comes with gsd."""
    return "/" in name or name in BUNDLED_MODELS or Path(name).is_dir()


class BenchOptions(Common):
    """Measure a generator against its teacher's samplers."""

    model: str | None = MODEL
    compare: Annotated[str, AfterValidator(_baselines)] = opt(
        "msa",
        f"Baselines, comma-separated: samplers ({', '.join(BASELINES)}) or generators (runs/a, {BUNDLED_MODELS[0]}).",
    )
    num_samples: Annotated[int, Field(ge=2)] | None = opt(
        None, "Samples for the Frechet distance; default: as many as the bundled baseline has, else 2,000.", short="-N"
    )
    metrics: Annotated[str, AfterValidator(_metrics)] = opt(
        "fd,grain,ppl,time",
        f"Metrics, comma-separated: {_metric_list()}.",
    )
    features: str | None = opt(
        None,
        "Feature set: inception, clip, fashion, fashion-2, or a folder that gsd prepare --fit-features wrote; default: "
        "all sets of the model's domain.",
        metavar="DIR",
    )
    stats: str | None = opt(
        None,
        "Reference for real images: statistics (.npz), a prepared data set, or a clean-fid name (cifar10-train, "
        "ffhq-256, ...); default: the statistics of the model's training data.",
        metavar="REF.npz|DATA.zip|NAME",
    )
    prompts: Path | None = opt(
        None,
        "Prompts that the seeds of all models draw from, as gsd prepare wrote them; default: those the model keeps.",
        metavar="FILE",
    )
    ppl_samples: Annotated[int, Field(ge=10)] = opt(200, "Pairs of latents for the perceptual path length (PPL).")
    edit_samples: Annotated[int, Field(ge=10)] = opt(100, "Images edited per attribute, for the metric edit.")
    guidance: Positive | None = opt(
        None,
        "Classifier-free guidance of the teacher's samplers; default: K of a generator that was distilled with "
        "--guidance teacher:K, else 1 (none).",
        metavar="K",
    )
    refine: Refine | None = opt(None, REFINE_HELP + " It holds for --model alone.", metavar="K")
    backend: Backend | None = opt(None, BACKEND_HELP, metavar="torch|onnx")
    time_batch: PositiveInt = opt(1, "Images per call while timing.")
    compile: bool = opt(False, "Compile the networks first. Takes minutes; worthwhile for thousands of samples.")
    ablate: bool = opt(
        False,
        "Also distil variants with one loss left out, and compare them.",
        panel="Ablation",
    )
    ablate_preset: Literal["quick", "standard", "long", "paper", "sid"] = opt(
        "quick", "Preset for the runs of the variants.", panel="Ablation"
    )
    ablate_kimg: Positive | None = opt(
        None, "Length of each variant's run, in thousands of images; default: set by the preset.", panel="Ablation"
    )
    ablate_runs: Path | None = opt(
        None,
        "Folder for the runs of the variants; default: runs/ablate-TEACHER-PRESET.",
        panel="Ablation",
        metavar="DIR",
    )
    report: Path | None = opt(
        None,
        "Also write report.html, tables (.md, .csv, .tex), bench.json and figures to this folder, and print their "
        "paths on stdout. Without it and --json, stdout gets nothing: tables go to stderr.",
        metavar="DIR",
    )
    max_fid: Positive | None = opt(
        None, "Exit with code 7 when the Frechet distance is above this value.", panel="Thresholds"
    )
    max_ppl: Positive | None = opt(None, "Exit with code 7 when the PPL is above this value.", panel="Thresholds")
    min_speedup: Positive | None = opt(
        None, "Exit with code 7 when the speedup over the first baseline is below this factor.", panel="Thresholds"
    )

    @property
    def wanted(self) -> set[str]:
        """The selected metrics, each under one name."""
        return {METRIC_ALIASES.get(name, name) for name in split(self.metrics)}

    @model_validator(mode="after")
    def _thresholds_are_measured(self) -> BenchOptions:
        missing = [
            f"--{threshold.replace('_', '-')} needs {metric} among --metrics"
            for threshold, metric in NEEDS.items()
            if getattr(self, threshold) is not None and metric not in self.wanted
        ]
        if self.min_speedup is not None and not split(self.compare):
            missing.append("--min-speedup needs a baseline: --compare msa")
        if self.refine is not None and self.backend == "onnx":
            missing.append("--refine calls the teacher, which has no exported file: leave out --backend onnx")
        if not self.ablate:
            idle = ("ablate_preset", "ablate_kimg", "ablate_runs")
            missing += [
                f"--{name.replace('_', '-')} does nothing without --ablate"
                for name in idle
                if getattr(self, name) != BenchOptions.model_fields[name].default
            ]
        if missing:
            raise ValueError("; ".join(missing))
        return self
