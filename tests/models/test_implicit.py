"""The MLP brick: conditioning, initialisation, sizes. (Parity with IDR: tests/interop.)"""

import functools
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrecon.models.implicit import (
    ImplicitNetwork,
    MLPConfig,
    count_parameters,
    evaluate,
    fold,
    idr_network,
    init_mlp,
)
from jaxrecon.models.layers import Encoding

STATISTICS = np.load(pathlib.Path(__file__).parents[1] / "parity" / "idr_geometric_init_stats.npz")
POINTS = jnp.asarray(np.random.default_rng(0).uniform(-1, 1, (7, 3)), jnp.float32)


def _plain(parameters: dict, i: int, with_code: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """(kernel over inputs and code, bias) of a layer in float64, weight norm resolved over both."""
    layer = {k: np.asarray(v, np.float64) for k, v in parameters[f"layer_{i}"].items()}
    kernel = layer["kernel"]
    if "code" in layer:
        kernel = np.concatenate([kernel, layer["code"]])
    if "scale" in layer:
        kernel = kernel / np.linalg.norm(kernel, axis=0) * layer["scale"]
    return (kernel if with_code else kernel[: len(layer["kernel"])]), layer["bias"]


@pytest.mark.parametrize("normed", [True, False])
def test_a_folded_code_equals_concatenation_with_the_input(key, normed):
    config = MLPConfig(
        hidden=(8, 6), out=2, encoding=Encoding(2), code=4, activation="relu", weight_norm=normed
    )
    parameters = init_mlp(key, config)
    if normed:  # away from its initial value, at which it changes nothing
        for layer in parameters.values():
            layer["scale"] = layer["scale"] * 1.7
    code = jax.random.normal(jax.random.key(1), (4,))
    x = np.asarray(POINTS, np.float64)
    h = [x] + [f(2**k * x) for k in range(2) for f in (np.sin, np.cos)]
    h = np.concatenate([*h, np.broadcast_to(np.asarray(code, np.float64), (7, 4))], -1)
    for i in range(3):
        kernel, bias = _plain(parameters, i)
        h = h @ kernel + bias
        h = np.maximum(h, 0) if i < 2 else h
    np.testing.assert_allclose(
        evaluate(config, fold(parameters, code), POINTS), h, rtol=1e-5, atol=1e-6
    )


def test_codes_at_every_layer_and_at_the_output(key):
    config = MLPConfig(
        hidden=(16, 16, 16),
        out=3,
        encoding=Encoding(1),
        extra=2,
        code=5,
        code_layers=(0, 2, 3),
        code_output=True,
        skip=(2,),
        activation="tanh",
        output_activation="sigmoid",
        weight_norm=True,
    )
    parameters = init_mlp(key, config)
    parameters["layer_3"]["code"] = jax.random.normal(jax.random.key(3), (5, 3))
    parameters["layer_3"]["code_kernel"] = jax.random.normal(jax.random.key(4), (5, 16, 3))
    assert "code" not in parameters["layer_1"] and "code_kernel" not in parameters["layer_2"]
    code, extra = jax.random.normal(jax.random.key(1), (5,)), POINTS[:, :2] * 3
    x, z = np.asarray(POINTS, np.float64), np.asarray(code, np.float64)
    inputs = np.concatenate([x, np.sin(x), np.cos(x), np.asarray(extra, np.float64)], -1)
    h = inputs
    for i in range(4):
        if i == 2:
            h = np.concatenate([h, inputs], -1) / np.sqrt(2)
        kernel, bias = _plain(parameters, i)
        kernel, code_kernel = kernel[: h.shape[-1]], kernel[h.shape[-1] :]
        if i == 3:  # bilinear: the code changes the output kernel, scaled by its fan-in
            change = np.einsum("c,cio->io", z, np.asarray(parameters["layer_3"]["code_kernel"]))
            kernel = kernel + change / np.sqrt(5 * 16)
        h = h @ kernel + bias + (z @ code_kernel if len(code_kernel) else 0)
        h = np.tanh(h) if i < 3 else 1 / (1 + np.exp(-h))
    actual = evaluate(config, fold(parameters, code), POINTS, extra)
    np.testing.assert_allclose(actual, h, rtol=1e-5, atol=1e-6)


def test_instances_are_vmapped_and_the_linen_module_agrees(key):
    config = MLPConfig(hidden=(8,), out=1, encoding=Encoding(1), code=3)
    module = ImplicitNetwork(config)
    codes = jax.random.normal(key, (4, 3))
    variables = module.init(key, POINTS, codes[0])
    layers = jax.vmap(lambda z: fold(variables["params"]["mlp"], z))(codes)
    batch = jax.vmap(lambda instance: evaluate(config, instance, POINTS))(layers)
    for z, values in zip(codes, batch, strict=True):
        np.testing.assert_allclose(module.apply(variables, POINTS, z), values, atol=1e-6)


def test_sizes_of_published_networks(key):
    def size(config):
        return count_parameters(jax.eval_shape(lambda k: init_mlp(k, config), key))

    # IDR: its state dict has this many scalars; the weight norm's g are the last term
    idr = idr_network()
    widths = [(39, 512), (512, 512), (512, 512), (512, 473), *[(512, 512)] * 4, (512, 257)]
    assert idr.shapes() == widths
    assert size(idr) == sum(i * o + 2 * o for i, o in widths)
    plain = idr_network(hidden=(64,) * 3, features=8, bands=0, skip=(), weight_norm=False)
    assert size(plain) == 3 * 64 + 64 + 2 * (64 * 64 + 64) + 64 * 9 + 9
    conditioned = MLPConfig(hidden=(8,), out=2, encoding=Encoding(0), code=5, code_layers=(0, 1))
    assert size(conditioned) == (3 * 8 + 5 * 8 + 8 + 8) + (8 * 2 + 5 * 2 + 2 + 2)


def test_starts(key):
    zero = MLPConfig(hidden=(16, 16), out=3, code=4, initial="zero_output")
    code = jnp.ones(4)
    assert np.abs(evaluate(zero, fold(init_mlp(key, zero), code), POINTS)).max() < 1e-3
    torch = init_mlp(key, MLPConfig(hidden=(100,), out=100, initial="torch"))
    kernel = np.asarray(torch["layer_1"]["kernel"])  # uniform on +-1/sqrt(fan-in)
    assert np.abs(kernel).max() <= 0.1 and abs(kernel.std() - 0.1 / np.sqrt(3)) < 1e-3


@pytest.mark.parametrize(
    "wrong", [{"activation": "gelu"}, {"output_activation": "relu6"}, {"initial": "zeros"}]
)
def test_unknown_choices_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        MLPConfig(**wrong)


# ---------------------------------------------------------------- geometric initialisation


def _idr(group: str) -> MLPConfig:
    cfg = json.loads(str(STATISTICS[f"{group}/cfg"]))
    return idr_network(
        hidden=tuple(cfg["dims"]),
        features=cfg["feature_vector_size"],
        bands=cfg["multires"],
        skip=tuple(cfg["skip_in"]),
        weight_norm=cfg["weight_norm"],
        radius=cfg["bias"],
    )


@functools.partial(jax.jit, static_argnums=0)
def _field_statistics(config, key, directions, radii):
    """Of one seed: mean and std over directions at radii, gradients, the zero level set."""
    layers = fold(init_mlp(key, config))

    def level_set(x):
        return evaluate(config, layers, x)[..., 0]

    fine = jnp.linspace(0.0, 1.4, 29)
    values = level_set(fine[:, None, None] * directions[None])
    after = jnp.argmax(values >= 0, axis=0)
    below = jnp.take_along_axis(values, after[None] - 1, axis=0)[0]
    above = jnp.take_along_axis(values, after[None], axis=0)[0]
    zero = fine[after] - 0.05 * above / (above - below)
    at = level_set(radii[:, None, None] * directions[None])
    outer = radii[4:, None, None] * directions[None]  # radii from 0.3 on
    gradients = jax.grad(lambda x: level_set(x).sum())(outer)
    norms = jnp.linalg.norm(gradients, axis=-1)
    cosine = jnp.sum(gradients * directions[None], axis=-1) / norms
    return {
        "sdf_mean": at.mean(1),
        "sdf_std": at.std(1)[1:],  # at the origin it is rounding
        "gradnorm": jnp.stack([norms.mean(), norms.std()]),
        "radial_cos": cosine.mean(),
        "zero_radius": zero.mean(),
        "crossed": (values >= 0).any(0).mean(),
    }


def _standard_errors(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """Difference of the means over seeds (axis 0), in standard errors of that difference."""
    variance = ours.var(0, ddof=1) / len(ours) + theirs.var(0, ddof=1) / len(theirs)
    # a quantity that does not vary, such as a bias, must agree to rounding
    floor = 1e-6 * np.abs(theirs).max() + 1e-12
    return np.abs(ours.mean(0) - theirs.mean(0)) / np.maximum(np.sqrt(variance), floor)


@pytest.mark.parametrize(
    ("group", "seeds"), [("small_4x128_pe6", 16), ("idr_full_pe6", 8), ("unit_bias1_nope", 8)]
)
def test_geometric_initialisation_is_idrs(group, seeds):
    """Means over seeds within three standard errors: it is not |x| - radius, in IDR neither."""
    directions = jnp.asarray(STATISTICS["dirs"][::16], jnp.float32)
    radii = jnp.asarray(STATISTICS["radii"], jnp.float32)
    config = _idr(group)
    runs = [
        _field_statistics(config, k, directions, radii)
        for k in jax.random.split(jax.random.key(0), seeds)
    ]
    ours = jax.tree.map(lambda *x: np.stack(x).astype(np.float64), *runs)
    assert (ours["crossed"] == 1).all()
    theirs = {k: STATISTICS[f"{group}/{k}"].astype(np.float64) for k in ours if k != "crossed"}
    theirs["sdf_std"], theirs["zero_radius"] = theirs["sdf_std"][:, 1:], theirs["zero_radius"][:, 0]
    for name, reference in theirs.items():
        assert (_standard_errors(ours[name], reference) < 3).all(), name
    if group == "idr_full_pe6":
        assert abs(ours["zero_radius"].mean() - 0.49) < 0.08 and ours["radial_cos"].mean() > 0.97


def _tensor_statistics(config: MLPConfig, key) -> dict[str, list[float]]:
    names = {"kernel": "weight_v", "scale": "weight_g", "bias": "bias"}
    statistics = {}
    for i in range(len(config.shapes())):
        for ours, theirs in names.items():
            x = np.asarray(init_mlp_jit(config, key)[f"layer_{i}"][ours], np.float64)
            statistics[f"lin{i}.{theirs}"] = [x.mean(), x.std()]
    return statistics


@functools.partial(jax.jit, static_argnums=0)
def init_mlp_jit(config, key):
    return init_mlp(key, config)


def test_geometric_initialisation_draws_idrs_tensors():
    group = "small_4x128_pe6"
    config = _idr(group)
    runs = [_tensor_statistics(config, k) for k in jax.random.split(jax.random.key(1), 12)]
    for name in runs[0]:
        ours = np.array([run[name] for run in runs])
        theirs = STATISTICS[f"{group}/layer/{name}"][:, :2].astype(np.float64)
        # 30 quantities: four standard errors keep a chance deviation of one of them out
        assert (_standard_errors(ours, theirs) < 4).all(), (name, ours.mean(0), theirs.mean(0))
