"""Random lighting: its exposure and contrast, and what shading by it shows."""

import jax
import jax.numpy as jnp
import numpy as np

from data_pipelines.lighting import sample_lighting, shade
from jaxrecon.geometry.shading import constant_lighting, shading


def test_lighting_exposure_and_shading(key):
    lighting = jax.jit(jax.vmap(sample_lighting))(jax.random.split(key, 50))
    normals = np.random.default_rng(0).normal(size=(400, 3))
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    normals[:, 2] = np.abs(normals[:, 2])
    factor = np.asarray(jax.vmap(lambda light: shading(normals, light))(lighting))
    mean = factor.mean((1, 2))
    assert 0.5 < mean.min() and mean.max() < 1.0
    contrast = factor.max((1, 2)) / np.maximum(factor.min((1, 2)), 1e-3)
    assert np.median(contrast) > 1.5
    albedo = np.full((400, 3), 0.5, np.float32)
    shown = shade(albedo, normals, constant_lighting(np.full(3, 0.5, np.float32)))
    np.testing.assert_allclose(shown, 0.5 * 0.5 ** (1 / 2.2), atol=1e-5)
    dark = jax.grad(lambda a: shade(albedo, normals, a).sum())(jnp.zeros((9, 3)) - 0.1)
    assert np.isfinite(dark).all()
