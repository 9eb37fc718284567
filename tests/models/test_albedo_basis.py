"""The procedural albedo basis: what it spans, one basis for one key, and files that carry it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from data_pipelines.synthetic_head import synthetic_head
from jaxrecon.errors import InputError
from jaxrecon.models.parametric.albedo_basis import (
    albedo_arrays,
    procedural_albedo_basis,
    with_albedo,
)
from jaxrecon.models.parametric.face import kept_vertices, load_face_model
from jaxrecon.models.parametric.procedural_albedo import (
    albedo_surface,
    sample_parameters,
    vertex_albedo,
)

PEOPLE = 96


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("head") / "head.npz"
    np.savez(path, **synthetic_head())
    return path


@pytest.fixture(scope="module")
def surface(path):
    return albedo_surface(path)


@pytest.fixture(scope="module")
def basis(surface):
    return procedural_albedo_basis(surface, jax.random.key(0), 24, PEOPLE)


@jax.jit
def people_of(keys, surface):
    return jax.vmap(lambda key: vertex_albedo(sample_parameters(key), surface))(keys)


def colours(surface, key):
    """Flat colours of `PEOPLE` random people."""
    drawn = people_of(jax.random.split(key, PEOPLE), surface)
    return np.asarray(drawn).reshape(PEOPLE, -1)


def test_modes_are_principal_components(basis, surface):
    """Against a singular value decomposition of the same people."""
    drawn = colours(surface, jax.random.split(jax.random.key(0))[0])
    np.testing.assert_allclose(basis.mean.ravel(), drawn.mean(0), atol=1e-5)
    _, values, directions = np.linalg.svd(drawn - drawn.mean(0), full_matrices=False)
    flat = basis.modes.reshape(24, -1)
    np.testing.assert_allclose(
        np.linalg.norm(flat, axis=1), values[:24] / np.sqrt(PEOPLE), rtol=1e-3, atol=1e-5
    )
    units = flat / np.linalg.norm(flat, axis=1, keepdims=True)
    np.testing.assert_allclose(units @ units.T, np.eye(24), atol=2e-3)
    assert (np.abs(np.sum(units[:6] * directions[:6], axis=1)) > 0.999).all()
    assert (flat.sum(1) >= 0).all()


def test_people_who_were_not_drawn_are_near(basis, surface):
    others = colours(surface, jax.random.key(77)) - basis.mean.ravel()
    flat = basis.modes.reshape(24, -1)
    left = others - np.linalg.lstsq(flat.T, others.T, rcond=None)[0].T @ flat
    rms = np.sqrt((left**2).mean()), np.sqrt((others**2).mean())
    assert rms[0] < 0.01 < 0.08 < rms[1]
    assert basis.residual == pytest.approx(rms[0], rel=0.5)
    assert basis.spread == pytest.approx(rms[1], rel=0.3)


def test_random_coefficients_are_skin(basis, surface):
    """What N(0, 1) draws is mostly in range, redder than blue on the cheeks, dark and light."""
    w = np.random.default_rng(0).standard_normal((200, 24))
    drawn = basis.mean[None] + np.tensordot(w, basis.modes, 1)
    assert ((drawn < -0.1) | (drawn > 1.1)).mean() < 0.05
    cheeks = np.asarray(surface["blush"]) > 0.5
    skin = drawn[:, cheeks].mean(1)
    assert (skin[:, 0] > skin[:, 2]).mean() > 0.95
    assert skin.mean(1).min() < 0.45 < 0.65 < skin.mean(1).max()


def test_the_same_key_gives_the_same_basis(basis, surface):
    again = procedural_albedo_basis(surface, jax.random.key(0), 24, PEOPLE)
    np.testing.assert_array_equal(basis.modes, again.modes)
    other = procedural_albedo_basis(surface, jax.random.key(1), 24, PEOPLE)
    assert np.abs(basis.mean - other.mean).max() > 1e-3


def test_models_take_it(path, surface):
    model = load_face_model(path)
    kept = kept_vertices(path)
    with pytest.raises(InputError, match="vertices"):
        with_albedo(model, surface, jax.random.key(0), 4, 8)
    own = jax.tree.map(lambda a: a[kept], surface)
    model = with_albedo(model, own, jax.random.key(0), 4, 8)
    assert model.albedo_basis.shape == (4, len(model.mean), 3)
    w = jnp.asarray([0.5, -1.0, 0.0, 2.0])
    found = jax.jit(lambda m, w: m.albedo(w))(model, w)
    expected = model.albedo_mean + np.tensordot(np.asarray(w), model.albedo_basis, 1)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    with pytest.raises(InputError, match="5 modes of 5 people"):
        procedural_albedo_basis(own, jax.random.key(0), 5, 5)


def test_files_carry_it(path, tmp_path):
    arrays = synthetic_head()
    added = albedo_arrays(arrays, 6)
    assert albedo_arrays(arrays, 0) == {}
    np.savez(tmp_path / "coloured.npz", **(arrays | added))
    model = load_face_model(tmp_path / "coloured.npz")
    kept = kept_vertices(path)
    np.testing.assert_array_equal(model.albedo_basis, np.float32(added["albedo_basis"])[:, kept])
    np.testing.assert_array_equal(model.albedo_mean, np.float32(added["albedo_mean"])[kept])
