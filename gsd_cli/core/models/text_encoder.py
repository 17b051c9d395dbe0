"""The text encoders of Stable Diffusion 1, 2 and 3, and of SDXL: prompts to what their networks are conditioned on.

Stable Diffusion 1 and 2: the last layer of a CLIP text encoder (Radford et al. 2021), normalised. SDXL (Podell et al.
2023): the layer before the last of two, concatenated, and the second one's projection of the whole text. Stable
Diffusion 3 (Esser et al. 2024): the same layer of two, filled up with zeros to the width of a T5 encoder (Raffel et al.
2020), then the tokens of that; and both projections.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from gsd_cli.base.errors import ExitCode, GsdError
from gsd_cli.base.storage import read_object
from gsd_cli.core.models.condition import Condition, concatenate
from gsd_cli.core.models.teacher_config import TeacherConfig
from gsd_cli.core.models.unet2d_condition_config import uncropped

PLAIN, PROJECTED, T5 = "CLIPTextModel", "CLIPTextModelWithProjection", "T5EncoderModel"
TOKENS_OF_T5 = 256
"""The tokens of a text that Stable Diffusion 3's pipeline gives its T5 encoder."""
FOLDERS = tuple((f"text_encoder{end}", f"tokenizer{end}") for end in ("", "_2", "_3"))
_KINDS = ("*.json", "*.txt", "*.model", "model.safetensors", "model-*.safetensors")
FILES = tuple(f"{name}/{kind}" for pair in FOLDERS for name in pair for kind in _KINDS)
"""What the hub is asked for."""
_HINT = "give the whole folder of a Stable Diffusion or an SDXL, with its text encoders as safetensors"


@dataclass(frozen=True)
class Part:
    """One text encoder with its tokenizer, which pads and cuts all texts to `length` tokens."""

    net: Any
    tokenizer: Any
    length: int

    def call(self, texts: Sequence[str]) -> Any:
        """The encoder's output for texts, with its hidden states."""
        ids = self.tokenizer(
            list(texts), padding="max_length", max_length=self.length, truncation=True, return_tensors="pt"
        ).input_ids
        return self.net(ids.to(self.net.device), output_hidden_states=True)

    def too_long(self, text: str) -> bool:
        """Whether a text is cut."""
        return len(self.tokenizer(text).input_ids) > self.length


Join = Callable[["TextEncoder", Sequence[str]], Condition]


@dataclass(frozen=True)
class TextEncoder:
    """The text encoders of a teacher. join: what its network takes of their outputs; width: of a token's vector;
    time_ids: the size that its images have, for a network that takes it; zeros_for_empty: whether zeros stand for the
    vectors of the empty text."""

    parts: list[Part]
    join: Join
    width: int
    time_ids: tuple[int, ...] | None = None
    zeros_for_empty: bool = False

    @torch.no_grad()
    def encode(
        self, texts: Sequence[str], batch_size: int = 32, on_text: Callable[[int], None] = lambda done: None
    ) -> Condition:  # fmt: skip
        """The condition of each text, float32 on the CPU. on_text(done) is called with the number of texts done."""
        found = []
        for start in range(0, len(texts), batch_size):
            some = list(texts[start : start + batch_size])
            found.append(self.join(self, some))
            on_text(start + len(some))
        return concatenate(found)

    def encode_empty(self) -> Condition:
        """The condition of the empty text, one row: what the network was trained with where a prompt was left out.

        SDXL was trained with vectors of zeros in its place, if its folder's index says so.
        """
        found = self.encode([""])
        if not self.zeros_for_empty:
            return found
        assert found.embeddings is not None and found.pooled is not None
        return Condition(
            embeddings=torch.zeros_like(found.embeddings), pooled=torch.zeros_like(found.pooled),
            time_ids=found.time_ids,
        )  # fmt: skip

    def too_long(self, texts: Sequence[str]) -> int:
        """How many of the texts are cut because they have more tokens than the first encoder takes."""
        return sum(self.parts[0].too_long(text) for text in texts)


def _join_sd(encoder: TextEncoder, texts: Sequence[str]) -> Condition:
    return Condition(embeddings=_cpu(encoder.parts[0].call(texts)[0]))


def _join_sdxl(encoder: TextEncoder, texts: Sequence[str]) -> Condition:
    tokens, wholes = _call_clip(encoder, texts)
    ids = torch.tensor([encoder.time_ids], dtype=torch.float32).repeat(len(texts), 1)
    return Condition(embeddings=tokens, pooled=wholes[-1], time_ids=ids)


def _join_sd3(encoder: TextEncoder, texts: Sequence[str]) -> Condition:
    tokens, wholes = _call_clip(encoder, texts)
    of_t5 = [part for part in encoder.parts if part.net.config.model_type == "t5"]
    # a folder without the T5 encoder has zeros for its tokens
    long = _cpu(of_t5[0].call(texts)[0]) if of_t5 else torch.zeros(len(texts), TOKENS_OF_T5, encoder.width)
    padded = pad(tokens, (0, encoder.width - tokens.shape[-1]))
    return Condition(embeddings=torch.cat([padded, long], -2), pooled=torch.cat(wholes, -1))


def _call_clip(encoder: TextEncoder, texts: Sequence[str]) -> tuple[Tensor, list[Tensor]]:
    """The layer before the last of both CLIP encoders, concatenated, and what each gives first: with a projection, the
    vector of the whole text."""
    outputs = [part.call(texts) for part in encoder.parts[:2]]
    return torch.cat([_cpu(out.hidden_states[-2]) for out in outputs], -1), [_cpu(out[0]) for out in outputs]


def _cpu(tensor: Tensor) -> Tensor:
    return tensor.float().cpu()


@dataclass(frozen=True)
class _Family:
    """The classes of a family's text encoders, in the order of FOLDERS, and how their outputs are joined. optional: how
    many at the end may be missing."""

    classes: tuple[tuple[str, ...], ...]
    join: Join
    optional: int = 0


_SD = _Family(((PLAIN, PROJECTED),), _join_sd)
_SDXL = _Family(((PLAIN, PROJECTED), (PROJECTED,)), _join_sdxl)
_SD3 = _Family(((PROJECTED,), (PROJECTED,), (T5,)), _join_sd3, optional=1)


def load_text_encoder(config: TeacherConfig, device: torch.device | str = "cpu") -> TextEncoder:
    """Read the text encoders next to a teacher's network. Nothing in the folder is executed, and no pickle is loaded.

    Raises GsdError: exit 3 where they are missing, damaged, of another kind or do not fit the network; exit 2 without
    the package transformers.
    """
    sizes, folder = config.text_sizes, config.files.folder
    assert sizes is not None
    family = _SD if sizes.whole is None else _SDXL if sizes.image else _SD3
    parts = []
    for k, (names, classes) in enumerate(zip(FOLDERS, family.classes, strict=False)):
        if k >= len(family.classes) - family.optional and not (folder / names[0]).exists():
            continue
        parts.append(_load_part(folder, *names, classes, device))
    _require_fit(parts, family, config)
    if family is not _SDXL:
        return TextEncoder(parts, family.join, sizes.token)
    zeros = _has_zeros_for_empty(folder)
    return TextEncoder(parts, family.join, sizes.token, uncropped(config.network), zeros)


def _require_fit(parts: list[Part], family: _Family, config: TeacherConfig) -> None:
    """Raise GsdError (exit 3) where the encoders' vectors have not the sizes that the network takes."""
    sizes = config.text_sizes
    assert sizes is not None
    clip = [part.net.config for part in parts[: 1 if family is _SD else 2]]
    width, whole = sum(int(one.hidden_size) for one in clip), sizes.whole
    if family is _SDXL:
        whole = int(clip[-1].projection_dim)
    elif family is _SD3:
        whole = sum(int(one.projection_dim) for one in clip)
        wide = [int(part.net.config.d_model) for part in parts[2:]]
        width = wide[0] if wide else sizes.token if width <= sizes.token else width
    if (width, whole) != (sizes.token, sizes.whole):
        raise GsdError(
            f"the text encoders in {config.files.folder} give vectors of {width}, its network takes {sizes}", hint=_HINT
        )


def _has_zeros_for_empty(folder: Path) -> bool:
    """Whether an SDXL's index says that zeros stand for the empty text, as its pipeline assumes by default."""
    index = folder / "model_index.json"
    return not index.exists() or bool(read_object(index).get("force_zeros_for_empty_prompt", True))


def _load_part(
    folder: Path, encoder: str, tokenizer: str, classes: tuple[str, ...], device: torch.device | str
) -> Part:  # fmt: skip
    for part in (encoder, tokenizer):
        if not (folder / part).is_dir():
            raise GsdError(f"{folder} has no {part}/", hint=_HINT)
    names = read_object(folder / encoder / "config.json").get("architectures")
    name = names[0] if isinstance(names, list) and names else None
    if name not in classes:
        raise GsdError(f"{folder / encoder} holds a {name or 'model of unknown class'}", hint=_HINT)
    transformers = import_transformers()
    try:
        net = getattr(transformers, name).from_pretrained(
            folder / encoder, local_files_only=True, use_safetensors=True, dtype=torch.float32
        )
        words = _load_tokenizer(transformers, name, folder / tokenizer)
    except Exception as error:  # a damaged config or file raises many kinds
        cause = (str(error).splitlines() or [type(error).__name__])[0][:160]
        raise GsdError(f"cannot load the text encoder in {folder / encoder}: {cause}", hint=_HINT) from error
    length = TOKENS_OF_T5 if name == T5 else min(words.model_max_length, int(net.config.max_position_embeddings))
    return Part(net.eval().requires_grad_(False).to(device), words, length)


def _load_tokenizer(transformers: Any, name: str, folder: Path) -> Any:
    kind = transformers.T5TokenizerFast if name == T5 else transformers.CLIPTokenizer
    return kind.from_pretrained(folder, local_files_only=True)


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
