"""The names of teachers, models, samplers, data sets and metrics that a user can type, once. Plain data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class TeacherEntry:
    """One known teacher.

    hub: its repository; None for the bundled one. size: pixels per side. statistics: a name for `gsd bench --stats`.
    data: a file in assets/ with some of the real images that it was trained on. data_set: the images that it was
    trained on, by their name on the hub, if they are there.
    """

    hub: str | None
    size: int
    parameters: int
    licence: str
    caution: str | None = None
    statistics: str | None = None
    data: str | None = None
    data_set: str | None = None


TEACHERS: dict[str, TeacherEntry] = {
    "ddpm-fashion": TeacherEntry(
        None, 32, 1_722_665, "MIT", data="fashion-mnist.zip", data_set="zalando-datasets/fashion_mnist"
    ),
    "ddpm-cifar10": TeacherEntry(
        "google/ddpm-cifar10-32",
        32,
        35_746_307,
        "Apache-2.0",
        "google/ddpm-cifar10-32 holds the weights before averaging (FID about 12.4, not the paper's 3.17); "
        "averaged ones: --teacher fusing/ddpm-cifar10-ema",
        "cifar10-train",
        data_set="uoft-cs/cifar10",
    ),
    "ddpm-celebahq": TeacherEntry("google/ddpm-ema-celebahq-256", 256, 113_673_219, "Apache-2.0"),
    "ddpm-bedroom": TeacherEntry("google/ddpm-ema-bedroom-256", 256, 113_673_219, "Apache-2.0"),
    "ddpm-church": TeacherEntry("google/ddpm-ema-church-256", 256, 113_673_219, "Apache-2.0", statistics="lsun-church"),
    "ncsnpp-celebahq": TeacherEntry("google/ncsnpp-celebahq-256", 256, 65_574_549, "Apache-2.0"),
    "ncsnpp-ffhq": TeacherEntry("google/ncsnpp-ffhq-256", 256, 65_574_549, "Apache-2.0", statistics="ffhq-256"),
    "ncsnpp-bedroom": TeacherEntry("google/ncsnpp-bedroom-256", 256, 65_574_549, "Apache-2.0"),
    "ncsnpp-church": TeacherEntry("google/ncsnpp-church-256", 256, 65_574_549, "Apache-2.0", statistics="lsun-church"),
    "dit-imagenet-256": TeacherEntry(
        "facebook/DiT-XL-2-256",
        256,
        749_826_464,
        "CC BY-NC 4.0",
        "facebook/DiT-XL-2-256 has 750 million parameters as diffusers stores it: a distillation keeps 32 GB of "
        "weights and optimizer states before activations; its licence, CC BY-NC 4.0, excludes commercial use",
        data_set="ILSVRC/imagenet-1k",
    ),
    "sd-1.5": TeacherEntry(
        "stable-diffusion-v1-5/stable-diffusion-v1-5",
        512,
        859_520_964,
        "CreativeML OpenRAIL-M",
        "Stable Diffusion 1.5 is conditioned on texts (--prompts) and made for --guidance; whole networks need 36 GB "
        "before activations, --adapters 16 needs 6 GB, with --irl off 2 GB; its licence restricts what images may be "
        "used for",
    ),
    "sdxl": TeacherEntry(
        "stabilityai/stable-diffusion-xl-base-1.0",
        1024,
        2_567_463_684,
        "CreativeML OpenRAIL++-M",
        "SDXL is conditioned on texts (--prompts) and made for --guidance; whole networks need 108 GB before "
        "activations, --adapters 16 needs 17 GB, with --irl off 7 GB; its licence restricts what images may be used "
        "for",
    ),
    "sd3-medium": TeacherEntry(
        "stabilityai/stable-diffusion-3-medium-diffusers",
        1024,
        2_028_328_000,
        "Stability AI Community",
        "Stable Diffusion 3 medium is conditioned on texts (--prompts) and made for --guidance; whole networks need 85 "
        "GB before activations, --adapters 16 needs 13 GB, with --irl off 5 GB; its licence, which the hub asks you to "
        "accept, limits commercial use",
    ),
    "sana-0.6b": TeacherEntry(
        "Efficient-Large-Model/Sana_600M_1024px_diffusers",
        1024,
        591_747_872,
        "NSCL v2-custom",
        "SANA 0.6B is conditioned on texts (--prompts) and made for --guidance; whole networks need 25 GB before "
        "activations, --adapters 16 needs 4 GB, with --irl off 2 GB; its text encoder, Gemma 2 2B, has terms of use; "
        "the licence, NVIDIA's NSCL v2-custom, excludes commercial use",
    ),
    "flux-schnell": TeacherEntry(
        "black-forest-labs/FLUX.1-schnell",
        1024,
        11_891_178_560,
        "Apache-2.0",
        "FLUX.1 schnell is conditioned on texts (--prompts); whole networks need 499 GB before activations, --adapters "
        "16 needs 75 GB, with --irl off 27 GB; it was itself distilled to 1 to 4 steps, with guidance in its weights: "
        "leave out --guidance, and do not expect its output to be the velocity of a flow at every noise level",
    ),
}

BUNDLED_MODELS = ("fashion", "fashion-refined")
SHARED_WEIGHTS = {"fashion-refined": "fashion"}
"""Bundled models whose first network is that of another, which keeps its weights."""

DATA_SETS = ("cifar10", "fashion-mnist", "celeba-hq", "lsun-bedroom", "lsun-church")
"""Data sets that `gsd prepare` knows by name."""
PUBLISHED_STATISTICS = (
    "cifar10-train", "cifar10-test", "ffhq-256", "ffhq-1024", "lsun-church", "lsun-horse", "lsun-cat", "afhq-cat",
    "afhq-dog", "afhq-wild",
)  # fmt: skip
"""Statistics of real images that clean-fid publishes: names for `gsd bench --stats`."""
MEASURED_ATTRIBUTES = ("brightness", "contrast", "width", "height", "symmetry")
"""Attributes that are measured in the pixels, so that every model has them."""

SAMPLERS: dict[str, int | None] = {
    "msa": None, "ddim": 50, "euler": 50, "heun": 18, "dpm++": 20, "pc": 500, "hybrid": 18,
}  # fmt: skip
"""The default number of steps of each kind of sampler; None for every step of the teacher. The samplers themselves:
`core/sampling/samplers.py`."""
SMALLEST_STEPS = {"hybrid": 4}
"""The smallest number of steps of the kinds that need more than one."""
DISCRETE_SAMPLERS = ("msa", "ddim")
"""The kinds that step as the teacher's own scheduler does; a discrete DDPM has a finite number of levels."""
ONE_STEP = "one-step-teacher"
BASELINES = ("msa", "msa-100", "ddim-50", "heun-18", "euler-50", "dpm++-20", "pc-500", "hybrid-18", ONE_STEP)
"""Samplers to suggest; names with other numbers of steps are valid too."""

TEACHER = "teacher"
"""`--data teacher` stands for samples of the teacher itself, made by the sampler SAMPLES_BY."""
SAMPLES_BY = "dpm++-20"

METRICS = {
    "fd": "or fid", "fid": "", "kid": "", "pr": "precision, recall, density, coverage",
    "clip-score": "for text-conditional models", "grain": "", "ppl": "", "isometry": "", "diversity": "", "time": "",
    "memory": "", "throughput": "", "edit": "",
}  # fmt: skip
"""Metrics of `gsd bench`, each with what --help adds to its name."""
METRIC_ALIASES = {"fid": "fd"}

FEATURES: dict[tuple[str, int, int], tuple[str, ...]] = {("fashion-mnist", 32, 1): ("fashion", "fashion-2")}
"""The bundled feature sets for data sets of a source, size and channels. The first is the main one: models name it,
thresholds and evaluations during training use it. The others, of other architectures, give a second opinion."""


def bundled_features(record: Mapping[str, Any]) -> str | None:
    """The main bundled feature set for a data set, by its record's source, size and channels; None without one."""
    source = str(record.get("source", "")).partition(" ")[0]
    fitting = FEATURES.get((source, record.get("size", 0), record.get("channels", 0)))
    return fitting[0] if fitting else None


def further_features(name: str | None) -> tuple[str, ...]:
    """The other bundled feature sets for the data of the main set `name`."""
    return next((sets[1:] for sets in FEATURES.values() if sets[0] == name), ())


def sampler_words(name: str) -> tuple[str, int | None] | None:
    """The kind and the number of steps (None: the kind's default) in a sampler's name; None where it is not one."""
    if name == ONE_STEP:
        return name, 1
    kind, dash, steps = name.partition("-")
    if kind not in SAMPLERS or not dash:
        return (kind, None) if name in SAMPLERS else None
    counted = steps.isascii() and steps.isdigit() and SMALLEST_STEPS.get(kind, 1) <= int(steps) <= 1000
    return (kind, int(steps)) if counted else None
