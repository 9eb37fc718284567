"""Spherical harmonics of order 2 against quadrature and closed forms."""

import numpy as np

from jaxrecon.geometry.shading import constant_lighting, directional_lighting, sh_basis, shading


def sphere_rule():
    """Directions (n, 3) and weights (n,) that integrate polynomials of degree 7 over the sphere
    exactly.
    """
    z, w = np.polynomial.legendre.leggauss(4)
    phi = np.arange(8) * 2 * np.pi / 8
    r = np.sqrt(1 - z**2)
    d = np.stack(
        [np.outer(r, np.cos(phi)), np.outer(r, np.sin(phi)), np.repeat(z[:, None], 8, 1)], -1
    )
    return d.reshape(-1, 3), np.repeat(w, 8) * 2 * np.pi / 8


def test_basis_is_orthonormal():
    directions, weights = sphere_rule()
    basis = np.asarray(sh_basis(directions), np.float64)
    np.testing.assert_allclose(basis.T @ (basis * weights[:, None]), np.eye(9), atol=1e-5)


def test_basis_is_odd_and_even_by_band(rng):
    d = rng.normal(size=(5, 3))
    d /= np.linalg.norm(d, axis=1, keepdims=True)
    sign = np.array([1] + [-1] * 3 + [1] * 5)
    np.testing.assert_allclose(sh_basis(-d), sh_basis(d) * sign[None], atol=1e-6)


def test_constant_lighting_shades_by_its_value(rng):
    d = rng.normal(size=(2, 7, 3))
    d /= np.linalg.norm(d, axis=-1, keepdims=True)
    value = np.array([0.3, 0.7, 1.1], np.float32)
    got = shading(d, constant_lighting(value))
    np.testing.assert_allclose(got, np.broadcast_to(value, d.shape), atol=1e-6)


def test_directional_lighting_is_the_projected_clamped_cosine():
    direction = np.array([0.48, 0.6, 0.64])
    colour = np.array([1.0, 0.5, 2.0])
    lighting = np.asarray(directional_lighting(direction, colour))
    # Independent: project max(n.l, 0) by a fine quadrature.
    z, w = np.polynomial.legendre.leggauss(200)
    phi = (np.arange(400) + 0.5) * 2 * np.pi / 400
    r = np.sqrt(1 - z**2)
    d = np.stack(
        [np.outer(r, np.cos(phi)), np.outer(r, np.sin(phi)), np.repeat(z[:, None], 400, 1)], -1
    ).reshape(-1, 3)
    weights = np.repeat(w, 400) * 2 * np.pi / 400
    cosine = np.maximum(d @ direction, 0)
    projected = (np.asarray(sh_basis(d), np.float64) * (weights * cosine)[:, None]).sum(0)
    np.testing.assert_allclose(lighting, projected[:, None] * colour[None], atol=1e-3)
    error = np.abs(np.asarray(shading(d, lighting))[:, 0] - cosine)
    assert error.max() < 0.1
