"""Reads the state dicts of OpenAI's guided-diffusion (MIT; Dhariwal and Nichol 2021) as networks of diffusers.

Its UNet is a UNet2DModel under other names, which are facts of the files. What shapes do not tell: the channels per
head of its attention, the order in which queries, keys and values are stored, and the noise schedule.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

from gsd_cli.base.errors import GsdError
from gsd_cli.catalogue.bare_files import ORDERS, SIZE
from gsd_cli.catalogue.readings import SCHEDULES
from gsd_cli.core.models.bare_model import BareModel, State, below, find_prefix
from gsd_cli.core.models.unet2d_config import DIFFUSERS_CLASS

LIBRARY = "guided-diffusion"
_ANCHOR = "input_blocks.0.0.weight"
SIZES = {(1, 1, 2, 2, 4, 4): 256, (1, 1, 2, 3, 4): 128, (1, 2, 3, 4): 64}
"""The side of the images for which the library chooses these widths, in multiples of the first."""
HEADS = (64, 32, 128, 16, 8)
"""Channels per head to try; published networks have 64."""
GROUPS = 32
_RESIDUAL = {
    "in_layers.0": "norm1", "in_layers.2": "conv1", "emb_layers.1": "time_emb_proj", "out_layers.0": "norm2",
    "out_layers.3": "conv2", "skip_connection": "conv_shortcut",
}  # fmt: skip
_ATTENTION = {"norm": "group_norm", "proj_out": "to_out.0"}
_ENDS = {
    "time_embed.0": "time_embedding.linear_1", "time_embed.2": "time_embedding.linear_2",
    "label_emb": "class_embedding", "input_blocks.0.0": "conv_in", "out.0": "conv_norm_out", "out.2": "conv_out",
    "middle_block.0": "mid_block.resnets.0", "middle_block.1": "mid_block.attentions.0",
    "middle_block.2": "mid_block.resnets.1",
}  # fmt: skip


def read_guided(state: State) -> BareModel | None:
    """The model in a state dict; None where the file is of another library. Raises GsdError (exit 3) for what is not
    read: classifiers, models that enlarge images, networks that diffusers has no equal of."""
    prefix = find_prefix(state, _ANCHOR)
    if prefix is None:
        return None
    if any(name.startswith("first_stage_model.") for name in state):
        raise _unread("it is a latent model with its autoencoder in one file")
    net = below(state, prefix)
    try:
        names, config = _read_layout(net)
    except (KeyError, IndexError, ZeroDivisionError) as error:
        raise _unread(f"it lacks {error}") from error
    widths = {int(net[f"{name}.proj_out.weight"].shape[0]) for name in names if f"{name}.proj_out.weight" in net}
    multiples = tuple(width / config["block_out_channels"][0] for width in config["block_out_channels"])
    size = SIZES.get(multiples)  # type: ignore[call-overload]
    learned = config["out_channels"] == 2 * config["in_channels"]

    def arrange(values: Mapping[str, str]) -> tuple[dict[str, Any], State]:
        heads = int(values["heads"])
        if any(width % heads for width in widths):
            raise _unread(f"its attention has {min(widths)} channels, which {heads} do not divide")
        found = {**config, "sample_size": int(values[SIZE]), "attention_head_dim": heads}
        return found, dict(_rename(net, names, heads, values["order"]))

    return BareModel(
        LIBRARY,
        arrange,
        ("epsilon", "sample"),
        {name: SCHEDULES[name] for name in ("linear", "cosine")},
        {
            SIZE: (str(size),) if size else (),
            "heads": tuple(str(n) for n in HEADS if all(width % n == 0 for width in widths)),
            "order": ORDERS,
        },
        {"variance_type": "learned_range" if learned else "fixed_large"},
    )


def _read_layout(net: State) -> tuple[dict[str, str], dict[str, Any]]:
    """The names of diffusers' modules by the file's, and the config but for what shapes do not tell."""
    if "output_blocks.0.0.in_layers.0.weight" not in net:
        raise _unread("it has no decoder, as a classifier")
    count = len({name.split(".")[1] for name in net if name.startswith("output_blocks.")})
    ups = [k for k in range(count) if _ups(net, k)]
    per_level, levels = ups[0] + 1 if ups else count, len(ups) + 1
    layers = per_level - 1
    starts = [1 + level * per_level for level in range(levels)]
    blocks = [[f"input_blocks.{start + k}" for k in range(layers)] for start in starts]
    attends = [f"{level[0]}.1.qkv.weight" in net for level in blocks]
    residual = levels > 1 and f"input_blocks.{starts[0] + layers}.0.op.weight" not in net
    names = dict(_ENDS)
    for level, start in enumerate(starts):
        names |= _name_level(blocks[level], f"down_blocks.{level}", attends[level])
        if level < levels - 1:
            down = f"input_blocks.{start + layers}.0"
            names |= {down: f"down_blocks.{level}.downsamplers.0"} if residual else {
                f"{down}.op": f"down_blocks.{level}.downsamplers.0.conv"}  # fmt: skip
        ends = [f"output_blocks.{level * per_level + k}" for k in range(per_level)]
        names |= _name_level(ends, f"up_blocks.{level}", attends[levels - 1 - level])
        if level < levels - 1:
            up = f"{ends[-1]}.{_ups(net, (level + 1) * per_level - 1)}"
            names |= {up: f"up_blocks.{level}.upsamplers.0"} if residual else {
                f"{up}.conv": f"up_blocks.{level}.upsamplers.0.conv"}  # fmt: skip
    return names, _read_config(net, blocks, attends, residual)


def _ups(net: State, k: int) -> int:
    """Which module of an output block doubles the side; 0 where none does."""
    return next(
        (m for m in (1, 2) for end in ("in_layers.0", "conv") if f"output_blocks.{k}.{m}.{end}.weight" in net), 0
    )


def _name_level(blocks: list[str], name: str, attends: bool) -> dict[str, str]:
    found = {f"{block}.0": f"{name}.resnets.{k}" for k, block in enumerate(blocks)}
    return found | ({f"{block}.1": f"{name}.attentions.{k}" for k, block in enumerate(blocks)} if attends else {})


def _read_config(net: State, blocks: list[list[str]], attends: list[bool], residual: bool) -> dict[str, Any]:
    widths = [int(net[f"{level[0]}.0.out_layers.3.weight"].shape[0]) for level in blocks]
    if net["time_embed.0.weight"].shape[1] != widths[0]:
        raise _unread("its sines of t have another width than its first level, as in the 512 x 512 model")
    channels, out = int(net[_ANCHOR].shape[1]), int(net["out.2.weight"].shape[0])
    if channels == 6 and out in (3, 6):
        raise _unread("it enlarges images: it takes a small one next to the noise")
    plain = ("ResnetDownsampleBlock2D", "ResnetUpsampleBlock2D") if residual else ("DownBlock2D", "UpBlock2D")
    first = f"{blocks[0][0]}.0"
    shifts = net[f"{first}.emb_layers.1.weight"].shape[0] == 2 * widths[0]
    labels = net.get("label_emb.weight")
    return {
        "_class_name": DIFFUSERS_CLASS,
        "in_channels": channels,
        "out_channels": out,
        "block_out_channels": widths,
        "layers_per_block": len(blocks[0]),
        "down_block_types": ["AttnDownBlock2D" if attention else plain[0] for attention in attends],
        "up_block_types": ["AttnUpBlock2D" if attention else plain[1] for attention in reversed(attends)],
        "downsample_type": "resnet" if residual else "conv",
        "upsample_type": "resnet" if residual else "conv",
        "resnet_time_scale_shift": "scale_shift" if shifts else "default",
        "num_class_embeds": None if labels is None else int(labels.shape[0]),
        "norm_num_groups": GROUPS,
        "attn_norm_num_groups": GROUPS,
        "norm_eps": 1e-5,
        "freq_shift": 0,
        "flip_sin_to_cos": True,
    }


def _rename(net: State, names: Mapping[str, str], heads: int, order: str) -> Iterator[tuple[str, Tensor]]:
    """The tensors under diffusers' names. heads: channels per head."""
    for name, value in net.items():
        module, _, kind = name.rpartition(".")
        if module in names:
            yield f"{names[module]}.{kind}", value
            continue
        block = next(
            (module[: -len(end) - 1] for end in (*_RESIDUAL, *_ATTENTION, "qkv") if module.endswith(f".{end}")), ""
        )
        if block not in names:
            continue
        end = module.removeprefix(f"{block}.")
        if end == "qkv":
            for part, rows in zip("qkv", _split(value, heads, order), strict=True):
                yield f"{names[block]}.to_{part}.{kind}", rows
        else:
            linear = end == "proj_out" and value.ndim == 3
            yield f"{names[block]}.{(_RESIDUAL | _ATTENTION)[end]}.{kind}", value[..., 0] if linear else value


def _split(value: Tensor, heads: int, order: str) -> tuple[Tensor, ...]:
    """The rows of queries, keys and values, each with all heads, of a weight [3 C, C, 1] or a bias [3 C]."""
    rows = value[..., 0] if value.ndim == 3 else value
    if order == "joint":
        return rows.chunk(3)
    parts = rows.unflatten(0, (-1, 3, heads))  # [heads, 3, channels per head, ...]
    return tuple(part.flatten(0, 1) for part in parts.unbind(1))


def _unread(cause: str) -> GsdError:
    return GsdError(
        f"a model of {LIBRARY} that gsd does not read: {cause}",
        hint="gsd reads its networks of images whose attention has as many channels per head in every level",
    )
