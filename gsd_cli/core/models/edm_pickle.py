"""The files that EDM and SiD write (`network-snapshot.pkl`, `edm-*.pkl`): which network one holds. No torch.

Such a file is a pickle of a dict whose values are modules in the form of StyleGAN's `persistence`: the source of a
class, its name, and the attributes of the module. gsd reads the name and the attributes and ignores the source.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from gsd_cli.base.errors import GsdError
from gsd_cli.core.models.edm_config import (
    CLASS_NAMES,
    HEUN,
    LICENCE,
    SOLVER_KEY,
    from_arguments,
)
from gsd_cli.core.models.inert_pickle import HINT, Call, read_records

PERSISTENT = "torch_utils.persistence._reconstruct_persistent_obj"
PARAMETER, TENSOR = "torch._utils._rebuild_parameter", "torch._utils._rebuild_tensor_v2"
STORAGE = "torch.storage._load_from_bytes"
MODULES = "torch.nn.modules.container.ModuleDict"
NAMES = frozenset((
    PERSISTENT, PARAMETER, TENSOR, STORAGE, MODULES, "collections.OrderedDict", "numpy.dtype",
    "numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar",
))  # fmt: skip
"""All that these files ask for. NumPy 2 has another name for its scalar."""
ENTRIES = ("ema", "G_ema", "G")
"""The keys of a network, the averaged ones first: those of EDM and SiD, then of StyleGAN."""
PRECONDITION = "EDMPrecond"
OTHERS = {
    "VPPrecond": "a baseline of EDM with the preconditioning of score SDEs (VP)",
    "VEPrecond": "a baseline of EDM with the preconditioning of score SDEs (VE)",
    "iDDPMPrecond": "a baseline of EDM with the preconditioning of improved DDPM",
    "Precond": "a network of EDM2",
    "Generator": "the generator of a GAN, which is no diffusion model",
}
MOST_MODULES, DEEPEST = 20_000, 12


@dataclass(frozen=True)
class PickledNetwork:
    """What a file says about its network.

    entry: the key that was read, and others that hold a network too. config: as in a config.json. schedule: a scheduler
    config.
    """

    path: Path
    entry: str
    others: tuple[str, ...]
    config: dict[str, Any]
    schedule: dict[str, Any]

    @property
    def remark(self) -> str:
        """One line on what was read."""
        more = f", not {' or '.join(self.others)}" if self.others else ""
        return (
            f"{self.path}: its network `{self.entry}`{more}, a {self.config['_class_name']}, is read without running "
            f"any code; the weights that NVIDIA publishes are {LICENCE}"
        )


def read_network(path: Path) -> PickledNetwork:
    """Which network a file holds. Raises GsdError (exit 3) for anything but one of EDM's."""
    facts = path.stat()
    return _read_network(path, facts.st_size, facts.st_mtime_ns)


@cache
def _read_network(path: Path, size: int, changed: int) -> PickledNetwork:
    """`read_network` once per process while the file's size and time stay: it may have gigabytes."""
    entry, others, whole = _choose(path, read_records(path, NAMES))
    inner = _inner(path, whole)
    name, attributes = _identify(inner) or ("", {})
    if name not in CLASS_NAMES:
        raise GsdError(f"{path} holds a {name[:60] or 'network of unknown class'}", hint=f"{' or '.join(CLASS_NAMES)}")
    arguments = _arguments(path, attributes)
    config = from_arguments(name, arguments, path).to_json(name)
    spread = (_identify(whole) or ("", {}))[1].get("sigma_data", 0.5)
    if not isinstance(spread, int | float) or not 1e-4 <= spread <= 1e4:
        raise GsdError(f"{path}: its sigma_data is no plausible number", hint="the file is damaged")
    schedule = {
        "_class_name": "EDMEulerScheduler", SOLVER_KEY: HEUN, "prediction_type": "epsilon", "sigma_data": float(spread),
        "sigma_min": 0.002, "sigma_max": 80.0, "rho": 7.0,
    }  # fmt: skip
    return PickledNetwork(path, entry, others, config, schedule)


def read_tensor_calls(path: Path) -> dict[str, Call]:
    """The calls that stand for the network's tensors, by the tensors' names. Raises GsdError (exit 3)."""
    _, _, whole = _choose(path, read_records(path, NAMES))
    found: dict[str, Call] = {}
    for count, (name, call) in enumerate(_walk(path, _inner(path, whole), "", 0)):
        if count >= MOST_MODULES:
            raise GsdError(f"{path} has more than {MOST_MODULES:,} tensors", hint=HINT)
        if call is not None:
            found[name] = call
    return found


def _choose(path: Path, content: Any) -> tuple[str, tuple[str, ...], Call]:
    """The entry that is read, the others that hold a network, and the record of the first."""
    entries = {key: content[key] for key in ENTRIES if _identify(content.get(key))} if isinstance(content, dict) else {}
    if not entries:
        raise GsdError(f"{path} holds no network as one of: {', '.join(ENTRIES)}", hint=HINT)
    entry, *others = entries
    return entry, tuple(others), entries[entry]


def _identify(record: Any) -> tuple[str, dict[str, Any]] | None:
    """The class and the attributes of a module's record; None for anything else."""
    if not isinstance(record, Call):
        return None
    if str(record.name) == MODULES and isinstance(record.state, dict):
        return "ModuleDict", record.state
    facts = record.arguments[0] if str(record.name) == PERSISTENT and len(record.arguments) == 1 else None
    if not isinstance(facts, dict):
        return None
    name, attributes = facts.get("class_name"), facts.get("state")
    return (name, attributes) if isinstance(name, str) and isinstance(attributes, dict) else None


def _inner(path: Path, whole: Call) -> Any:
    """The record of the network inside its preconditioning. Raises GsdError (exit 3) for another class."""
    name, attributes = _identify(whole) or ("", {})
    if name != PRECONDITION:
        what = OTHERS.get(name, "a class that gsd does not know")
        raise GsdError(
            f"{path} holds a {name[:60]}: {what}",
            hint=f"gsd reads {PRECONDITION} around one of: {', '.join(CLASS_NAMES)}",
        )
    modules = attributes.get("_modules")
    return modules.get("model") if isinstance(modules, dict) else None


def _arguments(path: Path, attributes: dict[str, Any]) -> dict[str, Any]:
    """The arguments that a module was made with: plain values, and lists of them."""
    arguments = attributes.get("_init_kwargs")
    if not isinstance(arguments, dict) or attributes.get("_init_args"):
        raise GsdError(f"{path} does not name the arguments of its network", hint=HINT)
    found: dict[str, Any] = {}
    for key, value in arguments.items():
        members = list(value) if isinstance(value, list | tuple) else [value]
        if not isinstance(key, str) or not all(one is None or isinstance(one, str | int | float) for one in members):
            raise GsdError(f"{path}: an argument of its network is no plain value", hint=HINT)
        found[key] = members if isinstance(value, list | tuple) else value
    return found


def _walk(path: Path, record: Any, prefix: str, depth: int) -> Iterator[tuple[str, Call | None]]:
    """The names and calls of the tensors in a module's record, and (name, None) for each module."""
    _, attributes = _identify(record) or ("", None)
    if attributes is None or depth > DEEPEST:
        raise GsdError(f"{path}: {prefix or 'its network'} is no module that gsd knows", hint=HINT)
    yield prefix, None
    for kind in ("_parameters", "_buffers", "_modules"):
        members = attributes.get(kind)
        if not isinstance(members, dict) or not all(isinstance(key, str) for key in members):
            raise GsdError(f"{path}: {prefix or 'its network'} has no {kind}", hint="the file is damaged")
        for key, value in members.items():
            if value is None:
                continue
            if kind == "_modules":
                yield from _walk(path, value, f"{prefix}{key}.", depth + 1)
            elif isinstance(value, Call):
                yield f"{prefix}{key}", value
