"""GraphCMR's mesh_downsampling.npz: the graphs of a body mesh at three resolutions, and the
matrices between them.

Only A, U and D are read. The other members pickle a class of the authors' mesh library, which
no reader of ours would build, and are not opened.
"""

from __future__ import annotations

import dataclasses
import pathlib
from typing import Any

import numpy as np

from jaxrecon.errors import InputError
from jaxrecon.interop.object_arrays import read_npz_objects
from jaxrecon.models.regressors.sparse_rows import SparseRows, normalised_adjacency, sparse_rows

_EXPECTED = (
    "GraphCMR's mesh_downsampling.npz: sparse matrices A[i] (v_i, v_i), D[i] (v_{i+1}, v_i) and "
    "U[i] (v_i, v_{i+1})"
)
_ENTRIES = 256  # of one row: meshes have some ten, and padded rows of thousands fill the memory


@dataclasses.dataclass(frozen=True)
class MeshSampling:
    """Resolutions from fine (0) to coarse."""

    adjacency: tuple[SparseRows, ...]
    """(v_i, v_i) row-normalised, with loops"""
    down: tuple[SparseRows, ...]
    """(v_{i+1}, v_i)"""
    up: tuple[SparseRows, ...]
    """(v_i, v_{i+1})"""

    @property
    def vertices(self) -> tuple[int, ...]:
        """Their numbers at each resolution."""
        return tuple(len(matrix.columns) for matrix in self.adjacency)


def read_mesh_sampling(path: str | pathlib.Path) -> MeshSampling:
    """The graphs and matrices of a file.

    Raises:
        InputError: absent, damaged, or matrices that do not belong together.
    """
    path = pathlib.Path(path)
    arrays = read_npz_objects(path, members=("A", "U", "D"))
    A, U, D = ([_matrix(path, m) for m in _listed(arrays[k])] for k in "AUD")
    sizes = [matrix.shape[0] for matrix in A]
    pairs = list(zip(sizes[:-1], sizes[1:], strict=True))
    if (
        not A
        or any(matrix.shape != (n, n) for matrix, n in zip(A, sizes, strict=True))
        or [matrix.shape for matrix in U] != pairs
        or [matrix.shape[::-1] for matrix in D] != pairs
    ):
        shapes = {
            k: [m.shape for m in matrices] for k, matrices in zip("AUD", (A, U, D), strict=True)
        }
        raise InputError(f"{path}: matrices of shapes {shapes}", _EXPECTED)
    return MeshSampling(
        adjacency=tuple(
            normalised_adjacency(np.stack([a.row, a.col], axis=1), a.shape[0]) for a in A
        ),
        down=tuple(sparse_rows(d.row, d.col, d.data, d.shape) for d in D),
        up=tuple(sparse_rows(u.row, u.col, u.data, u.shape) for u in U),
    )


def _listed(value: Any) -> list:
    """An object array of one comes as its object, one of several as a list."""
    return value if isinstance(value, list) else [value]


def _matrix(path: pathlib.Path, value: Any):
    """One matrix in coordinates, checked."""
    import scipy.sparse

    if not scipy.sparse.issparse(value):
        raise InputError(f"{path}: a {type(value).__name__} among its matrices", _EXPECTED)
    matrix = value.tocoo()
    if matrix.data.dtype.kind not in "fiub" or not np.isfinite(matrix.data).all():
        raise InputError(f"{path}: a matrix of {matrix.data.dtype} that is not finite", _EXPECTED)
    if np.unique(matrix.row, return_counts=True)[1].max(initial=0) > _ENTRIES:
        raise InputError(f"{path}: a row of more than {_ENTRIES} entries", _EXPECTED)
    return matrix
