"""The 257 coefficients: heads against matrix products, and the whole network in parts."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxrecon.interop.regressor_networks import import_resnet
from jaxrecon.models.batch_norm import apply_network
from jaxrecon.models.regressors.coefficients import (
    Coefficients,
    CoefficientsConfig,
    Deep3DConfig,
    Deep3DRegressor,
)
from jaxrecon.models.regressors.hmr import HMR, HMRConfig, HMRHead, HMRHeadConfig
from jaxrecon.models.resnet import ResNet, ResNetConfig
from tests.models import torch_states

LAYOUT = {"id": 80, "exp": 144, "tex": 224, "angle": 227, "gamma": 254, "translation_xy": 256}


def test_fresh_heads_are_zero_and_learn(rng, key):
    features = jnp.asarray(rng.normal(size=(3, 2048)), jnp.float32)
    output, variables = Coefficients().init_with_output(key, features)
    assert output.shape == (3, 257) and not np.any(output)
    gradient = jax.grad(lambda v: jnp.sum(Coefficients().apply(v, features)))(variables)
    for leaf in jax.tree.leaves(gradient):
        assert np.abs(leaf).min() > 0  # d sum / d kernel = sum of features, d bias = batch


def test_heads_are_linear_and_in_the_authors_order(rng, key):
    features = rng.normal(size=(2, 6))
    config = CoefficientsConfig(features=6)
    heads = Coefficients(config, precision="highest")
    variables = heads.init(key, jnp.asarray(features, jnp.float32))
    drawn = jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32), variables)
    output = heads.apply(drawn, jnp.asarray(features, jnp.float32))
    starts = [0, *LAYOUT.values()]
    assert output.shape == (2, 257)
    for name, start, end in zip(config.names, starts, [*LAYOUT.values(), 257], strict=True):
        head = drawn["params"][name]
        np.testing.assert_allclose(
            output[:, start:end], features @ head["kernel"] + head["bias"], atol=1e-5
        )


def test_whole_networks_are_their_parts(rng, key):
    """Deep3D's and SPIN's regressors on one trunk; trained statistics come back by part."""
    trunk = ResNetConfig(18)
    images = jnp.asarray(rng.uniform(size=(2, 32, 32, 3)), jnp.float32)
    deep3d = Deep3DRegressor(Deep3DConfig(trunk, CoefficientsConfig(features=512)))
    hmr = HMR(HMRConfig(trunk, HMRHeadConfig(features=512, hidden=8, joints=2)))
    _, backbone = import_resnet(torch_states.recipe(torch_states.resnet(18)))
    head = HMRHead(hmr.config.head).init(key, jnp.zeros((1, 512)))
    heads = jax.tree.map(
        lambda x: rng.normal(size=x.shape).astype(np.float32),
        Coefficients(deep3d.config.heads).init(key, jnp.zeros((1, 512)))["params"],
    )
    variables = {
        "params": {"trunk": backbone["params"], "heads": heads},
        "batch_stats": {"trunk": backbone["batch_stats"]},
    }
    abstract = jax.eval_shape(deep3d.init, key, images)
    assert jax.tree.map(jnp.shape, variables) == jax.tree.map(jnp.shape, abstract)

    @jax.jit
    def run(variables, head):
        both = {
            "params": {"trunk": variables["params"]["trunk"], "head": head["params"]},
            "batch_stats": variables["batch_stats"],
            "constants": {"head": head["constants"]},
        }
        parts = {c: tree["trunk"] for c, tree in variables.items()}
        pooled = ResNet(trunk).apply(parts, images).pooled
        trained, stats = apply_network(deep3d, variables, images, train=True)
        return pooled, deep3d.apply(variables, images), hmr.apply(both, images), trained, stats

    pooled, coefficients, body, trained, stats = run(variables, head)
    expected = Coefficients(deep3d.config.heads).apply({"params": heads}, pooled)
    np.testing.assert_allclose(coefficients, expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(
        body.betas, HMRHead(hmr.config.head).apply(head, pooled).betas, atol=1e-5
    )
    assert jax.tree.structure(stats) == jax.tree.structure(variables["batch_stats"])
    assert not np.allclose(trained, coefficients)
