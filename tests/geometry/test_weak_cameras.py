"""Cameras and rotations of body regressors, as SPIN computes them (tests/parity/README.md)."""

import dataclasses
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrecon.geometry import transforms as tf
from jaxrecon.geometry.cameras import project
from jaxrecon.geometry.weak_cameras import estimate_translation, weak_cameras, weak_translation

PARITY = pathlib.Path(__file__).resolve().parents[1] / "parity" / "spin_geometry.npz"


@pytest.fixture(scope="module")
def record():
    with np.load(PARITY) as archive:
        return {k: archive[k] for k in archive.files}


def close(found, expected):
    np.testing.assert_allclose(found, expected, atol=2e-6 * np.abs(expected).max())


def test_rotations_as_recorded(record):
    close(tf.rotation_from_rot6d(record["rot6d"]), record["out_rotmat6d"])
    close(tf.rotation_from_axis_angle(jnp.asarray(record["axis_angle"])), record["out_rodrigues"])


def test_cameras_as_recorded(record):
    weak, points = record["weak_cam"], record["points"]
    close(weak_translation(weak), record["out_cam_t"])
    cameras = weak_cameras(weak)
    close(project(cameras, points)[0] - 112.0, record["out_proj_identity_center0"])
    turned = dataclasses.replace(cameras, R=jnp.asarray(record["rotation"]))
    close(project(turned, points)[0], record["out_proj_rot_center112"])


def test_translation_as_recorded(record):
    seen = record["joints_2d_conf"][:, 25:]
    inputs = (record["points"][:, 25:], seen[..., :2], seen[..., 2])
    close(estimate_translation(*inputs), record["out_estimated_translation"])


def test_weak_and_pinhole_agree_in_the_plane_of_the_origin(rng):
    weak = np.array([0.8, 0.1, -0.2], np.float32)
    flat = np.concatenate([rng.uniform(-1, 1, (10, 2)), np.zeros((10, 1))], axis=1)
    pixels, depth = project(weak_cameras(weak), flat.astype(np.float32))
    np.testing.assert_allclose(pixels, 112 * (1 + 0.8 * (flat[:, :2] + weak[1:])), atol=1e-2)
    assert (depth > 0).all()


def test_translation_is_found_whatever_has_no_confidence(rng):
    with jax.enable_x64(True):
        points = rng.standard_normal((24, 3))
        t = np.array([0.3, -0.4, 50.0])
        moved = points + t
        pixels = 5000 * moved[:, :2] / moved[:, 2:] + 112
        confidence = rng.uniform(0.1, 1, 24)
        pixels[3:9] += 40
        confidence[3:9] = 0
        found = estimate_translation(points, pixels, confidence)
        np.testing.assert_allclose(found, t, rtol=1e-9)
        gradient = jax.grad(lambda c: jnp.sum(estimate_translation(points, pixels, c)))
        for none in (np.zeros(24), np.eye(24)[0]):
            assert np.isfinite(estimate_translation(points, pixels, none)).all()
            assert np.isfinite(gradient(jnp.asarray(none))).all()
