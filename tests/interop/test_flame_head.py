"""FLAME with its landmarks is a body and a head model at once (a synthetic model of its shapes)."""

import pickle

import numpy as np
import pytest

from jaxrecon.errors import InputError
from jaxrecon.interop.flame_head import DYNAMIC, FULL, STATIC, convert_flame
from jaxrecon.models.parametric.body_file import read_body
from jaxrecon.models.parametric.face import load_face_model
from jaxrecon.models.parametric.head_file import read_head

COUNT, FACES = 120, 200


def flame_arrays(rng):
    table = np.array([[2**32 - 1, 0, 1, 1, 1], range(5)])
    weights = rng.uniform(0.1, 1, (COUNT, 5))
    return {
        "v_template": rng.normal(0, 0.05, (COUNT, 3)),
        "shapedirs": rng.normal(0, 0.002, (COUNT, 3, 400)),
        "posedirs": rng.normal(0, 0.001, (COUNT, 3, 36)),
        "J_regressor": np.abs(rng.normal(0, 1, (5, COUNT))),
        "kintree_table": table,
        "weights": weights / weights.sum(1, keepdims=True),
        "f": np.stack([rng.permutation(COUNT)[:3] for _ in range(FACES)]),
    }


def points(rng, *shape):
    weights = rng.uniform(0.1, 1, (*shape, 3))
    return rng.integers(0, FACES, shape), weights / weights.sum(-1, keepdims=True)


def write(folder, rng, landmarks):
    folder.mkdir(exist_ok=True)
    arrays = flame_arrays(rng)
    (folder / "generic_model.pkl").write_bytes(pickle.dumps(arrays, protocol=2))
    fixed, contour, full = points(rng, 51), points(rng, 79, 17), points(rng, 1, 68)
    names = ("lmk_face_idx", "lmk_b_coords")
    if landmarks == "two files":
        data = pickle.dumps(dict(zip(names, fixed, strict=True)), protocol=2)
        (folder / STATIC).write_bytes(data)
        value = np.array(dict(zip(names, contour, strict=True)), dtype=object)
        np.save(folder / DYNAMIC, value, allow_pickle=True)
    if landmarks == "one file":
        value = dict(zip(("full_lmk_faces_idx", "full_lmk_bary_coords"), full, strict=True))
        np.save(folder / FULL, np.array(value, dtype=object), allow_pickle=True)
    return arrays, fixed, contour, full


@pytest.mark.parametrize("landmarks", ["two files", "one file"])
def test_a_body_and_a_head(landmarks, tmp_path, rng):
    arrays, fixed, contour, full = write(tmp_path / "flame", rng, landmarks)
    path = tmp_path / "flame.npz"
    np.savez(path, **convert_flame(tmp_path / "flame"))
    body = read_body(path)
    assert list(body["joint_names"]) == ["root", "neck", "jaw", "left_eye", "right_eye"]
    head = read_head(path)
    assert head["id_basis"].shape == (300, COUNT, 3) and head["expression"].shape[0] == 100
    model = load_face_model(path, None)
    index, weights = full if landmarks == "one file" else fixed
    index, weights = index.reshape(-1), weights.reshape(-1, 3)
    if landmarks == "two files":  # the contour as seen from the front, then the fixed ones
        index = np.concatenate([contour[0][0], index])
        weights = np.concatenate([contour[1][0], weights])
    corners = arrays["v_template"][arrays["f"][index]]
    expected = 1000 * np.einsum("lc,lcx->lx", weights, corners)
    found = np.asarray(model.landmark_points(np.asarray(model.mean)))
    # a rigid motion in millimetres: distances stay
    between = [np.linalg.norm(p[:, None] - p[None], axis=-1) for p in (found, expected)]
    np.testing.assert_allclose(between[0], between[1], atol=2e-3)
    size = np.linalg.norm(head["id_basis"], axis=2)
    expected = 1000 * np.linalg.norm(arrays["shapedirs"][:, :, :300], axis=1).T
    np.testing.assert_allclose(size, expected, rtol=1e-3, atol=1e-4)


def test_without_landmarks_it_is_a_body_alone(tmp_path, rng):
    write(tmp_path, rng, None)
    path = tmp_path / "flame.npz"
    np.savez(path, **convert_flame(tmp_path / "generic_model.pkl"))
    assert read_body(path)["parents"].tolist() == [-1, 0, 1, 1, 1]
    with pytest.raises(InputError, match=r"flame\.npz.*no landmarks"):
        read_head(path)


def test_bad_landmarks_and_folders(tmp_path, rng):
    with pytest.raises(InputError, match="no FLAME model"):
        convert_flame(tmp_path)
    write(tmp_path, rng, "two files")
    for raw in (
        {"lmk_face_idx": np.arange(51)},
        {"lmk_face_idx": np.full(51, FACES), "lmk_b_coords": np.full((51, 3), 1 / 3)},
        {"lmk_face_idx": np.arange(50), "lmk_b_coords": np.full((50, 3), 1 / 3)},
        {"lmk_face_idx": np.arange(51), "lmk_b_coords": np.ones((51, 3))},
    ):
        (tmp_path / STATIC).write_bytes(pickle.dumps(raw, protocol=2))
        with pytest.raises(InputError, match=STATIC):
            convert_flame(tmp_path)
    np.save(tmp_path / FULL, np.zeros(3))
    (tmp_path / STATIC).unlink()
    with pytest.raises(InputError, match=FULL):
        convert_flame(tmp_path)
