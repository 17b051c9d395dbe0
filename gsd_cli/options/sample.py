"""Options of gsd sample."""

from __future__ import annotations

from pathlib import Path

from pydantic import PositiveInt, model_validator

from gsd_cli.base.errors import UsageError
from gsd_cli.catalogue.exports import Backend, ExportPrecision, is_export, require_export_format
from gsd_cli.catalogue.file_formats import (
    ARCHIVE_FORMATS,
    FILE_SUFFIXES,
    IMAGE_FORMATS,
    SAMPLE_FORMATS,
    SampleFormat,
)
from gsd_cli.options.common import Common
from gsd_cli.options.fields import (
    BACKEND_HELP,
    CLASS,
    EXPORT_PRECISION,
    MODEL_OR_FILE,
    REFINE_HELP,
    SCALE_HELP,
    Refine,
    Scale,
    Share,
    opt,
)
from gsd_cli.options.output_format import JSON_ON_STDOUT, contradicting_formats
from gsd_cli.options.seeds import SeedList

DEFAULT_COUNT = 64
OF_IMAGES = (
    "num_samples", "seeds", "output", "grid", "format", "scale", "truncation", "refine", "class_", "prompt",
    "backend",
)  # fmt: skip
"""Options that say which images are made, and how."""
WRITTEN = ", ".join(f".{name}" for name in (*IMAGE_FORMATS, *ARCHIVE_FORMATS))


class SampleOptions(Common):
    """Generate images, one network call each, or a few."""

    model: str | None = MODEL_OR_FILE
    num_samples: PositiveInt | None = opt(None, "Number of images: the seeds 0 to N-1; default: 64.", short="-N")
    seeds: SeedList | None = opt(
        None, "Seeds of the images, as in 0-63,100. An image depends only on its seed.", metavar="LIST"
    )
    output: str = opt(
        "samples",
        f"Output: a folder, or a file ({WRITTEN}); - writes to stdout.",
        short="-o",
        metavar="PATH",
    )
    grid: bool = opt(False, "Write one image of all samples as tiles. -o FILE.png does so for several samples anyway.")
    format: SampleFormat | None = opt(None, "File format for -o -, or for the images in a folder; default: png.")
    scale: Scale = opt(1, SCALE_HELP, metavar="K")
    truncation: Share = opt(
        1.0, "Scale factor for latents, 0 to 1; lower values give more typical and less varied images."
    )
    refine: Refine | None = opt(None, REFINE_HELP, metavar="K")
    class_: str | None = CLASS
    prompt: str | None = opt(
        None, "Text of all images, encoded by the teacher's text encoder; for text-conditional models.", metavar="TEXT"
    )
    prompts: Path | None = opt(
        None, "Prompts that the seeds draw from, as gsd prepare wrote them; default: those the model keeps.",
        metavar="FILE",
    )  # fmt: skip

    backend: Backend | None = opt(None, BACKEND_HELP, panel="Export", metavar="torch|onnx")
    export: Path | None = opt(
        None,
        "Write the whole generator as one file that runs without gsd, and make no images: .onnx, or .pt2 for torch.",
        panel="Export",
        metavar="FILE",
    )
    export_precision: ExportPrecision = EXPORT_PRECISION

    @model_validator(mode="after")
    def _no_images_with_export(self) -> SampleOptions:
        if self.export is not None:
            self._refuse_options_of_images()
        onnx = self.backend == "onnx" or is_export(self.model)
        if self.backend == "torch" and is_export(self.model):
            raise ValueError(f"--backend torch: {self.model} is run by onnxruntime; give the generator's folder")
        if onnx and self.refine is not None:
            raise ValueError(
                "--refine calls the teacher, which has no exported file; use torch and the generator's folder"
            )
        if onnx and self.precision not in ("auto", "fp32"):
            raise ValueError(f"--precision {self.precision}: onnxruntime computes in fp32")
        if self.export is None and "export_precision" in self.model_fields_set and self.backend != "onnx":
            raise ValueError("--export-precision does nothing without --export FILE.onnx or --backend onnx")
        return self

    def _refuse_options_of_images(self) -> None:
        given = [name for name in OF_IMAGES if getattr(self, name) != SampleOptions.model_fields[name].default]
        if given:
            flags = ", ".join(f"--{name.rstrip('_').replace('_', '-')}" for name in given)
            raise ValueError(f"--export writes the model and makes no images: leave out {flags}")

    @model_validator(mode="after")
    def _one_count(self) -> SampleOptions:
        if self.num_samples is not None and self.seeds is not None:
            raise ValueError("give --num-samples or --seeds, not both")
        if self.num_samples is not None and self.num_samples > 10_000_000:
            raise ValueError("--num-samples is limited to 10,000,000")
        if sum(given is not None for given in (self.class_, self.prompt, self.prompts)) > 1:
            raise ValueError("give one of --class, --prompt and --prompts")
        return self


def resolve_export(options: SampleOptions) -> Path | None:
    """The file of --export; None without it. Raises UsageError for one that cannot be written from this model."""
    if options.export is None:
        return None
    if is_export(options.model):
        raise UsageError(
            [f"--export: {options.model} is an exported file itself"], hint="give the generator's folder with --model"
        )
    require_export_format(options.export, options.export_precision)
    return options.export


def resolve_seeds(options: SampleOptions) -> tuple[int, ...] | range:
    """The seeds of --seeds or --num-samples."""
    return options.seeds if options.seeds is not None else range(options.num_samples or DEFAULT_COUNT)


def resolve_format(options: SampleOptions) -> str:
    """The format of the output: png, jpg or webp (one image), npz, zip, tar or folder.

    Raises UsageError if --format, --grid, --scale and the name of the output contradict each other.
    """
    format_ = _format_of_output(options)
    problems, hints = [], []
    if options.grid and format_ not in IMAGE_FORMATS:
        problems.append("--grid writes one image" + ("" if format_ == "folder" else f", not a {format_}"))
        hints.append("give -o grid.png")
    if options.scale > 1 and format_ == "npz":
        problems.append("--scale enlarges images for people; an .npz holds the pixels that the model makes")
        hints.append("leave out --scale, or write images")
    if options.json_ and options.output == "-":
        problems.append(JSON_ON_STDOUT)
        hints.append("write the images to a file or a folder with -o")
    if problems:
        raise UsageError(problems, hint="\n".join(hints))
    return format_


def _format_of_output(options: SampleOptions) -> str:
    if options.output == "-":
        return options.format or "png"
    suffix = "" if options.output.endswith("/") else Path(options.output).suffix.lower()
    named = SAMPLE_FORMATS.get(suffix)
    if named is None:
        if suffix in FILE_SUFFIXES:
            raise UsageError([f"-o {options.output}: {suffix} files are not written"], hint=f"{WRITTEN}, or a folder")
        if options.format in ARCHIVE_FORMATS and (options.output.endswith("/") or Path(options.output).is_dir()):
            problem, hint = contradicting_formats(options.format, options.output, folder=True)
            raise UsageError([problem], hint=hint)
        return "folder" if options.format in IMAGE_FORMATS else options.format or "folder"
    if options.format not in (None, named):
        problem, hint = contradicting_formats(str(options.format), options.output, folder=False)
        raise UsageError([problem], hint=hint)
    return named
