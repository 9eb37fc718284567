"""Meshes from fields: a coarse-to-fine search for cells that hold the surface, then marching cubes.

A signed distance field can only cross zero in a cell where |f(centre)| < L x half-diagonal, L being
a bound of |gradient| inside the cell; octree cells that fail the test are dropped, so that a 256^3
grid costs about 4 % of its points. L is measured, and a closing step makes up for an underestimate:
wherever a sign change reaches the side of an evaluated block, the block beyond is evaluated too.
An occupancy has no such bound: cells are kept where corner signs differ, plus a ring.
"""

from __future__ import annotations

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from jaxrecon.errors import InputError
from jaxrecon.types import Field, Mesh

_GRADIENT_POINTS = 4096
_SAFETY = 1.1  # of the sampled max |gradient|: a sample misses the true maximum by a little


@dataclasses.dataclass(frozen=True)
class ExtractionStats:
    """What an extraction cost and how sure it is."""

    grid: tuple[int, int, int]
    """Voxels along x, y, z."""
    voxel: tuple[float, float, float]
    """Voxel size, field units."""
    evaluations: int
    """Field values computed, without gradients and padding."""
    gradient_evaluations: int
    """Points at which |gradient| was sampled."""
    fraction: float
    """evaluations / points of the dense grid."""
    lipschitz: float
    """The bound of |gradient| used at the finest level (1 for an occupancy, where it has no
    meaning).
    """
    blocks: int
    """Leaf blocks evaluated."""
    reactivated: int
    """Leaf blocks that only the closing step found: 0 when the bound held."""
    open_faces: int
    """Sides of blocks on the box that the surface crosses: 0 unless the surface leaves the box."""


@functools.partial(jax.jit, static_argnames="chunk")
def _values(function, points, count, *, chunk):
    """The function at the first `count` of the padded `points`; the rest is undefined.

    The loop's length is dynamic: a few points cost one chunk, and all calls share a compilation.
    """
    with jax.default_matmul_precision("highest"):

        def body(i, out):
            x = jax.lax.dynamic_slice_in_dim(points, i * chunk, chunk)
            return jax.lax.dynamic_update_slice_in_dim(
                out, function(x).astype(out.dtype), i * chunk, 0
            )

        zeros = jnp.zeros(points.shape[0], points.dtype)
        return jax.lax.fori_loop(0, (count + chunk - 1) // chunk, body, zeros)


@jax.jit
def _gradient_norms(function, points):
    with jax.default_matmul_precision("highest"):
        gradient = jax.grad(lambda x: jnp.sum(function(x)))(points)
        return jnp.linalg.norm(gradient, axis=-1)


class _Evaluator:
    """Host-side evaluation in fixed-size batches, counting what it does."""

    def __init__(self, field, batch):
        self.field, self.count, self.gradients = field, 0, 0
        self.chunk = max(1, batch // 8)
        self.batch = self.chunk * max(1, batch // self.chunk)
        self.low, self.high = np.asarray(field.box, np.float64)

    def __call__(self, points):
        """Points (n, 3) float64 -> values (n,) float32."""
        out = np.empty(len(points), np.float32)
        function = self.field.function  # without the field's static parts, which would recompile
        for start in range(0, len(points), self.batch):
            part = points[start : start + self.batch]
            padded = np.zeros((self.batch, 3), np.float32)
            padded[: len(part)] = part
            values = _values(function, padded, np.int32(len(part)), chunk=self.chunk)
            out[start : start + len(part)] = np.asarray(values)[: len(part)]
        self.count += len(points)
        bad = int(np.sum(~np.isfinite(out)))
        if bad:
            raise InputError(
                f"the field is not finite at {bad} of {len(points)} grid points",
                "finite values everywhere in its box",
                "check the parameters for NaN (diverged training or fitting)",
            )
        return out

    def max_gradient(self, rng, low, size):
        """Largest |gradient| at random points of cells: low corners (n, 3), common size (3,)."""
        cells = low[rng.integers(0, len(low), _GRADIENT_POINTS)]
        points = np.minimum(cells + rng.random((_GRADIENT_POINTS, 3)) * size, self.high)
        norms = np.asarray(_gradient_norms(self.field.function, points.astype(np.float32)))
        self.gradients += _GRADIENT_POINTS
        norms = norms[np.isfinite(norms)]  # a kink may have no gradient
        return float(norms.max()) if norms.size else 1.0


def extract(
    field: Field,
    resolution: int = 256,
    *,
    margin: str | float | int = "auto",
    coarse: int = 32,
    leaf: int = 4,
    batch: int = 65536,
    key: Array | None = None,
    max_points: int = 64_000_000,
    max_vertices: int = 20_000_000,
) -> tuple[Mesh, ExtractionStats]:
    """The zero level set of `field` in its box as a mesh with outward, counter-clockwise faces.

    The mesh equals that of marching cubes on the dense grid, save for parts of the surface that no
    kept cell touches and that connect to no kept cell. It is closed unless the surface leaves the
    box (`stats.open_faces`). Memory grows with the surface, not with the grid. One compilation
    serves every field of the same structure.

    Args:
        field: sdf or occupancy kind, pointwise.
        resolution: voxels along the longest side of `field.box`; a multiple of `leaf`.
        margin: "auto" measures |gradient| (never below 1 nor below `field.lipschitz`); a number is
            used as the bound.
        coarse: cells along the longest side at which the search starts (an occupancy finer than
            that is missed).
        leaf: voxels along a side of the blocks that are evaluated densely.
        batch: points in one device call.
        key: typed JAX key of the gradient samples; fixed when None.
        max_points: most grid points that may be evaluated.
        max_vertices: most vertices of the mesh.

    Returns:
        Mesh in the field's coordinates, and `ExtractionStats`.

    Raises:
        InputError: no surface in the box, field not pointwise or not finite, or a limit is passed.

    Source: Lorensen & Cline 1987 (marching cubes, through PyMCubes).
    """
    _check(field, resolution, margin, coarse, leaf, batch)
    low, high = np.asarray(field.box, np.float64)
    voxel = (high - low).max() / resolution
    blocks_shape = np.maximum(1, np.ceil((high - low) / (voxel * leaf) - 1e-6)).astype(np.int64)
    grid = blocks_shape * leaf
    # The short sides are tiled exactly, by voxels a little flatter than cubes.
    voxel = (high - low) / grid
    seed = np.zeros(1, np.uint32) if key is None else np.asarray(jax.random.key_data(key)).ravel()
    evaluate = _Evaluator(field, batch)
    search = _search_sdf if field.kind == "sdf" else _search_occupancy
    levels = max(0, math.ceil(math.log2(blocks_shape.max() / coarse)))
    blocks, bound = search(
        evaluate, np.random.default_rng(seed), blocks_shape, voxel * leaf, levels, margin
    )

    store = _BlockStore(evaluate, grid, voxel, leaf, max_points)
    store.add(blocks)
    found = len(blocks)
    while len(missing := store.missing_neighbours()):
        store.add(missing)
    mesh = _march(store, max_vertices)
    stats = ExtractionStats(
        grid=(int(grid[0]), int(grid[1]), int(grid[2])),
        voxel=(float(voxel[0]), float(voxel[1]), float(voxel[2])),
        evaluations=evaluate.count,
        gradient_evaluations=evaluate.gradients,
        fraction=evaluate.count / float(np.prod(grid + 1)),
        lipschitz=float(bound),
        blocks=len(store.blocks),
        reactivated=len(store.blocks) - found,
        open_faces=store.open_faces(),
    )
    return mesh, stats


def _check(field, resolution, margin, coarse, leaf, batch):
    if not field.pointwise:
        raise InputError(
            "this field's values depend on the other points of the same call (pointwise=False)",
            "a pointwise field: extraction evaluates in chunks, which changes such values",
            "make it pointwise (e.g. freeze the statistics of its norms), or sample it in one call",
        )
    if leaf < 2 or resolution < leaf or resolution % leaf or coarse < 1 or batch < 1:
        raise InputError(
            f"resolution {resolution}, leaf {leaf}, coarse {coarse}, batch {batch}",
            "leaf >= 2, resolution a multiple of leaf, coarse >= 1, batch >= 1",
            "use the defaults: resolution 256, leaf 4, coarse 32",
        )
    if not (margin == "auto" or (not isinstance(margin, str) and margin > 0)):
        raise InputError(
            f"margin {margin!r}", "'auto' or a number > 0: the bound of |gradient|", "use 'auto'"
        )
    low, high = np.asarray(field.box, np.float64)
    if not (np.isfinite(low).all() and np.isfinite(high).all() and (high > low).all()):
        raise InputError(
            f"field.box {field.box}",
            "finite corners, high > low",
            "mend the box",
        )


def _cells(shape):
    return np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij"), -1).reshape(-1, 3)


def _children(cells, shape):
    children = (2 * cells[:, None] + _cells((2, 2, 2))[None]).reshape(-1, 3)
    return children[(children < shape).all(1)]


def _search_sdf(evaluate, rng, blocks_shape, block_size, levels, margin):
    """Leaf blocks (n, 3) that may hold the surface, and the bound of |gradient| used last."""
    cells, bound = _cells(-(-blocks_shape // 2**levels)), margin
    for level in range(levels, -1, -1):
        size = block_size * 2**level
        corner = evaluate.low + cells * size
        # Only gradients inside a cell matter for its test: each level measures its candidates'.
        if margin == "auto":
            sampled = _SAFETY * evaluate.max_gradient(rng, corner, size)
            bound = max(1.0, float(evaluate.field.lipschitz), sampled)
        # Centres outside the box are clipped to it, which brings them no farther from its points.
        values = evaluate(np.minimum(corner + size / 2, evaluate.high))
        cells = cells[np.abs(values) <= bound * np.linalg.norm(size) / 2]
        if not len(cells):
            raise _empty(values)
        if level:
            cells = _children(cells, -(-blocks_shape // 2 ** (level - 1)))
    return cells, bound


def _search_occupancy(evaluate, rng, blocks_shape, block_size, levels, margin):
    """Leaf blocks (n, 3) whose corners differ in sign, with their 26 neighbours."""
    cells = _cells(-(-blocks_shape // 2**levels))
    for level in range(levels, -1, -1):
        shape, size = -(-blocks_shape // 2**level), block_size * 2**level
        ids, inverse = _unique_ids(cells[:, None] + _cells((2, 2, 2))[None], shape + 1)
        corners = np.minimum(evaluate.low + _unravel(ids, shape + 1) * size, evaluate.high)
        values = evaluate(corners)
        inside = (values < 0)[inverse]
        cells = cells[inside.any(1) & ~inside.all(1)]
        if not len(cells):
            raise _empty(values)
        ring = (cells[:, None] + _cells((3, 3, 3))[None] - 1).reshape(-1, 3)
        cells = np.unique(ring[((ring >= 0) & (ring < shape)).all(1)], axis=0)
        if level:
            cells = _children(cells, -(-blocks_shape // 2 ** (level - 1)))
    return cells, 1.0


def _empty(values):
    low, high = float(values.min()), float(values.max())
    side = (
        "positive (outside)" if low > 0 else "negative (inside)" if high < 0 else "away from zero"
    )
    return InputError(
        f"the field has no zero level set in its box: {len(values)} values "
        f"from {low:.4g} to {high:.4g}, all {side}",
        "negative values inside the surface and positive ones around it",
        "check the field's sign convention, box and frame; raise `coarse` if the surface is thin",
    )


def _ravel(index, shape):
    return (index[..., 0] * shape[1] + index[..., 1]) * shape[2] + index[..., 2]


def _unravel(ids, shape):
    return np.stack(np.unravel_index(ids, shape), -1)


def _unique_ids(index, shape):
    """Sorted unique linear ids of grid points (..., 3), and each point's position among them."""
    ids = _ravel(index, shape)
    unique, inverse = np.unique(ids, return_inverse=True)
    return unique, inverse.reshape(ids.shape)


_SIDES = [(axis, end) for axis in range(3) for end in (0, 1)]


class _BlockStore:
    """Leaf blocks with their (leaf + 1)^3 values; grid points that blocks share are evaluated
    once.
    """

    def __init__(self, evaluate, grid, voxel, leaf, max_points):
        self.evaluate, self.grid, self.voxel, self.leaf = evaluate, grid, voxel, leaf
        self.blocks_shape, self.max_points = grid // leaf, max_points
        side = leaf + 1
        self.blocks = np.empty((0, 3), np.int64)
        self.values = np.empty((0, side, side, side), np.float32)
        self.ids, self.known = np.empty(0, np.int64), np.empty(0, np.float32)

    def add(self, blocks):
        side = self.leaf + 1
        if len(blocks) * self.leaf**3 > self.max_points:
            raise InputError(
                f"over {self.max_points} grid points near the surface: the field looks like noise",
                "a surface, whose band is a few per cent of the grid",
                "lower the resolution, or raise max_points if the surface is really that large",
            )
        ids, inverse = _unique_ids(
            blocks[:, None] * self.leaf + _cells((side,) * 3)[None], self.grid + 1
        )
        at = np.searchsorted(self.ids, ids)
        old = np.zeros(len(ids), bool)
        old[at < len(self.ids)] = self.ids[at[at < len(self.ids)]] == ids[at < len(self.ids)]
        values = np.empty(len(ids), np.float32)
        values[old] = self.known[at[old]]
        fresh = self.evaluate.low + _unravel(ids[~old], self.grid + 1) * self.voxel
        values[~old] = self.evaluate(fresh)
        self.known = np.insert(self.known, at[~old], values[~old])
        self.ids = np.insert(self.ids, at[~old], ids[~old])
        self.blocks = np.concatenate([self.blocks, blocks])
        self.values = np.concatenate([self.values, values[inverse].reshape(-1, side, side, side)])

    def _crossed(self, axis, end):
        """Blocks beyond a side that the surface crosses, (n, 3); they may lie outside the grid."""
        plane = (
            np.take(self.values, -1 if end else 0, axis=axis + 1).reshape(len(self.values), -1) < 0
        )
        blocks = self.blocks[plane.any(1) & ~plane.all(1)].copy()
        blocks[:, axis] += 1 if end else -1
        return blocks

    def missing_neighbours(self):
        """Blocks inside the grid, not evaluated yet, that the surface enters from an evaluated
        one.
        """
        beyond = np.concatenate([self._crossed(*side) for side in _SIDES])
        beyond = beyond[((beyond >= 0) & (beyond < self.blocks_shape)).all(1)]
        wanted = np.setdiff1d(
            _ravel(beyond, self.blocks_shape), _ravel(self.blocks, self.blocks_shape)
        )
        return _unravel(wanted, self.blocks_shape).reshape(-1, 3)

    def open_faces(self):
        beyond = np.concatenate([self._crossed(*side) for side in _SIDES])
        return int(np.sum(~((beyond >= 0) & (beyond < self.blocks_shape)).all(1)))


def _march(store, max_vertices):
    """Marching cubes block by block; vertices are welded by the grid edge they lie on, so
    exactly.
    """
    import mcubes

    inside = (store.values < 0).reshape(len(store.values), -1)
    mixed = np.where(inside.any(1) & ~inside.all(1))[0]
    if not len(mixed):
        raise _empty(store.known)
    # Keep vertices off the grid points: an exact zero would make degenerate triangles, and vertices
    # on no single edge.
    tiny = np.float32(1e-6) * np.abs(store.values[mixed]).max()
    vertices, faces, counts = [], [], []
    for values in store.values[mixed]:
        values = np.where(np.abs(values) < tiny, np.where(values < 0, -tiny, tiny), values)
        v, f = mcubes.marching_cubes(values, 0.0)
        vertices.append(v)
        faces.append(f)
        counts.append(len(v))
    starts = np.cumsum([0, *counts[:-1]])
    faces = np.concatenate([f.astype(np.int64) + n for f, n in zip(faces, starts, strict=True)])
    vertices = np.concatenate(vertices)
    # A vertex lies inside one grid edge: the cell corner below it and the axis it leaves it along.
    cell = np.floor(vertices)
    axis = np.argmax(vertices - cell, axis=1)
    first = np.repeat(store.blocks[mixed] * store.leaf, counts, axis=0)
    edges = _ravel(cell.astype(np.int64) + first, store.grid + 1) * 3 + axis
    unique, keep, inverse = np.unique(edges, return_index=True, return_inverse=True)
    if len(unique) > max_vertices:
        raise InputError(
            f"the mesh has {len(unique)} vertices, more than {max_vertices} vertices allowed",
            "a smaller mesh",
            "lower the resolution, or raise max_vertices",
        )
    points = store.evaluate.low + (vertices + first)[keep] * store.voxel
    # PyMCubes winds faces counter-clockwise seen from the negative side; turned, they face outward.
    return Mesh(points, inverse[faces][:, ::-1].copy())
