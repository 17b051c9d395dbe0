"""Reads a pickle as inert records. Nothing in it is imported, called or built: what asks for a call becomes a `Call`.

The bytes are split into opcodes by the standard library's `pickletools`, which runs nothing. The machine below knows
the opcodes of protocols 2 to 5 that plain values, and calls of the names that are expected, are made of. It refuses
every other opcode and every other name. No torch here.
"""

from __future__ import annotations

import mmap
import pickletools
import struct
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gsd_cli.base.errors import GsdError

MOST_OPCODES = 500_000
"""An opcode makes at most one object. The file of a network of 56 million parameters has 40,000."""
LARGEST_INTEGER = 2**63
HINT = "gsd runs no code in a file: it reads those that EDM and SiD write, and nothing else in this format"


@dataclass(frozen=True, eq=False)
class Name:
    """What a pickle asks to import."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass(eq=False)
class Call:
    """A call that a pickle asks for: of what, with what, and the state that the result should be given."""

    name: Name
    arguments: tuple[Any, ...]
    state: Any = None


class Refused(Exception):
    """Something in a pickle that is not read; the message says what."""


def read_records(path: Path, names: Collection[str]) -> Any:
    """What a pickle holds, with `Call` records in the places of objects.

    names: what it may ask for, as `module.name`. Values are None, bool, int, float, str, bytes, list, tuple, dict (also
    for collections.OrderedDict), set and Call. Containers may hold themselves. Raises GsdError (exit 3).
    """
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _Machine(names).run(data)
    except Refused as error:
        raise GsdError(f"{path}: {error}", hint=HINT) from error
    except Exception as error:  # damaged bytes raise many kinds
        cause = (str(error).splitlines() or [""])[0][:100] or type(error).__name__
        raise GsdError(f"{path} is damaged, or no pickle: {cause}", hint="copy or download the file again") from error


class _Machine:
    """The stack, the marks and the memo of the pickle format."""

    def __init__(self, names: Collection[str]):
        self.names = names
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}

    def run(self, data: mmap.mmap) -> Any:
        """The value at the STOP."""
        for count, (opcode, argument, _) in enumerate(pickletools.genops(data)):  # type: ignore[arg-type]
            if count >= MOST_OPCODES:
                raise Refused(f"it has more than {MOST_OPCODES:,} parts")
            if opcode.name == "STOP":
                return self.stack.pop()
            step = _STEPS.get(opcode.name)
            if step is None:
                raise Refused(f"it holds a {opcode.name}, which no network needs")
            step(self, argument)
        raise ValueError("it has no end")

    # -- the stack ------------------------------------------------------------------------------

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def drop(self) -> None:
        self.stack.pop()

    def push_integer(self, value: int) -> None:
        if abs(value) > LARGEST_INTEGER:
            raise Refused("it holds an integer of more than 64 bits")
        self.push(value)

    def mark(self, _: object) -> None:
        self.marks.append(len(self.stack))

    def pop_marked(self) -> list[Any]:
        start = self.marks.pop()
        found = self.stack[start:]
        del self.stack[start:]
        return found

    def pop_tuple(self, size: int) -> None:
        if len(self.stack) < size + (self.marks[-1] if self.marks else 0):
            raise ValueError("a tuple lacks members")
        members = tuple(self.stack[-size:])
        del self.stack[-size:]
        self.push(members)

    def memoize(self, place: int | None) -> None:
        self.memo[len(self.memo) if place is None else place] = self.stack[-1]

    # -- containers -----------------------------------------------------------------------------

    def append(self, values: list[Any]) -> None:
        self._top(list).extend(values)

    def add(self, values: list[Any]) -> None:
        self._top(set).update(map(_key, values))

    def set_items(self, values: list[Any]) -> None:
        if len(values) % 2:
            raise ValueError("a key has no value")
        target = self._top(dict)
        for key, value in zip(values[::2], values[1::2], strict=True):
            target[_key(key)] = value

    def _top(self, kind: type) -> Any:
        if type(self.stack[-1]) is not kind:
            raise Refused(f"it adds items to something else than a {kind.__name__}")
        return self.stack[-1]

    # -- names and calls --------------------------------------------------------------------------

    def name(self, module: Any, name: Any) -> None:
        found = f"{module}.{name}"
        if not (isinstance(module, str) and isinstance(name, str) and found in self.names):
            raise Refused(f"it asks for {found[:120]!r}")
        self.push(Name(module, name))

    def stack_name(self, _: object) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        self.name(module, name)

    def call(self, _: object) -> None:
        arguments, name = self.stack.pop(), self.stack.pop()
        if not isinstance(name, Name) or not isinstance(arguments, tuple):
            raise Refused("it calls what is no name, or not with a tuple")
        self.push(_simplify(Call(name, arguments)))

    def build(self, _: object) -> None:
        state = self.stack.pop()
        target = self.stack[-1]
        if not isinstance(target, Call) or target.state is not None:
            raise Refused("it gives a state to what has none")
        target.state = state


def _key(value: Any) -> Any:
    """A key of a dict or a member of a set: no containers, whose hash may take forever."""
    if value is not None and not isinstance(value, str | int | float | bytes):
        raise Refused(f"it has a {type(value).__name__} as a key")
    return value


_SCALARS = {"f8": "d", "f4": "f", "i8": "q", "i4": "i", "i2": "h", "i1": "b", "u8": "Q", "u4": "I", "b1": "?"}


def _simplify(call: Call) -> Any:
    """The value that a call stands for where that is a plain one: an empty mapping, or one of NumPy's numbers."""
    name, arguments = str(call.name), call.arguments
    if name == "collections.OrderedDict":
        if arguments:
            raise Refused("it holds a mapping of another form than it should have")
        return {}
    if name.endswith("multiarray.scalar"):
        kind, raw = arguments
        code = kind.arguments[0] if isinstance(kind, Call) and str(kind.name) == "numpy.dtype" else None
        if code not in _SCALARS or not isinstance(raw, bytes):
            raise Refused(f"it holds a number of NumPy's type {str(code)[:20]!r}")
        return struct.unpack(f"<{_SCALARS[code]}", raw)[0]
    return call


_STEPS: dict[str, Callable[[_Machine, Any], None]] = {
    "PROTO": lambda machine, argument: None,
    "FRAME": lambda machine, argument: None,
    "NONE": lambda machine, argument: machine.push(None),
    "NEWTRUE": lambda machine, argument: machine.push(True),
    "NEWFALSE": lambda machine, argument: machine.push(False),
    **dict.fromkeys(("BININT", "BININT1", "BININT2", "LONG1", "LONG4"), _Machine.push_integer),
    **dict.fromkeys(
        ("BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
        _Machine.push,
    ),
    "EMPTY_LIST": lambda machine, argument: machine.push([]),
    "EMPTY_DICT": lambda machine, argument: machine.push({}),
    "EMPTY_SET": lambda machine, argument: machine.push(set()),
    "EMPTY_TUPLE": lambda machine, argument: machine.push(()),
    "TUPLE": lambda machine, argument: machine.push(tuple(machine.pop_marked())),
    "TUPLE1": lambda machine, argument: machine.pop_tuple(1),
    "TUPLE2": lambda machine, argument: machine.pop_tuple(2),
    "TUPLE3": lambda machine, argument: machine.pop_tuple(3),
    "APPEND": lambda machine, argument: machine.append([machine.stack.pop()]),
    "APPENDS": lambda machine, argument: machine.append(machine.pop_marked()),
    "ADDITEMS": lambda machine, argument: machine.add(machine.pop_marked()),
    "SETITEM": lambda machine, argument: machine.set_items([machine.stack.pop(), machine.stack.pop()][::-1]),
    "SETITEMS": lambda machine, argument: machine.set_items(machine.pop_marked()),
    "MARK": _Machine.mark,
    "POP": lambda machine, argument: machine.drop(),
    "MEMOIZE": lambda machine, argument: machine.memoize(None),
    **dict.fromkeys(("BINPUT", "LONG_BINPUT"), _Machine.memoize),
    **dict.fromkeys(("BINGET", "LONG_BINGET"), lambda machine, argument: machine.push(machine.memo[argument])),
    "GLOBAL": lambda machine, argument: machine.name(*argument.split(" ", 1)),
    "STACK_GLOBAL": _Machine.stack_name,
    "REDUCE": _Machine.call,
    "NEWOBJ": _Machine.call,
    "BUILD": _Machine.build,
}
"""What each opcode does."""
