"""One process or several that share a run, through Hugging Face accelerate under its launcher or torchrun."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from threading import Timer
from typing import Any

import torch
from torch import Tensor, nn

from gsd_cli.base.errors import ExitCode, GsdError
from gsd_cli.base.launcher import process_count, rank
from gsd_cli.base.session import Session
from gsd_cli.base.text import plural
from gsd_cli.compute.sharding import is_sharded

PATIENCE = timedelta(hours=24)
"""How long a process waits for the others: the main one may sample a teacher or measure for hours."""
LATE = 15.0
"""Seconds after which a process other than the first reports that it waits."""


class World:
    """The processes of a run. With one process every method is the identity.

    rank: this process's number; size: how many there are.
    """

    def __init__(self, accelerator: Any = None, session: Session | None = None):
        self._accelerator, self._session = accelerator, session
        self.rank: int = accelerator.process_index if accelerator else 0
        self.size: int = accelerator.num_processes if accelerator else 1

    @property
    def main(self) -> bool:
        """Whether this process writes files and messages."""
        return self.rank == 0

    def rows(self, batch: int) -> slice:
        """This process's rows of a batch that all processes share."""
        share = batch // self.size
        return slice(self.rank * share, (self.rank + 1) * share)

    def share(self, module: nn.Module) -> nn.Module:
        """A view of `module` whose backward passes average gradients over the processes; itself if it is sharded."""
        alone = self.size == 1 or is_sharded(module)
        shared: nn.Module = module if alone else self._accelerator.prepare_model(module)
        return shared

    def without_sync(self, module: nn.Module) -> AbstractContextManager[Any]:
        """Only accumulate gradients in here; the next backward pass outside averages them.

        A sharded module averages the gradients of each pass: to accumulate them, a process would keep them whole.
        """
        context: AbstractContextManager[Any] = self._accelerator.no_sync(module) if self.size > 1 else nullcontext()
        return context

    def gather(self, tensor: Tensor, dim: int = 0) -> Tensor:
        """The tensors of all processes, of equal shape, concatenated in the order of ranks; without gradients."""
        if self.size == 1:
            return tensor
        # NCCL only handles tensors on GPUs
        own = tensor.detach().to(self._accelerator.device).contiguous()
        parts = [torch.empty_like(own) for _ in range(self.size)]
        torch.distributed.all_gather(parts, own)
        return torch.cat(parts, dim).to(tensor.device)

    def from_main(self, tensor: Tensor) -> Tensor:
        """The main process's tensor; the others' must have its shape and type."""
        return self.gather(tensor[None])[0]

    def total(self, *values: float) -> list[float]:
        """Each value summed over the processes."""
        if self.size == 1:
            return list(values)
        tensor = torch.tensor(values, dtype=torch.float64)
        if self._accelerator.device.type != "cpu":
            tensor = tensor.to(self._accelerator.device)
        torch.distributed.all_reduce(tensor)
        summed: list[float] = tensor.tolist()
        return summed

    def sum(self, tensor: Tensor) -> Tensor:
        """A tensor on the device summed over the processes, float32, without making the host wait."""
        if self.size == 1:
            return tensor
        summed = tensor.detach().float().clone()
        torch.distributed.all_reduce(summed)
        return summed

    def any(self, flag: bool) -> bool:
        """Whether the flag is set in any process."""
        return self.total(float(flag))[0] > 0

    def wait(self, what: str = "the other processes of this run") -> None:
        """Wait until all processes arrive here. After LATE seconds, print `what` the wait is for. A signal ends it."""
        if self.size > 1:
            with announced_wait(self._session or Session(), f"waiting for {what}", after=LATE):
                self._accelerator.wait_for_everyone()


def require_even_shares(batch: int, world: World) -> None:
    """Raise GsdError (exit 2) when a batch cannot be shared evenly."""
    if batch % world.size:
        raise GsdError(
            f"a batch of {batch} cannot be shared by {world.size} processes",
            hint=f"give a --batch-size that is a multiple of {world.size}",
            code=ExitCode.USAGE,
        )


def require_whole_weights() -> None:
    """Raise GsdError (exit 2) where accelerate is configured to shard weights: gsd does so itself, by --shard."""
    for kind in ("FSDP", "DEEPSPEED", "MEGATRON_LM"):
        if os.environ.get(f"ACCELERATE_USE_{kind}", "").lower() in ("1", "true", "yes", "y"):
            raise GsdError(
                f"{kind} cuts weights into pieces, and gsd's checkpoints hold whole ones",
                hint="launch with --multi_gpu; where memory is short, give gsd --shard, --recompute or --micro-batch",
                code=ExitCode.USAGE,
            )


def join_world(device: torch.device, session: Session | None = None) -> World:
    """The world of this process, connected with the others if a launcher started several.

    The first process reports at once what it waits for, the others only after LATE seconds. A signal ends the wait.
    """
    if process_count() == 1:
        return World()
    require_whole_weights()
    from accelerate import Accelerator
    from accelerate.utils import InitProcessGroupKwargs

    session = session or Session()
    # gsd sets precision itself: accelerate would also wrap calls that need every digit
    patience = InitProcessGroupKwargs(timeout=PATIENCE)
    with announced_wait(session, describe_wait(), after=0 if rank() == 0 else LATE):
        try:
            accelerator = Accelerator(cpu=device.type == "cpu", mixed_precision="no", kwargs_handlers=[patience])
        except (RuntimeError, ValueError, OSError) as error:  # what torch.distributed raises
            raise _describe_failure(error) from error
    return World(accelerator, session)


@contextmanager
def announced_wait(session: Session, what: str, *, after: float) -> Iterator[None]:
    """A wait for other processes: it prints `what` after `after` seconds, and the first signal ends the process."""
    late = Timer(after, lambda: session.console.announce(what))
    late.daemon = True
    with session.stop.waiting():
        if after:
            late.start()
        else:
            session.say(what)
        try:
            yield
        finally:
            late.cancel()


def _describe_failure(error: Exception) -> GsdError:
    """Why the processes cannot connect: usually the address is taken, or a variable is missing."""
    where = ":".join(os.environ.get(name, "?") for name in ("MASTER_ADDR", "MASTER_PORT"))
    first = (str(error).splitlines() or [type(error).__name__])[0][:160]
    taken = "EADDRINUSE" in str(error) or "address already in use" in str(error).lower()
    cause = "another program listens there" if taken else first
    return GsdError(
        f"cannot connect the {process_count()} processes of this run at {where}: {cause}",
        hint="set MASTER_ADDR and MASTER_PORT to an address that is free; to run gsd alone: env -u RANK gsd ...",
        code=ExitCode.USAGE,
    )


def describe_wait() -> str:
    """The processes that the start waits for, and the environment variables that announce them."""
    size, others = process_count(), process_count() - 1
    where = ":".join(filter(None, (os.environ.get(name) for name in ("MASTER_ADDR", "MASTER_PORT"))))
    at = f" at {where}" if where else ""
    return (
        f"waiting for {plural(others, 'other process')}{at}: this one is number {rank()} of {size}, "
        f"by RANK={rank()}, WORLD_SIZE={size} and MASTER_ADDR in the environment; if it is alone: env -u RANK gsd ..."
    )
