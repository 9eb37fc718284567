"""SMPL's family from the authors' files: recorded results come out, one error for each bad file."""

import pickle

import numpy as np
import pytest

from jaxrecon.errors import InputError
from jaxrecon.interop import smpl_files
from jaxrecon.interop.smpl_files import convert_smpl
from jaxrecon.models.parametric.body import body_model, load_body
from jaxrecon.models.parametric.body_pose import part_joints
from tests.models.bodies import SMPL_PICKLE, layout, picked_vertices, recorded

RECORD = recorded()
KEYS = ("v_template", "shapedirs", "posedirs", "J_regressor", "kintree_table", "weights", "f")


def native(kind: str) -> dict:
    """A recorded model under the names of its authors' files."""
    prefix = f"{kind}/model/"
    return {k.removeprefix(prefix): v for k, v in RECORD.items() if k.startswith(prefix)}


def same(found: dict, kind: str) -> None:
    """The arrays of our layout are those recorded; all coefficients in one."""
    expected = layout(RECORD, kind)
    modes = [found["shapedirs"], *([found["expr_basis"]] if "expr_basis" in found else [])]
    np.testing.assert_array_equal(np.concatenate(modes), expected["shapedirs"])
    for key in ("v_template", "posedirs", "weights", "faces", "parents"):
        np.testing.assert_array_equal(found[key], expected[key], err_msg=key)
    regressor = np.asarray(body_model(found).joint_template)
    joints = expected["joint_regressor"] @ expected["v_template"]
    np.testing.assert_allclose(regressor, joints, atol=1e-6)


def test_the_chumpy_pickle_poses_as_recorded(tmp_path, monkeypatch):
    monkeypatch.setitem(smpl_files._VERTEX_IDS, 30, tuple(picked_vertices(RECORD)))
    arrays = convert_smpl(SMPL_PICKLE, "smpl")
    same(arrays, "smpl")
    assert "non-commercial" in str(arrays["licence"]) and "sha256" in str(arrays["source"])
    np.savez(tmp_path / "smpl.npz", **arrays)
    model = load_body(tmp_path / "smpl.npz")
    assert model.joint_names[-1] == "right_hand" and model.vertex_joint_names[0] == "nose"
    posed = model.with_shape(RECORD["smpl/betas"]).with_pose(
        RECORD["smpl/pose"].reshape(4, 24, 3), RECORD["smpl/class/transl"]
    )
    mesh = posed.mesh()
    np.testing.assert_allclose(mesh.vertices, RECORD["smpl/class/vertices"], atol=1e-5)
    joints = np.concatenate([mesh.joints, mesh.vertex_joints()], axis=1)
    np.testing.assert_allclose(joints, RECORD["smpl/class/joints"], atol=1e-5)


def test_smplx_npz_with_objects(tmp_path):
    path = tmp_path / "SMPLX_NEUTRAL.npz"
    # the published file has dicts of part numbers beside its arrays
    np.savez(path, **native("smplx"), part2num=np.array({"head": 15}, dtype=object))
    arrays = convert_smpl(path, "smplx")
    same(arrays, "smplx")
    assert len(arrays["shapedirs"]) == len(arrays["expr_basis"]) == 10
    model = body_model(arrays)
    assert model.hands is not None and model.contour_corners.shape == (79, 17, 3)
    assert model.landmark_corners.shape == (51, 3) and len(part_joints(model)["left_hand"]) == 15


def test_flame_with_400_columns_and_landmarks_of_its_own_names(tmp_path):
    raw = native("flame")
    modes = np.random.default_rng(0).standard_normal((30, 3, 400)).astype(np.float32)
    raw |= {
        "shapedirs": modes,
        "lmk_face_idx": np.arange(6, dtype=np.uint32),
        "lmk_b_coords": np.full((6, 3), 1 / 3),
        "kintree_table": np.array([[-1, 0, 1, 1, 1], [0, 1, 2, 3, 4]]),
    }
    with (tmp_path / "generic_model.pkl").open("wb") as file:
        pickle.dump(raw, file, protocol=2)
    arrays = convert_smpl(tmp_path / "generic_model.pkl", "flame")
    np.testing.assert_array_equal(arrays["shapedirs"], np.moveaxis(modes[..., :300], 2, 0))
    np.testing.assert_array_equal(arrays["expr_basis"], np.moveaxis(modes[..., 300:], 2, 0))
    model = body_model(arrays)
    assert model.landmark_corners.shape == (6, 3) and model.joint_names[1] == "neck"


def test_smpl_with_300_columns(tmp_path):
    """SMPL's larger files have 300 shapes, and no expressions among them."""
    modes = np.random.default_rng(0).standard_normal((30, 3, 300)).astype(np.float32)
    with (tmp_path / "basicmodel_m.pkl").open("wb") as file:
        pickle.dump(native("smpl") | {"shapedirs": modes}, file, protocol=2)
    arrays = convert_smpl(tmp_path / "basicmodel_m.pkl", "smpl")
    np.testing.assert_array_equal(arrays["shapedirs"], np.moveaxis(modes, 2, 0))
    model = body_model(arrays)
    assert len(model.shape_basis) == 300 and len(model.expression_basis) == 0


def test_smplh_with_sixteen_shapes_and_sparse_joints(tmp_path):
    from scipy.sparse import csc_matrix

    x = native("smplx")
    names = list(smpl_files.JOINT_NAMES["smplx"])
    keep = [names.index(n) for n in smpl_files.JOINT_NAMES["smplh"]]
    parents = [-1, *(keep.index(RECORD["smplx/parents"][j]) for j in keep[1:])]
    raw = {
        "v_template": x["v_template"].astype(float),
        "shapedirs": x["shapedirs"][..., :16],
        "posedirs": np.zeros((30, 3, 459)),
        "J_regressor": csc_matrix(x["J_regressor"][keep]),
        "kintree_table": np.array([parents, range(52)]),
        "weights": x["weights"][:, keep] / x["weights"][:, keep].sum(1, keepdims=True),
        "f": x["f"],
        "bs_style": "lbs",
        **{k: v for k, v in x.items() if k.startswith("hands_")},
    }
    with (tmp_path / "SMPLH_MALE.pkl").open("wb") as file:
        pickle.dump(raw, file, protocol=2)
    model = body_model(convert_smpl(tmp_path / "SMPLH_MALE.pkl", "smplh"))
    assert len(model.shape_basis) == 16 and len(model.expression_basis) == 0
    expected = x["J_regressor"][keep] @ x["v_template"]
    np.testing.assert_allclose(model.joint_template, expected, atol=1e-5)
    assert model.hands is not None and model.joint_names[22] == "left_index1"


SMPL = native("smpl")
BAD = {
    **{f"no {key}": {key: None} for key in KEYS},
    "fewer joints": {"kintree_table": SMPL["kintree_table"][:, :-1]},
    "a regressor of other joints": {"J_regressor": SMPL["J_regressor"][:-1]},
    "a tree out of order": {"kintree_table": SMPL["kintree_table"][:, ::-1]},
    "a tree of halves": {"kintree_table": SMPL["kintree_table"] + 0.5},
    "NaN weights": {"weights": np.full((30, 24), np.nan)},
    "weights of another mesh": {"weights": SMPL["weights"][:-1]},
    "words": {"v_template": "none"},
    "flat shapes": {"shapedirs": SMPL["shapedirs"][0]},
    "faces beyond": {"f": SMPL["f"] + 20},
    "lists of unequal length": {"weights": [[1.0], [0.5, 0.5]]},
}


@pytest.mark.parametrize("case", sorted(BAD))
def test_bad_models_are_refused(case, tmp_path):
    raw = {k: v for k, v in (SMPL | BAD[case]).items() if v is not None}
    with (tmp_path / "bad.pkl").open("wb") as file:
        pickle.dump(raw, file, protocol=2)
    with pytest.raises(InputError, match=r"bad\.pkl") as caught:
        convert_smpl(tmp_path / "bad.pkl", "smpl")
    assert caught.value.remedy


def test_other_files_and_kinds_are_refused(tmp_path):
    for kind in ("smplx", "smplh", "flame"):
        with pytest.raises(InputError, match="smpl_synthetic"):
            convert_smpl(SMPL_PICKLE, kind)
    with pytest.raises(InputError, match="mano"):
        convert_smpl(SMPL_PICKLE, "mano")
    with pytest.raises(InputError, match=r"a\.obj"):
        convert_smpl(tmp_path / "a.obj", "smpl")
    with pytest.raises(InputError, match=r"none\.pkl"):
        convert_smpl(tmp_path / "none.pkl", "smpl")
    np.savez(tmp_path / "x.npz", **(native("smplx") | {"shapedirs": np.zeros((30, 3, 25))}))
    with pytest.raises(InputError, match="25 columns"):
        convert_smpl(tmp_path / "x.npz", "smplx")
