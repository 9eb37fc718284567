"""A reader of pickles that can build data and call nothing: its own machine for protocols 0 to 5.

The `pickle` module is not used. A global is looked up by its exact (module, name) in a table of
our stand-ins and nothing is imported; what no table names is refused where it is met. REDUCE,
NEWOBJ and INST reach a stand-in's `call`, BUILD its `build`; no attribute is ever set from a file.
Opcodes, strings and references are bounded before anything is made of them (Python's pickletools
describes the opcodes).
"""

from __future__ import annotations

import codecs
import re
import struct
from collections.abc import Callable, Mapping
from typing import Any

from jaxrecon.interop.pickle_values import (
    Budget,
    Global,
    Refused,
    StandIn,
    checked_key,
    shown,
)

MAX_DIGITS = 1024
_SHORT_TEXT, _LONG_TEXT = 1 << 10, 1 << 20
_BEYOND_LATIN_1 = re.compile(rb"[\xc4-\xff]")


Names = Mapping[tuple[str, str], Global]


class Machine:
    """Reads one pickle of `data`, from byte `start`; after `run`, `at` is the byte behind it."""

    def __init__(
        self,
        data: bytes,
        names: Names,
        budget: Budget,
        start: int = 0,
        persistent: Callable[[Any], Any] | None = None,
    ):
        self.data, self.at, self.names, self.budget = data, start, names, budget
        self.persistent = persistent
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}

    def run(self) -> Any:
        """The object that the pickle describes: plain values, `StandIn`s and `Global`s.

        Raises:
            Refused: unknown names or opcodes, truncated, or beyond the limits.
        """
        data, size = self.data, len(self.data)
        for left in range(self.budget.opcodes, 0, -1):
            if self.at >= size:
                raise Refused("its pickle is truncated")
            code = data[self.at]
            self.at += 1
            if code == 0x2E:  # STOP
                self.budget.opcodes = left
                value = self.pop()
                if self.stack or self.marks:
                    raise Refused("its pickle leaves objects behind")
                return value
            opcode = _OPCODES.get(code)
            if opcode is None:
                raise Refused(f"its pickle has the opcode {bytes([code])!r}, which is not read")
            opcode(self)
        raise Refused("its pickles have too many opcodes")

    # ------------------------------------------------------------------ input and stack

    def take(self, count: int) -> bytes:
        """The next `count` bytes."""
        end = self.at + count
        if count < 0 or end > len(self.data):
            raise Refused(f"its pickle declares {count:,} bytes and is truncated before them")
        piece = self.data[self.at : end]
        self.at = end
        return piece

    def number(self, form: str) -> int:
        """The next integer, in the notation of `struct`."""
        return struct.unpack(form, self.take(struct.calcsize(form)))[0]

    def line(self) -> bytes:
        """The next line, without its end."""
        end = self.data.find(b"\n", self.at)
        if end < 0:
            raise Refused("its pickle is truncated")
        piece = self.data[self.at : end]
        self.at = end + 1
        return piece

    def push(self, value: Any) -> None:
        """Put a value on the stack."""
        self.stack.append(value)

    def pop(self) -> Any:
        """Take the last value above the last mark."""
        if len(self.stack) <= (self.marks[-1] if self.marks else 0):
            raise Refused("its pickle takes from an empty stack")
        return self.stack.pop()

    def top(self) -> Any:
        """The last value above the last mark, which stays."""
        value = self.pop()
        self.stack.append(value)
        return value

    def items(self) -> list[Any]:
        """Everything above the last mark, and the mark."""
        if not self.marks:
            raise Refused("its pickle takes a mark that is not there")
        start = self.marks.pop()
        values = self.stack[start:]
        del self.stack[start:]
        return values

    # ------------------------------------------------------------------ meaning

    def text(self, data: bytes) -> str:
        """UTF-8; a text beyond Latin-1 takes up to four times its bytes, so a long one is none."""
        if len(data) > _SHORT_TEXT and _BEYOND_LATIN_1.search(data):
            if len(data) > _LONG_TEXT:
                raise Refused("it holds a text of more than 1 MB beyond Latin-1")
            self.budget.take(4 * len(data))
        return data.decode("utf-8", "surrogatepass")

    def name(self, module: Any, name: Any) -> None:
        """Push the table's entry for a global."""
        if type(module) is not str or type(name) is not str:
            raise Refused("its pickle names a global by something that is no text")
        found = self.names.get((module, name))
        if found is None:
            raise Refused(
                f"it names {shown(module, 80)}.{shown(name, 80)}, which is not among the names "
                "that are read; nothing of it was run"
            )
        self.push(found)

    def call(self, function: Any, arguments: Any) -> None:
        """Push what a call of a global stands for."""
        if type(function) is not Global or type(arguments) is not tuple:
            raise Refused("its pickle calls something that is no name with its arguments")
        self.push(function.call(arguments, self.budget))

    def build(self) -> None:
        """Hand a state to a stand-in; other objects have none that is read."""
        state, target = self.pop(), self.top()
        if type(target) is dict:
            if type(state) is not dict:  # attributes of an OrderedDict: torch's `_metadata`
                raise Refused("its pickle gives a dict a state that is no dict")
        elif isinstance(target, StandIn):
            target.build(state, self.budget)
        else:
            raise Refused(f"its pickle sets the state of a {type(target).__name__}")

    def append(self, values: list[Any]) -> None:
        """Append to the list, or the set, on the stack."""
        target = self.top()
        if type(target) is not list:
            raise Refused(f"its pickle appends to a {type(target).__name__}")
        target.extend(values)

    def set_items(self, target: Any, values: list[Any]) -> None:
        """Set alternating keys and values of the dict on the stack."""
        if type(target) is not dict or len(values) % 2:
            raise Refused("its pickle sets items of something that is no dict")
        for key, value in zip(values[::2], values[1::2], strict=True):
            target[checked_key(key)] = value

    def long(self, size: int) -> None:
        """Push a binary integer of `size` bytes."""
        if not 0 <= size <= MAX_DIGITS:
            raise Refused(f"its pickle holds an integer of {size:,} bytes")
        self.push(int.from_bytes(self.take(size), "little", signed=True))

    def decimal(self, text: bytes) -> int:
        """The integer of a text."""
        if len(text) > MAX_DIGITS or not re.fullmatch(rb"[+-]?[0-9]+", text):
            raise Refused("its pickle holds an integer that is none")
        return int(text)

    def remember(self, index: int) -> None:
        """Keep the last value in the memo; larger indices could be chosen with one hash."""
        if not 0 <= index < 1 << 32:
            raise Refused("its pickle numbers an object beyond 2^32")
        self.memo[index] = self.top()

    def recall(self, index: int) -> None:
        """Push a value of the memo."""
        if index not in self.memo:
            raise Refused("its pickle refers to an object that it has not described")
        self.push(self.memo[index])

    def persist(self, identifier: Any) -> None:
        """Push what a persistent id stands for."""
        if self.persistent is None:
            raise Refused("it refers to data outside itself (a persistent id)")
        self.push(self.persistent(identifier))


def _text_int(m: Machine) -> None:
    text = m.line()
    m.push({b"00": False, b"01": True}[text] if text in (b"00", b"01") else m.decimal(text))


def _text_string(m: Machine) -> None:
    text = m.line()
    if len(text) < 2 or text[:1] != text[-1:] or text[:1] not in (b"'", b'"'):
        raise Refused("its pickle holds a text without quotes")
    m.push(codecs.escape_decode(text[1:-1])[0].decode("latin-1"))  # type: ignore[attr-defined]


def _text_float(m: Machine) -> None:
    m.push(float(m.line()[:MAX_DIGITS]))


def _text_unicode(m: Machine) -> None:
    text = m.line()
    m.budget.take(4 * len(text))
    m.push(text.decode("raw-unicode-escape"))


def _inst(m: Machine) -> None:
    module, name = m.line().decode("utf-8"), m.line().decode("utf-8")
    arguments = tuple(m.items())
    m.name(module, name)
    m.call(m.pop(), arguments)


def _obj(m: Machine) -> None:
    values = m.items()
    if not values:
        raise Refused("its pickle makes an object of nothing")
    m.call(values[0], tuple(values[1:]))


def _reduce(m: Machine) -> None:
    arguments, function = m.pop(), m.pop()
    m.call(function, arguments)


def _newobj_ex(m: Machine) -> None:
    keywords, arguments, function = m.pop(), m.pop(), m.pop()
    if keywords != {}:
        raise Refused("its pickle calls with keywords")
    m.call(function, arguments)


def _stack_global(m: Machine) -> None:
    name, module = m.pop(), m.pop()
    m.name(module, name)


def _set_item(m: Machine) -> None:
    value, key = m.pop(), m.pop()
    m.set_items(m.top(), [key, value])


def _set_items(m: Machine) -> None:
    values = m.items()
    m.set_items(m.top(), values)


def _dict(m: Machine) -> None:
    result: dict = {}
    m.set_items(result, m.items())
    m.push(result)


def _append(m: Machine) -> None:
    value = m.pop()
    m.append([value])


def _appends(m: Machine) -> None:
    values = m.items()
    m.append(values)


def _tuple(count: int) -> Callable[[Machine], None]:
    def make(m: Machine) -> None:
        values = [m.pop() for _ in range(count)]
        m.push(tuple(reversed(values)))

    return make


def _pop(m: Machine) -> None:
    if m.marks and m.marks[-1] == len(m.stack):
        m.marks.pop()
    else:
        m.pop()


def _protocol(m: Machine) -> None:
    protocol = m.number("<B")
    if protocol > 5:
        raise Refused(f"protocol {protocol} of pickle")


# Sets are lists here: their elements may be stand-ins, and nobody asks whether one holds another.
_OPCODES: dict[int, Callable[[Machine], None]] = {
    ord(code): function
    for code, function in {
        "\x80": _protocol,
        "\x95": lambda m: m.number("<Q") and None,  # FRAME: a hint for readers of streams
        "(": lambda m: m.marks.append(len(m.stack)),
        "0": _pop,
        "1": lambda m: m.items() and None,
        "2": lambda m: m.push(m.top()),
        "N": lambda m: m.push(None),
        "\x88": lambda m: m.push(True),
        "\x89": lambda m: m.push(False),
        "I": _text_int,
        "L": lambda m: m.push(m.decimal(m.line().removesuffix(b"L"))),
        "J": lambda m: m.push(m.number("<i")),
        "K": lambda m: m.push(m.number("<B")),
        "M": lambda m: m.push(m.number("<H")),
        "\x8a": lambda m: m.long(m.number("<B")),
        "\x8b": lambda m: m.long(m.number("<i")),
        "F": _text_float,
        "G": lambda m: m.push(struct.unpack(">d", m.take(8))[0]),
        "S": _text_string,
        "T": lambda m: m.push(m.take(m.number("<i")).decode("latin-1")),
        "U": lambda m: m.push(m.take(m.number("<B")).decode("latin-1")),
        "B": lambda m: m.push(m.take(m.number("<I"))),
        "C": lambda m: m.push(m.take(m.number("<B"))),
        "\x8e": lambda m: m.push(m.take(m.number("<Q"))),
        "\x96": lambda m: m.push(m.take(m.number("<Q"))),
        "V": _text_unicode,
        "X": lambda m: m.push(m.text(m.take(m.number("<I")))),
        "\x8c": lambda m: m.push(m.text(m.take(m.number("<B")))),
        "\x8d": lambda m: m.push(m.text(m.take(m.number("<Q")))),
        "]": lambda m: m.push([]),
        "l": lambda m: m.push(m.items()),
        "a": _append,
        "e": _appends,
        "}": lambda m: m.push({}),
        "d": _dict,
        "s": _set_item,
        "u": _set_items,
        "\x8f": lambda m: m.push([]),
        "\x90": _appends,
        "\x91": lambda m: m.push(m.items()),
        ")": lambda m: m.push(()),
        "t": lambda m: m.push(tuple(m.items())),
        "\x85": _tuple(1),
        "\x86": _tuple(2),
        "\x87": _tuple(3),
        "p": lambda m: m.remember(m.decimal(m.line())),
        "q": lambda m: m.remember(m.number("<B")),
        "r": lambda m: m.remember(m.number("<I")),
        "\x94": lambda m: m.remember(len(m.memo)),
        "g": lambda m: m.recall(m.decimal(m.line())),
        "h": lambda m: m.recall(m.number("<B")),
        "j": lambda m: m.recall(m.number("<I")),
        "c": lambda m: m.name(m.line().decode("utf-8"), m.line().decode("utf-8")),
        "\x93": _stack_global,
        "R": _reduce,
        "\x81": _reduce,  # NEWOBJ: the table does not tell a class from a function
        "\x92": _newobj_ex,
        "i": _inst,
        "o": _obj,
        "b": lambda m: m.build(),
        "P": lambda m: m.persist(m.line().decode("utf-8")),
        "Q": lambda m: m.persist(m.pop()),
    }.items()
}
