"""Mesh files: untrusted when read, written whole or not at all.

Read: PLY, OBJ, GLB, glTF, OFF, STL. Written: PLY, OBJ, GLB. Vertex order and unreferenced vertices
are kept. A vertex with several texture coordinates is repeated (in an OBJ after all the others), a
vertex that no face uses may lose its own; STL corners at the same place are joined.
glTF stores colours as linear light (a `Mesh` has sRGB) and is in metres by definition: give
`save_mesh` a scale.
"""

from __future__ import annotations

import io
import json
import os
import pathlib
import struct
import warnings

import numpy as np

from jaxrecon.errors import InputError
from jaxrecon.geometry.mesh_writers import glb_bytes, obj_bytes, ply_bytes, write_whole
from jaxrecon.types import Mesh

EXTENSIONS = (".ply", ".obj", ".glb", ".gltf", ".off", ".stl")
MAX_BYTES = 512 * 2**20
MAX_VERTICES = 20_000_000


def load_mesh(
    path: str | os.PathLike, *, max_bytes: int = MAX_BYTES, max_vertices: int = MAX_VERTICES
) -> Mesh:
    """The mesh in a file, checked: at least one face, finite, indices in range.

    Args:
        path: a file with one of `EXTENSIONS`. A glTF may read files beside or below itself,
            nothing else.
        max_bytes, max_vertices: refuse more.

    Returns:
        Mesh in the file's units and axes; a scene's parts are put together. Colours and UV when
        every part has them.

    Raises:
        InputError: naming the file, what is wrong and what to do.
    """
    path = pathlib.Path(path)
    _check_file(path, max_bytes)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # whatever trimesh warns of is checked below
            mesh = _read(path, max_bytes, max_vertices)
    except InputError:
        raise
    except Exception as error:  # a broken file may make the parsers raise anything
        raise InputError(
            f"{path}: cannot be read ({type(error).__name__}: {error})",
            "a complete, well-formed mesh file",
            "export it again (binary PLY is the safest), or check that the download finished",
        ) from error
    _check_mesh(mesh, path, max_vertices)
    return mesh


def save_mesh(
    path: str | os.PathLike, mesh: Mesh, *, scale: float = 1.0, normals: np.ndarray | None = None
) -> None:
    """Writes PLY (binary), OBJ or GLB by extension, atomically, with float32 positions.

    Args:
        path: file to write; its folder exists.
        mesh: what to write; colours and UV go along.
        scale: vertices are multiplied by it (a GLB is in metres: 0.001 for a mesh in millimetres).
        normals: (v, 3) unit vertex normals for PLY and GLB viewers, optional.

    Raises:
        InputError: the extension cannot be written.
        ValueError: the mesh itself is broken.
    """
    path = pathlib.Path(path)
    writers = {".ply": ply_bytes, ".obj": obj_bytes, ".glb": glb_bytes}
    if path.suffix.lower() not in writers:
        raise InputError(
            f"{path}: cannot write this format", ", ".join(writers), "change the extension"
        )
    vertices, faces = (
        np.asarray(mesh.vertices, np.float64) * scale,
        np.asarray(mesh.faces, np.int64),
    )
    problem = _problem(vertices, faces, mesh.colours, mesh.uv)
    if problem:
        raise ValueError(f"{path}: {problem}")
    write_whole(path, writers[path.suffix.lower()](vertices, faces, mesh.colours, mesh.uv, normals))


def _check_file(path, max_bytes):
    if path.suffix.lower() not in EXTENSIONS:
        raise InputError(
            f"{path}: not a mesh file", "one of " + " ".join(EXTENSIONS), "convert it, e.g. to .ply"
        )
    if not path.is_file():
        raise InputError(f"{path}: no such file", "a mesh file", "check the path")
    try:
        size = path.stat().st_size
        with path.open("rb"):
            pass
    except OSError as error:
        raise InputError(
            f"{path}: {error.strerror}", "a readable file", "check its permissions"
        ) from error
    if size > max_bytes:
        raise InputError(
            f"{path}: {size / 2**20:.0f} MiB",
            f"at most {max_bytes / 2**20:.0f} MiB",
            "simplify the mesh, or raise max_bytes",
        )


def _problem(vertices, faces, colours, uv):
    """What is wrong with these arrays, or None."""
    if vertices.ndim != 2 or vertices.shape[1] != 3 or faces.ndim != 2 or faces.shape[1] != 3:
        return f"vertices {vertices.shape} and faces {faces.shape} are not (v, 3) and (f, 3)"
    if not len(faces):
        return f"no faces ({len(vertices)} points)"
    if not np.isfinite(vertices).all():
        return f"{int((~np.isfinite(vertices)).any(1).sum())} vertices are NaN or infinite"
    if np.abs(vertices).max() > np.finfo(np.float32).max:
        return "vertices beyond the range of float32"
    if faces.min() < 0 or faces.max() >= len(vertices):
        return (
            f"faces refer to vertices {faces.min()}..{faces.max()}, but there are {len(vertices)}"
        )
    for name, values, width in (("colours", colours, 3), ("uv", uv, 2)):
        if values is not None and (
            np.shape(values) != (len(vertices), width) or not np.isfinite(values).all()
        ):
            return f"{name} are not finite values of shape ({len(vertices)}, {width})"
    return None


def _check_mesh(mesh, path, max_vertices):
    problem = _problem(mesh.vertices, mesh.faces, mesh.colours, mesh.uv)
    if problem:
        raise InputError(
            f"{path}: {problem}",
            "a triangle mesh: finite vertices, and faces that refer to them",
            "export it again as a triangle mesh (not a point cloud), or repair it in a mesh editor",
        )
    if len(mesh.vertices) > max_vertices:
        raise InputError(
            _too_many(path, len(mesh.vertices)), f"at most {max_vertices}", "simplify the mesh"
        )


def _too_many(path, count):
    return f"{path}: {count} vertices"


def _read(path, max_bytes, max_vertices):
    suffix = path.suffix.lower()
    if suffix == ".obj":
        return _parse_obj(path.read_bytes(), path)
    import trimesh
    import trimesh.resolvers

    data = path.read_bytes()
    if suffix in (".glb", ".gltf"):
        _check_gltf(data, path, max_vertices)
    if suffix == ".gltf":  # the one format that needs other files

        class Resolver(trimesh.resolvers.FilePathResolver):
            """Refuses paths that leave the folder (as its parent does) and large files."""

            def get(self, name):
                data = super().get(name)
                if len(data) > max_bytes:
                    raise ValueError(f"{name} has {len(data)} bytes")
                return data

        loaded = trimesh.load(
            io.BytesIO(data),
            file_type="gltf",
            resolver=Resolver(str(path)),
            process=False,
        )
    else:
        options = {}
        if suffix == ".ply":  # split vertices only if texture coordinates belong to face corners
            header = data[: data.find(b"end_header")]
            options["fix_texture"] = b"texcoord" in header
        loaded = trimesh.load(io.BytesIO(data), file_type=suffix[1:], process=False, **options)
    parts = _parts(loaded, path, max_vertices)
    if suffix in (".glb", ".gltf"):
        parts = [(v, f, None if c is None else _srgb_from_linear(c), uv) for v, f, c, uv in parts]
    mesh = _concatenate(parts)
    if suffix == ".stl" and len(mesh.vertices):
        vertices, inverse = np.unique(mesh.vertices, axis=0, return_inverse=True)
        mesh = Mesh(vertices, inverse.ravel()[mesh.faces])
    return mesh


def _check_gltf(data, path, max_vertices):
    """Refuses counts without data: an accessor without a buffer is that many zeros."""
    if data[:4] == b"glTF":
        (length,) = struct.unpack("<I", data[12:16])
        data = data[20 : 20 + length]
    accessors = json.loads(data).get("accessors", [])
    count = sum(abs(int(a.get("count", 0))) for a in accessors)
    if count > 16 * max_vertices:  # a vertex has some attributes, and faces have three indices
        raise InputError(
            _too_many(path, f"about {count // 16}"), f"at most {max_vertices}", "simplify it"
        )


def _parts(loaded, path, max_vertices):
    """(vertices, faces, colours, uv) of every mesh of what trimesh loaded, in world coordinates."""
    if not hasattr(loaded, "geometry"):
        return [_part(loaded, None)] if hasattr(loaded, "faces") else []
    nodes = [(loaded.graph[name]) for name in loaded.graph.nodes_geometry]
    nodes = [(T, loaded.geometry[g]) for T, g in nodes if hasattr(loaded.geometry[g], "faces")]
    count = sum(len(g.vertices) for _, g in nodes)  # before copying: nodes may share one geometry
    if count > max_vertices:
        raise InputError(_too_many(path, count), f"at most {max_vertices}", "simplify the mesh")
    return [_part(g, T) for T, g in nodes]


def _part(geometry, transform):
    vertices = np.array(geometry.vertices, np.float64)
    faces = np.array(geometry.faces, np.int64).reshape(-1, 3)
    if transform is not None:
        vertices = vertices @ transform[:3, :3].T + transform[:3, 3]
        if np.linalg.det(transform[:3, :3]) < 0:  # a mirror turns faces inside out
            faces = faces[:, ::-1]
    uv = getattr(geometry.visual, "uv", None)
    colours = geometry.vertex_attributes.get("color")
    if geometry.visual.kind == "vertex":
        colours = geometry.visual.vertex_colors
    elif colours is None and geometry.visual.kind == "texture":
        colours = geometry.visual.vertex_attributes.get("color")
    return (
        vertices,
        faces,
        _float_colours(colours),
        None if uv is None else np.array(uv, np.float32)[:, :2],
    )


def _concatenate(parts):
    if not parts:
        return Mesh(np.empty((0, 3)), np.empty((0, 3), np.int64))
    vertices, faces, colours, uv = zip(*parts, strict=True)
    starts = np.cumsum([0, *map(len, vertices[:-1])])

    def join(arrays):
        return None if any(a is None for a in arrays) else np.concatenate(arrays)

    shifted = [f + start for f, start in zip(faces, starts, strict=True)]
    return Mesh(np.concatenate(vertices), np.concatenate(shifted), join(colours), join(uv))


def _float_colours(colours):
    """RGB float32 in [0, 1] from uint8, uint16 or float RGB(A), or None."""
    if colours is None:
        return None
    colours = np.asarray(colours)[:, :3]
    if colours.dtype.kind in "iu":
        return (colours / float(np.iinfo(colours.dtype).max)).astype(np.float32)
    return np.clip(colours, 0, 1).astype(np.float32)


def _srgb_from_linear(c):
    return np.where(
        c <= 0.0031308, 12.92 * c, 1.055 * np.maximum(c, 1e-9) ** (1 / 2.4) - 0.055
    ).astype(np.float32)


def _parse_obj(data, path):
    """An OBJ's one surface; groups, materials and normals are skipped, polygons become fans."""
    vertices, colours, texture, corners = [], [], [], []
    text = data.decode("utf-8", "replace").replace("\\\n", " ").replace("\\\r\n", " ")
    for number, line in enumerate(text.split("\n"), 1):
        words = line.split()
        kind = words[0] if words else ""
        try:
            if kind == "v":
                x = [float(w) for w in words[1:7]]
                vertices.append((x[0], x[1], x[2]))
                colours.append(x[3:] if len(x) == 6 else None)
            elif kind == "vt":
                texture.append((float(words[1]), float(words[2]) if len(words) > 2 else 0.0))
            elif kind == "f":
                polygon = [_obj_corner(w, len(vertices), len(texture)) for w in words[1:]]
                if len(polygon) < 3:
                    raise ValueError("a face needs three corners")
                corners += [
                    (polygon[0], b, c) for b, c in zip(polygon[1:], polygon[2:], strict=False)
                ]
        except (ValueError, IndexError) as error:
            raise InputError(
                f"{path}: line {number}: {line.strip()[:60]!r} ({error})",
                "lines 'v x y z', 'vt u v' and 'f a b c'",
                "export the mesh again",
            ) from error
    points = np.array(vertices, np.float64).reshape(-1, 3)
    corners = np.array(corners, np.int64).reshape(-1, 3, 2)
    faces = corners[..., 0]
    rgb = None
    if vertices and all(c is not None for c in colours):
        rgb = np.array(colours, np.float64)
        rgb = np.clip(rgb / (255.0 if rgb.max() > 1 else 1.0), 0, 1).astype(np.float32)
    in_range = len(faces) and faces.min() >= 0 and faces.max() < len(points)
    if not in_range or (corners[..., 1] < 0).any() or (corners[..., 1] >= len(texture)).any():
        return Mesh(
            points, faces, rgb
        )  # no usable texture coordinates; the caller checks the faces
    return _split_by_uv(points, faces, corners[..., 1], rgb, np.array(texture, np.float32))


def _obj_corner(word, n_vertices, n_texture):
    """(vertex, texture) indices from 0 of 'v', 'v/t', 'v//n' or 'v/t/n'; no texture is -1."""
    parts = word.split("/")
    v, t = int(parts[0]), int(parts[1]) if len(parts) > 1 and parts[1] else 0
    if v == 0 or abs(v) > 2**31 or abs(t) > 2**31:
        raise ValueError("indices count from 1")
    return v - 1 if v > 0 else n_vertices + v, t - 1 if t > 0 else n_texture + t if t < 0 else -1


def _split_by_uv(points, faces, texture_faces, rgb, texture):
    """One UV per vertex: vertices with several are repeated, after all original ones."""
    pairs, inverse = np.unique(
        np.stack([faces.ravel(), texture_faces.ravel()], 1), axis=0, return_inverse=True
    )
    first = np.r_[True, pairs[1:, 0] != pairs[:-1, 0]]  # np.unique sorts by vertex
    target = np.where(first, pairs[:, 0], len(points) + np.cumsum(~first) - 1)
    source = np.concatenate([np.arange(len(points)), pairs[~first, 0]])
    uv = np.zeros((len(source), 2), np.float32)
    uv[target] = texture[pairs[:, 1]]
    return Mesh(
        points[source],
        target[inverse.reshape(faces.shape)],
        None if rgb is None else rgb[source],
        uv,
    )
