"""The model card of a generator on the Hugging Face hub: front matter, images, training, figures, limits, use."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from gsd_cli.catalogue.model_facts import call_count, describe_calls
from gsd_cli.core.distillation.card import SHARES, describe_training, name_kind, tabulate_figures
from gsd_cli.core.distillation.hub_images import CardImage
from gsd_cli.core.models.edm_config import CLASS_NAMES
from gsd_cli.core.models.licence import Licence

TASK = "unconditional-image-generation"
TAGS = ("gsd", "diffusion-distillation")
METHOD_TAG, REFINEMENT_TAG = "score-identity-distillation", "progressive-distillation"
FID = "FID"
MEANINGS = {
    "precision": "the share of generated images that lie near real images",
    "recall": "the share of real images that lie near generated images",
    "coverage": "the share of real images with a generated image in their neighbourhood",
    "class_balance": "the number of images of the rarest class over that of the most common one, by a classifier",
    "speed_cv": "the variation of the speed at which images change along great circles of the latent; 0 is even",
    "spearman": "the rank correlation of the angle between two latents and the length of the path between their images",
    "pair_distance": "the mean distance of the images of two seeds, in the features of the evaluation",
}
"""What the figures of an evaluation mean."""


@dataclass(frozen=True)
class Publication:
    """What a card on the hub says beyond the content of gsd.json.

    repo: OWNER/NAME. base: the teacher's name on the hub. data_set: the name there of the images that the teacher was
    trained on; None for both where there is none. by_diffusers: whether the snippet for diffusers fits the network.
    """

    repo: str
    licence: Licence
    images: Sequence[CardImage]
    base: str | None = None
    data_set: str | None = None
    by_diffusers: bool = False
    prompts: bool = False

    @property
    def task(self) -> str:
        """The task as the hub names it."""
        return "text-to-image" if self.prompts else TASK


def hub_card(card: dict[str, Any], about: Publication) -> str:
    """The README.md, from the content of gsd.json."""
    shown = "\n\n".join(f"![{p.caption}]({p.name})\n\n*{p.caption}.*" for p in about.images)
    return f"""---
{_front_matter(card, about)}
---

# {name_kind(card)} distilled from {card["teacher"]}

{shown}

## How it was trained

{describe_training(card)}

{_method(card)} `gsd.json` holds all settings and versions.

## Figures

{_protocol(card)}

{tabulate_figures(card)}

{_explain_figures(card)}

## Use it

{_use(card, about)}

## Limits

{_limits(card, about)}
"""


def _front_matter(card: dict[str, Any], about: Publication) -> str:
    from huggingface_hub import ModelCardData

    conditional = ["class-conditional"] if card.get("classes") else []
    diffusers = card.get("network", "UNet2DModel") not in CLASS_NAMES
    steps = "one-step-generation" if call_count(card) == 1 else "few-step-generation"
    results = _results(card, about)
    stated: dict[str, Any] = {
        **about.licence,
        "library_name": "diffusers" if diffusers else "gsd",
        "pipeline_tag": about.task,
        "tags": [TAGS[0], steps, *TAGS[1:], REFINEMENT_TAG if _is_refined(card) else METHOD_TAG, *conditional],
        "base_model": about.base,
        "datasets": [about.data_set] if about.data_set else None,
        "metrics": [name for name, _ in _metrics(card)] or None,
        "widget": [{"text": _in_one_line(p.caption), "output": {"url": p.name}} for p in about.images],
    }
    known = {key: value for key, value in stated.items() if value is not None}
    name = about.repo.rpartition("/")[2]
    return str(ModelCardData(**known, model_name=name, eval_results=results or None).to_yaml()).strip()


def _is_refined(card: dict[str, Any]) -> bool:
    return card["settings"].get("refine") is not None


def _method(card: dict[str, Any]) -> str:
    """The sentence about the method."""
    if _is_refined(card):
        return "The second call is progressive distillation of the end of the teacher's ODE, as gsd implements it."
    return "The method is Geometric Score Distillation, as gsd implements it."


def _metrics(card: dict[str, Any]) -> list[tuple[str, str]]:
    """The types of the figures for the hub, each with its key in gsd.json."""
    figures = card["figures"]
    distance = "fid" if card["figure_name"] == FID else "frechet-distance"
    return [(distance if key == "fd" else key, key) for key in ("fd", *SHARES) if key in figures]


def _results(card: dict[str, Any], about: Publication) -> list[Any]:
    from huggingface_hub import EvalResult

    data = about.data_set or _in_one_line(f"images of {card['teacher']}")
    protocol = {"samples": card["eval_samples"], "seeds": _seeds(card)}
    return [
        EvalResult(
            task_type=about.task,
            dataset_type=data,
            dataset_name=data,
            metric_type=kind,
            metric_name=_in_one_line(card["figure_name"]) if key == "fd" else key,
            metric_value=round(float(card["figures"][key]), 4),
            metric_args=protocol,
        )
        for kind, key in _metrics(card)
    ]


def _in_one_line(text: str) -> str:
    """Text without line breaks: a line of dashes would end the front matter."""
    return " ".join(text.split())


def _seeds(card: dict[str, Any]) -> str:
    return f"0-{card['eval_samples'] - 1}"


def _protocol(card: dict[str, Any]) -> str:
    if not card["figures"]:
        return "The run had no real images to measure against."
    distance = card["figure_name"]
    note = "" if distance == FID else f"{distance} is a Frechet distance in other features than FID's: it is not FID.\n"
    samples = f"N = {card['eval_samples']:,} images, seeds {_seeds(card)}, {describe_calls(call_count(card))} each"
    return (
        f"The last evaluation of the run: {samples}.\n"
        f"{note}A Frechet distance is biased upwards at small N: compare it only at equal N."
    )


def _explain_figures(card: dict[str, Any]) -> str:
    return "\n".join(f"- {key}: {meaning}" for key, meaning in MEANINGS.items() if key in card["figures"])


def _use(card: dict[str, Any], about: Publication) -> str:
    name = about.repo.rpartition("/")[2]
    text = f"""With gsd, which also walks, inverts images and edits them:

```sh
hf download {about.repo} --local-dir {name}
gsd sample --model {name} -N 16 --grid -o grid.png
```"""
    if not about.by_diffusers or call_count(card) > 1:
        return text
    sigma = card["settings"]["sigma_init"]
    return f"""{text}

With diffusers, one call of the network and no sampling loop:

```python
import torch
from diffusers import DDPMScheduler, UNet2DModel

net, sigma = UNet2DModel.from_pretrained("{about.repo}"), torch.tensor({sigma})
alphas = DDPMScheduler.from_pretrained("{about.repo}").alphas_cumprod
levels = ((1 - alphas) / alphas).sqrt().log()  # log sigma of each timestep, rising
k = int(torch.searchsorted(levels, sigma.log())) - 1
t = k + (sigma.log() - levels[k]) / (levels[k + 1] - levels[k])
z = sigma * torch.randn(4, net.config.in_channels, net.config.sample_size, net.config.sample_size)
with torch.no_grad():
    images = z - sigma * net(z / (1 + sigma**2) ** 0.5, t).sample  # [4, C, H, W] in [-1, 1]
```"""


def _limits(card: dict[str, Any], about: Publication) -> str:
    teacher = card["teacher"]
    lines = [
        f"The generator imitates {teacher}: its flaws, its biases and the limits of its training images are the same.",
        _limit_of_calls(call_count(card)),
        "It may cover less of the variety of the real images than its teacher: recall says how much."
        if "recall" in card["figures"]
        else "How much of its teacher's variety it covers was not measured.",
        "Images that are not of its domain cannot be inverted into it, and edits of them mean nothing.",
    ]
    if not about.licence:
        lines.append(f"The licence of {teacher} is not known. Ask its authors before you use this generator.")
    return "\n".join(f"- {line}" for line in lines)


def _limit_of_calls(calls: int) -> str:
    made = "one network call at one noise level" if calls == 1 else f"{calls} network calls at the levels in `gsd.json`"
    return f"It is made for {made}. A pipeline that samples in many steps gives no images."
