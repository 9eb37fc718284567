"""Mesh files: round trips, formats by hand, and every kind of broken file."""

import base64
import json
import os
import struct

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jaxrecon.errors import InputError
from jaxrecon.geometry import mesh_io
from jaxrecon.geometry.mesh_io import load_mesh, save_mesh
from jaxrecon.types import Mesh

VERTICES = np.array(
    [[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1.5], [9, 9, 9]]
)  # the last is unused
FACES = np.array([[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]])
COLOURS = np.linspace(0, 1, 15, dtype=np.float32).reshape(5, 3)
OBJ_VERTICES = np.array([[0.0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0], [0, 0, 1]])
UV = np.linspace(0, 1, 10, dtype=np.float32).reshape(5, 2)


@pytest.mark.parametrize("extension", ["ply", "obj", "glb", "PLY"])
@pytest.mark.parametrize(
    ("colours", "uv"), [(None, None), (COLOURS, None), (None, UV), (COLOURS, UV)]
)
def test_round_trip(tmp_path, extension, colours, uv):
    path = tmp_path / f"mesh.{extension}"
    save_mesh(path, Mesh(VERTICES, FACES, colours, uv), normals=np.tile([[0.0, 0, 1]], (5, 1)))
    mesh = load_mesh(path)
    n = len(mesh.vertices)
    np.testing.assert_allclose(mesh.vertices, VERTICES[:n], atol=1e-6)
    np.testing.assert_array_equal(mesh.faces, FACES)
    assert n == 5 and mesh.vertices.dtype == np.float64 and mesh.faces.dtype == np.int64
    assert (mesh.colours is None) == (colours is None) and (mesh.uv is None) == (uv is None)
    if colours is not None:
        # 8 bits; a GLB's are of linear light, where the dark end is coarser.
        np.testing.assert_allclose(
            mesh.colours, colours, atol=0.03 if extension == "glb" else 1 / 500
        )
        assert mesh.colours.dtype == np.float32
    if uv is not None:
        np.testing.assert_allclose(mesh.uv[:4], uv[:4], atol=1e-6)  # the unused vertex may lose its
    assert os.listdir(tmp_path) == [path.name]  # no temporary files


def test_scale_and_glb_structure(tmp_path):
    path = tmp_path / "head.glb"
    save_mesh(path, Mesh(VERTICES * 100, FACES, COLOURS), scale=1e-3)
    data = path.read_bytes()
    magic, version, length = struct.unpack("<4sII", data[:12])
    assert (magic, version, length) == (b"glTF", 2, len(data)) and length % 4 == 0
    size, kind = struct.unpack("<I4s", data[12:20])
    tree = json.loads(data[20 : 20 + size])
    assert kind == b"JSON" and size % 4 == 0
    primitive = tree["meshes"][0]["primitives"][0]
    position = tree["accessors"][primitive["attributes"]["POSITION"]]
    np.testing.assert_allclose(position["max"], [0.9, 0.9, 0.9], rtol=1e-6)  # metres
    np.testing.assert_allclose(load_mesh(path).vertices, VERTICES * 0.1, atol=1e-7)
    colour = tree["accessors"][primitive["attributes"]["COLOR_0"]]
    view = tree["bufferViews"][colour["bufferView"]]
    start = 20 + size + 8 + view["byteOffset"]
    stored = np.frombuffer(data[start : start + view["byteLength"]], "<f4").reshape(-1, 3)
    np.testing.assert_allclose(stored[-1, -1], 1, atol=1e-6)
    middle = COLOURS[2]  # sRGB 0.5 is about 0.214 of the light
    np.testing.assert_allclose(stored[2], ((middle + 0.055) / 1.055) ** 2.4, atol=1e-6)


def test_other_tools_read_what_we_write(tmp_path):
    import trimesh

    for extension in ("ply", "obj", "glb"):
        path = tmp_path / f"m.{extension}"
        save_mesh(path, Mesh(VERTICES[:4], FACES, COLOURS[:4]))
        read = trimesh.load(path, process=False, force="mesh")
        assert read.is_watertight and read.volume > 0, extension
        np.testing.assert_allclose(read.vertices, VERTICES[:4], atol=1e-6)


def test_obj_by_hand(tmp_path):
    path = tmp_path / "m.obj"
    path.write_text(
        "# comment\nmtllib missing.mtl\no thing\nv 0 0 0\nv 1 0 0\nv 1 1 0\nv 0 1 0\nv 0 0 1\n"
        "vt 0 0\nvt 1 0\nvt 1 1\nvt 0 1\nvt .5 .5\nvn 0 0 1\ng a\nusemtl b\ns off\n"
        "f 1/1/1 2/2/1 3/3/1 4/4/1\nf -5/5 -4/2 -1/4\n"
    )
    mesh = load_mesh(path)
    np.testing.assert_allclose(mesh.vertices, [*OBJ_VERTICES, OBJ_VERTICES[0]])
    np.testing.assert_array_equal(
        mesh.faces, [[0, 1, 2], [0, 2, 3], [5, 1, 4]]
    )  # vertex 0 again: other UV
    np.testing.assert_allclose(mesh.uv, [[0, 0], [1, 0], [1, 1], [0, 1], [0, 1], [0.5, 0.5]])
    path.write_text("v 0 0 0 255 0 0\nv 1 0 0 0 255 0\nv 0 1 0 0 0 51\nf 1//1 2//1 3//1\n")
    mesh = load_mesh(path)
    np.testing.assert_allclose(mesh.colours, [[1, 0, 0], [0, 1, 0], [0, 0, 0.2]], atol=1e-6)
    assert mesh.uv is None


def test_ply_with_texture_coordinates_of_face_corners(tmp_path):
    path = tmp_path / "m.ply"
    path.write_text(
        "ply\nformat ascii 1.0\nelement vertex 4\nproperty float x\nproperty float y\n"
        "property float z\nelement face 2\nproperty list uchar int vertex_indices\n"
        "property list uchar float texcoord\nend_header\n0 0 0\n1 0 0\n1 1 0\n0 1 0\n"
        "3 0 1 2 6 0 0 1 0 1 1\n3 0 2 3 6 .5 .5 1 1 0 1\n"
    )
    mesh = load_mesh(path)
    assert mesh.vertices.shape == (5, 3)  # vertex 0 has two texture coordinates
    expected = [[0, 0], [1, 0], [1, 1], [0.5, 0.5], [1, 1], [0, 1]]
    np.testing.assert_allclose(mesh.uv[mesh.faces].reshape(-1, 2), expected)
    np.testing.assert_allclose(mesh.vertices[mesh.faces][1], [[0, 0, 0], [1, 1, 0], [0, 1, 0]])


def test_stl_and_off(tmp_path):
    import trimesh

    for extension in ("stl", "off"):
        path = tmp_path / f"m.{extension}"
        trimesh.Trimesh(VERTICES[:4], FACES, process=False).export(path)
        mesh = load_mesh(path)
        assert mesh.vertices.shape == (4, 3)  # STL corners are joined
        np.testing.assert_allclose(
            sorted(map(tuple, mesh.vertices[mesh.faces].mean(1))),
            sorted(map(tuple, VERTICES[FACES].mean(1))),
            atol=1e-6,
        )


def gltf(tmp_path, uri="data.bin", nodes=None, count=3):
    blob = VERTICES[:3].astype("<f4").tobytes() + np.arange(3, dtype="<u4").tobytes()
    (tmp_path / "data.bin").write_bytes(blob)
    tree = {
        "asset": {"version": "2.0"},
        "scene": 0,
        "nodes": nodes or [{"mesh": 0}],
        "meshes": [{"primitives": [{"attributes": {"POSITION": 0}, "indices": 1}]}],
        "accessors": [
            {"bufferView": 0, "componentType": 5126, "count": count, "type": "VEC3"},
            {"bufferView": 1, "componentType": 5125, "count": 3, "type": "SCALAR"},
        ],
        "bufferViews": [
            {"buffer": 0, "byteOffset": 0, "byteLength": 36},
            {"buffer": 0, "byteOffset": 36, "byteLength": 12},
        ],
        "buffers": [{"uri": uri, "byteLength": 48}],
    }
    tree["scenes"] = [{"nodes": list(range(len(tree["nodes"])))}]
    path = tmp_path / "m.gltf"
    path.write_text(json.dumps(tree))
    return path


def test_gltf_scene_is_put_together_in_world_coordinates(tmp_path):
    nodes = [{"mesh": 0}, {"mesh": 0, "translation": [5, 0, 0]}, {"mesh": 0, "scale": [-1, 1, 1]}]
    mesh = load_mesh(gltf(tmp_path, nodes=nodes))
    assert mesh.vertices.shape == (9, 3) and mesh.faces.shape == (3, 3)
    np.testing.assert_allclose(mesh.vertices[3:6], VERTICES[:3] + [[5, 0, 0]], atol=1e-6)
    triangles = mesh.vertices[mesh.faces]
    normals = np.cross(triangles[:, 1] - triangles[:, 0], triangles[:, 2] - triangles[:, 0])
    assert (normals[:, 2] > 0).all()  # a mirrored part keeps its outside
    uri = (
        "data:application/octet-stream;base64,"
        + base64.b64encode((tmp_path / "data.bin").read_bytes()).decode()
    )
    assert load_mesh(gltf(tmp_path, uri=uri)).vertices.shape == (3, 3)


@pytest.mark.parametrize(
    "uri", ["../secret.bin", "/etc/hostname", "missing.bin", "https://a.b/c.bin"]
)
def test_gltf_reads_nothing_outside_its_folder(tmp_path, uri):
    folder = tmp_path / "inner"
    folder.mkdir()
    (tmp_path / "secret.bin").write_bytes(b"\0" * 48)
    with pytest.raises(InputError, match="m.gltf"):
        load_mesh(gltf(folder, uri=uri))


def test_counts_without_data_are_refused_before_they_are_allocated(tmp_path):
    path = gltf(tmp_path)
    tree = json.loads(path.read_text())
    tree["accessors"][0] = {"componentType": 5126, "count": 10**12, "type": "VEC3"}
    path.write_text(json.dumps(tree))
    with pytest.raises(InputError, match="about 62500000000 vertices"):
        load_mesh(path)


def test_instancing_bomb_is_refused_before_it_is_copied(tmp_path):
    path = gltf(tmp_path, nodes=[{"mesh": 0}] * 100)
    with pytest.raises(InputError, match="300 vertices"):
        load_mesh(path, max_vertices=200)


PLY_HEADER = (
    "ply\nformat ascii 1.0\nelement vertex 3\n"
    "property float x\nproperty float y\nproperty float z\n"
    "element face {}\nproperty list uchar int vertex_indices\nend_header\n"
)
BAD = {
    "no_faces.ply": (PLY_HEADER.format(0) + "0 0 0\n1 0 0\n0 1 0\n", "no faces"),
    "nan.ply": (PLY_HEADER.format(1) + "0 0 nan\n1 0 0\n0 1 0\n3 0 1 2\n", "NaN"),
    "range.ply": (
        PLY_HEADER.format(1) + "0 0 0\n1 0 0\n0 1 0\n3 0 1 3\n",
        "refer to vertices|read",
    ),
    "negative.ply": (PLY_HEADER.format(1) + "0 0 0\n1 0 0\n0 1 0\n3 0 1 -1\n", "refer to|read"),
    "short.ply": (PLY_HEADER.format(9) + "0 0 0\n1 0 0\n", "range|read|refer|no faces"),
    "empty.ply": ("", "read|no faces"),
    "empty.obj": ("", "no faces"),
    "empty.stl": ("", "read|no faces"),
    "empty.glb": ("", "read|no faces"),
    "empty.off": ("", "read|no faces"),
    "empty.gltf": ("", "read|no faces"),
    "scene.gltf": (
        '{"asset": {"version": "2.0"}, "scenes": [{"nodes": []}], "scene": 0}',
        "no faces|read",
    ),
    "count.stl": (b"\0" * 80 + struct.pack("<I", 1000) + b"\0" * 50, "no faces|read"),
    "nan.obj": ("v 0 0 0\nv 1 nan 0\nv 0 1 0\nf 1 2 3\n", "NaN"),
    "inf.obj": ("v 0 0 0\nv 1 inf 0\nv 0 1 0\nf 1 2 3\n", "infinite"),
    "huge.obj": ("v 0 0 0\nv 1 1e300 0\nv 0 1 0\nf 1 2 3\n", "float32"),
    "range.obj": ("v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 4\n", "0..3, but there are 3"),
    "before.obj": ("v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 -9\n", "refer to"),
    "zero.obj": ("v 0 0 0\nv 1 0 0\nv 0 1 0\nf 0 1 2\n", "line 4"),
    "word.obj": ("v 0 0 zero\n", "line 1"),
    "two.obj": ("v 0 0 0\nv 1 0 0\nf 1 2\n", "line 3.*three corners"),
    "points.obj": ("v 0 0 0\nv 1 0 0\nv 0 1 0\n", "no faces"),
}


@pytest.mark.parametrize("name", BAD)
def test_broken_files_are_refused_by_name(tmp_path, name):
    content, message = BAD[name]
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError, match=message) as error:
        load_mesh(path)
    assert name in error.value.given and error.value.remedy


def test_wrong_paths_and_sizes(tmp_path):
    for name in ("m.txt", "m", "m.pkl", "m.npz", "m.zip"):
        with pytest.raises(InputError, match="not a mesh file"):
            load_mesh(tmp_path / name)
    with pytest.raises(InputError, match="no such file"):
        load_mesh(tmp_path / "absent.ply")
    (tmp_path / "folder.ply").mkdir()
    with pytest.raises(InputError, match="no such file"):
        load_mesh(tmp_path / "folder.ply")
    path = tmp_path / "m.ply"
    save_mesh(path, Mesh(VERTICES, FACES))
    with pytest.raises(InputError, match="MiB"):
        load_mesh(path, max_bytes=100)
    with pytest.raises(InputError, match="5 vertices"):
        load_mesh(path, max_vertices=4)


def test_bad_meshes_are_not_written(tmp_path):
    path = tmp_path / "m.ply"
    broken = [
        Mesh(VERTICES, FACES + 2),
        Mesh(VERTICES * np.nan, FACES),
        Mesh(VERTICES, FACES[:0]),
        Mesh(VERTICES, FACES, COLOURS[:2]),
        Mesh(VERTICES, FACES, None, UV[:, :1]),
        Mesh(VERTICES[:, :2], FACES),
    ]
    for mesh in broken:
        with pytest.raises(ValueError, match="m.ply"):
            save_mesh(path, mesh)
    with pytest.raises(InputError, match="cannot write"):
        save_mesh(tmp_path / "m.stl", Mesh(VERTICES, FACES))
    assert not list(tmp_path.iterdir())


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "m.ply"
    save_mesh(path, Mesh(VERTICES, FACES))
    before = path.read_bytes()

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(mesh_io.os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        save_mesh(path, Mesh(VERTICES * 2, FACES))
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["m.ply"]


def load_or_refuse(path, data):
    path.write_bytes(data)
    try:
        mesh = load_mesh(path)
    except InputError:
        return
    assert np.isfinite(mesh.vertices).all() and 0 <= mesh.faces.min()
    assert mesh.faces.max() < len(mesh.vertices)


QUICK = settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.mark.parametrize("extension", mesh_io.EXTENSIONS)
@QUICK
@given(data=st.binary(max_size=300))
def test_random_bytes_never_crash(tmp_path, extension, data):
    load_or_refuse(tmp_path / f"fuzz{extension}", data)


@pytest.mark.parametrize("extension", [".ply", ".obj", ".glb"])
@QUICK
@given(position=st.floats(0, 1), replacement=st.binary(min_size=1, max_size=6), cut=st.booleans())
def test_damaged_files_never_crash(tmp_path, extension, position, replacement, cut):
    path = tmp_path / f"damaged{extension}"
    save_mesh(path, Mesh(VERTICES, FACES, COLOURS, UV))
    data = bytearray(path.read_bytes())
    at = int(position * (len(data) - 1))
    data[at : at + len(replacement)] = replacement
    load_or_refuse(path, bytes(data[:at] if cut else data))


@QUICK
@given(
    lines=st.lists(
        st.tuples(
            st.sampled_from(["v", "vt", "vn", "f", "#", "l", ""]),
            st.lists(
                st.sampled_from(["0", "1", "-1", "2/1", "3//2", "1/2/3", "nan", "1e99", "x", "/"]),
                max_size=5,
            ),
        ),
        max_size=12,
    )
)
def test_random_obj_lines_never_crash(tmp_path, lines):
    text = "\n".join(" ".join([kind, *words]) for kind, words in lines)
    load_or_refuse(tmp_path / "fuzz.obj", text.encode())
