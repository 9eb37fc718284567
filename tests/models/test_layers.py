"""Encodings, activations and weight normalisation against their formulas."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrecon.models.layers import ACTIVATIONS, Encoding, encode, softplus100, weight_norm


def test_encode_order():
    x = np.array([[0.1, -0.2, 0.3], [1.0, 2.0, -3.0]], np.float32)
    expected = [x]
    for k in range(3):
        expected += [np.sin(2**k * x), np.cos(2**k * x)]
    encoded = encode(jnp.asarray(x), Encoding(bands=3))
    np.testing.assert_allclose(encoded, np.concatenate(expected, -1), atol=2e-6)


@pytest.mark.parametrize("include_input", [True, False])
@pytest.mark.parametrize("bands", [0, 1, 4])
def test_encode_width(bands, include_input):
    config = Encoding(bands=bands, include_input=include_input, scale=0.5)
    x = jnp.array([[[0.3, -0.6]]])
    encoded = encode(x, config)
    assert encoded.shape == (1, 1, config.width(2))
    if bands:  # the lowest sine comes first, or follows the coordinates
        at = 2 if include_input else 0
        np.testing.assert_allclose(
            encoded[..., at : at + 2], np.sin(0.5 * np.asarray(x)), atol=1e-7
        )
    else:
        np.testing.assert_array_equal(encoded, x)


X = np.concatenate([np.linspace(-0.4, 0.4, 801), [-1e4, -3.0, 3.0, 1e4]])


def _exact(x):
    """softplus(100 x) / 100 in float64, stable on both sides."""
    return np.logaddexp(0.0, 100.0 * x) / 100.0


def test_softplus100_values():
    np.testing.assert_allclose(
        softplus100(jnp.float32(X)), _exact(np.float32(X)), rtol=1e-6, atol=1e-9
    )
    with jax.enable_x64(True):
        # torch's threshold: beyond 100 x = 20 the last 2e-11 are left out
        np.testing.assert_allclose(softplus100(jnp.asarray(X)), _exact(X), rtol=1e-14, atol=3e-11)


def test_softplus100_derivatives():
    with jax.enable_x64(True):
        first = jax.vmap(jax.grad(softplus100))
        second = jax.vmap(jax.grad(jax.grad(softplus100)))
        x = X[np.abs(X) < 0.4] + 1.3e-4  # off the threshold at 0.2
        h = 1e-5
        slope = (_exact(x + h) - _exact(x - h)) / (2 * h)
        np.testing.assert_allclose(first(jnp.asarray(x)), slope, atol=1e-6)
        np.testing.assert_allclose(
            second(jnp.asarray(x)),
            (np.asarray(first(jnp.asarray(x + h))) - np.asarray(first(jnp.asarray(x - h))))
            / (2 * h),
            atol=2e-4,  # of 25 at the most
        )
        # closed forms: sigmoid(100 x), and 100 sigmoid (1 - sigmoid)
        sigmoid = 0.5 + 0.5 * np.tanh(50.0 * x)
        np.testing.assert_allclose(second(jnp.asarray(x)), 100 * sigmoid * (1 - sigmoid), atol=3e-7)


def test_softplus100_is_finite_far_out_with_its_derivatives():
    for x in (-1e30, -5.0, 0.0, 5.0, 1e30):
        first, second = jax.grad(softplus100), jax.grad(jax.grad(softplus100))
        at = jnp.float32(x)
        assert float(first(at)) == (0.5 if x == 0 else float(x > 0))
        assert float(second(at)) == (25.0 if x == 0 else 0.0)
        assert np.isfinite(float(softplus100(at)))


def test_activations_apply_elementwise():
    x = jnp.array([[-2.0, 0.0, 2.0]])
    for name, function in ACTIVATIONS.items():
        assert function(x).shape == (1, 3), name
    np.testing.assert_array_equal(ACTIVATIONS["relu"](x), [[0.0, 0.0, 2.0]])
    np.testing.assert_array_equal(ACTIVATIONS["none"](x), x)


def test_weight_norm(rng):
    v, g = rng.standard_normal((5, 3)), rng.uniform(0.5, 2.0, 3)
    w = np.asarray(weight_norm(jnp.float32(v), jnp.float32(g)))
    np.testing.assert_allclose(np.linalg.norm(w, axis=0), g, rtol=1e-6)
    np.testing.assert_allclose(w, v * g / np.sqrt((v**2).sum(0)), rtol=1e-6)
