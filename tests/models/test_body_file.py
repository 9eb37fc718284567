"""Body files: what comes back, the forms a file may take, and one error for each bad file."""

import json

import jax
import numpy as np
import pytest

from jaxrecon.errors import InputError
from jaxrecon.geometry.mesh_io import load_mesh
from jaxrecon.models.parametric import model_arrays
from jaxrecon.models.parametric.body import load_body
from jaxrecon.models.parametric.body_file import read_body
from tests.models.bodies import layout, recorded, tiny_body

RAW = tiny_body()


def save(path, **changes):
    """The tiny body with arrays changed; None leaves one out."""
    np.savez(path, **{k: v for k, v in (RAW | changes).items() if v is not None})
    return path


def test_a_file_of_the_free_bodys_form(tmp_path):
    body = read_body(save(tmp_path / "body.npz"))
    np.testing.assert_array_equal(body["v_template"], RAW["v_template"])
    np.testing.assert_array_equal(body["shapedirs"], RAW["shapedirs"].astype(np.float32))
    np.testing.assert_allclose(body["weights"].sum(1), 1.0, atol=1e-6)
    v, j = 7, int(RAW["weights_idx"][7, 1])
    own = RAW["weights"][v][RAW["weights_idx"][v] == j].astype(float).sum()
    assert abs(body["weights"][v, j] - own) < 1e-3
    assert body["joint_regressor"].shape == (55, 40)
    np.testing.assert_allclose(body["joint_regressor"].sum(1), 1.0, atol=1e-6)
    assert body["posedirs"].shape == (0, 40, 3) and body["expression"].shape == (2, 40, 3)
    assert body["phenotype_factors"].shape[0] == 192 and "none" in str(body["licence"])
    model = load_body(tmp_path / "body.npz", shapes=2, expressions=1)
    assert model.shape_basis.shape == (2, 40, 3) and model.expression_names == ("jawOpen",)
    assert model.joint_names[:2] == ("pelvis", "left_hip") and model.hands is None


def test_units_and_forms_agree(tmp_path, rng):
    bends = rng.normal(0, 0.01, (486, 40, 3)).astype(np.float32)
    whole = read_body(save(tmp_path / "a.npz", posedirs=bends))
    regressor, dense = whole["joint_regressor"], whole["weights"]
    rows, columns = np.nonzero(regressor)
    other = {
        "v_template": 100 * RAW["v_template"],
        "shapedirs": 100 * RAW["shapedirs"].astype(np.float32),
        "posedirs": 100 * bends,
        "unit": np.array("centimetres"),
        "joint_vertex_ids": None,
        "joint_regressor_data": regressor[rows, columns],
        "joint_regressor_indices": columns,
        "joint_regressor_indptr": np.searchsorted(rows, np.arange(56)),
        "weights": dense,
        "weights_idx": None,
        "joint_names": None,
    }
    again = read_body(save(tmp_path / "b.npz", **other))
    for key in ("joint_regressor", "weights", "faces", "landmark_corners"):
        np.testing.assert_array_equal(again[key], whole[key])
    for key in ("v_template", "shapedirs", "posedirs"):
        np.testing.assert_allclose(again[key], whole[key], atol=1e-6)
    assert again["joint_names"][3] == "joint_003"


def test_hands_landmarks_and_contours_come_along(tmp_path):
    arrays = layout(recorded(), "smplx")
    np.savez(tmp_path / "x.npz", **arrays)
    model = load_body(tmp_path / "x.npz")
    assert model.hands is not None and model.hands.left_components.shape == (45, 45)
    assert model.landmark_corners.shape == (51, 3) and model.contour_corners.shape == (79, 17, 3)
    assert model.pose_basis.shape == (486, 30, 3) and model.vertex_joints.shape == (21,)


X = {k: v for k, v in layout(recorded(), "smplx").items() if k.startswith(("hand", "contour"))}
PARENTS = RAW["parents"].astype(int)
BAD = {
    "no template": {"v_template": None},
    "no tree": {"parents": None},
    "no joints": {"joint_vertex_ids": None},
    "NaN": {"v_template": np.full((40, 3), np.nan)},
    "infinite shapes": {"shapedirs": np.full((6, 40, 3), np.inf)},
    "shapes of another mesh": {"shapedirs": RAW["shapedirs"][:, :-1]},
    "shapes as SMPL writes them": {"shapedirs": np.moveaxis(RAW["shapedirs"], 0, 2)},
    "words": {"v_template": np.array(["a"])},
    "objects": {"joint_names": RAW["joint_names"].astype(object)},
    "no faces": {"faces": np.zeros((0, 3), int)},
    "faces that count from the end": {"faces": RAW["faces"].astype(int) - 1},
    "faces beyond the mesh": {"faces": RAW["faces"].astype(int) + 30},
    "a cycle": {"parents": np.where(PARENTS == 0, 54, PARENTS)},
    "its own parent": {"parents": np.where(np.arange(55) == 5, 5, PARENTS)},
    "two roots": {"parents": np.where(np.arange(55) == 5, -1, PARENTS)},
    "no root": {"parents": np.maximum(PARENTS, 0)},
    "a tree of halves": {"parents": PARENTS + 0.5},
    "weights that sum to two": {"weights": 2 * RAW["weights"]},
    "negative weights": {"weights": np.tile([1.0, 1.0, -1.0], (40, 1))},
    "weights of NaN": {"weights": np.full((40, 3), np.nan)},
    "weights of joints beyond": {"weights_idx": RAW["weights_idx"].astype(int) + 20},
    "weights of fewer vertices": {"weights": RAW["weights"][:-1]},
    "dense weights of other joints": {"weights_idx": None},
    "joints beyond the mesh": {"joint_vertex_ids": RAW["joint_vertex_ids"] + 20},
    "a joint of nothing": {"joint_vertex_ids": np.full((55, 8), -1)},
    "a regressor turned": {"joint_regressor": np.zeros((40, 55))},
    "names of fewer joints": {"joint_names": RAW["joint_names"][:-1]},
    "names twice": {"joint_names": np.array(["a"] * 55)},
    "correctives of other joints": {"posedirs": np.zeros((207, 40, 3))},
    "expressions alone": {"expr_ptr": None},
    "pointers beyond": {"expr_ptr": RAW["expr_ptr"] + 1},
    "landmarks beyond": {"landmarks68_face": RAW["landmarks68_face"] + 25},
    "landmarks outside": {"landmarks68_bary": 2 * RAW["landmarks68_bary"]},
    "half of a hand": {"hand_mean_left": X["hand_mean_left"]},
    "a hand of 44 numbers": X | {"hand_mean_left": X["hand_mean_left"][:-1]},
    "contours without points": {"contour_face": X["contour_face"]},
    "picked beyond": {"vertex_joint_ids": np.array([40])},
    "cubits": {"unit": np.array("cubits")},
}


@pytest.mark.parametrize("case", sorted(BAD))
def test_bad_arrays_are_refused(case, tmp_path):
    with pytest.raises(InputError, match=r"bad\.npz") as caught:
        load_body(save(tmp_path / "bad.npz", **BAD[case]))
    assert caught.value.expected and caught.value.remedy


def test_bad_files_are_refused(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        read_body(tmp_path / "absent.npz")
    whole = save(tmp_path / "whole.npz").read_bytes()
    for name, data in (("text", b"hello"), ("half", whole[: len(whole) // 2]), ("empty", b"")):
        (tmp_path / f"{name}.npz").write_bytes(data)
        with pytest.raises(InputError, match=rf"{name}\.npz"):
            read_body(tmp_path / f"{name}.npz")


def test_bombs_are_refused_by_the_size_that_they_would_have(tmp_path, monkeypatch):
    monkeypatch.setattr(model_arrays, "MAX_BYTES", 1 << 20)
    np.savez_compressed(tmp_path / "bomb.npz", **RAW, posedirs=np.zeros((486, 400, 3)))
    assert (tmp_path / "bomb.npz").stat().st_size < 1 << 18
    with pytest.raises(InputError, match=r"bomb\.npz: .*larger than"):
        read_body(tmp_path / "bomb.npz")


@jax.jit
def place(model, betas, pose, translation):
    """Vertices and joints of one person."""
    mesh = model.with_shape(betas).with_pose(pose, translation).mesh()
    return mesh.vertices, mesh.joints


def test_bodies_of_the_shared_views(shared):
    """Four people that another implementation posed: 0.24 mm at most, as the file's weights are
    half precision numbers, and theirs were not."""
    path = shared / "data" / "anny_body.npz"
    model, raw = load_body(path), read_body(path)
    seen = np.unique(raw["faces"][raw["face_part"] < 2])
    people = sorted((shared / "data" / "bodyviews").glob("body*"))
    assert len(people) == 4
    for folder in people:
        params = json.loads((folder / "params.json").read_text())
        inputs = [np.array(params[k], np.float32) for k in ("betas", "pose", "translation")]
        vertices, joints = place(model, *inputs)
        np.testing.assert_allclose(joints, params["joints3d"], atol=1e-5)
        truth = load_mesh(folder / "gt_body.ply").vertices
        error = np.linalg.norm(np.asarray(vertices)[seen] - truth, axis=1)
        assert error.max() < 3e-4 and error.mean() < 5e-5
