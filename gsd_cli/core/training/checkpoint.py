"""Checkpoints: tensors and JSON, written whole, verified before use, never pickled.

A checkpoint is there completely or not at all, whenever the process dies.
"""

from __future__ import annotations

import json
import shutil
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from gsd_cli.base.atomic import atomic_folder, sweep
from gsd_cli.base.download import file_sha256
from gsd_cli.base.errors import ExitCode, GsdError
from gsd_cli.catalogue.run_layout import checkpoint_name, checkpoints
from gsd_cli.compute.sharding import cut_like, gather
from gsd_cli.core.models.adapters import trained_names

TENSORS, STATE, MANIFEST = "tensors.safetensors", "state.json", "manifest.json"


@dataclass(frozen=True)
class Checkpoint:
    """One verified checkpoint: all that a run needs to resume, on the CPU."""

    step: int
    tensors: dict[str, Tensor]
    state: dict[str, Any]


class CheckpointStore:
    """A folder of checkpoints `step-00001000/`; the newest `keep` are kept."""

    def __init__(self, folder: Path, keep: int = 2):
        self.folder = folder
        self.keep = keep

    def save(self, step: int, tensors: dict[str, Tensor], state: dict[str, Any]) -> Path:
        """Write one checkpoint. Older ones are removed only after it is in place."""
        return self.write(step, host_copies(tensors), state)

    def write(self, step: int, copies: dict[str, Tensor], state: dict[str, Any]) -> Path:
        """As `save`, from the result of `host_copies`: tensors that no longer change."""
        target = self.folder / checkpoint_name(step)
        with atomic_folder(target) as temporary:
            save_file(copies, temporary / TENSORS)
            (temporary / STATE).write_text(json.dumps({"step": step, **state}), encoding="utf-8")
            hashes = {name: file_sha256(temporary / name) for name in (TENSORS, STATE)}
            (temporary / MANIFEST).write_text(json.dumps(hashes), encoding="utf-8")
        steps = checkpoints(self.folder)
        past = [path for path in steps if path <= target]
        # checkpoints newer than the one just saved were found damaged when the run resumed
        for stale in past[: -self.keep] + steps[len(past) :]:
            shutil.rmtree(stale, ignore_errors=True)
        return target

    def latest(self) -> tuple[Checkpoint | None, list[Path]]:
        """The newest intact checkpoint, or None, and the damaged ones that are newer.

        Raises GsdError (exit 3) if there are checkpoints and none is intact.
        """
        sweep(self.folder)
        damaged: list[Path] = []
        for path in reversed(checkpoints(self.folder)):
            if (checkpoint := _read(path)) is not None:
                return checkpoint, damaged
            damaged.append(path)
        if damaged:
            raise GsdError(
                f"no checkpoint in {self.folder} is intact",
                hint="start again with --no-resume",
                code=ExitCode.INPUT,
            )
        return None, []

    def clear(self) -> None:
        """Remove every checkpoint."""
        for path in checkpoints(self.folder):
            shutil.rmtree(path)


class CheckpointWriter:
    """Writes a store's checkpoints in a thread, one after the other, while steps run.

    As a context it waits at its end for the last one. An error in the thread is raised by the next `check`, `save` or
    `wait`. seconds: the time that the last checkpoint took in all; None before the first.
    """

    def __init__(self, store: CheckpointStore):
        self.store = store
        self.seconds: float | None = None
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def __enter__(self) -> CheckpointWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.wait()
        elif self._thread is not None:  # another error is being raised already
            self._thread.join()

    def save(self, step: int, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
        """Copy `tensors` to the host now, and begin to write them once the previous checkpoint is written."""
        self.wait()
        begun = time.monotonic()
        copies = host_copies(tensors)

        def write() -> None:
            try:
                self.store.write(step, copies, state)
            except BaseException as error:  # raised in the main thread
                self._error = error
            self.seconds = time.monotonic() - begun

        self._thread = threading.Thread(target=write, name="checkpoint")
        self._thread.start()

    def check(self) -> None:
        """Raise the thread's error, if there was one."""
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def wait(self) -> None:
        """Wait until nothing is being written."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self.check()


def host_copies(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Copies on the CPU. Contiguous clones: safetensors refuses tensors that share memory or are strided."""
    return {k: v.detach().cpu().clone(memory_format=torch.contiguous_format) for k, v in tensors.items()}


def _read(path: Path) -> Checkpoint | None:
    try:
        hashes = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        if any(file_sha256(path / name) != hashes[name] for name in (TENSORS, STATE)):
            return None
        state = json.loads((path / STATE).read_text(encoding="utf-8"))
        return Checkpoint(int(state.pop("step")), load_file(path / TENSORS), state)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, SafetensorError):
        return None


def module_tensors(name: str, module: nn.Module) -> dict[str, Tensor]:
    """A module's state under the prefix `name/`, without a frozen base under adapters.

    That of a sharded module is whole in the main process and without data in the others, which all must call this.
    """
    trained = trained_names(module)
    return {f"{name}/{key}": gather(value) for key, value in module.state_dict().items() if key in trained}


def load_module(name: str, module: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Restore a module from the result of `module_tensors`. Raises GsdError (exit 2) for another size or kind."""
    prefix = f"{name}/"
    trained, now = trained_names(module), module.state_dict()
    base = {key: value for key, value in now.items() if key not in trained}
    saved = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
    try:
        module.load_state_dict({k: cut_like(v, now[k]) if k in now else v for k, v in saved.items()} | base)
    except RuntimeError as error:  # a forced run may have been given another teacher, or a student of another size
        raise GsdError(
            f"the checkpoint's {name} network is not of the size or kind that these options give",
            hint="use the run's own options, another folder with -o, or --no-resume to start again",
            code=ExitCode.USAGE,
        ) from error


def optimizer_tensors(name: str, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """An Adam-like optimizer's state as tensors named `name/<parameter index>/<key>`; sharded as `module_tensors`."""
    state = optimizer.state_dict()["state"]
    return {f"{name}/{i}/{key}": gather(torch.as_tensor(v)) for i, s in state.items() for key, v in s.items()}


def load_optimizer(name: str, optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Restore an optimizer from the result of `optimizer_tensors`; its options stay as constructed.

    Moments get their parameters' strides: a checkpoint holds contiguous tensors, and the fused Adam of a GPU refuses
    moments whose strides differ from their parameter's.
    """
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        if key.startswith(f"{name}/"):
            index, field = key.removeprefix(f"{name}/").split("/")
            like = parameters[int(index)].detach()
            laid_out = value.clone() if field == "step" else torch.empty_like(like).copy_(cut_like(value, like))
            state.setdefault(int(index), {})[field] = laid_out
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
