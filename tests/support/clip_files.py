"""Files of the form of OpenAI's CLIP, from a model of transformers with random weights."""

from __future__ import annotations

import gzip
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

MERGES = ("c a", "ca t</w>", "d o", "do g", "dog s</w>")
TOKENS = 512 + len(MERGES) + 2
NAMES = (
    (r"^vision_model\.embeddings\.patch_embedding", "visual.conv1"),
    (r"^vision_model\.embeddings\.position_embedding\.weight", "visual.positional_embedding"),
    (r"^vision_model\.embeddings", "visual"), (r"^vision_model\.pre_layrnorm", "visual.ln_pre"),
    (r"^vision_model\.post_layernorm", "visual.ln_post"), (r"^visual_projection\.weight", "visual.proj"),
    (r"^text_model\.embeddings\.position_embedding\.weight", "positional_embedding"),
    (r"^text_model\.embeddings\.", ""), (r"^text_model\.final_layer_norm", "ln_final"),
    (r"^text_projection\.weight", "text_projection"),
    (r"^vision_model\.encoder\.layers", "visual.transformer.resblocks"),
    (r"^text_model\.encoder\.layers", "transformer.resblocks"), (r"layer_norm(\d)", r"ln_\1"),
    (r"mlp\.fc1", "mlp.c_fc"), (r"mlp\.fc2", "mlp.c_proj"), (r"self_attn\.out_proj", "attn.out_proj"),
)  # fmt: skip
"""transformers' names to OpenAI's; those of queries, keys and values are joined."""


def random_clip() -> Any:
    """transformers' CLIPModel of the kind of ViT-B/32, small, with weights that half precision holds."""
    import transformers

    both = {"hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = transformers.CLIPConfig(
        text_config={**both, "vocab_size": TOKENS, "max_position_embeddings": 20, "hidden_act": "quick_gelu",
                     "bos_token_id": TOKENS - 2, "eos_token_id": TOKENS - 1, "pad_token_id": TOKENS - 1},
        vision_config={**both, "image_size": 224, "patch_size": 32, "hidden_act": "quick_gelu"},
        projection_dim=16,
    )  # fmt: skip
    torch.manual_seed(7)
    net = transformers.CLIPModel(config).eval().requires_grad_(False)
    for name, value in net.named_parameters():
        if "norm" not in name and value.ndim > 1:
            value.mul_(3)  # transformers begins near 0, where all texts are alike
    return net.half().float()


def save_archive(path: Path, net: Any) -> Path:
    """A TorchScript archive of half-precision weights, under OpenAI's names."""
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.jit.script(_Tree(_rename(net.state_dict()))).half().save(str(path))
    return path


def save_vocabulary(path: Path) -> Path:
    """A list of merges, with more of them than the archive has tokens for, as OpenAI's has."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress("\n".join(["#version: 0.2", *MERGES, "q q", "x x", ""]).encode()))
    return path


def _rename(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for name, value in weights.items():
        for theirs, ours in NAMES:
            name = re.sub(theirs, ours, name)
        if "projection" in name or name == "visual.proj":
            value = value.T
        if (part := re.fullmatch(r"(.*)self_attn\.([qkv])_proj\.(weight|bias)", name)) is None:
            found[name] = value
        elif part[2] == "q":
            rows = [weights[_of(weights, value, letter)] for letter in "qkv"]
            found[f"{part[1]}attn.in_proj_{part[3]}"] = torch.cat(rows)
    return found


def _of(weights: dict[str, Tensor], query: Tensor, letter: str) -> str:
    """The name of the key or the value that belongs to a query."""
    (name,) = (name for name, value in weights.items() if value is query)
    return name.replace("q_proj", f"{letter}_proj")


class _Tree(nn.Module):
    """Weights under dotted names."""

    def __init__(self, weights: dict[str, Tensor]):
        super().__init__()
        inside: dict[str, dict[str, Tensor]] = {}
        for name, value in weights.items():
            first, _, rest = name.partition(".")
            if rest:
                inside.setdefault(first, {})[rest] = value
            elif value.is_floating_point():
                self.register_parameter(first, nn.Parameter(value.contiguous(), requires_grad=False))
        for first, some in inside.items():
            self.add_module(first, _Tree(some))

    def forward(self, x: Tensor) -> Tensor:
        return x
