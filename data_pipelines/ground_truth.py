"""Ground-truth meshes of a linear head model: the outer surface, cropped, decimated, as PLY."""

from __future__ import annotations

import pathlib

import numpy as np

from jaxrecon.geometry.mesh_writers import write_whole
from jaxrecon.models.parametric.face import LinearFaceModel
from jaxrecon.models.parametric.head_file import read_head

OUTER_PARTS = ("face", "head_neck", "sclera_left", "sclera_right")
"""Parts of the ground truth: the outer skin and the eyeballs, without the mouth's interior and
the sockets.
"""


def licence_of(path: pathlib.Path) -> str:
    """One line on the licence of what is rendered from a head model: the one its file names."""
    with np.load(path, allow_pickle=False) as archive:
        known = str(archive["licence"]) if "licence" in archive.files else "see its source"
    text = " ".join(known.encode("ascii", "replace").decode().split())
    return (
        f"Geometry derived from the head model {path.name}, licence: {text}. "
        "Renderings, cameras and albedo: as the rest of this repository."
    )


def outer_surface(
    path: pathlib.Path,
    model: LinearFaceModel,
    vertices: np.ndarray,
    colours: np.ndarray,
    nose: np.ndarray,
    crop_radius: float | None,
    max_faces: int | None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ground truth (vertices, colours, faces): the outer parts, cropped and decimated.

    Args:
        path: the model file, whose `face_part` names the parts of the faces.
        model: `load_face_model(path, None)`.
        vertices: (v, 3) of that model, mm.
        colours: (v, 3) albedo.
        nose: (3,) tip of the nose, mm.
        crop_radius: keep faces whose corners lie within this distance of the nose tip (mm); None
            keeps all.
        max_faces: decimate to this many faces (quadric edge collapses, libigl qslim); None keeps
            all.
    """
    head = read_head(path)
    outer = np.isin(head["part_names"][head["face_part"]], OUTER_PARTS)
    faces = np.asarray(model.faces, np.int64)[outer]
    if crop_radius is not None:
        near = np.linalg.norm(vertices - nose[None], axis=1) <= crop_radius
        faces = faces[near[faces].all(1)]
    points, rgb, faces = _compact(vertices.astype(np.float64), colours, faces)
    if max_faces is not None and len(faces) > max_faces:
        import igl

        points, faces, _, birth = igl.qslim(points, faces, max_faces)
        points, rgb, faces = _compact(points, rgb[birth], faces)
    return points, rgb, faces


def _compact(points, rgb, faces):
    """The same surface without unused vertices."""
    used, flat = np.unique(faces, return_inverse=True)
    return points[used], rgb[used], flat.reshape(-1, 3)


def write_ply(
    path: pathlib.Path, points: np.ndarray, rgb: np.ndarray, faces: np.ndarray, licence: str
) -> None:
    """A binary PLY of float positions and uchar colours, with its licence as a comment."""
    vertex = np.empty(len(points), [("p", "<f4", 3), ("c", "u1", 3)])
    vertex["p"], vertex["c"] = points, np.round(np.clip(rgb, 0, 1) * 255)
    face = np.empty(len(faces), [("n", "u1"), ("i", "<i4", 3)])
    face["n"], face["i"] = 3, faces
    header = (
        "ply\nformat binary_little_endian 1.0\n"
        "comment millimetres; +x subject left, +y up, +z front\n"
        f"comment {licence}\n"
        f"element vertex {len(points)}\nproperty float x\nproperty float y\nproperty float z\n"
        "property uchar red\nproperty uchar green\nproperty uchar blue\n"
        f"element face {len(faces)}\nproperty list uchar int vertex_indices\nend_header\n"
    )
    write_whole(path, header.encode() + vertex.tobytes() + face.tobytes())
