"""The text encoders of Stable Diffusion 1 and 2, and of SDXL: prompts to what their networks are conditioned on.

One CLIP text encoder (Radford et al. 2021), of which the last layer is used after its normalisation; SDXL (Podell et
al. 2023) has two, of which the layer before the last is used, and the second one's projection of the whole text.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from gsd_cli.base.errors import ExitCode, GsdError
from gsd_cli.base.storage import read_object
from gsd_cli.core.models.condition import Condition, concatenate
from gsd_cli.core.models.teacher_config import TeacherConfig
from gsd_cli.core.models.unet2d_condition_config import text_sizes, uncropped

ENCODERS = ("CLIPTextModel", "CLIPTextModelWithProjection")
FOLDERS = (("text_encoder", "tokenizer"), ("text_encoder_2", "tokenizer_2"))
_KINDS = ("*.json", "*.txt", "model.safetensors")
FILES = tuple(f"{name}/{kind}" for pair in FOLDERS for name in pair for kind in _KINDS)
"""What the hub is asked for."""
_HINT = "give the whole folder of a Stable Diffusion 1 or 2 or an SDXL, with its text encoders as safetensors"


@dataclass(frozen=True)
class TextEncoder:
    """The text encoders of a teacher with their tokenizers. pooled: whether its network takes a whole text's vector;
    time_ids: the size that its images have, for a network that takes it; zeros_for_empty: whether zeros stand for the
    vectors of the empty text."""

    parts: list[tuple[Any, Any]]
    pooled: bool
    time_ids: tuple[int, ...] | None
    zeros_for_empty: bool = False

    @torch.no_grad()
    def encode(
        self, texts: Sequence[str], batch_size: int = 32, on_text: Callable[[int], None] = lambda done: None
    ) -> Condition:  # fmt: skip
        """The condition of each text, float32 on the CPU. on_text(done) is called with the number of texts done."""
        found = []
        for start in range(0, len(texts), batch_size):
            some = list(texts[start : start + batch_size])
            found.append(self._encode(some))
            on_text(start + len(some))
        return concatenate(found)

    def _encode(self, texts: list[str]) -> Condition:
        tokens, whole = [], None
        for encoder, tokenizer in self.parts:
            ids = tokenizer(
                texts, padding="max_length", max_length=tokenizer.model_max_length, truncation=True, return_tensors="pt"
            ).input_ids
            output = encoder(ids.to(encoder.device), output_hidden_states=True)
            tokens.append((output.hidden_states[-2] if self.pooled else output[0]).float().cpu())
            whole = output[0].float().cpu()  # of a model with a projection: the text's vector
        embeddings = torch.cat(tokens, -1)
        if not self.pooled:
            return Condition(embeddings=embeddings)
        assert self.time_ids is not None
        ids = torch.tensor([self.time_ids], dtype=torch.float32).repeat(len(texts), 1)
        return Condition(embeddings=embeddings, pooled=whole, time_ids=ids)

    def encode_empty(self) -> Condition:
        """The condition of the empty text, one row: what the network was trained with where a prompt was left out.

        SDXL was trained with vectors of zeros in its place, if its folder's index says so.
        """
        found = self.encode([""])
        if not self.zeros_for_empty:
            return found
        assert found.embeddings is not None and found.pooled is not None
        return replace(found, embeddings=torch.zeros_like(found.embeddings), pooled=torch.zeros_like(found.pooled))

    def too_long(self, texts: Sequence[str]) -> int:
        """How many of the texts are cut because they have more tokens than an encoder takes."""
        _, tokenizer = self.parts[0]
        lengths = [len(ids) for ids in tokenizer(list(texts)).input_ids]
        return sum(length > tokenizer.model_max_length for length in lengths)


def load_text_encoder(config: TeacherConfig, device: torch.device | str = "cpu") -> TextEncoder:
    """Read the text encoders next to a teacher's network. Nothing in the folder is executed, and no pickle is loaded.

    Raises GsdError: exit 3 where they are missing, damaged, of another kind or do not fit the network; exit 2 without
    the package transformers.
    """
    width, pooled = text_sizes(config.network)
    folders = FOLDERS if pooled is not None else FOLDERS[:1]
    parts = [_load_part(config.files.folder, *names, device) for names in folders]
    found = sum(int(encoder.config.hidden_size) for encoder, _ in parts)
    whole = int(parts[-1][0].config.projection_dim)
    if found != width or (pooled is not None and whole != pooled):
        raise GsdError(
            f"the text encoders in {config.files.folder} give vectors of {found}, its network takes {width}", hint=_HINT
        )
    if pooled is None:
        return TextEncoder(parts, pooled=False, time_ids=None)
    return TextEncoder(parts, True, uncropped(config.network), _has_zeros_for_empty(config.files.folder))


def _has_zeros_for_empty(folder: Path) -> bool:
    """Whether an SDXL's index says that zeros stand for the empty text, as its pipeline assumes by default."""
    index = folder / "model_index.json"
    return not index.exists() or bool(read_object(index).get("force_zeros_for_empty_prompt", True))


def _load_part(folder: Path, encoder: str, tokenizer: str, device: torch.device | str) -> tuple[Any, Any]:
    for part in (encoder, tokenizer):
        if not (folder / part).is_dir():
            raise GsdError(f"{folder} has no {part}/", hint=_HINT)
    names = read_object(folder / encoder / "config.json").get("architectures")
    name = names[0] if isinstance(names, list) and names else None
    wanted = ENCODERS[1] if encoder == FOLDERS[1][0] else ENCODERS[0]
    if name not in ENCODERS or (wanted == ENCODERS[1] and name != wanted):
        raise GsdError(f"{folder / encoder} holds a {name or 'model of unknown class'}", hint=_HINT)
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
    try:
        net = getattr(transformers, name).from_pretrained(
            folder / encoder, local_files_only=True, use_safetensors=True, dtype=torch.float32
        )
        words = transformers.CLIPTokenizer.from_pretrained(folder / tokenizer, local_files_only=True)
    except Exception as error:  # a damaged config or file raises many kinds
        cause = (str(error).splitlines() or [type(error).__name__])[0][:160]
        raise GsdError(f"cannot load the text encoder in {folder / encoder}: {cause}", hint=_HINT) from error
    limit = int(net.config.max_position_embeddings)
    words.model_max_length = min(words.model_max_length, limit)
    return net.eval().requires_grad_(False).to(device), words
