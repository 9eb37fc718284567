"""Deep3D's face against recorded runs of the authors' code, and its gradients against finite
differences.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from data_pipelines.synthetic_head import synthetic_head
from jaxrecon.errors import InputError
from jaxrecon.geometry.cameras import project
from jaxrecon.geometry.light_conventions import (
    DECA_ORDER,
    deca_lighting,
    deep3d_gamma,
    deep3d_lighting,
)
from jaxrecon.geometry.shading import sh_basis, shading
from jaxrecon.interop.bfm import convert_bfm
from jaxrecon.models.parametric import deep3d
from jaxrecon.models.parametric import deep3d_losses as losses
from jaxrecon.models.parametric.deep3d_file import load_deep3d_model
from jaxrecon.models.parametric.face import load_face_model

RELATIVE = 1e-5


@pytest.fixture(scope="module")
def recorded(shared):
    path = shared / "parity" / "deep3d_face_model.npz"
    if not path.is_file():
        pytest.skip("no deep3d_face_model.npz")
    with np.load(path) as archive:
        return {key: archive[key] for key in archive.files}


@pytest.fixture(scope="module")
def model(shared, tmp_path_factory):
    """The recorded model, from its .mat through our own file."""
    source = shared / "parity" / "tiny_BFM_model_front.mat"
    if not source.is_file():
        pytest.skip("no tiny_BFM_model_front.mat")
    path = tmp_path_factory.mktemp("bfm") / "bfm.npz"
    np.savez(path, **convert_bfm(source))
    return jax.tree.map(jnp.asarray, load_deep3d_model(path))


def decode_all(model, flat):
    return jax.vmap(lambda c: deep3d.decode(model, c))(deep3d.split_coefficients(flat))


def assert_near(found, expected, relative=RELATIVE):
    scale = max(float(np.abs(expected).max()), 1e-12)
    np.testing.assert_allclose(found, expected, rtol=0, atol=relative * scale)


def test_the_face_of_coefficients(model, recorded):
    face = jax.jit(decode_all)(model, recorded["coeffs"])
    for ours, theirs in (
        ("shape", "out_shape"),
        ("normals", "out_normals_rotated"),
        ("albedo", "out_texture"),
        ("colours", "out_color"),
        ("camera_points", "out_vertex_camera"),
        ("projection", "out_projection"),
        ("landmarks", "out_landmarks68"),
    ):
        assert_near(getattr(face, ours), recorded[theirs])
    c = deep3d.split_coefficients(recorded["coeffs"])
    # the authors multiply points from the left by the transposed matrix
    turned = np.swapaxes(deep3d.rotation_from_angles(c.angles), 1, 2)
    assert_near(turned, recorded["out_rotation"], 1e-6)
    normals = jax.vmap(lambda v: deep3d.vertex_normals(v, model.face.faces, model.vertex_faces))
    assert_near(normals(face.shape), recorded["out_normals"])


def total_loss(model, recorded, flat):
    """The weighted sum whose gradient was recorded, and its terms."""
    c = deep3d.split_coefficients(flat)
    face = decode_all(model, flat)
    terms = {
        "landmark": losses.landmark_loss(face.landmarks, recorded["gt_landmarks"]),
        "reg": losses.coefficient_loss(c),
        "gamma": losses.gamma_loss(c.gamma),
        "reflectance": losses.reflectance_loss(face.albedo, model.skin),
    }
    total = (
        losses.WEIGHTS["landmarks"] * terms["landmark"]
        + losses.WEIGHTS["coefficients"] * terms["reg"]
        + losses.WEIGHTS["gamma"] * terms["gamma"]
        + losses.WEIGHTS["reflectance"] * terms["reflectance"]
        + 0.01 * jnp.sum(face.colours * recorded["color_cotangent"])
    )
    return total, terms


def test_losses_and_the_gradient_of_their_sum(model, recorded):
    slope = jax.jit(jax.grad(lambda flat: total_loss(model, recorded, flat), has_aux=True))
    gradient, terms = slope(recorded["coeffs"])
    for name, value in terms.items():
        assert float(value) == pytest.approx(float(recorded[f"out_{name}_loss"]), rel=RELATIVE)
    assert_near(gradient, recorded["out_grad_coeffs"], 2e-5)


def test_image_losses(recorded):
    a, b = (jnp.moveaxis(recorded[f"photo_{x}"], 1, -1) for x in "ab")
    found = losses.photo_loss(a, b, recorded["photo_mask"][:, 0])
    assert float(found) == pytest.approx(float(recorded["out_photo_loss"]), rel=1e-5)
    nearly = jnp.zeros((1, 2, 2)).at[0, 0, 0].set(0.5)  # masks of less than a pixel count as one
    found = losses.photo_loss(jnp.zeros((1, 2, 2, 3)), jnp.ones((1, 2, 2, 3)), nearly)
    assert float(found) == pytest.approx(0.5 * 3**0.5, rel=1e-5)
    found = losses.perceptual_loss(jnp.asarray(recorded["id_feat_a"]), recorded["id_feat_b"])
    assert float(found) == pytest.approx(float(recorded["out_perceptual_loss"]), rel=1e-5)


def slope_error(f, x, directions=6):
    """Largest relative error of the gradient of f along random directions, float64."""
    gradient = jax.jit(jax.grad(f))(x)
    f = jax.jit(f)
    rng = np.random.default_rng(5)
    errors = []
    for _ in range(directions):
        d = rng.standard_normal(x.shape)
        step = 1e-5
        difference = (f(x + step * d) - f(x - step * d)) / (2 * step)
        errors.append(abs(float(jnp.sum(gradient * d)) - float(difference)) / abs(difference))
    return max(errors)


def test_gradients_of_losses_of_coefficients(rng):
    """Each loss alone, float64."""
    with jax.enable_x64(True):
        target = rng.standard_normal((2, 68, 2))
        assert slope_error(lambda x: losses.landmark_loss(x, target), target + 1.0) < 1e-6
        flat = jnp.asarray(0.5 * rng.standard_normal((2, 257)))
        split = deep3d.split_coefficients
        assert slope_error(lambda x: losses.coefficient_loss(split(x)), flat) < 1e-6
        assert slope_error(lambda x: losses.gamma_loss(split(x).gamma), flat) < 1e-6
        skin = (rng.uniform(size=30) < 0.5).astype(float)
        colours = jnp.asarray(rng.uniform(size=(2, 30, 3)))
        assert slope_error(lambda x: losses.reflectance_loss(x, skin), colours) < 1e-6
        image = rng.uniform(size=(2, 5, 6, 3))
        mask = (rng.uniform(size=(2, 5, 6)) < 0.7).astype(float)
        other = jnp.asarray(rng.uniform(size=image.shape))
        assert slope_error(lambda x: losses.photo_loss(x, image, mask), other) < 1e-6
        same = jax.grad(lambda x: losses.photo_loss(x, image, mask))(jnp.asarray(image))
        assert np.isfinite(same).all()
        features = rng.standard_normal((3, 16))
        assert slope_error(lambda x: losses.perceptual_loss(x, features), jnp.ones((3, 16))) < 1e-6


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A Deep3D model of the synthetic head with random colours."""
    path = tmp_path_factory.mktemp("head") / "head.npz"
    rng = np.random.default_rng(2)
    arrays = synthetic_head()
    count = len(arrays["v_mean"])
    colours = {
        "albedo_mean": rng.uniform(0.3, 0.7, (count, 3)).astype(np.float32),
        "albedo_basis": rng.normal(0, 0.05, (4, count, 3)).astype(np.float32),
    }
    np.savez(path, **(arrays | colours))
    return path, load_deep3d_model(path)


def random_coefficients(model, rng):
    sizes = deep3d.sizes_of(model)
    flat = np.concatenate(
        [0.3 * rng.standard_normal(sum(sizes) + 30), np.array([0.1, -0.2, 0.3])]
    ).astype(np.float32)
    return deep3d.split_coefficients(flat, sizes), flat


def test_gradients_through_the_face(small, rng):
    """Projection, normals and light of a model of any size, float64."""
    model = small[1]
    with jax.enable_x64(True):
        model = jax.tree.map(
            lambda x: jnp.asarray(x, jnp.float64 if x.dtype == np.float32 else None), model
        )
        _, flat = random_coefficients(model, rng)
        sizes = deep3d.sizes_of(model)
        w = {
            n: jnp.asarray(rng.standard_normal((len(model.face.mean), d)))
            for n, d in (("projection", 2), ("normals", 3), ("colours", 3))
        }

        def f(x):
            face = deep3d.decode(model, deep3d.split_coefficients(x, sizes))
            parts = [jnp.sum(getattr(face, n) * v) for n, v in w.items()]
            return 1e-2 * parts[0] + parts[1] + parts[2]

        assert slope_error(f, jnp.asarray(flat, jnp.float64), 4) < 1e-6


def test_any_head_model_and_our_camera(small, rng):
    path, model = small
    head = load_face_model(path)
    assert_near(100 * np.ptp(model.face.mean, axis=0), np.ptp(head.mean, axis=0))
    np.testing.assert_allclose(np.mean(model.face.mean, axis=0), 0, atol=1e-5)
    coefficients, _ = random_coefficients(model, rng)
    face = jax.jit(deep3d.decode)(model, coefficients)
    camera = deep3d.camera(coefficients.angles, coefficients.translation)
    pixels, depth = project(camera, face.shape)
    np.testing.assert_allclose(pixels, deep3d.image_pixels(face.projection), atol=2e-3)
    np.testing.assert_allclose(depth, face.camera_points[:, 2], atol=1e-5)
    assert np.linalg.det(camera.R) == pytest.approx(1, abs=1e-5)
    drawn = deep3d.camera(coefficients.angles, coefficients.translation, deep3d.RENDERER_CENTRE)
    shift = np.asarray(project(drawn, face.shape)[0] - pixels)
    np.testing.assert_allclose(shift, np.broadcast_to([-0.5, 0.5], shift.shape), atol=1e-3)
    # the nose is nearer to the camera than the ears, and lit normals are units
    assert float(face.camera_points[model.face.landmarks[30], 2]) < float(depth.mean())
    np.testing.assert_allclose(np.linalg.norm(face.normals, axis=1), 1, atol=1e-5)


def test_normals_sum_unit_normals_of_the_faces_at_a_vertex(small):
    model = small[1]
    v, faces = np.asarray(model.face.mean, float), np.asarray(model.face.faces)
    unit = np.cross(v[faces[:, 1]] - v[faces[:, 0]], v[faces[:, 2]] - v[faces[:, 0]])
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    expected = np.stack([unit[(faces == i).any(1)].sum(0) for i in range(len(v))])
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    found = deep3d.vertex_normals(v.astype(np.float32), faces, model.vertex_faces)
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_layout_of_the_coefficients():
    flat = np.arange(514, dtype=np.float32).reshape(2, 257)
    parts = deep3d.split_coefficients(flat)
    starts = {"identity": 0, "expression": 80, "albedo": 144, "angles": 224, "gamma": 227}
    for name, start in (starts | {"translation": 254}).items():
        assert getattr(parts, name)[0, 0] == start
    np.testing.assert_array_equal(deep3d.join_coefficients(parts), flat)
    with pytest.raises(InputError, match="256 coefficients"):
        deep3d.split_coefficients(flat[:, 1:])


def test_rotation_is_z_after_y_after_x():
    def turn(axis, angle):
        w = np.zeros(3)
        w[axis] = angle
        K = np.array([[0, -w[2], w[1]], [w[2], 0, -w[0]], [-w[1], w[0], 0]]) / angle
        return np.eye(3) + np.sin(angle) * K + (1 - np.cos(angle)) * K @ K

    angles = np.array([0.3, -0.7, 1.9], np.float32)
    expected = turn(2, 1.9) @ turn(1, -0.7) @ turn(0, 0.3)
    np.testing.assert_allclose(deep3d.rotation_from_angles(angles), expected, atol=1e-6)


def test_lights_of_other_codes(rng):
    normals = rng.standard_normal((50, 3)).astype(np.float32)
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    even = shading(normals, deep3d_lighting(np.zeros(27, np.float32)))
    np.testing.assert_allclose(even, 0.8 * np.pi / np.sqrt(4 * np.pi), atol=1e-5)
    gamma = rng.standard_normal((2, 27)).astype(np.float32)
    np.testing.assert_allclose(deep3d_gamma(deep3d_lighting(gamma)), gamma, atol=1e-6)
    # DECA's own functions, written out (the constants of its published renderer)
    x, y, z = normals.astype(float).T
    functions = [np.ones(50), x, y, z, x * y, x * z, y * z, x * x - y * y, 3 * z * z - 1]
    quarter, third = np.pi / 4, 2 * np.pi / 3
    constants = [
        1 / np.sqrt(4 * np.pi),
        *3 * [third * np.sqrt(3 / (4 * np.pi))],
        *3 * [3 * quarter * np.sqrt(5 / (12 * np.pi))],
        1.5 * quarter * np.sqrt(5 / (12 * np.pi)),
        0.5 * quarter * np.sqrt(5 / (4 * np.pi)),
    ]
    light = rng.standard_normal((9, 3)).astype(np.float32)
    expected = (np.stack(functions, 1) * constants) @ light
    np.testing.assert_allclose(shading(normals, deca_lighting(light)), expected, atol=1e-5)
    assert sorted(DECA_ORDER) == list(range(9)) and sh_basis(normals).shape == (50, 9)


def test_models_that_are_refused(small, tmp_path):
    path, model = small
    with np.load(path) as archive:
        arrays = dict(archive)
    plain = {k: v for k, v in arrays.items() if not k.startswith("albedo")}
    np.savez(tmp_path / "plain.npz", **plain)
    with pytest.raises(InputError, match=r"plain\.npz.*without albedo"):
        load_deep3d_model(tmp_path / "plain.npz")
    np.savez(tmp_path / "half.npz", **plain, albedo_mean=arrays["albedo_mean"])
    with pytest.raises(InputError, match=r"half\.npz.*albedo_mean alone"):
        load_face_model(tmp_path / "half.npz")
    np.savez(tmp_path / "other.npz", **arrays, deep3d_vertex_faces=np.zeros((3, 8), np.int32))
    with pytest.raises(InputError, match=r"other\.npz"):
        load_deep3d_model(tmp_path / "other.npz")
    bald = dataclasses.replace(model.face, albedo_basis=None)
    with pytest.raises(InputError, match="without albedo"):
        bald.albedo(np.zeros(4, np.float32))
