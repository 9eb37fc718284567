"""Pictures of a mesh for the report: renders from the input cameras, normal maps, a turntable,
colour maps.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, UInt8

from jaxrecon.errors import InputError
from jaxrecon.geometry.mesh import vertex_normals
from jaxrecon.geometry.rasterise import Raster, downsample, interpolate, rasterise, scale_camera
from jaxrecon.types import Cameras, Mesh

CLAY = (0.74, 0.70, 0.66)
UNKNOWN = (0.55, 0.55, 0.58)
"""Colour of vertices without a measured error."""
# Eight samples of matplotlib's viridis (CC0), joined linearly: dark is small, bright is large.
VIRIDIS = (
    (0.267, 0.005, 0.329),
    (0.275, 0.194, 0.496),
    (0.212, 0.359, 0.552),
    (0.153, 0.497, 0.558),
    (0.122, 0.633, 0.531),
    (0.290, 0.759, 0.428),
    (0.622, 0.854, 0.226),
    (0.993, 0.906, 0.144),
)


def colour_map(values: Float[np.ndarray, "*n"]) -> Float[np.ndarray, "*n 3"]:
    """Viridis RGB of values in [0, 1] (clipped); grey where NaN."""
    stops = np.linspace(0, 1, len(VIRIDIS))
    known = np.isfinite(values)
    filled = np.clip(np.where(known, values, 0.0), 0, 1)
    table = np.asarray(VIRIDIS)
    rgb = np.stack([np.interp(filled, stops, table[:, c]) for c in range(3)], axis=-1)
    return np.where(known[..., None], rgb, np.broadcast_to(np.asarray(UNKNOWN), rgb.shape))


def error_limit(error: np.ndarray) -> float:
    """The upper end of the colour bar: the 95th percentile rounded up to 1, 2, 3 or 5 times a
    power of ten.
    """
    known = error[np.isfinite(error)]
    high = float(np.percentile(known, 95)) if len(known) else 0.0
    if high <= 0:
        return 1.0
    power = 10.0 ** np.floor(np.log10(high))
    return float(next(m * power for m in (1, 2, 3, 5, 10) if m * power >= high * (1 - 1e-9)))


def camera_list(cameras: Cameras) -> list[Cameras]:
    """Single cameras of a batch (*batch), in order."""
    K, R, t = (np.asarray(a, np.float64) for a in (cameras.K, cameras.R, cameras.t))
    flat = zip(K.reshape(-1, 3, 3), R.reshape(-1, 3, 3), t.reshape(-1, 3), strict=True)
    return [Cameras(K=k, R=r, t=s) for k, r, s in flat]


def _raster(mesh: Mesh, camera: Cameras, height: int, width: int, samples: int):
    vertices, faces = _arrays(mesh)
    # About the middle of the mesh, so that float32 does not spend its digits on a distant origin.
    middle = (vertices.min(0) + vertices.max(0)) / 2
    t = np.asarray(camera.t, np.float64) + np.asarray(camera.R, np.float64) @ middle
    near = Cameras(K=np.asarray(camera.K), R=np.asarray(camera.R), t=t)
    centred = (vertices - middle[None]).astype(np.float32)
    return rasterise(
        centred, faces, scale_camera(near, samples), height * samples, width * samples
    ), faces


def _arrays(mesh: Mesh) -> tuple[np.ndarray, np.ndarray]:
    vertices = np.asarray(mesh.vertices, np.float64)
    faces = np.asarray(mesh.faces, np.int64)
    if vertices.ndim != 2 or vertices.shape[1:] != (3,) or not len(vertices) or not len(faces):
        raise InputError(
            "an empty mesh", "vertices (v, 3) and faces (f, 3)", "nothing was reconstructed"
        )
    if not np.isfinite(vertices).all() or faces.min() < 0 or faces.max() >= len(vertices):
        raise InputError(
            "a mesh with NaN or with indices out of range", "a sound mesh", "repair it first"
        )
    return vertices, faces.astype(np.int32)


def mesh_normals(mesh: Mesh) -> Float[np.ndarray, "v 3"]:
    """Unit vertex normals in world coordinates (about the mesh's middle, in float32)."""
    vertices, faces = _arrays(mesh)
    return np.asarray(vertex_normals((vertices - vertices.mean(0)).astype(np.float32), faces))


def _picture(colour, raster: Raster, samples: int) -> UInt8[np.ndarray, "h w 4"]:
    image = np.asarray(downsample(colour, raster.mask, samples))
    return np.round(np.clip(image, 0, 1) * 255).astype(np.uint8)


def _base_colours(mesh: Mesh) -> np.ndarray:
    if mesh.colours is None:
        return np.broadcast_to(np.asarray(CLAY, np.float32), (len(mesh.vertices), 3))
    return np.asarray(mesh.colours, np.float32)[:, :3]


def _headlight(normals: np.ndarray, camera: Cameras) -> np.ndarray:
    """Soft shading (v, 1) from the camera and a little above it."""
    light = np.array([0.15, -0.35, -1.0]) / np.linalg.norm([0.15, -0.35, -1.0])
    toward = normals @ (np.asarray(camera.R, np.float64).T @ light)
    return (0.35 + 0.65 * np.maximum(toward, 0))[:, None].astype(np.float32)


def render_mesh_views(
    mesh: Mesh,
    cameras: Cameras,
    height: int,
    width: int,
    samples: int = 2,
    shaded: bool | None = None,
) -> list[np.ndarray]:
    """The mesh from each camera, anti-aliased.

    Args:
        mesh: with vertex colours, or without (then grey clay).
        cameras: batch (*batch) of the mesh's world.
        height: rows, pixels.
        width: columns, pixels.
        samples: samples along each side of a pixel.
        shaded: light it from the camera; default: only when it has no colours (those of a
            photograph hold light).

    Returns:
        one (height, width, 4) uint8 RGBA picture per camera.

    Raises:
        InputError: the mesh is empty or unsound.
    """
    base, pictures = _base_colours(mesh), []
    shaded = mesh.colours is None if shaded is None else shaded
    normals = mesh_normals(mesh) if shaded else None
    for camera in camera_list(cameras):
        raster, faces = _raster(mesh, camera, height, width, samples)
        colours = base if normals is None else base * _headlight(normals, camera)
        pictures.append(_picture(interpolate(raster, faces, colours), raster, samples))
    return pictures


def normal_maps(
    mesh: Mesh, cameras: Cameras, height: int, width: int, samples: int = 2
) -> list[np.ndarray]:
    """Normals in the camera's frame as colours: red to the right, green up, blue towards the
    viewer.

    As `render_mesh_views`; a component c in [-1, 1] is stored as (c + 1) / 2.
    """
    normals, pictures = mesh_normals(mesh), []
    for camera in camera_list(cameras):
        raster, faces = _raster(mesh, camera, height, width, samples)
        viewed = normals @ np.asarray(camera.R, np.float32).T * np.array([1, -1, -1], np.float32)
        image = np.asarray(interpolate(raster, faces, viewed.astype(np.float32)))
        length = np.linalg.norm(image, axis=-1, keepdims=True)
        pictures.append(_picture(image / np.maximum(length, 1e-6) / 2 + 0.5, raster, samples))
    return pictures


def orbit_cameras(mesh: Mesh, azimuths: Float[np.ndarray, " n"], size: int) -> Cameras:
    """Cameras around the mesh's vertical (+y) axis that see all of it.

    Args:
        mesh: to look at.
        azimuths: (n,) radians; 0 is in front (+z), pi / 2 at +x.
        size: height and width of the pictures, pixels.
    """
    vertices, _ = _arrays(mesh)
    middle = (vertices.min(0) + vertices.max(0)) / 2
    radius = max(float(np.linalg.norm(vertices - middle[None], axis=1).max()), 1e-9)
    distance = 4.5 * radius
    focal = 0.5 * size * np.sqrt(distance**2 - radius**2) / radius
    K = np.array([[focal, 0, size / 2], [0, focal, size / 2], [0, 0, 1.0]])
    R, t = [], []
    for azimuth in azimuths:
        toward = np.array([np.sin(azimuth), 0.0, np.cos(azimuth)])
        R.append(np.stack([np.cross([0.0, 1, 0], toward), [0.0, -1, 0], -toward]))
        t.append(-R[-1] @ (middle + distance * toward))
    return Cameras(K=np.broadcast_to(K, (len(R), 3, 3)), R=np.array(R), t=np.array(t))


def turntable(mesh: Mesh, n: int = 8, size: int = 200) -> list[np.ndarray]:
    """`n` shaded pictures (size, size, 4) uint8 of the mesh turning about its vertical (+y)
    axis.
    """
    cameras = orbit_cameras(mesh, 2 * np.pi * np.arange(n) / n, size)
    return render_mesh_views(mesh, cameras, size, size, shaded=True)


def simplify(
    vertices: np.ndarray, faces: np.ndarray, attributes: list[np.ndarray], max_faces: int
) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
    """A coarser mesh for display by vertex clustering: vertices of one grid cell become their mean.

    Args:
        vertices: (v, 3); attributes: arrays (v, c) that are averaged likewise.
        faces: (f, 3).
        max_faces: the grid gets coarser until no more remain.
    """
    low, extent = vertices.min(0), float(np.ptp(vertices, axis=0).max()) or 1.0
    cells = 512
    while len(faces) > max_faces:
        grid = np.floor((vertices - low[None]) / extent * cells).astype(np.int64)
        key = (grid[:, 0] * (cells + 1) + grid[:, 1]) * (cells + 1) + grid[:, 2]
        _, cluster, count = np.unique(key, return_inverse=True, return_counts=True)
        merged = cluster.reshape(-1)[faces]
        a, b, c = merged.T
        merged = merged[(a != b) & (b != c) & (c != a)]
        if len(merged) <= max_faces:
            means = [
                np.stack([np.bincount(cluster, weights=col) / count for col in x.T], 1)
                for x in (vertices, *attributes)
            ]
            return means[0], merged, means[1:]
        cells = int(cells * 0.85)
    return vertices, faces, attributes
