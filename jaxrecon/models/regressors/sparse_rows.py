"""Sparse matrices on the vertices of a mesh, as rows of a few columns and weights.

Graph adjacencies and the matrices between resolutions have about ten entries in a row, so a
product gathers neighbours and sums; nothing dense is made.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class SparseRows:
    """A sparse matrix of r rows with at most w entries each; short rows are padded with zeros."""

    columns: Any
    """(r, w) int32 column of each entry"""
    values: Any
    """(r, w) float32"""


def sparse_rows(rows, columns, values, shape: tuple[int, int]) -> SparseRows:
    """From coordinates on the host; repeated coordinates add up.

    Args:
        rows, columns: (n,) indices.
        values: (n,) numbers.
        shape: (rows, columns) of the matrix.

    Raises:
        ValueError: indices out of range.
    """
    rows, columns = np.asarray(rows, np.int64), np.asarray(columns, np.int64)
    for name, index, size in (("row", rows, shape[0]), ("column", columns, shape[1])):
        if index.size and not 0 <= index.min() <= index.max() < size:
            raise ValueError(f"a {name} outside of {shape}")
    order = np.argsort(rows, kind="stable")
    rows, columns, values = rows[order], columns[order], np.asarray(values)[order]
    counts = np.bincount(rows, minlength=shape[0])
    slot = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
    width = max(int(counts.max(initial=0)), 1)
    padded = (np.zeros((shape[0], width), np.int32), np.zeros((shape[0], width), np.float32))
    padded[0][rows, slot], padded[1][rows, slot] = columns, values
    return SparseRows(*padded)


def normalised_adjacency(edges: np.ndarray, vertices: int) -> SparseRows:
    """(A + I) / degree: the mean over a vertex and its neighbours, as GraphCMR takes it.

    Args:
        edges: (e, 2) pairs (row, column) of neighbours; both directions, repeats and loops allowed.
        vertices: their number.
    """
    loops = np.repeat(np.arange(vertices)[:, None], 2, axis=1)
    pairs = np.unique(np.concatenate([np.asarray(edges).reshape(-1, 2), loops]), axis=0)
    degree = np.bincount(pairs[:, 0], minlength=vertices)
    rows, columns = pairs[:, 0], pairs[:, 1]
    return sparse_rows(rows, columns, 1.0 / degree[rows], (vertices, vertices))


def multiply(matrix: SparseRows, x: Float[Array | np.ndarray, "*b n c"]) -> Float[Array, "*b r c"]:
    """The matrix times x for every batch element; differentiable in x and in the values."""
    neighbours = jnp.asarray(x)[..., jnp.asarray(matrix.columns), :]
    # An elementwise sum, not a matrix product: exact in float32 on every backend.
    weights = jnp.asarray(matrix.values)[(None,) * (neighbours.ndim - 3)][..., None]
    return jnp.sum(neighbours * weights, axis=-2)
