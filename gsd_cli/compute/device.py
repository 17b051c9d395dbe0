"""The device and the precision of a run."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor, nn

from gsd_cli.base.errors import ExitCode, GsdError
from gsd_cli.base.launcher import local_rank, process_count
from gsd_cli.base.text import plural

Module = TypeVar("Module", bound=nn.Module)
P = ParamSpec("P")
Result = TypeVar("Result")
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
CAST = nn.Conv2d | nn.ConvTranspose2d | nn.Linear
"""The layers whose weights are cast ahead of `autocast`."""
FUSED = ("cpu", "cuda", "mps")
"""Devices for which torch has a fused Adam."""
TRIALS, WORTHWHILE = 3, 1.2
"""Timed passes per precision, of which the fastest counts; and the speed-up from which bf16 is chosen."""
VARIANTS = 64
"""The most variants of one compiled network."""


def resolve_device(name: str) -> torch.device:
    """The device of `auto`, `cpu`, `cuda`, `cuda:1` or `mps`. Raises GsdError (exit 5) where it is missing."""
    if name == "auto":
        if torch.cuda.is_available():
            # a launcher gives each of its processes a device of its own
            return torch.device("cuda", local_rank()) if process_count() > 1 else torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    device = torch.device(name)
    cuda_missing = device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count()
    if cuda_missing or (device.type == "mps" and not torch.backends.mps.is_available()):
        count = torch.cuda.device_count()
        raise GsdError(
            f"no device {name!r} on this machine ({plural(count, 'CUDA device')} found)",
            hint="use --device auto or --device cpu",
            code=ExitCode.DEVICE,
        )
    return device


def to_device(module: Module, device: torch.device, *, training: bool = True) -> Module:
    """Move a module to a device, in the memory layout that is fastest there.

    On a GPU convolutions read channels last. On a CPU that layout gains a seventh in inference and loses a tenth in
    training.
    """
    module = module.to(device)
    if device.type == "cuda" or not training:
        # typed for tensors only, but works on modules
        module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return module


def adam(module: nn.Module, lr: float, betas: tuple[float, float], device: torch.device) -> torch.optim.Adam:
    """Adam on a module's trained parameters, in one kernel that can skip a step on the device (see `descend`).

    On a CUDA device it can be a part of a graph: its learning rate is a tensor there. `set_rate` changes it.
    """
    cuda = device.type == "cuda"
    rate = torch.tensor(lr, device=device) if cuda else lr
    trained = [p for p in module.parameters() if p.requires_grad]
    return torch.optim.Adam(trained, rate, betas, fused=device.type in FUSED, capturable=cuda)


def set_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set an optimizer's learning rate, in place if it is a tensor."""
    for group in optimizer.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(lr)
        else:
            group["lr"] = lr


def resolve_precision(precision: str, device: torch.device) -> str:
    """Resolve `--precision` for network calls: `auto` is bf16 on a CUDA device that has it, else fp32."""
    return precision if precision != "auto" else "bf16" if _has_bf16(device) else "fp32"


def image_precision(precision: str, device: torch.device, *, latent: bool) -> str:
    """Resolve `--precision` for making images: `auto` is fp32 unless the network makes latents.

    The rounding of bf16 is grain in a network's pixels, while a decoder hides it in latents.
    """
    return "fp32" if precision == "auto" and not latent else resolve_precision(precision, device)


def autocast(device: torch.device, precision: str) -> AbstractContextManager[object]:
    """A context with the precision of network calls: mixed, or for `fp32` full and without TF32."""
    precision = resolve_precision(precision, device)
    if precision == "fp32":
        return full_precision(device)
    return torch.autocast(device.type, dtype=DTYPES[precision])


def cast_for_autocast(module: Module, precision: str) -> Module:
    """A copy of a frozen module with the weights of convolutions and linear layers cast as `autocast` casts them.

    The results are the same, without about a hundred copies per call. In fp32 the module itself.
    """
    if precision not in DTYPES:
        return module
    copied = copy.deepcopy(module)
    for layer in copied.modules():
        if isinstance(layer, CAST):
            layer.to(DTYPES[precision])
    return copied


def bytes_for_autocast(module: nn.Module, precision: str) -> int:
    """The bytes of the parameters that `cast_for_autocast` gives for a float32 module."""
    layers = [layer for layer in module.modules() if isinstance(layer, CAST)] if precision in DTYPES else []
    cast = {id(p) for layer in layers for p in layer.parameters()}
    sizes = ((p, DTYPES[precision].itemsize if id(p) in cast else p.element_size()) for p in module.parameters())
    return sum(size * p.numel() for p, size in sizes)


class LowPrecisionGroupNorm(nn.GroupNorm):
    """Group normalisation in the type of its input, also in a CUDA autocast, which would compute it in float32.

    Its statistics are float32 all the same. A CPU's autocast does so by itself. What is saved is most of the memory
    traffic of a U-Net: casts to float32 and back, and an activation in float32 between them.
    """

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, ...] to the same shape and type."""
        if x.dtype == torch.float32 or self.weight is None:
            return super().forward(x)
        with _without_autocast(x.device):
            weight, bias = self.weight.to(x.dtype), self.bias.to(x.dtype)
            return nn.functional.group_norm(x, self.num_groups, weight, bias, self.eps)


def lower_norms(module: nn.Module, device: torch.device) -> None:
    """Make the group normalisations of a network that is trained in low precision LowPrecisionGroupNorm, on a CUDA
    device. Weights and their names stay."""
    if device.type != "cuda":
        return
    for layer in module.modules():
        if type(layer) is nn.GroupNorm:
            layer.__class__ = LowPrecisionGroupNorm


def exact_if_fp32(device: torch.device, precision: str) -> AbstractContextManager[object]:
    """`full_precision` for a whole training in fp32, with its backward passes; nothing for other precisions."""
    return full_precision(device) if resolve_precision(precision, device) == "fp32" else nullcontext()


def _has_bf16(device: torch.device) -> bool:
    """Whether a device is a CUDA device with bf16 in hardware."""
    return device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)


def choose_precision(precision: str, device: torch.device, train: Callable[[], object]) -> tuple[str, float]:
    """Resolve `--precision` for a training; return it with the speed-up of bf16 over fp32 (nan: not measured).

    `auto` on a CPU times both: with bf16 in hardware a processor is nearly twice as fast, without it far slower.
    train: one forward and one backward pass, called in each precision.
    """
    if precision != "auto":
        return precision, math.nan
    if device.type != "cpu":
        return resolve_precision(precision, device), math.nan
    seconds = {"fp32": math.inf, "bf16": math.inf}
    for k in range(TRIALS + 1):
        for name in seconds:
            begun = time.perf_counter()
            with autocast(device, name):
                train()
            # the first pass of each also loads kernels, so it does not count
            seconds[name] = min(seconds[name], time.perf_counter() - begun) if k else math.inf
    gain = seconds["fp32"] / seconds["bf16"]
    return ("bf16" if gain > WORTHWHILE else "fp32"), gain


@contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """Compute in float32 in here: no autocast, no TF32. Differences of similar images need every digit."""
    with _without_tf32(), _without_autocast(device):
        yield


@contextmanager
def _without_tf32() -> Iterator[None]:
    # torch has two generations of settings: the older one does not see what the newer one allows per device, and
    # cannot be read after the newer one was set to a value that it cannot express
    cudnn: Any = torch.backends.cudnn
    newer: list[Any] = [torch.backends.cuda.matmul, cudnn.conv, cudnn.rnn] if hasattr(cudnn, "conv") else []
    precisions = [setting.fp32_precision for setting in newer]
    try:
        older = torch.get_float32_matmul_precision(), cudnn.allow_tf32
    except RuntimeError:
        older = None
    if older is not None:
        _allow("highest", tf32=False)
    for setting in newer:
        setting.fp32_precision = "ieee"
    try:
        yield
    finally:
        if older is not None:
            _allow(older[0], tf32=older[1])
        for setting, precision in zip(newer, precisions, strict=True):
            setting.fp32_precision = precision


def _allow(matmul: str, *, tf32: bool) -> None:
    torch.set_float32_matmul_precision(matmul)
    torch.backends.cudnn.allow_tf32 = tf32


def in_full_precision(function: Callable[P, Result]) -> Callable[P, Result]:
    """Run the function in `full_precision`, on the device of its first argument that is a module or a tensor."""

    @wraps(function)
    def called(*args: P.args, **kwargs: P.kwargs) -> Result:
        with full_precision(_first_device(args)):
            return function(*args, **kwargs)

    return called


def _first_device(arguments: tuple[Any, ...]) -> torch.device:
    for argument in arguments:
        if isinstance(argument, nn.Module):
            return next(argument.parameters()).device
        if isinstance(argument, Tensor):
            return argument.device
    raise TypeError("no argument is on a device")


def compile_network(net: nn.Module) -> None:
    """Compile a network's calls, with a higher limit of variants than Dynamo's 8, beyond which it stops compiling.

    Precision, training, gradients and batch sizes each create variants.
    """
    torch._dynamo.config.recompile_limit = max(VARIANTS, torch._dynamo.config.recompile_limit)
    net.compile()


class DeviceConstant:
    """A constant tensor, copied to each device only once: a copy per call would make the host wait.

    float64 becomes float32 on a device without double precision.
    """

    def __init__(self, value: Tensor):
        self._value = value
        self._copies: dict[torch.device, Tensor] = {}

    def on(self, device: torch.device) -> Tensor:
        """The constant on this device."""
        if device not in self._copies:
            narrow = self._value.dtype == torch.float64 and not has_float64(device)
            self._copies[device] = (self._value.float() if narrow else self._value).to(device)
        return self._copies[device]


def _without_autocast(device: torch.device) -> AbstractContextManager[object]:
    # some devices have no autocast
    known = torch.amp.is_autocast_available(device.type)
    return torch.autocast(device.type, enabled=False) if known else nullcontext()


def has_float64(device: torch.device) -> bool:
    """Whether the device has double precision; Apple's GPUs do not."""
    return device.type != "mps"


def synchronize(device: torch.device) -> None:
    """Wait until the device has finished, so that time measurements are correct."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
