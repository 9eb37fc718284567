"""The bytes of PLY, OBJ and GLB files, written whole or not at all; `mesh_io.save_mesh` checks the
mesh first.
"""

from __future__ import annotations

import json
import os
import pathlib
import struct

import numpy as np
from jaxtyping import Array, Float, Int


def write_whole(path: pathlib.Path, data: bytes) -> None:
    """All of `data` at `path`, or no change there."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(data)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def ply_bytes(
    vertices: Float[np.ndarray, "v 3"],
    faces: Int[np.ndarray, "f 3"],
    colours: Float[Array | np.ndarray, "v 3"] | None,
    uv: Float[Array | np.ndarray, "v 2"] | None,
    normals: Float[Array | np.ndarray, "v 3"] | None,
) -> bytes:
    """Binary little-endian PLY: float32 positions, normals and UV (s, t), uint8 colours."""
    columns = [(n, "<f4", "float", vertices[:, i]) for i, n in enumerate("xyz")]
    if normals is not None:
        columns += [
            (n, "<f4", "float", np.asarray(normals)[:, i]) for i, n in enumerate(("nx", "ny", "nz"))
        ]
    if colours is not None:
        rgb = _byte_colours(colours)
        columns += [(n, "u1", "uchar", rgb[:, i]) for i, n in enumerate(("red", "green", "blue"))]
    if uv is not None:
        columns += [(n, "<f4", "float", np.asarray(uv)[:, i]) for i, n in enumerate("st")]
    table = np.empty(len(vertices), [(name, dtype) for name, dtype, _, _ in columns])
    for name, _, _, values in columns:
        table[name] = values
    rows = np.empty(len(faces), [("n", "u1"), ("index", "<i4", 3)])
    rows["n"], rows["index"] = 3, faces
    header = ["ply", "format binary_little_endian 1.0", f"element vertex {len(vertices)}"]
    header += [f"property {kind} {name}" for name, _, kind, _ in columns]
    header += [
        f"element face {len(faces)}",
        "property list uchar int vertex_indices",
        "end_header",
        "",
    ]
    return "\n".join(header).encode("ascii") + table.tobytes() + rows.tobytes()


def obj_bytes(
    vertices: Float[np.ndarray, "v 3"],
    faces: Int[np.ndarray, "f 3"],
    colours: Float[Array | np.ndarray, "v 3"] | None,
    uv: Float[Array | np.ndarray, "v 2"] | None,
    normals: Float[Array | np.ndarray, "v 3"] | None,
) -> bytes:
    """OBJ text: colours after the positions, one UV per vertex; an OBJ has no normals here."""
    rows = vertices if colours is None else np.concatenate([vertices, np.asarray(colours)], 1)
    lines = ["v " + " ".join(f"{x:.9g}" for x in row) for row in rows.tolist()]
    if uv is not None:
        lines += [f"vt {u:.9g} {v:.9g}" for u, v in np.asarray(uv).tolist()]
    form = "f {0}/{0} {1}/{1} {2}/{2}" if uv is not None else "f {} {} {}"
    lines += [form.format(*face) for face in (faces + 1).tolist()]
    return ("\n".join(lines) + "\n").encode("ascii")


def glb_bytes(
    vertices: Float[np.ndarray, "v 3"],
    faces: Int[np.ndarray, "f 3"],
    colours: Float[Array | np.ndarray, "v 3"] | None,
    uv: Float[Array | np.ndarray, "v 2"] | None,
    normals: Float[Array | np.ndarray, "v 3"] | None,
) -> bytes:
    """GlTF 2.0 binary: one mesh with a rough, non-metallic, two-sided material."""
    attributes = {"POSITION": ("VEC3", vertices)}
    if normals is not None:
        attributes["NORMAL"] = ("VEC3", np.asarray(normals))
    if colours is not None:
        attributes["COLOR_0"] = ("VEC3", _linear_from_srgb(colours))
    if uv is not None:  # the image's origin is its upper left corner
        attributes["TEXCOORD_0"] = ("VEC2", np.asarray(uv) * [1, -1] + [0, 1])
    accessors, views, blobs, offset = [], [], [], 0
    arrays = [(kind, a.astype("<f4"), 5126, 34962) for kind, a in attributes.values()]
    arrays.append(("SCALAR", faces.ravel().astype("<u4"), 5125, 34963))
    for index, (kind, array, component, target) in enumerate(arrays):
        blob = array.tobytes()
        views.append({"buffer": 0, "byteOffset": offset, "byteLength": len(blob), "target": target})
        accessor = {
            "bufferView": index,
            "componentType": component,
            "count": len(array),
            "type": kind,
        }
        if index == 0:  # required for positions
            accessor |= {"min": array.min(0).tolist(), "max": array.max(0).tolist()}
        accessors.append(accessor)
        blobs.append(blob)
        offset += len(blob)
    material = {
        "pbrMetallicRoughness": {"metallicFactor": 0.0, "roughnessFactor": 0.8},
        "doubleSided": True,
    }
    primitive = {
        "attributes": {name: i for i, name in enumerate(attributes)},
        "indices": len(arrays) - 1,
        "material": 0,
    }
    tree = {
        "asset": {"version": "2.0", "generator": "jaxrecon"},
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0}],
        "meshes": [{"primitives": [primitive]}],
        "materials": [material],
        "accessors": accessors,
        "bufferViews": views,
        "buffers": [{"byteLength": offset}],
    }
    text = json.dumps(tree, separators=(",", ":")).encode("ascii")
    text += b" " * (-len(text) % 4)
    body = (
        struct.pack("<I4s", len(text), b"JSON")
        + text
        + struct.pack("<I4s", offset, b"BIN\0")
        + b"".join(blobs)
    )
    return struct.pack("<4sII", b"glTF", 2, 12 + len(body)) + body


def _byte_colours(colours):
    return np.round(np.clip(np.asarray(colours, np.float64), 0, 1) * 255).astype(np.uint8)


def _linear_from_srgb(c):
    c = np.clip(np.asarray(c, np.float64), 0, 1)
    return np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4).astype(np.float32)
