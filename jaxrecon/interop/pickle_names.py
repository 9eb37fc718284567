"""The names that a pickle may hold, and what stands in for them: Python's, NumPy's, SciPy's.

Each is an exact (module, name). A stand-in keeps what the file says until all of it is read, and is
then resolved to a plain value after its shapes, sizes and indices were checked.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from jaxrecon.interop.pickle_values import Budget, Global, Refused, StandIn, checked_key, shown

_DTYPE = re.compile(r"[<>|=]?[biufcSUO][0-9]{1,9}")
_MAX_DENSE = 1 << 27  # entries of a sparse matrix written out: 1 GiB of float64
_MAX_AXES = 32


class DType(StandIn):
    """`numpy.dtype`: booleans, integers, floats, complex, text, or objects."""

    def __init__(self, budget: Budget, text: Any, align: Any = False, copy: Any = True):
        if type(text) is not str or not _DTYPE.fullmatch(text):
            raise Refused(f"an array of {shown(text, 40)}")
        self.value = np.dtype(text)
        if self.value.itemsize == 0:
            raise Refused(f"an array of {text[:40]!r}, whose elements hold nothing")

    def build(self, state: Any, budget: Budget) -> None:
        """(version, byte order, subtype, names, fields, size, alignment, flags[, metadata])."""
        if type(state) is not tuple or len(state) not in (8, 9) or state[1] not in "<>|=":
            raise Refused("a description of elements that is damaged")
        if any(part is not None for part in state[2:5]):
            raise Refused("an array of records, which is not read")
        if self.value.kind in "SU":  # their size comes with the state in files of Python 2
            unit = 4 if self.value.kind == "U" else 1
            if type(state[5]) is not int or state[5] != self.value.itemsize or state[5] % unit:
                raise Refused("an array of text of contradictory size")
        if state[1] in "<>":
            self.value = self.value.newbyteorder(state[1])

    def resolve(self, resolve: Callable, budget: Budget) -> str:
        """Its name."""
        return self.value.str


def checked_shape(shape: Any, itemsize: int) -> tuple[int, ...]:
    """A shape of non-negative integers whose array, if no axis were empty, fits into 1 GiB."""
    if type(shape) is not tuple or len(shape) > _MAX_AXES:
        raise Refused("an array with a shape that is none")
    if any(type(n) is not int or n < 0 for n in shape):
        raise Refused(f"an array of shape {shown(shape)}")
    if math.prod(max(n, 1) for n in shape) * itemsize > 1 << 30:
        raise Refused(f"an array of shape {shown(shape)}, which is larger than 1 GiB")
    return shape


def array_of(raw: Any, dtype: np.dtype, shape: Any, fortran: bool, budget: Budget) -> np.ndarray:
    """The read-only array over `raw`, in this machine's byte order; sizes must agree exactly."""
    shape = checked_shape(shape, dtype.itemsize)
    if type(raw) is str:  # bytes of Python 2, read as Latin-1
        budget.take(len(raw))
        raw = raw.encode("latin-1")
    if type(raw) is not bytes or len(raw) != math.prod(shape) * dtype.itemsize:
        size = len(raw) if type(raw) is bytes else type(raw).__name__
        raise Refused(f"an array of {dtype} and shape {shape} with {size} bytes")
    array = np.frombuffer(raw, dtype).reshape(shape, order="F" if fortran else "C")
    if not dtype.isnative:
        budget.take(array.nbytes)
        array = array.astype(dtype.newbyteorder("="))
        array.flags.writeable = False
    return array


class NdArray(StandIn):
    """`numpy.ndarray`: empty by `_reconstruct`, then filled by BUILD, once."""

    value: Any = None

    def build(self, state: Any, budget: Budget) -> None:
        """(version, shape, dtype, Fortran order, bytes or list of objects)."""
        if type(state) is not tuple or len(state) != 5 or not isinstance(state[2], DType):
            raise Refused("an array whose state is damaged")
        if self.value is not None:
            raise Refused("an array that is filled twice")
        _, shape, dtype, fortran, raw = state
        if dtype.value.kind == "O":
            self.value = Objects(raw, shape, bool(fortran))
        else:
            self.value = array_of(raw, dtype.value, shape, bool(fortran), budget)

    def resolve(self, resolve: Callable, budget: Budget) -> Any:
        """The array; of objects, what `Objects` resolves to."""
        if self.value is None:
            raise Refused("an array without content")
        return self.value if isinstance(self.value, np.ndarray) else resolve(self.value)


class Objects(StandIn):
    """An array of objects: one object, or a list of them."""

    def __init__(self, items: Any, shape: Any, fortran: bool):
        shape = checked_shape(shape, 8)
        if type(items) is not list or len(items) != math.prod(shape):
            raise Refused(f"an array of objects of shape {shape} with another number of them")
        if len(shape) > 1:
            raise Refused(f"an array of objects of shape {shape}; more than one axis is not read")
        self.items, self.shape = items, shape

    def resolve(self, resolve: Callable, budget: Budget) -> Any:
        """The object where the array has no axis, else the list."""
        return resolve(self.items if self.shape else self.items[0])


class Opaque(StandIn):
    """An object of which nothing is needed: whatever its state, it resolves to None."""

    def build(self, state: Any, budget: Budget) -> None:
        """Drop the state."""

    def resolve(self, resolve: Callable, budget: Budget) -> None:
        """None."""


class Record(StandIn):
    """An object whose state is a dict, kept as it is (argparse.Namespace, chumpy, sparse)."""

    state: dict | None = None

    def build(self, state: Any, budget: Budget) -> None:
        """Keep the state: a dict with text keys."""
        if type(state) is tuple and len(state) == 2 and state[1] is None:
            state = state[0]
        if type(state) is not dict:  # its keys are not looked at: many objects may share one dict
            raise Refused("an object whose state is no dict of names")
        if self.state is not None:
            raise Refused("an object that is given its state twice")
        self.state = state

    def part(self, *names: str) -> Any:
        """The first of `names` in the state."""
        for name in names:
            if self.state is not None and name in self.state:
                return self.state[name]
        raise Refused(f"an object without {names[0]}")

    def resolve(self, resolve: Callable, budget: Budget) -> dict:
        """The state."""
        return resolve(self.state or {})


class Chumpy(Record):
    """`chumpy.ch.Ch`: the array that it holds."""

    def resolve(self, resolve: Callable, budget: Budget) -> np.ndarray:
        """Attribute x."""
        return _plain_array(resolve(self.part("x")), "a chumpy array")


class ChumpySelect(Record):
    """`chumpy.reordering.Select`: elements of another chumpy array, in a shape of their own."""

    def resolve(self, resolve: Callable, budget: Budget) -> np.ndarray:
        """a.ravel()[idxs].reshape(preferred_shape)."""
        source = _plain_array(resolve(self.part("a")), "a chumpy array")
        index = _plain_array(resolve(self.part("idxs")), "the indices of a chumpy array").ravel()
        if index.dtype.kind not in "iu" or (index.size and not _within(index, source.size)):
            raise Refused("a chumpy array with indices out of range")
        budget.take(index.size * source.itemsize + source.nbytes)
        shape = (self.state or {}).get("preferred_shape")
        shape = (index.size,) if shape is None else checked_shape(resolve(shape), source.itemsize)
        if math.prod(shape) != index.size:
            raise Refused(f"a chumpy array of shape {shape} with {index.size} elements")
        return source.ravel()[index].reshape(shape)


def _plain_array(value: Any, what: str) -> np.ndarray:
    if isinstance(value, bool | int | float) and abs(value) < 1 << 63:
        value = np.asarray(value)
    if not isinstance(value, np.ndarray):
        raise Refused(f"{what} that is a {type(value).__name__}")
    return value


def _within(index: np.ndarray, count: int) -> bool:
    return not index.size or (int(index.min()) >= 0 and int(index.max()) < count)


class Sparse(Record):
    """A sparse matrix of SciPy, as csc, csr or coo; resolves to a csc_matrix."""

    form = "csc"

    def resolve(self, resolve: Callable, budget: Budget) -> Any:
        """`scipy.sparse.csc_matrix` with indices in range."""
        import scipy.sparse

        shape = resolve(self.part("_shape", "shape"))
        if type(shape) is not tuple or len(shape) != 2:
            raise Refused("a sparse matrix whose shape is none")
        if any(type(n) is not int or n < 0 for n in shape) or math.prod(shape) > _MAX_DENSE:
            raise Refused(f"a sparse matrix of shape {shown(shape)}")
        data = _plain_array(resolve(self.part("data")), "the values of a sparse matrix")
        if data.ndim != 1 or data.dtype.kind not in "biuf":
            raise Refused(f"a sparse matrix of {data.dtype} values of shape {data.shape}")
        budget.take(4 * data.nbytes + 16 * data.size + 8 * (max(shape) + 1))
        if self.form == "coo":
            names = enumerate(("row", "col"))
            row, column = (self._index(resolve, budget, name, i) for i, name in names)
            if not row.shape == column.shape == data.shape:
                raise Refused("a sparse matrix with lists of different lengths")
            if not (_within(row, shape[0]) and _within(column, shape[1])):
                raise Refused("a sparse matrix with indices out of range")
            return scipy.sparse.csc_matrix((data, (row, column)), shape=shape)
        start = self._index(resolve, budget, "indptr")
        index = self._index(resolve, budget, "indices")
        major, minor = shape[::-1] if self.form == "csc" else shape
        if start.shape != (major + 1,) or start[0] != 0 or (np.diff(start) < 0).any():
            raise Refused("a sparse matrix whose columns or rows do not follow one another")
        count = int(start[-1])
        if count > min(data.size, index.size):
            raise Refused("a sparse matrix with fewer values than it declares")
        data, index = data[:count].copy(), index[:count]
        if not _within(index, minor):
            raise Refused("a sparse matrix with indices out of range")
        make = scipy.sparse.csc_matrix if self.form == "csc" else scipy.sparse.csr_matrix
        return make((data, index, start), shape=shape).tocsc()

    def _index(self, resolve: Callable, budget: Budget, name: str, axis: int = 0) -> np.ndarray:
        if name in ("row", "col") and name not in (self.state or {}):
            value = resolve(self.part("coords"))
            value = value[axis] if type(value) is tuple and len(value) == 2 else value
        else:
            value = resolve(self.part(name))
        value = _plain_array(value, "the indices of a sparse matrix")
        if value.ndim != 1 or value.dtype.kind not in "iu" or value.dtype.itemsize > 8:
            raise Refused(f"a sparse matrix with indices of {value.dtype}")
        if value.size and int(value.max()) > np.iinfo(np.int64).max:
            raise Refused("a sparse matrix with indices out of range")
        budget.take(8 * value.size)
        return value.astype(np.int64)


class SparseRows(Sparse):
    """csr."""

    form = "csr"


class SparseTriplets(Sparse):
    """coo."""

    form = "coo"


# ---------------------------------------------------------------------- calls


def _no_arguments(make: type) -> Callable[..., StandIn]:
    def call(budget: Budget) -> StandIn:
        return make()

    return call


def _empty_array(budget: Budget, kind: Any, shape: Any, code: Any) -> NdArray:
    if type(kind) is not Global or kind.text != "numpy.ndarray" or shape != (0,):
        raise Refused("an array of a kind that is not read")
    return NdArray()


def _from_buffer(budget: Budget, raw: Any, dtype: Any, shape: Any, order: Any) -> NdArray:
    if not isinstance(dtype, DType) or order not in ("C", "F"):
        raise Refused("an array whose state is damaged")
    array = NdArray()
    array.build((1, shape, dtype, order == "F", raw), budget)
    return array


def _scalar(budget: Budget, dtype: Any, raw: Any) -> Any:
    if not isinstance(dtype, DType) or dtype.value.kind == "O":
        raise Refused("a number of a kind that is not read")
    return array_of(raw, dtype.value, (1,), False, budget)[0].item()


def _encode(budget: Budget, text: Any, encoding: Any = None) -> bytes:
    if type(text) is not str or encoding not in ("latin1", "latin-1", "iso-8859-1"):
        raise Refused("a text in an encoding that is not read")
    budget.take(len(text))
    return text.encode("latin-1")


def _bytes(budget: Budget, value: Any = b"", encoding: Any = None) -> bytes:
    if encoding is not None:
        return _encode(budget, value, encoding)
    if type(value) is not bytes:
        raise Refused("bytes made of something else")
    return value


def _ordered(budget: Budget, items: Any = ()) -> dict:
    result: dict = {}
    pairs = items.items() if type(items) is dict else items
    if not isinstance(pairs, list | tuple | type({}.items())):
        raise Refused("a dict made of something else")
    budget.take(256 * len(pairs))
    for pair in pairs:
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            raise Refused("a dict made of something else")
        result[checked_key(pair[0])] = pair[1]
    return result


def _default(budget: Budget, factory: Any = None, items: Any = ()) -> dict:
    if factory is not None and type(factory) is not Global:
        raise Refused("a dict with a default that is no name")
    return _ordered(budget, items)


def _list(budget: Budget, items: Any = ()) -> list:
    if not isinstance(items, list | tuple):
        raise Refused("a set made of something else")
    budget.take(16 * len(items))
    return list(items)


def _reconstructor(budget: Budget, kind: Any, base: Any, state: Any) -> Any:
    """Python 2's way to an object: copy_reg._reconstructor(class, object, None)."""
    if type(kind) is not Global or type(base) is not Global or state is not None:
        raise Refused("an object of a kind that is not read")
    if base.text.partition(".")[2] != "object":
        raise Refused("an object of a kind that is not read")
    return kind.call((), budget)


def table(calls: Mapping[tuple[str, str], Callable | None]) -> dict[tuple[str, str], Global]:
    """The entries of a table of names; a name without a call may only be mentioned."""
    return {key: Global(*key, call) for key, call in calls.items()}


_BUILTINS = {
    "set": _list,
    "frozenset": _list,
    "bytes": _bytes,
    "bytearray": _bytes,
    "dict": None,
    "list": None,
    "int": None,
    "float": None,
    "str": None,
    "object": None,
}
_SPARSE = {"csc": Sparse, "csr": SparseRows, "coo": SparseTriplets}
_CHUMPY_EXPRESSIONS = [("chumpy.ch", "MatVecMult")]
_CHUMPY_EXPRESSIONS += [("chumpy.ch_ops", name) for name in ("add", "subtract", "multiply")]
_CHUMPY_EXPRESSIONS += [
    ("chumpy.reordering", name) for name in ("transpose", "Reshape", "Concatenate")
]

NAMES: dict[tuple[str, str], Global] = table(
    {(module, name): c for module in ("builtins", "__builtin__") for name, c in _BUILTINS.items()}
    | {(module, "_reconstructor"): _reconstructor for module in ("copyreg", "copy_reg")}
    | {
        ("_codecs", "encode"): _encode,
        ("collections", "OrderedDict"): _ordered,
        ("collections", "Counter"): _ordered,
        ("collections", "defaultdict"): _default,
        ("argparse", "Namespace"): _no_arguments(Record),
        ("numpy", "ndarray"): None,
        ("numpy", "dtype"): DType,
        ("chumpy.ch", "Ch"): _no_arguments(Chumpy),
        ("chumpy.reordering", "Select"): _no_arguments(ChumpySelect),
    }
    | {
        (f"numpy.{core}.{module}", name): call
        for core in ("core", "_core")
        for module, name, call in (
            ("multiarray", "_reconstruct", _empty_array),
            ("multiarray", "scalar", _scalar),
            ("numeric", "_frombuffer", _from_buffer),
        )
    }
    | {
        (f"scipy.sparse.{module}{form}", f"{form}_{kind}"): _no_arguments(make)
        for form, make in _SPARSE.items()
        for module in ("", "_")
        for kind in ("matrix", "array")
    }
    # Expressions of chumpy beside the arrays of a body's file; they are not evaluated.
    | {key: _no_arguments(Opaque) for key in _CHUMPY_EXPRESSIONS}
)
"""What any pickle may name."""
