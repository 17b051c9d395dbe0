"""The text encoder of a teacher that gsd trains on captions: a sentence encoder, frozen, which becomes part of it.

Its tokens' vectors are what the network attends to; the first of them is the sentence's (Reimers and Gurevych 2019).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from gsd_cli.base.atomic import write_json
from gsd_cli.base.storage import read_json
from gsd_cli.core.models.text_encoder import FOLDERS, TextEncoder
from gsd_cli.core.models.text_families import SENTENCES
from gsd_cli.core.models.text_part import SENTENCE, load_part
from gsd_cli.core.models.text_sizes import TextSizes

FILES = (
    "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
    "vocab.txt", "sentencepiece.bpe.model",
)  # fmt: skip
"""What the hub is asked for."""
LENGTHS = 4
"""A text has a multiple of this number of tokens."""


def load_sentence_encoder(folder: Path, device: torch.device | str = "cpu") -> TextEncoder:
    """Read a sentence encoder as sentence-transformers store it. Nothing in the folder is executed.

    Raises GsdError: exit 3 where it is missing, damaged or of another kind; exit 2 without the package transformers.
    """
    part = load_part(folder, ".", ".", SENTENCE, None, device)
    return TextEncoder([part], SENTENCES, TextSizes(int(part.net.config.hidden_size)))


def fit_length(encoder: TextEncoder, texts: Sequence[str]) -> TextEncoder:
    """The same encoder, which pads all texts to the tokens of the longest one, or to as many as it takes."""
    (part,) = encoder.parts
    longest = max((len(ids) for ids in part.tokenizer(list(texts)).input_ids), default=1)
    return replace(encoder, parts=[replace(part, length=min(part.length, -(-longest // LENGTHS) * LENGTHS))])


def save_sentence_encoder(encoder: TextEncoder, folder: Path) -> None:
    """Write it into a teacher's folder, where `load_text_encoder` finds it with its length."""
    (part,), (names, _, _) = encoder.parts, FOLDERS
    net, words = (folder / name for name in names)
    part.net.save_pretrained(net)
    part.tokenizer.save_pretrained(words)
    changed = {net / "config.json": {}, words / "tokenizer_config.json": {"model_max_length": part.length}}
    for path, changes in changed.items():
        config = read_json(path)
        for key in ("_name_or_path", "name_or_path"):  # a path of this machine
            config.pop(key, None)
        write_json(path, {**config, **changes})
