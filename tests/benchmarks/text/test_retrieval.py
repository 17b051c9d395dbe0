from __future__ import annotations

import torch
from torch.nn import functional as F

from benchmarks.text.retrieval import Retriever, retrieval, train


def test_accuracy_of_known_vectors() -> None:
    texts = torch.eye(150)
    own = torch.arange(150)
    assert retrieval(texts, own, texts, seed=0) == (1.0, 1.0)
    assert retrieval(-texts, own, texts, seed=0) == (0.0, 0.0)
    closer_to_three = texts + 2 * (texts.roll(1, 1) + texts.roll(2, 1) + texts.roll(3, 1))
    assert retrieval(closer_to_three, own, texts, seed=0, choices=150) == (0.0, 1.0)


def test_vectors_without_meaning_are_found_by_chance() -> None:
    torch.manual_seed(0)
    images, texts = F.normalize(torch.randn(2, 4000, 16), dim=2)
    first, five = retrieval(images, torch.arange(4000), texts, seed=0)
    assert abs(first - 0.01) < 5 * (0.01 / 4000) ** 0.5
    assert abs(five - 0.05) < 5 * (0.05 / 4000) ** 0.5


def test_the_encoder_learns_what_captions_say() -> None:
    """Images of 8 colours and sentence vectors of 8 words; several images have the same caption."""
    torch.manual_seed(0)
    colours, words = torch.rand(8, 3) * 2 - 1, torch.randn(8, 12)

    def batch(numbers: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        kinds = numbers % 8
        images = colours[kinds][:, :, None, None].expand(-1, -1, 8, 8) + 0.05 * torch.randn(len(kinds), 3, 8, 8)
        return images, words[kinds]

    net = Retriever(3, 12)
    train(net, batch, 32, steps=60, seed=0)
    images, _ = batch(torch.arange(64))
    with torch.no_grad():
        first, _ = retrieval(net.of_images(images), torch.arange(64) % 8, net.of_texts(words), seed=0)
    assert first > 0.9
