"""Pickled models (SMPL, FLAME, MANO, ...) as plain arrays, without running anything of the file.

`pickle_machine` reads the opcodes, `pickle_names` says which names a file may hold. Neither torch
nor chumpy is needed; SciPy only where a file holds a sparse matrix.
"""

from __future__ import annotations

import os
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np

from jaxrecon.archives import MAX_BYTES
from jaxrecon.errors import FAULTS, InputError
from jaxrecon.interop.pickle_machine import Machine
from jaxrecon.interop.pickle_names import NAMES
from jaxrecon.interop.pickle_values import (
    Budget,
    Global,
    Refused,
    StandIn,
    shown,
)

MAX_ENTRIES = 2_000_000
MAX_DEPTH = 48
_EXPECTED = "a pickle of arrays, text and numbers, of at most 1 GiB"
_REMEDY = "get the file again from its authors; nothing of it was run"


def read_pickle(path: str | pathlib.Path) -> dict:
    """The dict that a pickle holds, of any protocol, also of Python 2 (its text as Latin-1).

    Returns:
        nested dict, list, tuple, str, int, float, bool, None, bytes and read-only NumPy arrays;
        sparse matrices as `scipy.sparse.csc_matrix`, chumpy's arrays as plain ones, other
        expressions of chumpy as None, sets as lists, arrays of objects as lists.

    Raises:
        InputError: absent, larger than 1 GiB, damaged, no dict, or with names that are not read.
    """
    path = pathlib.Path(path)
    with refusing(path, _EXPECTED, _REMEDY):
        value, _ = unpickle(read_bytes(path))
        if type(value) is not dict:
            raise Refused(f"its pickle is a {type(value).__name__}, not a dict")
    return value


def unpickle(data: bytes, start: int = 0, budget: Budget | None = None) -> tuple[Any, int]:
    """(plain value, byte behind it) of the pickle at byte `start`; Refused where it is unusable.

    Several pickles of one file share its `budget`.
    """
    budget = Budget(len(data)) if budget is None else budget
    machine = Machine(data, NAMES, budget, start)
    value = machine.run()
    return plain(value, budget), machine.at


def read_bytes(path: pathlib.Path, limit: int = MAX_BYTES) -> bytes:
    """The content of a plain file of at most `limit` bytes; Refused otherwise."""
    read_start(path, limit)
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size > limit:
            raise Refused(f"larger than {limit / 2**30:.3g} GiB")
        return file.read(size)  # a buffer of what is asked for is made, so not more is asked for


def read_start(path: pathlib.Path, limit: int = MAX_BYTES) -> bytes:
    """The first 512 bytes of such a file."""
    if not path.is_file():
        raise Refused("not a file" if path.exists() else "no such file")
    if path.stat().st_size > limit:
        raise Refused(f"larger than {limit / 2**30:.3g} GiB")
    with path.open("rb") as file:
        return file.read(512)


class refusing:
    """Turn every failure of a block that reads `path` into one InputError that names it; FAULTS
    stay what they are.
    """

    def __init__(self, path: pathlib.Path, expected: str, remedy: str = ""):
        self.path, self.expected, self.remedy = path, expected, remedy

    def __enter__(self) -> None:
        """Begin."""

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        """Rename the error; a hostile file fails in many ways: zlib.error, KeyError, ..."""
        if isinstance(error, Exception) and not isinstance(error, (InputError, *FAULTS)):
            text = shown(str(error), 300) or type(error).__name__
            raise InputError(f"{self.path}: {text}", self.expected, self.remedy) from error


def plain(value: Any, budget: Budget) -> Any:
    """`value` of a `Machine` in plain types; shared parts stay shared.

    Refused where it contains itself, is deeper than 48, or, with every shared part counted as often
    as it is met, holds more than 2 million entries or more bytes than the budget's limit.
    """
    done: dict[int, tuple[Any, int, int]] = {}
    keep = []  # the identity of a part holds as long as the part lives
    totals = [0, 0]

    def count(entries: int, size: int) -> None:
        totals[0] += entries
        totals[1] += size
        if totals[0] > MAX_ENTRIES or totals[1] > budget.limit:
            raise Refused("written out, it holds more entries or bytes than are read")

    def visit(node: Any, depth: int) -> Any:
        if isinstance(node, np.ndarray):
            count(1, node.nbytes)
            return node
        if type(node) is Global:
            count(1, 0)
            return node.text
        if type(node) in (str, bytes):
            count(1, len(node))
            return node
        if type(node) not in (dict, list, tuple) and not isinstance(node, StandIn):
            count(1, 0)
            return node
        if type(node) in (dict, list, tuple) and not node:
            count(1, 64)
            return type(node)()
        if depth > MAX_DEPTH:
            raise Refused("it is nested too deeply")
        key = id(node)
        if key in done:
            found, entries, size = done[key]
            if entries < 0:
                raise Refused("it contains itself")
            count(entries, size)
            return found
        keep.append(node)
        done[key] = (None, -1, 0)
        before = tuple(totals)
        count(1, 64)
        found = _plain_parts(node, lambda part: visit(part, depth + 1), budget)
        if isinstance(node, StandIn):
            count(1, _bytes(found))
        done[key] = (found, totals[0] - before[0], totals[1] - before[1])
        return found

    return visit(value, 0)


def _plain_parts(node: Any, visit: Callable[[Any], Any], budget: Budget) -> Any:
    if isinstance(node, StandIn):
        return node.resolve(visit, budget)
    if type(node) is dict:
        return {name: visit(part) for name, part in node.items()}
    return type(node)(visit(part) for part in node)


def _bytes(value: Any) -> int:
    """Bytes of an array, or of the arrays of a sparse matrix."""
    if isinstance(value, np.ndarray):
        return value.nbytes
    parts = (getattr(value, name, None) for name in ("data", "indices", "indptr"))
    return sum(part.nbytes for part in parts if isinstance(part, np.ndarray))
