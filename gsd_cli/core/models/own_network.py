"""The base of gsd's own networks: a config, and a folder as diffusers writes it (config.json and safetensors)."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar, cast

from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from gsd_cli.base.atomic import write_json
from gsd_cli.catalogue.diffusers_layout import SAFE_WEIGHTS

Own = TypeVar("Own", bound="OwnNetwork")


class NetworkConfig(dict[str, Any]):
    """The content of a config.json; keys are attributes too."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None


class OwnNetwork(nn.Module):
    """A network that is built from its config alone."""

    def __init__(self, config: dict[str, Any]):
        super().__init__()
        self.config = NetworkConfig({**config, "_class_name": type(self).__name__})
        self.recompute = False

    @classmethod
    def from_config(cls: type[Own], config: dict[str, Any]) -> Own:
        """A network with the weights that torch draws."""
        return cls(config)

    def save_pretrained(self, folder: Path) -> None:
        """Write config.json and the weights."""
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / "config.json", dict(self.config))
        tensors = {name: value.contiguous() for name, value in self.state_dict().items()}
        save_file(tensors, folder / SAFE_WEIGHTS, metadata={"format": "pt"})

    def enable_gradient_checkpointing(self) -> None:
        """Compute the activations of the blocks again in the backward pass instead of keeping them."""
        self.recompute = True

    def run(self, block: nn.Module, *inputs: Tensor) -> Tensor:
        """Call a block, whose activations need not be kept."""
        if self.recompute and any(one.requires_grad for one in (*inputs, *block.parameters())):
            return cast(Tensor, checkpoint(block, *inputs, use_reentrant=False))
        return cast(Tensor, block(*inputs))
