"""A generator run by onnxruntime, from the file that `write_onnx` wrote."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gsd_cli.base.errors import GsdError
from gsd_cli.catalogue.exports import require_onnx
from gsd_cli.core.export.exported import CLASS, LATENT, SHIFT, condition_inputs
from gsd_cli.core.export.metadata import FORMAT, read_fact
from gsd_cli.core.models.condition import UNCONDITIONAL, Condition, every_class

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
AGAIN = "write it with: gsd sample --model MODEL --export FILE.onnx"


class OnnxGenerator:
    """A `Renderer` of an ONNX file. Tensors are on the CPU, also where the file runs on a GPU.

    Raises GsdError (exit 3) for a file that is missing, damaged or not gsd's.
    """

    device = torch.device("cpu")

    def __init__(self, path: Path, providers: Sequence[str] = (CPU,)):
        self.path = path
        self._session = open_session(path, providers)
        self.metadata: dict[str, str] = dict(self._session.get_modelmeta().custom_metadata_map)
        if self.metadata.get("format") != FORMAT:
            raise GsdError(f"{path} is an ONNX file, but not of a generator that gsd exported", hint=AGAIN)
        self.latent_shape, self.image_shape = self._shape("latent_shape"), self._shape("image_shape")
        self.class_names = tuple(map(str, self._fact("class_names") or ()))
        given = [*self._session.get_inputs(), *self._session.get_overridable_initializers()]
        self._inputs = {one.name for one in given}
        classes = self._fact("classes")
        takes_classes = CLASS in self._inputs and isinstance(classes, int)
        self.conditions = every_class(classes) if takes_classes else UNCONDITIONAL
        self.condition = self.conditions.first(1)

    @property
    def name(self) -> str:
        """The name for messages: the file."""
        return str(self.path)

    @property
    def fingerprint(self) -> str:
        """The fingerprint of the weights that it was exported from."""
        return self.metadata.get("weights_fingerprint", "")

    @property
    def takes_texts(self) -> bool:
        """Whether its images are those of texts."""
        return "embeddings" in self._inputs

    def give_prompts(self, prompts: Condition) -> None:
        """Set the texts that it is used with, a row each. Raises GsdError (exit 3) for others than it takes."""
        if not self.takes_texts:
            raise GsdError(f"{self.name} is not text-conditional", hint="leave out the prompts")
        shapes = {one.name: tuple(one.shape[1:]) for one in self._session.get_inputs()}
        found = {name: tuple(value.shape[1:]) for name, value in condition_inputs(prompts).items()}
        wanted = {name: shape for name, shape in shapes.items() if name not in (LATENT, SHIFT)}
        if found != wanted:
            raise GsdError(
                f"the prompts have tensors of {_list_shapes(found)}, {self.name} takes {_list_shapes(wanted)}",
                hint="encode them for the model's own teacher: gsd prepare PROMPTS.txt --teacher T",
            )
        self.conditions, self.condition = prompts, prompts.first(1)

    def __call__(self, z: Tensor, condition: Condition | None = None, shift: Tensor | None = None) -> Tensor:
        """Images [B, *image_shape] in [-1, 1], of z [B, *latent_shape], the condition of B images, and the shift of the
        bottleneck [B or 1, c, h, w]."""
        if condition is None:
            condition = self.condition.expand(len(z))
        if self.takes_texts and condition.none:
            raise GsdError(f"{self.name} makes images of texts", hint="give prompts with --prompts FILE")
        inputs = {LATENT: z, **condition_inputs(condition)} | ({} if shift is None else {SHIFT: shift})
        arrays = {name: _to_array(value) for name, value in inputs.items()}
        (images,) = self._session.run(None, arrays)
        return torch.from_numpy(images)

    def _fact(self, name: str) -> Any:
        return read_fact(self.metadata, name, self.name)

    def _shape(self, name: str) -> tuple[int, int, int]:
        found = self._fact(name)
        if not (isinstance(found, list) and len(found) == 3 and all(isinstance(n, int) and n > 0 for n in found)):
            raise GsdError(f"{self.name} is damaged: it names no valid {name}", hint=AGAIN)
        return found[0], found[1], found[2]


def open_session(path: Path, providers: Sequence[str] = (CPU,)) -> Any:
    """onnxruntime's session of a file, with torch's number of threads. Raises GsdError (exit 3)."""
    require_onnx("onnxruntime")
    from onnxruntime import InferenceSession, SessionOptions

    if not path.is_file():
        raise GsdError(f"no such file: {path}", hint=AGAIN)
    settings = SessionOptions()
    settings.log_severity_level = 4  # errors are raised too
    settings.intra_op_num_threads = torch.get_num_threads()
    try:
        return InferenceSession(str(path), settings, providers=list(providers))
    except Exception as error:  # onnxruntime raises errors of many classes
        cause = (str(error).splitlines() or [type(error).__name__])[0][:160]
        raise GsdError(f"{path} cannot be opened by onnxruntime: {cause}", hint=AGAIN) from error


def find_providers(device: str, say: Any) -> tuple[str, ...]:
    """What runs a file for `--device`: CUDA where onnxruntime has it and it is not ruled out, else the CPU."""
    require_onnx("onnxruntime")
    from onnxruntime import get_available_providers

    if device == "cpu":
        return (CPU,)
    if CUDA in get_available_providers() and device != "mps":
        return CUDA, CPU
    if device != "auto":
        say(f"onnxruntime has no provider for {device} here, so the CPU runs the file (onnxruntime-gpu has CUDA)")
    return (CPU,)


def _to_array(value: Tensor) -> Any:
    return (value.float() if value.is_floating_point() else value).detach().cpu().contiguous().numpy()


def _list_shapes(shapes: dict[str, tuple[int, ...]]) -> str:
    return ", ".join(f"{name} {list(shape)}" for name, shape in shapes.items()) or "nothing"
