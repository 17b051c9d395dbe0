"""The model card that every generator carries."""

from __future__ import annotations

from typing import Any

from gsd_cli.base.intervals import interval_of_error, interval_of_share
from gsd_cli.base.text import format_number
from gsd_cli.catalogue.model_facts import call_count
from gsd_cli.catalogue.run_layout import ADAPTERS
from gsd_cli.core.models.edm_config import CLASS_NAMES, LICENCE
from gsd_cli.options import PRESETS, DistillOptions
from gsd_cli.options.distill_choices import OFF, split_choice


def generator_card(card: dict[str, Any]) -> str:
    """The card's Markdown from the content of gsd.json."""
    return f"""# {name_kind(card)} distilled from {card["teacher"]}

{describe_training(card)}

Figures of the last evaluation ({card["eval_samples"]} samples, fixed seeds):

{tabulate_figures(card)}

Settings and versions: gsd.json. {_opening(card)}
"""


def describe_training(card: dict[str, Any]) -> str:
    """The command, the teacher, the length and the terms of the loss."""
    settings = card["settings"]
    preset, batch = PRESETS.get(card["preset"], {}), settings["batch_size"]
    usual = preset.get("batch_size", DistillOptions.model_fields["batch_size"].default)
    length = f"--steps {settings['total_steps']}" + (f" --batch-size {batch}" if batch != usual else "")
    command = f"gsd distill --teacher {card['teacher']} --preset {card['preset']} {length} --seed {settings['seed']}"
    revision = f" at {card['teacher_revision']}" if card["teacher_revision"] else ""
    if settings.get("refine") is not None:
        return _describe_refinement(card, command, revision)
    return f"""Made by `{command}`:
score identity distillation. {_calls(card)}

- teacher: {card["teacher_source"]}{revision}{_reading(card)}{_growth(card, settings)}{_start(card, settings)}
- training: {card["steps"]} steps of batch {settings["batch_size"]} = {card["images"]:,} images,
  alpha {settings["alpha"]}, Adam {settings["lr"]:g}, {_term(settings)}
- real images: {_real(settings)}{_guidance(settings)}{_adapters(settings)}"""


def _describe_refinement(card: dict[str, Any], command: str, revision: str) -> str:
    """`describe_training` of a generator that learnt its teacher's refinement."""
    settings = card["settings"]
    return f"""Made by `{command} --start {settings["start"]} --refine {settings["refine"]}`:
refinement distillation. {_calls(card)}

- first call: the generator `{settings["start"]}`, unchanged
- second call: another network, which learnt to do what {settings["refine"]} calls of the teacher do to these images
- teacher: {card["teacher_source"]}{revision}{_reading(card)}
- training: {card["steps"]} steps of batch {settings["batch_size"]} = {card["images"]:,} images, mean square error, Adam
  {settings["lr"]:g}
- real images: none were used{_refined_by(settings)}"""


def _refined_by(settings: dict[str, Any]) -> str:
    """The line, with its line break, about the guidance of the teacher that refines; empty without it."""
    scale, of = split_choice(str(settings.get("guidance", OFF)), 1.0)
    return f"\n- the teacher refined with classifier-free guidance by {scale:g}" if of == "teacher" else ""


def name_kind(card: dict[str, Any]) -> str:
    """`One-step generator`, or `Generator of 4 steps`."""
    calls = call_count(card)
    return "One-step generator" if calls == 1 else f"Generator of {calls} steps"


def _calls(card: dict[str, Any]) -> str:
    """The formula of an image, and the noise levels in it."""
    if (calls := call_count(card)) == 1:
        return f"""One network call: `G(z) = D(sigma_init z, sigma_init)`,
`sigma_init = {card["settings"]["sigma_init"]}`, `z ~ N(0, I)`."""
    levels = ", ".join(f"{sigma:.3g}" for sigma in card["sigmas"])
    return f"""{calls} network calls: `x = D(sigma_1 z, sigma_1)`, then
`x = D(x + sigma_k n_k, sigma_k)`, at `sigma` {levels};
`z ~ N(0, I)`, and `n_k` has the numbers of `z` in a fixed order, half of them with the other sign."""


BETTER = {
    "fd": "lower", "precision": "higher", "recall": "higher", "coverage": "higher", "class_balance": "higher",
    "speed_cv": "lower", "spearman": "higher",
}  # fmt: skip
SHARES = ("precision", "recall", "coverage")
"""Figures that are shares of the samples."""


def _opening(card: dict[str, Any]) -> str:
    """What opens the generator, and the licence of a network that was distilled from EDM's."""
    network = card.get("network", "UNet2DModel")
    if network not in CLASS_NAMES and call_count(card) > 1:
        return "Open it with `gsd sample --model`: a pipeline of diffusers does not know its steps."
    if network not in CLASS_NAMES:
        return "Open it with diffusers' `UNet2DModel.from_pretrained`, or with `gsd sample --model`."
    return f"""Open it with `gsd sample --model`: its network is EDM's {network}.

The EDM networks that NVIDIA publishes, and what is made from their weights, have the licence {LICENCE}: no commercial
use, and the same licence for what you pass on."""


def tabulate_figures(card: dict[str, Any]) -> str:
    """The figures as a table with their 95 % intervals and what is better; intervals where they are known."""
    figures: dict[str, float] = card["figures"]
    lines = [
        f"| {card['figure_name'] if key == 'fd' else key} | {format_number(value, 4)} | "
        f"{_interval(key, figures, card['eval_samples'])} | {BETTER.get(key, '')} |"
        for key, value in figures.items()
        if not key.endswith("_error")
    ]
    head = ["| figure | value | 95 % interval | better |", "| --- | ---: | --- | --- |"]
    return "\n".join([*head, *lines]) if lines else "- none were measured"


def _interval(key: str, figures: dict[str, float], samples: int) -> str:
    found = None
    if (error := figures.get(f"{key}_error")) is not None:
        found = interval_of_error(figures[key], error)
    elif key in SHARES:
        found = interval_of_share(figures[key], samples)
    return f"{format_number(found[0])} to {format_number(found[1])}" if found else "-"


def _reading(card: dict[str, Any]) -> str:
    """How the teacher was read, where that is an assumption; empty for others."""
    reading = card.get("teacher_reading")
    return f", whose folder does not say how it was trained: it was read as {reading}" if reading else ""


def _growth(card: dict[str, Any], settings: dict[str, Any]) -> str:
    """The line, with its line break, about a student larger than its teacher; empty for others."""
    width, depth = settings["student_width"], settings["student_depth"]
    if width == depth == 1:
        return ""
    own, teacher = (f"{card[key] / 1e6:.2f} M parameters" for key in ("parameters", "teacher_parameters"))
    ways = [f"{n} times the {what}" for n, what in ((width, "channels"), (depth, "layers per block")) if n > 1]
    return f"""
- student: {own}, grown from the teacher's {teacher}: {" and ".join(ways)}, by a copy that is the
  same function before training (Net2Net)"""


def _start(card: dict[str, Any], settings: dict[str, Any]) -> str:
    """The line, with its line break, about a run that began with another generator; empty for others."""
    start = settings.get("start")
    if start and card.get("later"):
        return f"""
- start: the generator `{start}`. Its first call is unchanged; the network of its second call was trained"""
    return f"\n- start: the generator `{start}`, not the teacher" if start else ""


def _real(settings: dict[str, Any]) -> str:
    """What real images were used for, from the settings in gsd.json, where `auto` is resolved to a ratio."""
    uses = {"adversarial": "a discriminator", "feature_matching": "feature matching"}
    ratios = {what: settings.get(name) for name, what in uses.items()}
    used = [f"{what} (ratio {ratio:g})" for what, ratio in ratios.items() if isinstance(ratio, float) and ratio]
    return " and ".join(used) or "none were used"


def _guidance(settings: dict[str, Any]) -> str:
    """The line, with its line break, about classifier-free guidance; empty without it."""
    scale, of = split_choice(str(settings.get("guidance", OFF)), 1.0)
    if scale == 1:
        return ""
    guided = "the teacher" if of else "the teacher and the fake score"
    return f"""
- classifier-free guidance: {guided} by {scale:g}, which costs variety"""


def _adapters(settings: dict[str, Any]) -> str:
    """The line, with its line break, about adapters; empty for whole networks."""
    rank, of = split_choice(str(settings.get("adapters", OFF)), 0.0)
    if not rank:
        return ""
    if of:
        return f"""
- LoRA: the fake score was adapters of rank {rank:g}, the generator a whole network"""
    return f"""
- LoRA: the generator and the fake score were adapters of rank {rank:g} on the teacher's weights. They are added to the
  weights here, and also alone in `{ADAPTERS}`, which diffusers' `load_lora_weights` adds to the teacher"""


def _term(settings: dict[str, Any]) -> str:
    if settings["irl"] == "off":
        return "no isometric term"
    weight = settings["irl_weight"]
    if weight == "auto":  # a ratio needs another term
        strength = f"gradient ratio {settings['irl_ratio']:g}" if settings["sidl_weight"] else "alone"
    else:
        strength = f"weight {weight:g}"
    return f"isometric form `{settings['irl']}` ({settings['irl_gradient']}), {strength}"
