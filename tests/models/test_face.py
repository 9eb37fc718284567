"""The loader of linear head models: parts, sparse expressions, and one error for each bad file."""

import itertools

import jax
import numpy as np
import pytest

from data_pipelines.synthetic_head import synthetic_head
from jaxrecon.errors import InputError
from jaxrecon.models.parametric.face import SKIN_PARTS, kept_vertices, load_face_model

ARRAYS = synthetic_head()


def save(path, **changes):
    """The synthetic head with arrays changed; None leaves one out."""
    arrays = {k: v for k, v in (ARRAYS | changes).items() if v is not None}
    np.savez(path, **arrays)
    return path


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return save(tmp_path_factory.mktemp("model") / "head.npz")


def test_all_parts_are_the_files_arrays(path):
    model = load_face_model(path, parts=None)
    np.testing.assert_array_equal(model.mean, ARRAYS["v_mean"])
    np.testing.assert_array_equal(model.identity, np.float32(ARRAYS["id_basis"]))
    np.testing.assert_array_equal(model.faces, ARRAYS["faces"])
    np.testing.assert_array_equal(model.landmarks, ARRAYS["landmarks68"])
    assert model.expression_names == tuple(ARRAYS["expr_names"])
    dense = np.zeros((len(ARRAYS["expr_names"]), *ARRAYS["v_mean"].shape))
    for e, (start, end) in enumerate(itertools.pairwise(ARRAYS["expr_ptr"])):
        for i in range(start, end):
            dense[e, ARRAYS["expr_idx"][i]] = ARRAYS["expr_delta"][i]
    np.testing.assert_array_equal(model.expression, dense)


def test_the_outer_skin_drops_what_it_does_not_use(path):
    everything, skin = load_face_model(path, None), load_face_model(path)
    ids = kept_vertices(path)
    assert len(ids) == len(skin.mean) < len(everything.mean)
    for name, axis in (("mean", 0), ("identity", 1), ("expression", 1)):
        kept = np.take(getattr(everything, name), ids, axis)
        np.testing.assert_array_equal(getattr(skin, name), kept)
    wanted = [list(ARRAYS["part_names"]).index(p) for p in SKIN_PARTS]
    faces = ARRAYS["faces"][np.isin(ARRAYS["face_part"], wanted)]
    np.testing.assert_array_equal(ids[skin.faces], faces)
    np.testing.assert_array_equal(ids[skin.landmarks], ARRAYS["landmarks68"])


def test_a_small_part_keeps_the_landmarks(path):
    model = load_face_model(path, ("teeth",))
    teeth = (ARRAYS["face_part"] == list(ARRAYS["part_names"]).index("teeth")).sum()
    assert len(model.faces) == teeth > 0 and len(model.mean) == 68 + 12
    everything = load_face_model(path, None)
    np.testing.assert_array_equal(
        model.mean[model.landmarks], everything.mean[everything.landmarks]
    )


def test_vertices_are_linear(path, rng):
    model = load_face_model(path)
    identity = rng.standard_normal(model.identity.shape[0]).astype(np.float32)
    expression = rng.uniform(0, 1, model.expression.shape[0]).astype(np.float32)
    expected = model.mean + np.tensordot(identity, model.identity, 1)
    expected = expected + np.tensordot(expression, model.expression, 1)
    found = jax.jit(lambda m, i, e: m.vertices(i, e))(model, identity, expression)
    np.testing.assert_allclose(found, expected, atol=1e-4)


BAD = {
    "no mean": {"v_mean": None},
    "no expressions": {"expr_delta": None},
    "vertices in the plane": {"v_mean": ARRAYS["v_mean"][:, :2]},
    "a number for a mean": {"v_mean": np.float32(3)},
    "words for a mean": {"v_mean": np.array(["a", "b"])},
    "NaN": {"v_mean": np.full_like(ARRAYS["v_mean"], np.nan)},
    "infinite basis": {"id_basis": np.full_like(ARRAYS["id_basis"], np.inf)},
    "basis of another mesh": {"id_basis": ARRAYS["id_basis"][:, :-1]},
    "flat basis": {"id_basis": ARRAYS["v_mean"]},
    "no faces": {"faces": np.zeros((0, 3), int), "face_part": np.zeros(0, int)},
    "quads": {"faces": np.zeros((len(ARRAYS["faces"]), 4), int)},
    "faces that are not whole": {"faces": ARRAYS["faces"] + 0.5},
    "faces beyond the mesh": {"faces": ARRAYS["faces"].astype(int) + 10},
    "negative faces": {"faces": ARRAYS["faces"].astype(int) - 1},
    "parts of other faces": {"face_part": ARRAYS["face_part"][:-1]},
    "67 landmarks": {"landmarks68": ARRAYS["landmarks68"][:-1]},
    "landmarks beyond the mesh": {"landmarks68": ARRAYS["landmarks68"] + 600},
    "a pointer too few": {"expr_ptr": ARRAYS["expr_ptr"][:-1]},
    "pointers backwards": {"expr_ptr": ARRAYS["expr_ptr"][::-1]},
    "pointers beyond the end": {"expr_ptr": ARRAYS["expr_ptr"] + 1},
    "an index beyond the mesh": {"expr_idx": ARRAYS["expr_idx"].astype(int) + 600},
    "a negative index": {"expr_idx": ARRAYS["expr_idx"].astype(int) - 640},
    "moves in the plane": {"expr_delta": ARRAYS["expr_delta"][:, :2]},
    "moves that are NaN": {"expr_delta": np.full_like(ARRAYS["expr_delta"], np.nan)},
    "pickled names": {"expr_names": ARRAYS["expr_names"].astype(object)},
}


@pytest.mark.parametrize("case", sorted(BAD))
def test_bad_arrays_are_refused(case, tmp_path):
    with pytest.raises(InputError, match=r"bad\.npz"):
        load_face_model(save(tmp_path / "bad.npz", **BAD[case]))


def test_bad_files_and_parts_are_refused(path, tmp_path):
    with pytest.raises(InputError, match="no such file"):
        load_face_model(tmp_path / "absent.npz")
    text = tmp_path / "text.npz"
    text.write_text("hello")
    with pytest.raises(InputError, match=r"text\.npz"):
        load_face_model(text)
    whole = path.read_bytes()
    (tmp_path / "half.npz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"half\.npz"):
        load_face_model(tmp_path / "half.npz")
    single = tmp_path / "single.npy"
    np.save(single, np.zeros(3))
    with pytest.raises(InputError, match="single"):
        load_face_model(single)
    for function in (load_face_model, kept_vertices):
        with pytest.raises(InputError, match="beard"):
            function(path, ("face", "beard"))
