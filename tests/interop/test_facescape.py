"""FaceScape's bilinear model against a recorded run of the authors' code, and its linear head."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrecon.errors import InputError
from jaxrecon.interop import facescape, object_arrays
from jaxrecon.interop.facescape import bilinear_model, convert_facescape
from jaxrecon.models.parametric.bilinear import load_bilinear_model
from jaxrecon.models.parametric.head_file import read_head

VERTICES, POINTS, FRONT = 80, 20, 30


def small_arrays(rng):
    """A tiny model in the authors' keys; faces are quads, their indices count from 1."""
    return {
        "shape_bm_core": rng.normal(0, 30, (3 * VERTICES, 5, 4)).astype(np.float32),
        "color_bm_core": rng.normal(0, 9, (3 * POINTS, 6)).astype(np.float32),
        "color_bm_mean": rng.uniform(0, 255, 3 * POINTS).astype(np.float32),
        "fv_indices": np.stack([rng.permutation(VERTICES)[:4] for _ in range(40)]) + 1,
        "v_indices_front": rng.permutation(VERTICES)[:FRONT],
        "vc_dict_front": np.concatenate([rng.permutation(POINTS), np.full(FRONT - POINTS, -1)]),
        "lm_list_v16": rng.permutation(VERTICES)[:68],
        "id_mean": rng.normal(0, 0.1, 4).astype(np.float32),
        "id_var": rng.uniform(0.01, 0.02, 4).astype(np.float32),
        "sym_dict": np.array([{"not": "read"}], dtype=object),
    }


@pytest.fixture
def source(tmp_path, rng):
    arrays = small_arrays(rng)
    np.savez(tmp_path / "bm.npz", **arrays)
    return tmp_path / "bm.npz", arrays


def test_the_recorded_model(shared):
    path = shared / "parity" / "facescape_bilinear_tiny.npz"
    if not path.is_file():
        pytest.skip("no facescape_bilinear_tiny.npz")
    with np.load(path) as archive:
        recorded = {key: archive[key] for key in archive.files}
    raw = {k.removeprefix("model/"): v for k, v in recorded.items() if k.startswith("model/")}
    with jax.enable_x64(True):
        model = jax.tree.map(
            lambda x: jnp.asarray(x, jnp.float64 if x.dtype.kind == "f" else None),
            bilinear_model(raw),
        )
        vertices = model.vertices(recorded["id_vec"], recorded["exp_vec"])
        np.testing.assert_allclose(vertices, recorded["out_vertices"], rtol=1e-12, atol=1e-12)
        front = model.front_vertices(vertices)
        np.testing.assert_allclose(front, recorded["out_face_vertices"], rtol=1e-12, atol=1e-12)
        colours = model.front_colours(recorded["color_vec"])
        # the model's own arrays are float32
        np.testing.assert_allclose(colours, recorded["out_face_colors"], atol=1e-6)
        assert (np.asarray(colours)[recorded["model/vc_dict_front"] < 0] == 0).all()


def test_gradient_of_the_vertices(source, rng):
    """Bilinear, so that central differences are exact but for rounding."""
    with jax.enable_x64(True):
        model = jax.tree.map(
            lambda x: jnp.asarray(x, jnp.float64 if x.dtype.kind == "f" else None),
            bilinear_model(source[1]),
        )
        w = rng.standard_normal((VERTICES, 3))

        def f(identity, expression):
            return jnp.sum(model.vertices(identity, expression) * w)

        identity, expression = jnp.asarray(model.id_mean), jnp.asarray(rng.standard_normal(5))
        found = jax.grad(f, (0, 1))(identity, expression)
        for i in range(4):
            step = jnp.zeros(4).at[i].set(0.5)
            difference = f(identity + step, expression) - f(identity - step, expression)
            assert float(found[0][i]) == pytest.approx(float(difference), rel=1e-9)
        for i in range(5):
            step = jnp.zeros(5).at[i].set(0.5)
            difference = f(identity, expression + step) - f(identity, expression - step)
            assert float(found[1][i]) == pytest.approx(float(difference), rel=1e-9)


def test_one_file_is_the_bilinear_model_and_a_head_model(source, tmp_path):
    path, arrays = source
    converted = convert_facescape(path)
    np.savez(tmp_path / "ours.npz", **converted)
    model, expected = load_bilinear_model(tmp_path / "ours.npz"), bilinear_model(arrays)
    for a, b in zip(jax.tree.leaves(model), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(a, b)
    head = read_head(tmp_path / "ours.npz")
    quads = {frozenset(quad) for quad in (arrays["fv_indices"] - 1).tolist()}
    halves = [frozenset(a) | frozenset(b) for a, b in head["faces"].reshape(40, 2, 3).tolist()]
    assert set(halves) == quads
    # the shared side is run through both ways, so that both halves look outwards
    first, second = head["faces"].reshape(40, 2, 3)[0].tolist()
    assert (first[2], first[0]) == (second[1], second[0])
    assert len(head["faces"]) == 80 and not any(k.startswith("bilinear") for k in head)
    assert list(head["expr_names"]) == [f"facescape_{i:02d}" for i in range(1, 5)]
    # The linear model is the bilinear one where it says so.
    w = np.array([0.5, -1.0, 2.0, 0.3], np.float32)
    person = arrays["id_mean"] + w * np.sqrt(arrays["id_var"])
    neutral = np.array([1.0, 0, 0, 0, 0], np.float32)
    found = converted["v_mean"] + np.tensordot(w, converted["id_basis"], 1)
    np.testing.assert_allclose(found, model.vertices(person, neutral), atol=1e-4)
    smile = np.array([1.0, 0.2, 0, 0.7, 0], np.float32)
    found = converted["v_mean"] + np.tensordot(smile[1:], converted["expr_basis"], 1)
    np.testing.assert_allclose(found, model.vertices(arrays["id_mean"], smile), atol=1e-4)
    # Whole faces in the file: expression 2 alone is the file's third face.
    third = np.tensordot(arrays["shape_bm_core"][:, 2], arrays["id_mean"], 1).reshape(-1, 3)
    alone = model.vertices(arrays["id_mean"], np.array([1.0, 0, 1, 0, 0], np.float32))
    np.testing.assert_allclose(alone, third, atol=1e-4)
    # Colours: red comes last in the file; black where there are none.
    vertex = int(arrays["v_indices_front"][3])
    point = int(arrays["vc_dict_front"][3])
    expected_rgb = arrays["color_bm_mean"].reshape(-1, 3)[point, ::-1] / 255
    np.testing.assert_allclose(converted["albedo_mean"][vertex], expected_rgb, rtol=1e-6)
    unknown = int(arrays["v_indices_front"][-1])
    assert not converted["albedo_mean"][unknown].any()
    assert not converted["albedo_basis"][:, unknown].any()


BAD = {
    "no core": {"shape_bm_core": None},
    "no variance": {"id_var": None},
    "negative variance": {"id_var": -np.ones(4, np.float32)},
    "flat core": {"shape_bm_core": np.zeros((3 * VERTICES, 5), np.float32)},
    "NaN": {"color_bm_mean": np.full(3 * POINTS, np.nan, np.float32)},
    "faces from zero": {"fv_indices": np.zeros((3, 3), np.int64)},
    "landmarks beyond": {"lm_list_v16": np.full(68, VERTICES)},
    "other points": {"vc_dict_front": np.full(FRONT, POINTS)},
    "a front beyond": {"v_indices_front": np.full(FRONT, VERTICES)},
    "objects": {"id_mean": np.array([None, None], dtype=object)},
}


@pytest.mark.parametrize("case", sorted(BAD))
def test_bad_files(case, source, tmp_path):
    changed = {k: v for k, v in (source[1] | BAD[case]).items() if v is not None}
    np.savez(tmp_path / "bad.npz", **changed)
    with pytest.raises(InputError, match=r"bad\.npz"):
        convert_facescape(tmp_path / "bad.npz")


def test_the_core_may_be_larger_than_other_files(source, monkeypatch):
    """2 GiB instead of the 1 GiB of other readers, here in small."""
    monkeypatch.setattr(object_arrays, "MAX_BYTES", 2000)
    assert len(convert_facescape(source[0])["v_mean"]) == VERTICES
    double = source[1] | {"shape_bm_core": source[1]["shape_bm_core"].astype(float)}
    np.savez(source[0], **double)
    assert convert_facescape(source[0])["bilinear_core"].dtype == np.float32
    monkeypatch.setattr(facescape, "MAX_BYTES", 20_000)
    with pytest.raises(InputError, match=r"bm\.npz: .*larger than"):
        convert_facescape(source[0])


def test_files_without_a_bilinear_model(source, tmp_path):
    with pytest.raises(InputError, match=r"bm\.npz"):
        load_bilinear_model(source[0])
    with pytest.raises(InputError, match="no such file"):
        load_bilinear_model(tmp_path / "absent.npz")
    converted = convert_facescape(source[0])
    np.savez(tmp_path / "odd.npz", **(converted | {"bilinear_front": np.array([VERTICES])}))
    with pytest.raises(InputError, match=r"odd\.npz"):
        load_bilinear_model(tmp_path / "odd.npz")
