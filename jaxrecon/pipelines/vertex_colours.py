"""Colours of a fitted mesh: what the rendering network says, and what the photographs show.

The network (Eq. 3 of Implicit Neural Deformation) knows every point, smoothly; photographs are
sharper, where a vertex is seen. Both are display-encoded RGB in [0, 1] with the light of the
photographs in them.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from jaxrecon.geometry.cameras import camera_centres, project
from jaxrecon.geometry.gradients import value_and_gradient
from jaxrecon.geometry.mesh import vertex_normals
from jaxrecon.geometry.rasterise import rasterise
from jaxrecon.geometry.transforms import safe_normalise
from jaxrecon.types import Cameras, Mesh

CHUNK = 32_768


@functools.partial(jax.jit, static_argnames="functions")
def _network_colours(functions, conditioning, layers, points, eyes):
    geometry = functools.partial(functions.geometry, conditioning)
    _, gradients, *aux = value_and_gradient(geometry, points, has_aux=True)
    features = aux[0][0]
    normals = safe_normalise(gradients)
    # Each vertex is coloured as the cameras that see it most directly do, blended without seams.
    directions = safe_normalise(points[None] - eyes[:, None, :])
    facing = jnp.sum(directions * normals[None], axis=-1)
    weights = jax.nn.softmax(-8.0 * facing, axis=0)
    shade = functools.partial(functions.colour, layers, points, normals)
    colours = jax.lax.map(lambda view: shade(view, features), directions)
    return jnp.sum(weights[..., None] * colours, axis=0)


def network_colours(functions, conditioning, layers, points: Float[np.ndarray, "n 3"], eyes):
    """(n, 3) float32 colours of canonical points from the rendering network.

    Args:
        functions: `fitting.problem.FieldFunctions`.
        conditioning: of the geometry.
        layers: of the colour field.
        points: canonical surface points.
        eyes: (v, 3) canonical camera centres; view directions come from them.
    """
    colours = []
    for start in range(0, len(points), CHUNK):  # fixed shapes: one compilation
        part = np.asarray(points[start : start + CHUNK], np.float32)
        padded = jnp.asarray(np.pad(part, ((0, CHUNK - len(part)), (0, 0))))
        values = _network_colours(functions, conditioning, layers, padded, eyes)
        colours.append(np.asarray(values)[: len(part)])
    return np.clip(np.concatenate(colours), 0.0, 1.0).astype(np.float32)


def photograph_colours(
    mesh: Mesh,
    images: Float[np.ndarray, "v h w 3"],
    subject: Float[np.ndarray, "v h w"],
    cameras: Cameras,
    tolerance: float = 0.01,
) -> tuple[Float[np.ndarray, "n 3"], Float[np.ndarray, "n"]]:
    """Colours of vertices in the photographs, and how far to trust them.

    A view counts for a vertex that it sees (z-buffer), inside the mask by 2 pixels, weighted by how
    directly the surface faces it.

    Args:
        mesh: world coordinates.
        images: RGB in [0, 1].
        subject: masks.
        cameras: one a view, the mesh's world.
        tolerance: of the depth test, relative to the mesh's extent.

    Returns:
        colours (n, 3), 0 where nothing is seen; confidence (n,) in [0, 1].
    """
    from scipy.ndimage import map_coordinates, minimum_filter

    vertices = np.asarray(mesh.vertices, np.float32)
    normals = np.asarray(vertex_normals(vertices, mesh.faces))
    slack = tolerance * float(np.ptp(vertices, axis=0).max())
    height, width = images.shape[1:3]
    total, weights = np.zeros((len(vertices), 3)), np.zeros(len(vertices))
    for i in range(len(images)):
        camera = jax.tree.map(lambda x, i=i: np.asarray(x[i], np.float32), cameras)
        depth = np.asarray(rasterise(vertices, mesh.faces, camera, height, width).depth)
        pixels, z = (np.asarray(x) for x in project(camera, vertices))
        column, row = pixels[:, 0] - 0.5, pixels[:, 1] - 0.5
        near = (np.clip(np.rint(row), 0, height - 1), np.clip(np.rint(column), 0, width - 1))
        near = tuple(x.astype(int) for x in near)
        inside = (column >= 0) & (column <= width - 1) & (row >= 0) & (row <= height - 1)
        seen = inside & (z > 0) & (z <= depth[near] + slack)
        seen &= minimum_filter(subject[i], size=5)[near] > 0.5
        towards = np.asarray(camera_centres(camera))[None] - vertices
        towards /= np.linalg.norm(towards, axis=1, keepdims=True)
        facing = np.clip(((normals * towards).sum(1) - 0.2) / 0.5, 0.0, 1.0)
        weight = seen * facing**2
        for channel in range(3):
            sampled = map_coordinates(
                images[i, ..., channel], [row, column], order=1, mode="nearest"
            )
            total[:, channel] += weight * sampled
        weights += weight
    colours = total / np.maximum(weights, 1e-9)[:, None]
    return colours.astype(np.float32), np.clip(weights, 0.0, 1.0).astype(np.float32)
