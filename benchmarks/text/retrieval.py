"""Do images show what their prompt says? Retrieval accuracy by an encoder that this script trains on the real images.

    python -m benchmarks.text.retrieval --data emoji.zip --prompts emoji-prompts.safetensors --model runs/emoji -N 1000

The encoder is trained as CLIP is (Radford et al. 2021): an image network and a linear map of the captions' sentence
vectors, so that an image is nearest to its own caption of a batch. A tenth of the images is held out. The accuracy is
the share of images whose own caption is nearest of 100 (top 5: among the five nearest): the caption, and 99 others that
are drawn by seed. By chance it is 1 %. It is no CLIP score: it compares rows of one table, and nothing else.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.support.pages import markdown_table
from gsd_cli.catalogue.model_facts import describe_calls
from gsd_cli.compute.random import generator_for, latents
from gsd_cli.core.models.feature_nets import ResidualNet
from gsd_cli.core.models.generator import load_model
from gsd_cli.core.models.prompts import load_prompts
from gsd_cli.core.models.teacher import load_teacher
from gsd_cli.core.sampling.samplers import parse_sampler
from gsd_cli.core.training.descent import trapezoid
from gsd_cli.core.training.fit_conditions import caption_conditions
from gsd_cli.core.training.fit_features import shift
from gsd_cli.data.dataset import ImageArchive
from gsd_cli.data.pixels import from_uint8, to_uint8

CHOICES, HELD_OUT = 100, 10
"""The captions that an image is compared with. Every tenth image is held out."""
SIZE, TEMPERATURE = 128, 0.07


class Retriever(nn.Module):
    """Images [B, C, H, W] in [-1, 1] and sentence vectors [B, T] as unit vectors of one space, [B, SIZE]."""

    def __init__(self, channels: int, text: int):
        super().__init__()
        self.image = ResidualNet(channels, SIZE, (48, 96, 192))
        self.text = nn.Linear(text, SIZE)

    def of_images(self, images: Tensor) -> Tensor:
        """Of images."""
        return F.normalize(self.image(images), dim=1)

    def of_texts(self, vectors: Tensor) -> Tensor:
        """Of sentence vectors."""
        return F.normalize(self.text(vectors), dim=1)


def train(net: Retriever, batch: Callable[[Tensor], tuple[Tensor, Tensor]], count: int, steps: int, seed: int) -> None:
    """Contrastive training, in both directions. batch(numbers [B]): images and sentence vectors."""
    optimizer = torch.optim.AdamW(net.parameters(), lr=2e-3, weight_decay=0.05)
    net.train()
    for step in range(steps):
        random = generator_for(seed, "retrieval", step)
        images, texts = batch(torch.randint(count, (min(128, count),), generator=random))
        nearness = net.of_images(shift(images, random)) @ net.of_texts(texts).T / TEMPERATURE
        same = (texts[:, None] == texts[None]).all(-1).float()  # images of one caption are no rivals
        wanted = same / same.sum(1, keepdim=True)
        loss = (F.cross_entropy(nearness, wanted) + F.cross_entropy(nearness.T, wanted)) / 2
        optimizer.param_groups[0]["lr"] = 2e-3 * trapezoid(step, steps, max(1, steps // 10), decay=0.8)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    net.eval()


def retrieval(images: Tensor, own: Tensor, texts: Tensor, seed: int, choices: int = CHOICES) -> tuple[float, float]:
    """The shares of images whose caption is the nearest, and among the five nearest, of `choices`.

    images: unit vectors [N, S]; own: the caption of each, int64 [N]; texts: unit vectors of all captions [T, S].
    """
    first = five = 0
    for k, (vector, number) in enumerate(zip(images, own.tolist(), strict=True)):
        drawn = torch.randperm(len(texts), generator=generator_for(seed, "choices", k))
        others = drawn[drawn != number][: choices - 1]
        nearer = int((texts[others] @ vector > texts[number] @ vector).sum())
        first, five = first + (nearer == 0), five + (nearer < 5)
    return first / len(images), five / len(images)


@dataclass(frozen=True)
class Measured:
    """The images of a row of the table, and their captions' numbers."""

    name: str
    images: Tensor
    own: Tensor


@torch.no_grad()
def generated(name: str, make: Callable[[Tensor, list[int]], Tensor], own: Tensor, shape: Any, batch: int) -> Measured:
    """Images of seeds 0, 1, ... for the captions `own`, rounded to 8 bits. make(latents, numbers of rows)."""
    parts = []
    for rows in torch.arange(len(own)).split(batch):
        parts.append(to_uint8(make(latents(rows.tolist(), shape), rows.tolist())))
    return Measured(name, from_uint8(torch.cat(parts)), own)


def main() -> None:
    """Train the encoder, measure real images, the teacher and the generator, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--prompts", type=Path, required=True)
    parser.add_argument("--model", help="a generator; its teacher is measured too")
    parser.add_argument("--teacher", help="a teacher alone")
    parser.add_argument("--samplers", default="ddim-25", help="of the teacher, comma-separated")
    parser.add_argument("--guidance", type=float, nargs="*", default=[1.0, 3.0], help="of the teacher's samplers")
    parser.add_argument("-N", "--num-samples", type=int, default=1000)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--batch-size", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()

    data, prompts = ImageArchive(given.data), load_prompts(given.prompts)
    rows, embeddings = caption_conditions(data, prompts).rows, prompts.condition.embeddings
    assert rows is not None and embeddings is not None
    sentences = embeddings[:, 0]
    held = torch.arange(len(data)) % HELD_OUT == 0
    kept = torch.arange(len(data))[~held]
    torch.manual_seed(given.seed)
    net = Retriever(data.shape[0], sentences.shape[1])
    train(net, lambda k: (data.batch(kept[k]), sentences[rows[kept[k]]]), len(kept), given.steps, given.seed)

    random = generator_for(given.seed, "drawn")
    own = torch.randint(len(prompts.texts), (given.num_samples,), generator=random)
    seen, unseen = kept[: given.num_samples], torch.arange(len(data))[held][: given.num_samples]
    table = [
        Measured("real images that it was trained on", data.batch(seen), rows[seen]),
        Measured("real images held out", data.batch(unseen), rows[unseen]),
    ]
    table += teacher_rows(given, own) + generator_rows(given, prompts.condition, own)
    with torch.no_grad():
        texts = net.of_texts(sentences)
        found = {
            one.name: (
                len(one.own),
                *retrieval(torch.cat([net.of_images(b) for b in one.images.split(500)]), one.own, texts, given.seed),
            )
            for one in table
        }
    cells = [[name, f"{count:,}", f"{top1:.1%}", f"{top5:.1%}"] for name, (count, top1, top5) in found.items()]
    print(markdown_table(("images", "N", f"nearest of {CHOICES}", "among the five nearest"), cells))
    if given.json:
        given.json.write_text(
            json.dumps({name: dict(zip(("n", "top1", "top5"), row, strict=True)) for name, row in found.items()})
        )


def teacher_rows(given: argparse.Namespace, own: Tensor) -> list[Measured]:
    """The teacher's images of the captions `own`, by each sampler, guided and not."""
    spec = given.teacher or (given.model and load_model(given.model).teacher)
    if not spec:
        return []
    denoiser = load_teacher(str(spec), prompts=given.prompts).denoiser
    found = []
    for sampler in map(parse_sampler, given.samplers.split(",")):
        for scale in given.guidance:
            model = denoiser.with_guidance(scale)

            def make(z: Tensor, k: list[int], sampler: Any = sampler, model: Any = model) -> Tensor:
                made: Tensor = sampler(model.with_condition(denoiser.prompts.rows(own[k])), z, k)
                return made

            found.append(generated(f"teacher, {sampler.name_on(model)}", make, own, denoiser.shape, given.batch_size))
    return found


def generator_rows(given: argparse.Namespace, conditions: Any, own: Tensor) -> list[Measured]:
    """The generator's images of the captions `own`."""
    if not given.model:
        return []
    generator = load_model(given.model).generator.eval()

    def make(z: Tensor, k: list[int]) -> Tensor:
        made: Tensor = generator(z, conditions.rows(own[k]))
        return made

    name = f"generator, {describe_calls(generator.calls)}"
    return [generated(name, make, own, generator.latent_shape, given.batch_size)]


if __name__ == "__main__":
    main()
