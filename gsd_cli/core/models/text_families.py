"""What each kind of text-conditional network takes of its text encoders: one `TextFamily` record per kind.

Stable Diffusion 1 and 2: the last layer of CLIP, normalised. SDXL (Podell et al. 2023): the layer before the last of
two, concatenated, and the second one's projection of the whole text. Stable Diffusion 3 (Esser et al. 2024): the same
layer of two, filled up with zeros to the width of T5, then T5's tokens; and both projections. FLUX: T5's tokens, and
CLIP's vector of the whole text. SANA (Xie et al. 2024): the tokens of Gemma 2 after an instruction, with their mask.
A teacher that gsd trained on captions: the mean of a sentence encoder's tokens, then the tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from gsd_cli.core.models import flux_config, sana_config, sd3_config
from gsd_cli.core.models.condition import Condition
from gsd_cli.core.models.text_part import CLIP, GEMMA, PROJECTED, SENTENCE, T5, Part
from gsd_cli.core.models.text_sizes import TextSizes

SD3_TOKENS, FLUX_TOKENS, FLUX_SHORT, SANA_TOKENS = 256, 512, 256, 300
"""The tokens of a text that the pipelines give T5 or Gemma; FLUX_SHORT: of FLUX.1 schnell, which was trained so."""
INSTRUCTION = "\n".join(
    (
        "Given a user prompt, generate an 'Enhanced prompt' that provides detailed visual descriptions suitable for "
        "image generation. Evaluate the level of detail in the user prompt:",
        "- If the prompt is simple, focus on adding specifics about colors, shapes, sizes, textures, and spatial "
        "relationships to create vivid and concrete scenes.",
        "- If the prompt is already detailed, refine and enhance the existing details slightly without "
        "overcomplicating.",
        "Here are examples of how to transform or refine prompts:",
        "- User Prompt: A cat sleeping -> Enhanced: A small, fluffy white cat curled up in a round shape, sleeping "
        "peacefully on a warm sunny windowsill, surrounded by pots of blooming red flowers.",
        "- User Prompt: A busy city street -> Enhanced: A bustling city street scene at dusk, featuring glowing street "
        "lamps, a diverse crowd of people in colorful clothing, and a double-decker bus passing by towering glass "
        "skyscrapers.",
        "Please generate only the enhanced description for the prompt below and avoid including any additional "
        "commentary or evaluations:",
        "User Prompt: ",
    )
)
"""What SANA's language model reads before each text ("complex human instruction", section 2.3 of its paper); the words
are those of NVlabs/Sana (Apache-2.0), which the network was trained with."""

Join = Callable[[Sequence[Part], Sequence[str], TextSizes], Condition]
"""(encoders, texts, what the network takes): their condition, float32 on the CPU."""


@dataclass(frozen=True)
class TextFamily:
    """The text encoders of a kind of network.

    classes: what each may be, in the order of the folders; optional: how many at the end may be missing. join, and
    join_empty for the empty text where it differs. sizes(configs of the encoders, what the network takes): the sizes of
    a token's vector and of a whole text's that they give. length(config of the network): the tokens of T5 or Gemma.
    counted: the encoder whose tokens are counted to see whether a text is cut.
    """

    classes: tuple[tuple[str, ...], ...]
    join: Join
    sizes: Callable[[Sequence[Any], TextSizes], tuple[int, int | None]]
    length: Callable[[Mapping[str, Any]], int] = lambda config: SD3_TOKENS
    optional: int = 0
    join_empty: Join | None = None
    counted: int = 0


def _join_sd(parts: Sequence[Part], texts: Sequence[str], sizes: TextSizes) -> Condition:
    return Condition(embeddings=_cpu(parts[0].call(texts)[0]))


def _join_sdxl(parts: Sequence[Part], texts: Sequence[str], sizes: TextSizes) -> Condition:
    tokens, wholes = _call_clip(parts, texts)
    return Condition(embeddings=tokens, pooled=wholes[-1])


def _join_sd3(parts: Sequence[Part], texts: Sequence[str], sizes: TextSizes) -> Condition:
    tokens, wholes = _call_clip(parts, texts)
    # a folder without the T5 encoder has zeros for its tokens
    long = _cpu(parts[2].call(texts)[0]) if parts[2:] else torch.zeros(len(texts), SD3_TOKENS, sizes.token)
    padded = pad(tokens, (0, sizes.token - tokens.shape[-1]))
    return Condition(embeddings=torch.cat([padded, long], -2), pooled=torch.cat(wholes, -1))


def _join_flux(parts: Sequence[Part], texts: Sequence[str], sizes: TextSizes) -> Condition:
    clip, long = parts
    return Condition(embeddings=_cpu(long.call(texts)[0]), pooled=_cpu(clip.call(texts).pooler_output))


def _join_sana(parts: Sequence[Part], texts: Sequence[str], sizes: TextSizes) -> Condition:
    """The first token, and the last ones of the longest text: all others are of the instruction."""
    (gemma,) = parts
    words = [INSTRUCTION + text.lower().strip() for text in texts]
    tokens, mask = gemma.call_masked(words, gemma.count(INSTRUCTION) - 2)
    kept = [0, *range(1 - gemma.length, 0)]
    return Condition(embeddings=_cpu(tokens[:, kept]), mask=_cpu(mask[:, kept]))


def _join_sana_empty(parts: Sequence[Part], texts: Sequence[str], sizes: TextSizes) -> Condition:
    """Without an instruction, which is how the pipeline's guidance has it."""
    tokens, mask = parts[0].call_masked(texts)
    return Condition(embeddings=_cpu(tokens), mask=_cpu(mask))


def _join_sentence(parts: Sequence[Part], texts: Sequence[str], sizes: TextSizes) -> Condition:
    """The mean of the tokens' vectors, which stands for the sentence, in place of the first one; zeros for padding."""
    tokens, mask = parts[0].call_masked(texts)
    tokens, count = tokens * mask[..., None], mask.sum(1)[:, None, None]
    return Condition(embeddings=_cpu(torch.cat([tokens.sum(1, keepdim=True) / count, tokens[:, 1:]], 1)))


def _call_clip(parts: Sequence[Part], texts: Sequence[str]) -> tuple[Tensor, list[Tensor]]:
    """The layer before the last of both CLIP encoders, concatenated, and what each gives first: with a projection, the
    vector of the whole text."""
    outputs = [part.call(texts) for part in parts[:2]]
    return torch.cat([_cpu(out.hidden_states[-2]) for out in outputs], -1), [_cpu(out[0]) for out in outputs]


def _cpu(tensor: Tensor) -> Tensor:
    return tensor.float().cpu()


def _sizes_sd(configs: Sequence[Any], wanted: TextSizes) -> tuple[int, int | None]:
    return int(configs[0].hidden_size), None


def _sizes_sdxl(configs: Sequence[Any], wanted: TextSizes) -> tuple[int, int | None]:
    return sum(int(one.hidden_size) for one in configs), int(configs[-1].projection_dim)


def _sizes_sd3(configs: Sequence[Any], wanted: TextSizes) -> tuple[int, int | None]:
    clip, whole = sum(int(one.hidden_size) for one in configs[:2]), sum(int(one.projection_dim) for one in configs[:2])
    if configs[2:]:
        return int(configs[2].d_model), whole
    return max(clip, wanted.token), whole  # they are filled up


def _sizes_flux(configs: Sequence[Any], wanted: TextSizes) -> tuple[int, int | None]:
    return int(configs[1].d_model), int(configs[0].hidden_size)


SD = TextFamily(((CLIP, PROJECTED),), _join_sd, _sizes_sd)
SENTENCES = TextFamily((SENTENCE,), _join_sentence, _sizes_sd)
SDXL = TextFamily(((CLIP, PROJECTED), (PROJECTED,)), _join_sdxl, _sizes_sdxl)
SD3 = TextFamily(((PROJECTED,), (PROJECTED,), (T5,)), _join_sd3, _sizes_sd3, optional=1)
FLUX = TextFamily(
    ((CLIP,), (T5,)),
    _join_flux,
    _sizes_flux,
    length=lambda config: FLUX_TOKENS if config.get("guidance_embeds") else FLUX_SHORT,
    counted=1,
)
SANA = TextFamily(
    ((GEMMA,),), _join_sana, _sizes_sd, length=lambda config: SANA_TOKENS, join_empty=_join_sana_empty
)  # fmt: skip
_BY_CLASS = {
    name: family
    for kind, family in ((sd3_config, SD3), (flux_config, FLUX), (sana_config, SANA))
    for name in kind.CLASS_NAMES
}


def find_family(class_name: str, sizes: TextSizes, first: str | None = None) -> TextFamily:
    """The family of a network, by its class; that of a UNet2DConditionModel by what it takes of a text, and by the
    class of the first text encoder."""
    if first in SENTENCE and sizes == TextSizes(sizes.token):
        return SENTENCES
    return _BY_CLASS.get(class_name, SD if sizes.whole is None else SDXL)
