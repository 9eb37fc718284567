"""Principal components against the covariance, and landmarks as a linear map of codes."""

import dataclasses

import jax
import numpy as np
import pytest

from jaxrecon.fitting import latents
from tests.fitting import linear_space


def test_components_are_eigenvectors_of_the_covariance(rng):
    codes = rng.standard_normal((300, 6)) @ rng.standard_normal((6, 6)) + rng.standard_normal(6)
    mean, basis = latents.principal_components(codes, components=4)
    values, vectors = np.linalg.eigh(np.cov(codes.T))
    values, vectors = values[::-1], vectors[:, ::-1].T
    np.testing.assert_allclose(mean, codes.mean(0), rtol=1e-5)
    # rows are eigenvectors, as long as a standard deviation
    np.testing.assert_allclose(np.linalg.norm(basis, axis=1), np.sqrt(values[:4]), rtol=1e-5)
    signs = np.sign(np.sum(basis * vectors[:4], axis=1, keepdims=True))
    np.testing.assert_allclose(basis * signs, np.sqrt(values[:4, None]) * vectors[:4], atol=1e-5)
    # weights of the samples are then standard normal
    weights = (codes - mean) @ np.linalg.pinv(basis)
    np.testing.assert_allclose(np.cov(weights.T), np.eye(4), atol=1e-4)


@pytest.mark.parametrize(("variance", "expected"), [(0.85, 1), (0.96, 2), (0.999, 3), (1.0, 3)])
def test_components_explain_the_asked_variance(rng, variance, expected):
    # three independent directions that hold 90, 9 and 1 % of the variance exactly
    raw = np.linalg.qr(rng.standard_normal((50, 3)) - 0.0)[0]
    raw = np.linalg.qr(np.concatenate([np.ones((50, 1)), raw], 1))[0][:, 1:]  # mean zero
    codes = raw * np.sqrt([90.0, 9.0, 1.0]) @ np.linalg.qr(rng.standard_normal((8, 8)))[0][:3]
    assert len(latents.principal_components(codes, variance=variance)[1]) == expected


def test_degenerate_codes_have_only_the_components_they_need(rng):
    line = np.linspace(-1, 1, 9)[:, None] * rng.standard_normal((1, 5))
    assert latents.principal_components(line, components=4)[1].shape == (1, 5)
    mean, basis = latents.principal_components(np.ones((4, 5)))
    assert basis.shape == (0, 5) and (mean == 1).all()


def test_linear_landmarks_are_exact_for_a_linear_model(rng):
    z_id, z_exp = rng.standard_normal((200, 5)), rng.uniform(0, 1, (200, 3))
    of_id, of_exp = rng.standard_normal((5, 68, 3)), rng.standard_normal((3, 68, 3))
    mean = rng.standard_normal((68, 3))
    points = mean + np.einsum("ni,ipx->npx", z_id, of_id)
    points += np.einsum("ne,epx->npx", z_exp, of_exp)
    found = latents.linear_landmarks(z_id, z_exp, points, ridge=1e-9)
    for got, want in zip(found, (mean, of_id, of_exp), strict=True):
        np.testing.assert_allclose(got, want, atol=1e-4)
    # channels that never vary stay harmless
    padded = np.concatenate([z_id, np.zeros((200, 2))], axis=1)
    _, with_padding, _ = latents.linear_landmarks(padded, z_exp, points)
    np.testing.assert_allclose(with_padding[:5], of_id, atol=1e-3)
    np.testing.assert_array_equal(with_padding[5:], 0.0)


def test_codes_compose_and_move_the_landmarks(rng):
    space = linear_space.space()
    space = dataclasses.replace(space, exp_basis=space.exp_basis[:1], id_basis=space.id_basis[:3])
    codes = latents.initial_codes(space, expressions=2)
    shapes = {k: v.shape for k, v in codes.items()}
    assert shapes == {
        "w_id": (3,), "w_exp": (2, 1), "w_colour": (2,),
        "r_id": (4,), "r_exp": (2, 2), "r_colour": (3,),
    }  # fmt: skip
    codes = {k: rng.standard_normal(s).astype(np.float32) for k, s in shapes.items()}

    @jax.jit
    def both(space, codes):
        z = latents.compose_codes(space, codes)
        return z, latents.landmarks(space, z[0], z[1])

    (z_id, z_exp, z_colour), points = both(space, codes)
    pairs = ((z_id, "id"), (z_exp, "exp"), (z_colour, "colour"))
    for z, name in pairs:  # Eq. 13 and 15
        mean, basis = getattr(space, f"{name}_mean"), getattr(space, f"{name}_basis")
        expected = mean + codes[f"w_{name}"] @ basis + codes[f"r_{name}"]
        np.testing.assert_allclose(z, expected, atol=1e-5)
    expected = space.landmarks_mean + np.einsum("i,ipx->px", z_id, space.landmarks_id)
    expected = expected + np.einsum("ne,epx->npx", z_exp, space.landmarks_exp)
    np.testing.assert_allclose(points, expected, atol=1e-5)
    zero, _ = both(space, jax.tree.map(np.zeros_like, codes))
    np.testing.assert_array_equal(zero[0], space.id_mean)
