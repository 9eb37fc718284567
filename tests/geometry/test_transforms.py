"""Rotations and similarities: round trips, closed forms, and derivatives at the singular points."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrecon.geometry import transforms as tf
from jaxrecon.types import Similarity


def random_axis_angles(rng, n, largest=3.1):
    axis = rng.standard_normal((n, 3))
    axis /= np.linalg.norm(axis, axis=-1, keepdims=True)
    return axis * rng.uniform(0, largest, (n, 1))


def random_similarity(rng, batch=()):
    return Similarity(
        scale=jnp.asarray(rng.uniform(0.5, 2.0, batch)),
        R=tf.rotation_from_axis_angle(jnp.asarray(rng.standard_normal(batch + (3,)))),
        t=jnp.asarray(rng.standard_normal(batch + (3,))),
    )


def test_rodrigues_is_the_matrix_exponential(rng):
    with jax.enable_x64(True):
        w = random_axis_angles(rng, 16, 6.0) * np.repeat([1.0, 1e-3], 8)[:, None]
        expected = jax.vmap(jax.scipy.linalg.expm)(tf.skew(jnp.asarray(w)))
        np.testing.assert_allclose(
            tf.rotation_from_axis_angle(jnp.asarray(w)), expected, atol=1e-13
        )


@pytest.mark.parametrize("scale", [1e-9, 1e-4, 0.0316, 1.0, 3.1])
def test_axis_angle_round_trip(rng, scale):
    with jax.enable_x64(True):
        w = random_axis_angles(rng, 32)
        w = jnp.asarray(w / np.linalg.norm(w, axis=-1, keepdims=True) * scale)
        back = tf.axis_angle_from_rotation(tf.rotation_from_axis_angle(w))
        np.testing.assert_allclose(back, w, atol=1e-12)


def test_half_turns_round_trip_as_rotations(rng):
    with jax.enable_x64(True):
        axes = np.concatenate([np.eye(3), -np.eye(3), random_axis_angles(rng, 8)])
        w = jnp.asarray(np.pi * axes / np.linalg.norm(axes, axis=-1, keepdims=True))
        R = tf.rotation_from_axis_angle(w)
        back = tf.rotation_from_axis_angle(tf.axis_angle_from_rotation(R))
        np.testing.assert_allclose(back, R, atol=1e-12)


@jax.jit
def derivatives(w):
    """The Jacobian of R, one entry's Hessian, and the Jacobian of log(exp(w))."""
    exp = tf.rotation_from_axis_angle
    return (
        jax.jacobian(exp)(w),
        jax.hessian(lambda w: exp(w)[0, 1])(w),
        jax.jacobian(lambda w: tf.axis_angle_from_rotation(exp(w)))(w),
    )


@pytest.mark.parametrize("angle", [0.0, 1e-12, 1e-3, 1.0, np.pi - 1e-3, np.pi])
def test_derivatives_agree_with_differences_everywhere(angle):
    with jax.enable_x64(True):
        w = jnp.asarray(angle * np.array([2.0, -1.0, 2.0]) / 3.0)
        jacobian, hessian, inverse = jax.tree.map(np.asarray, derivatives(w))
        h = 1e-5
        steps = h * np.concatenate([np.eye(3), -np.eye(3)])
        R = np.asarray(tf.rotation_from_axis_angle(jnp.asarray(np.asarray(w)[None] + steps)))
        np.testing.assert_allclose(
            np.moveaxis(jacobian, -1, 0), (R[:3] - R[3:]) / (2 * h), atol=1e-9
        )
        assert np.all(np.isfinite(hessian)) and np.all(np.isfinite(inverse))
        # log of exp is the identity map, derivatives included, up to the cut at π
        if angle < np.pi - 1e-6:
            np.testing.assert_allclose(inverse, np.eye(3), atol=1e-9)


def test_float32_axis_angle_near_the_series_switch():
    w = jnp.asarray(
        np.array([1.0, 0.0, 0.0]) * np.sqrt(1e-3) * np.array([[0.999], [1.001]]), jnp.float32
    )
    R = np.asarray(tf.rotation_from_axis_angle(w), np.float64)
    np.testing.assert_allclose(R[:, 2, 1], np.sin(np.asarray(w, np.float64)[:, 0]), atol=1e-8)
    np.testing.assert_allclose(R[:, 1, 1], np.cos(np.asarray(w, np.float64)[:, 0]), atol=6e-8)


def test_six_d_gives_rotations_and_returns(rng):
    six = jnp.asarray(rng.standard_normal((16, 6)), jnp.float32)
    R = tf.rotation_from_6d(six)
    identity = np.broadcast_to(np.eye(3), (16, 3, 3))
    np.testing.assert_allclose(np.swapaxes(R, -1, -2) @ np.asarray(R), identity, atol=1e-6)
    np.testing.assert_allclose(np.linalg.det(R), 1.0, atol=1e-6)
    np.testing.assert_allclose(tf.rotation_from_6d(tf.six_d_from_rotation(R)), R, atol=1e-6)
    np.testing.assert_allclose(
        R[:, :, 0], six[:, :3] / np.linalg.norm(six[:, :3], axis=-1)[:, None], atol=1e-6
    )
    for singular in (jnp.zeros(6), jnp.array([1.0, 0, 0, 2.0, 0, 0])):
        assert np.all(np.isfinite(jax.jacobian(tf.rotation_from_6d)(singular)))


def test_rot6d_is_read_row_by_row(rng):
    R = tf.rotation_from_axis_angle(jnp.asarray(rng.standard_normal((4, 3)), jnp.float32))
    six = tf.rot6d_from_rotation(R)
    np.testing.assert_array_equal(six[:, 0::2], R[:, :, 0])
    np.testing.assert_array_equal(six[:, 1::2], R[:, :, 1])
    np.testing.assert_allclose(tf.rotation_from_rot6d(2 * six), R, atol=1e-6)
    for singular in (jnp.zeros(6), jnp.array([1.0, 2, 0, 0, 0, 0])):
        assert np.all(np.isfinite(jax.jacobian(tf.rotation_from_rot6d)(singular)))


def test_quaternions_of_all_four_branches():
    with jax.enable_x64(True):
        q = np.array(
            [
                [1.0, 0.1, 0.2, 0.3],
                [0.1, 1.0, -0.2, 0.3],
                [0.1, 0.2, 1.0, 0.3],
                [0.0, 0.2, 0.3, 1.0],
            ]
        )
        q /= np.linalg.norm(q, axis=-1, keepdims=True)
        angle = 2 * np.arccos(q[:, :1])
        w = angle * q[:, 1:] / np.sin(angle / 2)
        found = tf.quaternion_from_rotation(tf.rotation_from_axis_angle(jnp.asarray(w)))
        sign = np.sign(np.sum(found * q, axis=-1, keepdims=True))
        np.testing.assert_allclose(sign * found, q, atol=1e-12)


@pytest.mark.parametrize("batch", [(), (4,), (2, 3)])
def test_similarities_form_a_group(rng, batch):
    a, b = random_similarity(rng, batch), random_similarity(rng, batch)
    x = jnp.asarray(rng.standard_normal(batch + (5, 3)), jnp.float32)
    twice = tf.apply_similarity(a, tf.apply_similarity(b, x))
    np.testing.assert_allclose(
        tf.apply_similarity(tf.compose_similarity(a, b), x), twice, atol=2e-5
    )
    back = tf.apply_similarity(tf.invert_similarity(a), tf.apply_similarity(a, x))
    np.testing.assert_allclose(back, x, atol=2e-5)
    first = x[(0,) * len(batch)][1]
    one = jax.tree.map(lambda leaf: leaf[(0,) * len(batch)], a)
    expected = float(one.scale) * np.asarray(one.R) @ np.asarray(first) + np.asarray(one.t)
    np.testing.assert_allclose(tf.apply_similarity(a, x)[(0,) * len(batch)][1], expected, atol=1e-5)


def test_identity_similarity_changes_nothing(rng):
    x = jnp.asarray(rng.standard_normal((5, 3)), jnp.float32)
    np.testing.assert_array_equal(tf.apply_similarity(tf.identity_similarity(), x), x)


def test_safe_norms_have_zero_gradient_at_zero():
    zero = jnp.zeros(3)
    np.testing.assert_array_equal(jax.grad(tf.safe_norm)(zero), 0.0)
    np.testing.assert_array_equal(jax.jacobian(tf.safe_normalise)(zero), 0.0)
    x = jnp.array([3.0, 4.0, 0.0])
    np.testing.assert_allclose(tf.safe_norm(x), 5.0, rtol=1e-6)
    np.testing.assert_allclose(tf.safe_normalise(x), [0.6, 0.8, 0.0], rtol=1e-6)
