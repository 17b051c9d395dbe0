"""CLIP's text encoder (Radford et al. 2021), from the same file of OpenAI's as the image encoder of `clip.py`.

That file holds no vocabulary. OpenAI's list of merges of byte pairs is another file, which transformers' tokenizer
reads. Its tokens are those of OpenAI's code, except that curly quotation marks are not straightened.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from gsd_cli.base.download import fetch_file
from gsd_cli.base.errors import GsdError
from gsd_cli.compute.device import full_precision
from gsd_cli.core.models.text_part import import_transformers
from gsd_cli.metrics.clip import FOLDER, HEAD, build_transformer, count_layers, read_archive, rename

VOCABULARY_FILE = "bpe_simple_vocab_16e6.txt.gz"
VOCABULARY_SHA256 = "924691ac288e54409236115652ad4aa250f48203de50a9e4722a6ecd48d6804a"
VOCABULARY_URL = f"https://openaipublic.azureedge.net/clip/{VOCABULARY_FILE}"
START, END = "<|startoftext|>", "<|endoftext|>"
BATCH = 64
PRINTABLE = (range(ord("!"), ord("~") + 1), range(ord("\u00a1"), ord("\u00ac") + 1), range(ord("\u00ae"), 256))
"""The bytes that stand for themselves in a byte-level vocabulary (Radford et al. 2019); the others are 256 and up."""


class TextEncoder(nn.Module):
    """CLIP's text transformer: tokens int64 [B, L], L up to `length`, to [B, F]."""

    def __init__(self, tokens: int, length: int, width: int, layers: int, features: int):
        super().__init__()
        self.token_embedding = nn.Embedding(tokens, width)
        self.positional_embedding = nn.Parameter(torch.zeros(length, width))
        self.transformer = build_transformer(width, layers, max(1, width // HEAD))
        self.ln_final = nn.LayerNorm(width)
        self.text_projection = nn.Parameter(torch.zeros(width, features))

    @classmethod
    def from_weights(cls, weights: dict[str, Tensor]) -> TextEncoder:
        """From OpenAI's names, with sizes from the weights. Raises KeyError where one is missing."""
        tokens, width = weights["token_embedding.weight"].shape
        features = weights["text_projection"].shape[1]
        net = cls(tokens, len(weights["positional_embedding"]), width, count_layers(weights), features)
        own = ("token_embedding.", "positional_embedding", "transformer.", "ln_final.", "text_projection")
        net.load_state_dict(rename({name: value for name, value in weights.items() if name.startswith(own)}))
        return net.eval().requires_grad_(False)

    def forward(self, tokens: Tensor) -> Tensor:
        """The projection of the last token, which has the highest number; a token sees those before it."""
        length = tokens.shape[1]
        x = self.token_embedding(tokens) + self.positional_embedding[:length]
        mask = nn.Transformer.generate_square_subsequent_mask(length, device=x.device, dtype=x.dtype)
        x = self.ln_final(self.transformer(x, mask=mask, is_causal=True))
        projected: Tensor = x[torch.arange(len(x), device=x.device), tokens.argmax(1)] @ self.text_projection
        return projected


def read_vocabulary(path: Path, size: int) -> tuple[dict[str, int], list[str]]:
    """The number of each token, and the merges, of a vocabulary of `size` tokens, from OpenAI's list.

    The tokens are the bytes, the bytes at a word's end, one for each merge, and the two marks of a text. Raises
    GsdError (exit 3) for a file that is none.
    """
    try:
        lines = gzip.decompress(path.read_bytes()).decode("utf-8").split("\n")
    except (OSError, EOFError, ValueError) as error:
        raise GsdError(f"{path} is damaged: {error}", hint="delete it") from error
    own = [chr(code) for part in PRINTABLE for code in part]
    letters = [*own, *(chr(256 + k) for k in range(256 - len(own)))]
    merges = lines[1 : 1 + size - 2 * len(letters) - 2]
    words = [*letters, *(f"{letter}</w>" for letter in letters), *("".join(merge.split()) for merge in merges)]
    if len(words) + 2 != size:
        raise GsdError(f"{path} has {len(lines) - 1} merges, too few for {size} tokens", hint="delete it")
    return {word: k for k, word in enumerate([*words, START, END])}, merges


def build_tokenizer(vocabulary: dict[str, int], merges: Sequence[str], length: int) -> Any:
    """transformers' CLIP tokenizer of a vocabulary. It reads files alone, in the same form in all its versions.

    Raises GsdError (exit 2) without the package transformers.
    """
    transformers = import_transformers()
    with TemporaryDirectory() as folder:
        Path(folder, "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
        Path(folder, "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]), encoding="utf-8")
        return transformers.CLIPTokenizer.from_pretrained(folder, model_max_length=length, local_files_only=True)


class ClipTexts:
    """Texts as vectors in the space of CLIP's image features."""

    def __init__(self, net: TextEncoder, tokenizer: Any, device: torch.device):
        self.net, self.tokenizer, self.device = net.to(device), tokenizer, device

    @torch.no_grad()
    def embed(self, texts: Sequence[str]) -> Tensor:
        """Unit vectors [N, F] of texts, on the CPU; a text of more than 77 tokens is cut."""
        found = []
        for start in range(0, len(texts), BATCH):
            tokens = self.tokenizer(
                list(texts[start : start + BATCH]), padding=True, truncation=True, return_tensors="pt",
                max_length=len(self.net.positional_embedding),
            ).input_ids  # fmt: skip
            with full_precision(self.device):
                found.append(normalize(self.net(tokens.to(self.device)), dim=1).cpu())
        return torch.cat(found)


def clip_texts(cache: Path, device: torch.device, *, offline: bool) -> ClipTexts:
    """CLIP's text features, from OpenAI's two files in the cache, or downloaded; their hashes are checked.

    Raises GsdError: exit 2 without transformers, exit 4 when a file cannot be had, exit 3 when one is damaged.
    """
    import_transformers()
    path = cache / FOLDER / VOCABULARY_FILE
    hint = f"put {VOCABULARY_FILE} into {path.parent}, or leave clip-score out of --metrics"
    fetch_file(path, VOCABULARY_URL, VOCABULARY_SHA256, "CLIP's vocabulary", hint, offline=offline)
    net = TextEncoder.from_weights(read_archive(cache, offline=offline))
    tokens, length = net.token_embedding.num_embeddings, len(net.positional_embedding)
    return ClipTexts(net, build_tokenizer(*read_vocabulary(path, tokens), length), device)
