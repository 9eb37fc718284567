"""What a pickle is read into: inert names, stand-ins, and the limits that both keep."""

from __future__ import annotations

import abc
import math
from collections.abc import Callable
from typing import Any

from jaxrecon.archives import MAX_BYTES

MAX_OPCODES = 2_000_000
_MAX_ARGUMENTS = 32
_MAX_KEY = (1 << 61) - 2
_SLACK = 192 << 20


class Refused(ValueError):
    """What a file holds is damaged, hostile, or beyond what is read."""


def shown(value: Any, length: int = 60) -> str:
    """`value` for a message: short, printable, and never the text of a container, whose shared
    parts may be written out a billion times.
    """
    if type(value) is tuple:
        return f"({', '.join(shown(part, 20) for part in value[:8])})"[:length]
    if type(value) not in (str, int, float, bool, type(None)):
        return f"a {type(value).__name__}"
    text = value[:length] if type(value) is str else str(value)[:length]
    return "".join(c if c.isprintable() else "?" for c in text)


class Budget:
    """Opcodes of one file, and bytes that its objects may take beside the file itself."""

    def __init__(self, size: int, most: int = 2 * MAX_BYTES):
        self.limit = self.left = min(most, _SLACK + 4 * size)
        self.opcodes = MAX_OPCODES

    def take(self, size: int) -> None:
        """Count `size` bytes that are about to be allocated; Refused where they are too many."""
        self.left -= size
        if size < 0 or self.left < 0:
            raise Refused("its objects would take more memory than is allowed")


class Global:
    """A name of the table, as it lies on the stack: inert, and equal for equal names."""

    def __init__(self, module: str, name: str, call: Callable[..., Any] | None = None):
        self.text = f"{module}.{name}"
        self._call = call

    def call(self, arguments: tuple, budget: Budget) -> Any:
        """What the file's call of this name stands for."""
        if self._call is None:
            raise Refused(f"it calls {self.text}, which is not to be called")
        if len(arguments) > _MAX_ARGUMENTS:  # the call copies them, as often as the file likes
            raise Refused(f"{self.text} with {len(arguments)} arguments")
        try:
            return self._call(budget, *arguments)
        except TypeError as error:
            raise Refused(f"{self.text} with these arguments: {str(error)[:100]}") from error


class StandIn(abc.ABC):
    """Base of the objects that take a foreign object's place until the whole file is read."""

    def build(self, state: Any, budget: Budget) -> None:
        """Take the state that BUILD hands over."""
        raise Refused(f"a state for {type(self).__name__.lstrip('_')}, which has none")

    @abc.abstractmethod
    def resolve(self, resolve: Callable[[Any], Any], budget: Budget) -> Any:
        """The plain value, with the parts made plain by `resolve`."""


_SCALARS = (str, bytes, int, float, bool, type(None))


def checked_key(key: Any) -> Any:
    """`key`, if it is a scalar, or a tuple of text.

    Hashing a deep tuple exhausts C's stack; integers from 2^61 - 1 on, and tuples of numbers, can
    be chosen so that all have one hash, and a dict of n such keys takes n^2 steps.
    """
    if type(key) is tuple:
        if len(key) > _MAX_ARGUMENTS or not all(type(part) is str for part in key):
            raise Refused("a dict with a tuple as key that is not of text")
    elif type(key) not in _SCALARS:
        raise Refused(f"a dict with a {type(key).__name__} as key")
    elif type(key) is int and abs(key) > _MAX_KEY:
        raise Refused("a dict with a number beyond 2^61 as key")
    elif type(key) is float and math.isnan(key):
        raise Refused("a dict with NaN as key")
    return key
