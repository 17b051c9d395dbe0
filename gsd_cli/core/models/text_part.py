"""One text encoder with its tokenizer, read from a teacher's folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gsd_cli.base.errors import ExitCode, GsdError
from gsd_cli.base.storage import read_object

CLIP, PROJECTED, T5, GEMMA = "CLIPTextModel", "CLIPTextModelWithProjection", "T5EncoderModel", "Gemma2Model"
"""Classes of transformers: CLIP's text encoder (Radford et al. 2021) without and with the projection of the whole text,
the encoder of T5 (Raffel et al. 2020), and Gemma 2 (Gemma Team 2024), a language model."""
SENTENCE = ("BertModel", "MPNetModel", "XLMRobertaModel")
"""The classes of the sentence encoders in common use (Reimers and Gurevych 2019)."""
TOKENIZERS = {T5: "T5TokenizerFast", GEMMA: "GemmaTokenizerFast", **dict.fromkeys(SENTENCE, "AutoTokenizer")}
"""The classes of their tokenizers; the others have CLIP's."""
HINT = "give the teacher's whole folder, with its text encoders as safetensors"


@dataclass(frozen=True)
class Part:
    """One text encoder with its tokenizer, which pads and cuts all texts to `length` tokens."""

    net: Any
    tokenizer: Any
    length: int

    def call(self, texts: Sequence[str]) -> Any:
        """The encoder's output for texts, with its hidden states."""
        ids = self._tokens(texts, self.length).input_ids
        return self.net(ids.to(self.net.device), output_hidden_states=True)

    def call_masked(self, texts: Sequence[str], further: int = 0) -> tuple[Tensor, Tensor]:
        """The last layer [B, L, D] and the mask [B, L] of the tokens that are no padding, `further` tokens longer."""
        found = self._tokens(texts, self.length + further).to(self.net.device)
        return self.net(found.input_ids, attention_mask=found.attention_mask)[0], found.attention_mask

    def count(self, text: str) -> int:
        """The tokens of a text that is neither padded nor cut."""
        return len(self.tokenizer(text).input_ids)

    def _tokens(self, texts: Sequence[str], length: int) -> Any:
        return self.tokenizer(
            list(texts), padding="max_length", max_length=length, truncation=True, return_tensors="pt"
        )


def load_part(
    folder: Path, encoder: str, tokenizer: str, classes: tuple[str, ...], length: int | None,
    device: torch.device | str,
) -> Part:  # fmt: skip
    """Read the encoder and the tokenizer in two folders of a teacher's. Nothing in them is executed.

    classes: what the encoder may be. length: its tokens; None for as many as both allow. Raises GsdError: exit 3 where
    one is missing, damaged or of another class; exit 2 without the package transformers.
    """
    for part in (encoder, tokenizer):
        if not (folder / part).is_dir():
            raise GsdError(f"{folder} has no {part}/", hint=HINT)
    name = read_class(folder / encoder)
    if name not in classes:
        raise GsdError(f"{folder / encoder} holds a {name or 'model of unknown class'}", hint=HINT)
    transformers = import_transformers()
    try:
        net, loaded = getattr(transformers, name).from_pretrained(
            folder / encoder, local_files_only=True, use_safetensors=True, dtype=torch.float32, output_loading_info=True
        )
        words = getattr(transformers, TOKENIZERS.get(name, "CLIPTokenizer")).from_pretrained(
            folder / tokenizer, local_files_only=True
        )
    except Exception as error:  # a damaged config or file raises many kinds
        cause = (str(error).splitlines() or [type(error).__name__])[0][:160]
        raise GsdError(f"cannot load the text encoder in {folder / encoder}: {cause}", hint=HINT) from error
    # transformers draws them at random; the pooler is not used
    if missing := sorted(key for key in loaded["missing_keys"] if not key.startswith("pooler.")):
        raise GsdError(f"{folder / encoder} has no weights of {missing[0]}, which a {name} has", hint=HINT)
    words.padding_side = "right"
    if length is None:
        length = min(words.model_max_length, int(net.config.max_position_embeddings))
    return Part(net.eval().requires_grad_(False).to(device), words, length)


def read_class(encoder: Path) -> str | None:
    """The class of the encoder in a folder, as its config names it."""
    names = read_object(encoder / "config.json").get("architectures")
    return str(names[0]) if isinstance(names, list) and names else None


def import_transformers() -> Any:
    """The package transformers, which prints nothing then. Raises GsdError (exit 2) where it is not installed."""
    try:
        import transformers
    except ImportError as error:
        raise GsdError(
            "prompts are encoded by the package transformers, which is not installed",
            hint="pip install 'gsd-cli[text]'",
            code=ExitCode.USAGE,
        ) from error
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    return transformers
