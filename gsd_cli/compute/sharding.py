"""Networks cut into pieces over the processes of a run: torch's FSDP2 (`fully_shard`), one unit per block.

A process keeps a piece of each weight, of its gradient and of its optimizer state. Before a block is called, forward or
backward, its weights are gathered, and they are freed afterwards. Gradients are averaged over the processes, as DDP
averages them. What leaves the processes, as a checkpoint or an exported network, is whole.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

LARGE = 50_000_000
"""Parameters of a block from which its own blocks are gathered one at a time: 200 MB in float32."""


def shard(
    module: nn.Module, net: nn.Module, device: torch.device, *methods: str, apart: Sequence[nn.Module] = ()
) -> None:  # fmt: skip
    """Cut the weights of `module` into pieces over all processes, and move this process's pieces to the device.

    net: the network in `module`, of which each block becomes a unit. The rest of `module` is a unit too. methods: those
    of `module` that call its parts, in addition to `forward`. apart: parts of blocks that are also called without their
    block. A network on the CPU is moved block by block, so that the device never holds it whole. Optimizers are built
    afterwards, since the parameters are other objects.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    for unit in dict.fromkeys((*apart, *_blocks(net), module)):
        # a root that stays whole after a call without gradients would miss the next update
        fully_shard(unit, mesh=mesh, reshard_after_forward=True)
    for method in methods:
        register_fsdp_forward_method(module, method)
    module.to(device)  # buffers


def _blocks(module: nn.Module, *, listed: bool = False) -> Iterator[nn.Module]:
    """The blocks of a network, inner ones first: what its lists hold, and its other parts that have layers of layers.

    A block of more than LARGE parameters has blocks too. listed: `module` is a list or a dictionary of layers.
    """
    for child in module.children():
        if isinstance(child, nn.ModuleList | nn.ModuleDict):
            yield from _blocks(child, listed=True)
        elif (size := sum(p.numel() for p in child.parameters())) and (listed or _is_deep(child)):
            if size > LARGE:
                yield from _blocks(child)
            yield child


def _is_deep(module: nn.Module) -> bool:
    return any(True for layer in module.children() for _ in layer.children())


def is_sharded(module: nn.Module) -> bool:
    """Whether a module has weights that are cut into pieces."""
    return any(_is_cut(parameter) for parameter in module.parameters())


def _is_cut(tensor: Tensor) -> bool:
    # the module takes a second to load, and where nothing loaded it there is no such tensor
    loaded: Any = sys.modules.get("torch.distributed.tensor")
    return loaded is not None and isinstance(tensor, loaded.DTensor)


def local(tensor: Tensor) -> Tensor:
    """This process's piece of a tensor, of the same storage; a tensor that is not cut is its own piece."""
    piece: Any = tensor
    return piece.to_local() if _is_cut(tensor) else tensor


def total_norm(gradients: list[Tensor]) -> Tensor:
    """The Euclidean norm [] of all gradients together, over the pieces of all processes."""
    norm = nn.utils.get_total_norm([local(gradient) for gradient in gradients])
    if any(map(_is_cut, gradients)):
        squares = norm.square()
        dist.all_reduce(squares)
        return squares.sqrt()
    return norm


def gather(tensor: Tensor) -> Tensor:
    """A tensor as a checkpoint holds it: whole. All processes must call it for the same tensors in the same order.

    One that was cut is on the CPU in the main process, and on the device "meta", without data, in the others.
    """
    if not _is_cut(tensor):
        return tensor
    whole = _join(tensor)
    return whole.cpu() if dist.get_rank() == 0 else torch.empty_like(whole, device="meta")


def _join(tensor: Any) -> Tensor:
    whole: Tensor = tensor.detach().full_tensor() if _is_cut(tensor) else tensor
    return whole


def cut_like(value: Tensor, like: Tensor) -> Tensor:
    """This process's piece of a whole tensor that all processes have, cut as `like` is; itself if `like` is not cut."""
    if not _is_cut(like):
        return value
    from torch.distributed.tensor import distribute_tensor

    pattern: Any = like
    return distribute_tensor(
        value.to(like.device, like.dtype), pattern.device_mesh, pattern.placements, src_data_rank=None
    )


class Mould:
    """The shape of a module before it is sharded, from which a whole copy can be cast."""

    def __init__(self, module: nn.Module):
        empty = {id(p): nn.Parameter(torch.empty_like(p, device="meta"), False) for p in module.parameters()}
        self._hollow = copy.deepcopy(module, dict(empty))

    def cast(self, module: nn.Module, device: torch.device) -> nn.Module:
        """An ordinary copy of the sharded `module`, frozen, on the device of each process. All must call it."""
        whole = copy.deepcopy(self._hollow)
        state = module.state_dict()
        whole.load_state_dict({name: _join(value) for name, value in state.items()}, assign=True)
        return whole.to(device).requires_grad_(False)
