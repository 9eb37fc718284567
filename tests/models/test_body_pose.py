"""Poses from parts, hands by modes, landmarks, the outline of the face, and SPIN's joints: against
recorded results of the SMPL-X class and of SPIN.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrecon.models.parametric import body_joints
from jaxrecon.models.parametric.body import body_model
from jaxrecon.models.parametric.body_pose import full_pose, hand_pose, part_joints
from tests.models.bodies import PICKED, layout, picked_vertices, recorded, tiny_body

RECORD = recorded()
INPUTS = {k.split("/")[-1]: v for k, v in RECORD.items() if k.startswith("smplx/class/in/")}


@pytest.fixture(scope="module")
def smplx():
    arrays = layout(RECORD, "smplx")
    modes = arrays["shapedirs"]
    return body_model(arrays | {"shapedirs": modes[:10], "expr_basis": modes[10:]})


def recorded_pose(model):
    """The recorded inputs as one pose."""
    return full_pose(
        model,
        INPUTS["global_orient"],
        INPUTS["body_pose"].reshape(-1, 21, 3),
        INPUTS["jaw_pose"],
        INPUTS["leye_pose"],
        INPUTS["reye_pose"],
        hand_pose(model, "left", INPUTS["left_hand_pose"]),
        hand_pose(model, "right", INPUTS["right_hand_pose"]),
    )


@jax.jit
def read_off(model, betas, expression, pose, translation):
    """Vertices, then the joints that the recorded class returns."""
    mesh = model.with_shape(betas, expression).with_pose(pose, translation).mesh()
    points = [mesh.joints, mesh.vertex_joints(), body_joints.landmarks(mesh)]
    return mesh.vertices, jnp.concatenate([*points, body_joints.contour(mesh)], axis=-2)


def test_smplx_as_recorded(smplx):
    pose = recorded_pose(smplx)
    expected = RECORD["smplx/class/contour1/full_pose"]
    np.testing.assert_allclose(pose.reshape(4, -1), expected, atol=1e-6)
    inputs = (INPUTS["betas"], INPUTS["expression"], pose, INPUTS["transl"])
    vertices, points = read_off(smplx, *inputs)
    for contour, count in (("contour0", 127), ("contour1", 144)):
        record = f"smplx/class/{contour}"
        np.testing.assert_allclose(vertices, RECORD[f"{record}/vertices"], atol=1e-5)
        np.testing.assert_allclose(points[:, :count], RECORD[f"{record}/joints"], atol=1e-5)
    one = read_off(smplx, *(x[1] for x in inputs))
    np.testing.assert_allclose(one[1], points[1], atol=1e-5)


def test_smpl_with_translation_as_recorded():
    model = body_model(layout(RECORD, "smpl"))
    pose = RECORD["smpl/pose"].reshape(4, 24, 3)
    posed = model.with_shape(RECORD["smpl/betas"]).with_pose(pose, RECORD["smpl/class/transl"])
    mesh = posed.mesh()
    np.testing.assert_allclose(mesh.vertices, RECORD["smpl/class/vertices"], atol=1e-5)
    joints = jnp.concatenate([mesh.joints, mesh.vertex_joints()], axis=1)
    np.testing.assert_allclose(joints, RECORD["smpl/class/joints"], atol=1e-5)
    with pytest.raises(ValueError, match="55 joints"):
        tiny = body_model(tiny_body())
        still = tiny.with_shape(np.zeros(1)).with_pose(np.zeros((55, 3))).mesh()
        body_joints.spin_joints(still, np.zeros((9, 40), np.float32))


def test_spin_joints_as_recorded(shared):
    with np.load(shared / "parity" / "smplify_tiny.npz") as archive:
        record = {k: archive[k] for k in archive.files}
    names = str(record["vertex_id_names"]).split("|")
    picked = [int(record["vertex_ids"][names.index(n)]) for n in PICKED]
    assert tuple(str(record["joint_names"]).split("|")) == body_joints.SPIN_JOINTS
    model = body_model(
        {
            "v_template": record["smpl/v_template"],
            "shapedirs": np.moveaxis(record["smpl/shapedirs"], 2, 0),
            "posedirs": np.moveaxis(record["smpl/posedirs"], 2, 0),
            "joint_regressor": record["smpl/J_regressor"],
            "weights": record["smpl/weights"],
            "parents": record["parents"],
            "faces": record["smpl/f"],
            "vertex_joint_ids": np.array(picked),
        }
    )
    mesh = model.with_shape(record["betas"]).with_pose(record["pose"].reshape(2, 24, 3)).mesh()
    np.testing.assert_allclose(mesh.vertices, record["out_vertices"], atol=1e-5)
    joints = body_joints.spin_joints(mesh, record["J_regressor_extra"].astype(np.float32))
    np.testing.assert_allclose(joints, record["out_joints49"], atol=1e-5)


def test_rows_of_the_contour_follow_the_turn():
    arrays = layout(RECORD, "flame") | {
        "contour_face": np.zeros((79, 17), int),
        "contour_bary": np.full((79, 17, 3), 1 / 3),
    }
    model = body_model(arrays)
    degrees = np.array([0.0, 10.2, -10.2, 39.0, 60.0, -38.0, -39.4, -60.0, 85.0, -85.0])
    turn = np.zeros((len(degrees), 5, 3), np.float32)
    # to the subject's right, a quarter of it the root's
    turn[:, 0, 1] = -np.radians(0.25 * degrees)
    turn[:, 1, 1] = -np.radians(0.75 * degrees)

    @jax.jit
    def row(model, turn):
        return body_joints.contour_row(model.with_shape(np.zeros(1)).with_pose(turn))

    rows = [0, 10, 49, 39, 39, 77, 78, 78, 39, 78]
    np.testing.assert_array_equal(row(model, turn), rows)
    with pytest.raises(ValueError, match="no table"):
        row(body_model(layout(RECORD, "flame")), turn)


def test_landmarks_are_weighted_corners():
    raw = tiny_body()
    model = body_model(raw)
    mesh = model.with_shape(np.zeros(1)).with_pose(np.zeros((55, 3))).mesh()
    corners = raw["v_template"][raw["faces"][raw["landmarks68_face"]]]
    expected = (corners * raw["landmarks68_bary"][..., None]).sum(1)
    np.testing.assert_allclose(body_joints.landmarks(mesh), expected, atol=1e-5)


def test_parts_and_hands(smplx):
    parts = part_joints(smplx)
    assert sorted(j for ids in parts.values() for j in ids) == list(range(55))
    assert parts["jaw"] == (22,) and parts["left_hand"] == tuple(range(25, 40))
    assert len(parts["body"]) == 21 and parts["right_hand"] == tuple(range(40, 55))
    flat = hand_pose(smplx, "right", INPUTS["right_hand_pose"], flat=True)
    mean = RECORD["smplx/model/hands_meanr"].reshape(15, 3)
    about = hand_pose(smplx, "right", INPUTS["right_hand_pose"])
    np.testing.assert_allclose(about - flat, np.broadcast_to(mean, flat.shape), atol=1e-6)
    np.testing.assert_array_equal(hand_pose(smplx, "left", np.zeros(0), flat=True), 0)
    # hands that are not given hang in their mean pose
    np.testing.assert_allclose(full_pose(smplx, np.ones(3))[40:], mean, atol=1e-7)
    assert np.abs(full_pose(body_model(tiny_body()), np.ones(3))[1:]).max() == 0
    flame = part_joints(body_model(layout(RECORD, "flame")))
    assert flame["body"] == (1,) and flame["left_hand"] == ()


def test_parts_that_do_not_fit_are_refused(smplx):
    tiny = body_model(tiny_body())
    zeros = np.zeros(3)
    for wrong in (
        functools.partial(hand_pose, tiny, "left", np.zeros(6)),
        functools.partial(hand_pose, smplx, "middle", np.zeros(6)),
        functools.partial(hand_pose, smplx, "left", np.zeros(46)),
        functools.partial(full_pose, smplx, zeros, np.zeros((23, 3))),
        functools.partial(full_pose, body_model(layout(RECORD, "smpl")), zeros, jaw=zeros),
    ):
        with pytest.raises(ValueError, match=r"hands|coefficients|joints"):
            wrong()


def test_vertex_joints_have_one_name_each():
    ids = (body_joints.SMPL_VERTEX_IDS, body_joints.SMPLX_VERTEX_IDS)
    for table, count in zip(ids, (6890, 10475), strict=True):
        assert len(set(table)) == len(body_joints.VERTEX_JOINTS) == 21 and max(table) < count
    some = {
        "nose": (332, 9120),
        "right_eye": (6260, 9929),
        "left_ear": (583, 6),
        "left_small_toe": (3226, 5780),
        "right_heel": (6787, 8635),
        "left_thumb": (2746, 5361),
        "right_pinky": (6133, 8022),
    }
    for name, expected in some.items():
        place = body_joints.VERTEX_JOINTS.index(name)
        assert tuple(table[place] for table in ids) == expected
    assert len(picked_vertices(RECORD)) == 21
