"""Reads the checkpoints of lucidrains' `denoising_diffusion_pytorch` 2.x: model-N.pt, with its schedule in buffers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from gsd_cli.base.errors import GsdError
from gsd_cli.catalogue.bare_files import SIZE
from gsd_cli.core.models.bare_model import BareModel, State, below, find_prefix
from gsd_cli.core.models.ddp_unet_config import DIFFUSERS_CLASS

LIBRARY = "denoising_diffusion_pytorch"
_ANCHOR, _MODEL = "init_conv.weight", "model."
PREDICTIONS = ("epsilon", "v_prediction", "sample")
_CLOSE = 1e-3


def read_ddp(state: State) -> BareModel | None:
    """The model in a checkpoint; None where the file is of another library. Raises GsdError (exit 3) for what is not
    read: other releases, self-conditioning, learnt frequencies."""
    prefix = find_prefix(state, _ANCHOR)
    if prefix is None:
        return None
    net = below(state, prefix)
    config = _read_config(net)
    buffers = below(state, prefix.removesuffix(_MODEL)) if prefix.endswith(_MODEL) else {}
    betas, weights = buffers.get("betas"), buffers.get("loss_weight")
    schedules: dict[str, Mapping[str, Any]] = {}
    if betas is not None and betas.ndim == 1:
        schedules[""] = {"trained_betas": betas.double().tolist()}
    predictions = find_objective(betas, weights)

    def arrange(values: Mapping[str, str]) -> tuple[dict[str, Any], State]:
        return {**config, "sample_size": int(values[SIZE])}, net

    learned = config["out_channels"] == 2 * config["in_channels"]
    scheduler = {"variance_type": "learned_range"} if learned else {}
    return BareModel(LIBRARY, arrange, predictions, schedules, {SIZE: ()}, scheduler)


def find_objective(betas: Tensor | None, weights: Tensor | None) -> tuple[str, ...]:
    """What a network predicts, by the weights of its loss: 1 for the noise, SNR for the image, SNR / (SNR + 1) for v,
    wherever SNR is not clipped (Hang et al. 2023 clip it from above). All where the weights do not tell."""
    if betas is None or weights is None or betas.shape != weights.shape:
        return PREDICTIONS
    bar = torch.cumprod(1 - betas.double(), 0)
    snr = bar / (1 - bar)
    low = (snr > 0.05) & (snr < 0.5)
    expected = {"epsilon": torch.ones_like(snr), "v_prediction": snr / (snr + 1), "sample": snr}
    fits = [
        name
        for name, wanted in expected.items()
        if low.any() and torch.allclose(weights.double()[low], wanted[low], rtol=_CLOSE, atol=0)
    ]
    return tuple(fits) or PREDICTIONS


def _read_config(net: State) -> dict[str, Any]:
    """Every size of the network, from the shapes of its tensors."""
    if "time_mlp.0.weights" in net:
        raise _unread("its sines of t have learnt or random frequencies")
    try:
        levels = len({name.split(".")[1] for name in net if name.startswith("downs.")})
        changes = [_one_of(net, f"downs.{k}.3.1.weight", f"downs.{k}.3.weight") for k in range(levels)]
        attentions = [_read_attention(net, f"downs.{k}.2") for k in range(levels)]
        first, last, time = (net[name] for name in (_ANCHOR, "final_conv.weight", "time_mlp.1.weight"))
        channels, out = int(first.shape[1]), int(last.shape[0])
        config = {
            "_class_name": DIFFUSERS_CLASS,
            "in_channels": channels,
            "out_channels": out,
            "time_width": int(time.shape[1]),
            "widths": [int(first.shape[0]), *(int(change.shape[0]) for change in changes)],
            "attentions": [*attentions, _read_attention(net, "mid_attn")],
        }
    except (KeyError, IndexError, ValueError) as error:
        raise _unread(f"it lacks {error}, as in another release") from error
    if channels == 2 * out:
        raise _unread("it is conditioned on its own estimate (self_condition)")
    return config


def _read_attention(net: State, name: str) -> list[Any]:
    """[full, heads, channels per head, stored keys]: full attention stores its keys the other way round."""
    full = f"{name}.to_out.weight" in net
    _, heads, a, b = net[f"{name}.mem_kv"].shape
    return [full, int(heads), *map(int, (b, a) if full else (a, b))]


def _one_of(net: State, *names: str) -> Tensor:
    return net[next((name for name in names if name in net), names[0])]


def _unread(cause: str) -> GsdError:
    return GsdError(
        f"a model of {LIBRARY} that gsd does not read: {cause}",
        hint="gsd reads the Unet of its releases 2.x, with sines of t and without self-conditioning",
    )
