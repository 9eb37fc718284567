"""Networks and losses of implicit_deformation: sizes, Eq. 2-11, gradients against finite
differences in float64, one compilation for any parameters.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrecon.models.implicit import count_parameters
from jaxrecon.models.layers import Encoding
from jaxrecon.systems.implicit_deformation import losses, networks
from jaxrecon.systems.implicit_deformation.functions import functions
from jaxrecon.systems.implicit_deformation.networks import PRESETS, Config

OURS = Config(
    id_dim=3,
    exp_dim=2,
    colour_dim=2,
    features=4,
    reference_hidden=(12, 12),
    deformation_hidden=(10, 10),
    rendering_hidden=(10, 10),
    encoding=Encoding(bands=2, include_input=True, scale=float(np.pi / 2)),
    code_everywhere=True,
    weight_norm=False,
)
PAPERS = dataclasses.replace(
    OURS,
    encoding=Encoding(bands=2, include_input=False, scale=float(np.pi / 2)),
    code_everywhere=False,
    weight_norm=True,
)
CONFIGS = {"ours": OURS, "paper": PAPERS}
TERMS = (
    *("surface", "normal", "deformation", "eikonal", "code"),
    *("surface_eikonal", "correspondence", "volume"),
)


@pytest.fixture(params=sorted(CONFIGS))
def config(request):
    return CONFIGS[request.param]


# Host arrays and whole functions under jit: the time of these tests is that of compilations.
initialise = jax.jit(lambda key, config: networks.init(key, config)["params"], static_argnums=1)
geometry = jax.jit(
    lambda config, params, code, x: networks.geometry(config, networks.condition(params, code), x)
)
level_set = jax.jit(
    lambda config, params, code, x: networks.level_set(config, networks.condition(params, code), x)
)


@functools.cache
def _initial(config):
    return jax.device_get(initialise(jax.random.key(0), config))


def perturbed(config, dtype=np.float32, seed=0):
    """Parameters away from the special values of the initialisation."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda x: (x + 0.1 * rng.standard_normal(x.shape)).astype(dtype), _initial(config)
    )


def code_of(config, seed=0):
    return np.random.default_rng(seed + 5).standard_normal(config.geo_dim).astype(np.float32)


def uniform(rng, *shape, low=-1.0):
    return rng.uniform(low, -low, shape).astype(np.float32)


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def test_the_papers_networks_have_the_papers_size():
    shapes = jax.eval_shape(lambda: networks.init(jax.random.key(0), PRESETS["paper"])["params"])
    # width 512, 36 channels of x, 24 of v; weight norm adds one scale an output
    reference = 36 * 512 + 6 * 512 * 512 + 512 * (512 - 36) + 512 * 257 + 2 * (7 * 512 + 476 + 257)
    deformation = (36 + 256) * 512 + 7 * 512 * 512 + 512 * 3 + 2 * (8 * 512 + 3)
    rendering = (36 + 3 + 24 + 256 + 128) * 512 + 3 * 512 * 512 + 512 * 3 + 2 * (4 * 512 + 3)
    assert count_parameters(shapes["reference"]) == reference
    assert count_parameters(shapes["deformation"]) == deformation
    assert count_parameters(shapes["rendering"]) == rendering
    assert reference + deformation + rendering == 4_990_406  # the paper: 4.99 M


def test_the_small_preset_is_small():
    shapes = jax.eval_shape(lambda: networks.init(jax.random.key(0), PRESETS["small"]))
    assert count_parameters(shapes) * 4 < 16e6  # bytes: all released weights share 30 MB


@pytest.mark.parametrize("config", [PRESETS["tiny"], PAPERS], ids=["tiny", "paper"])
def test_the_start_is_a_sphere_without_deformation(config, rng):
    radii = np.linspace(0.05, 0.95, 40)
    points = (radii[:, None] * unit(rng.standard_normal((40, 3)))).astype(np.float32)
    values, (_, offsets) = geometry(config, _initial(config), code_of(config), points)
    assert 0 < np.abs(offsets).max() < (1e-3 if config is PAPERS else 0.03)
    if config.encoding.include_input:  # else the lowest sine makes it only roughly round
        values = np.asarray(values)
        assert (values[radii < 0.3] < 0).all() and (values[radii > 0.9] > 0).all()


def test_level_set_is_geometry_and_eq_2_composes(config, rng):
    params, code, points = perturbed(config), code_of(config), uniform(rng, 40, 3)
    values, (features, offsets) = geometry(config, params, code, points)
    assert features.shape == (40, config.features) and np.abs(offsets).max() > 0.01
    np.testing.assert_allclose(level_set(config, params, code, points), values, atol=1e-6)
    # f_geo(x) = f_ref(x + dx): the reference shape alone, at the moved points
    moved, (features_there, none) = geometry(config, params, None, points + offsets)
    np.testing.assert_allclose(moved, values, atol=1e-6)
    np.testing.assert_allclose(features_there, features, atol=2e-6)
    np.testing.assert_array_equal(none, 0.0)


def test_conditioning_vmaps(rng):
    config = OURS
    params, points = perturbed(config), uniform(rng, 3, 40, 3)
    codes = np.stack([code_of(config, s) for s in range(3)])

    many = jax.jit(jax.vmap(geometry.__wrapped__, in_axes=(None, None, 0, 0)))
    values = many(config, params, codes, points)
    for i in range(3):
        alone = geometry(config, params, codes[i], points[i])
        jax.tree.map(
            lambda a, b, i=i: np.testing.assert_allclose(a[i], b, atol=2e-6), values, alone
        )
    assert np.abs(values[0][0] - values[0][1]).max() > 1e-3


def test_colours_are_colours_and_depend_on_what_eq_3_names(rng):
    config = PAPERS
    params, n = perturbed(config), 30
    z = rng.standard_normal((2, config.colour_dim)).astype(np.float32)
    given = [z[0], uniform(rng, n, 3), unit(uniform(rng, n, 3)), unit(uniform(rng, n, 3))]
    given.append(uniform(rng, n, config.features))

    @jax.jit
    def colour(params, z, points, normals, views, features):
        layers = networks.condition_colour(params, z)
        return networks.colour(config, layers, points, normals, views, features)

    base = colour(params, *given)
    assert base.shape == (n, 3) and (base > 0).all() and (base < 1).all()
    others = (z[1], *(-x for x in given[1:]))
    for i, other in enumerate(others):
        changed = colour(params, *(other if j == i else x for j, x in enumerate(given)))
        assert np.abs(changed - base).max() > 1e-3, i


def test_fields_share_one_compilation(rng):
    traces, points, values = [], uniform(rng, 40, 3), []

    @jax.jit
    def evaluate(field, points):
        traces.append(None)
        return field(points)

    fold = jax.jit(networks.condition)
    for seed in range(3):
        params, code = perturbed(OURS, seed=seed), code_of(OURS, seed)
        values.append(evaluate(networks.sdf_field(OURS, fold(params, code)), points))
        np.testing.assert_allclose(values[-1], level_set(OURS, params, code, points), atol=1e-6)
    assert len(traces) == 1
    assert np.abs(values[0] - values[1]).max() > 1e-3


def test_functions_are_the_same_objects_for_equal_configs(rng):
    first, second = functions(OURS), functions(dataclasses.replace(OURS))
    assert first is second
    assert functions(PAPERS)["level_set"] is not first["level_set"]
    params, code, points = perturbed(OURS), code_of(OURS), uniform(rng, 40, 3)

    @jax.jit
    def values(params, code, points):
        conditioning = first["condition"](params, code[: OURS.id_dim], code[OURS.id_dim :])
        return first["level_set"](conditioning, points)

    np.testing.assert_allclose(
        values(params, code, points), level_set(OURS, params, code, points), atol=1e-6
    )


# ---------------------------------------------------------------- losses


def batch_of(config, heads=2, points=6, volume=5):
    rng = np.random.default_rng(7)
    tolerance = np.full((heads, volume), 0.02, np.float32)
    tolerance[0, 0] = 1e6
    return {
        "points": uniform(rng, heads, points, 3, low=-0.8),
        "normals": unit(uniform(rng, heads, points, 3)),
        "reference_points": uniform(rng, heads, points, 3, low=-0.8),
        "uniform": uniform(rng, heads, volume, 3),
        "distance": uniform(rng, heads, volume),
        "distance_tolerance": tolerance,
        "z_id": uniform(rng, heads, config.id_dim, low=-2.0),
        "z_exp": uniform(rng, heads, config.exp_dim, low=-2.0),
    }


geometry_loss = jax.jit(losses.geometry_loss, static_argnums=(0, 3))


@functools.partial(jax.jit, static_argnums=0)
def _plain(config, params, code, points):
    """(s, grad s, dx) of one instance at points, a point at a time."""

    def level(x):
        return networks.level_set(config, networks.condition(params, code), x[None])[0]

    values, gradients = jax.vmap(jax.value_and_grad(level))(points)
    return values, gradients, networks.deform(config, networks.condition(params, code), points)


def test_geometry_loss_is_the_weighted_sum_of_its_terms(config):
    params, batch = perturbed(config), batch_of(config)
    weights = losses.GeometryWeights(
        surface=2.0, normal=3.0, deformation=0.5, eikonal=0.1, code=0.2, correspondence=0.7,
        volume=0.3, surface_eikonal=0.4,
    )  # fmt: skip
    loss, terms = geometry_loss(config, params, batch, weights)
    assert set(terms) == set(TERMS) and all(v >= 0 for v in terms.values())
    # Eq. 5: lambda_n stands inside the data term
    factors = dataclasses.asdict(weights) | {"normal": 2.0 * 3.0}
    np.testing.assert_allclose(loss, sum(factors[n] * terms[n] for n in TERMS), rtol=1e-5)
    # every term by its formula, an instance at a time
    norm = functools.partial(np.linalg.norm, axis=-1)
    expected = []
    for s in range(2):
        one = {k: v[s] for k, v in batch.items()}
        code = np.concatenate([one["z_id"], one["z_exp"]])
        both = np.concatenate([one["points"], one["uniform"]])
        values, gradients, dx = (np.asarray(v) for v in _plain(config, params, code, both))
        n, far, dx = unit(gradients[:6]), values[6:], dx[:6]
        beyond = np.abs(far - one["distance"]) - one["distance_tolerance"]
        expected.append(
            {
                "surface": np.abs(values[:6]).mean(),
                "normal": norm(n - one["normals"]).mean(),
                "deformation": norm(dx).mean(),
                "eikonal": ((norm(gradients[6:]) - 1) ** 2).mean(),
                "surface_eikonal": ((norm(gradients[:6]) - 1) ** 2).mean(),
                "code": norm(code),
                "correspondence": norm(one["points"] + dx - one["reference_points"]).mean(),
                "volume": np.maximum(beyond, 0).mean(),
            }
        )
    for name in TERMS:
        value = np.mean([e[name] for e in expected])
        np.testing.assert_allclose(terms[name], value, rtol=1e-4, err_msg=name)


def test_the_reference_shape_is_trained_without_codes():
    params, batch = perturbed(OURS), batch_of(OURS)
    batch = {k: batch[k] for k in ("points", "normals", "uniform")}
    part = {"reference": params["reference"]}
    loss, terms = geometry_loss(OURS, part, batch, losses.GeometryWeights())
    assert set(terms) == set(TERMS) - {"correspondence", "volume"}
    assert terms["code"] == 0 and terms["deformation"] < 2e-6 and loss > 0


@pytest.fixture(scope="module", params=sorted(CONFIGS))
def derivatives(request):
    """Terms as a vector, their Jacobian, and a point, all in float64."""
    config = CONFIGS[request.param]
    with jax.enable_x64(True):
        batch = {k: jnp.asarray(v, jnp.float64) for k, v in batch_of(config).items()}
        params = perturbed(config, np.float64)
        variables = {
            "params": {k: params[k] for k in ("reference", "deformation")},
            "codes": {k: batch.pop(k) for k in ("z_id", "z_exp")},
        }

        @jax.jit
        def terms(v):
            given = batch | v["codes"]
            values = losses.geometry_loss(config, v["params"], given, losses.GeometryWeights())[1]
            return jnp.stack([values[name] for name in TERMS])

        return variables, terms, jax.jit(jax.jacrev(terms))(variables)


@pytest.mark.parametrize("which", ["params", "codes"])
def test_gradients_of_every_term_agree_with_finite_differences(derivatives, which):
    variables, terms, jacobian = derivatives
    with jax.enable_x64(True):
        leaves, tree = jax.tree.flatten(variables[which])
        rng = np.random.default_rng(0)
        direction = tree.unflatten([rng.standard_normal(x.shape) for x in leaves])
        step = 1e-6

        def at(s):
            moved = jax.tree.map(lambda x, d: x + s * d, variables[which], direction)
            return terms(variables | {which: moved})

        numeric = (at(step) - at(-step)) / (2 * step)
        exact = sum(
            np.asarray(j).reshape(len(TERMS), -1) @ d.ravel()
            for j, d in zip(
                jax.tree.leaves(jacobian[which]), jax.tree.leaves(direction), strict=True
            )
        )
        np.testing.assert_allclose(exact, numeric, rtol=2e-4, atol=1e-8)
        moving = [n for n in TERMS if n != "code"] if which == "params" else list(TERMS)
        for name in moving:
            assert abs(exact[TERMS.index(name)]) > 1e-6, f"{name} does not feel {which}"


def test_normal_and_eikonal_loss_closed_forms(rng):
    normal_loss, eikonal_loss = jax.jit(losses.normal_loss), jax.jit(losses.eikonal_loss)
    n = unit(uniform(rng, 20, 3))
    lengths = np.linspace(0.1, 5.0, 20, dtype=np.float32)[:, None]
    for other in (n, rng.permutation(n)):
        np.testing.assert_allclose(
            normal_loss(lengths * n, other), normal_loss(n, other), atol=1e-5
        )
    np.testing.assert_allclose(normal_loss(3 * n, n), 0.0, atol=2e-6)
    np.testing.assert_allclose(normal_loss(n, -n), 2.0, rtol=1e-5)
    across = unit(np.cross(n, n[:, [1, 2, 0]]))
    np.testing.assert_allclose(normal_loss(across, n), np.sqrt(2), rtol=1e-5)
    np.testing.assert_allclose(eikonal_loss(3 * n), 4.0, rtol=1e-5)
    np.testing.assert_allclose(eikonal_loss(0.5 * n), 0.25, rtol=1e-5)


def test_losses_have_finite_gradients_where_norms_vanish():
    zero, up = np.zeros((20, 3), np.float32), np.tile(np.float32([0, 0, 1]), (20, 1))
    normal = jax.jit(jax.grad(losses.normal_loss))
    gradients = (jax.jit(jax.grad(losses.eikonal_loss))(zero), normal(zero, up), normal(up, up))
    assert all(np.isfinite(g).all() for g in gradients)


def test_rgb_mask_and_volume_loss_closed_forms():
    predicted = jnp.array([[0.5, 0.5, 0.5], [1.0, 0.0, 0.0], [0.2, 0.2, 0.2]])
    target = jnp.array([[0.5, 0.25, 0.5], [0.0, 0.0, 1.0], [0.9, 0.9, 0.9]])
    weight = jnp.array([1.0, 1.0, 0.0])
    # the divisor is the number of pixels, weighted or not (Eq. 10)
    np.testing.assert_allclose(losses.rgb_loss(predicted, target, weight), (0.25 + 2.0) / 3)
    values, mask = jnp.array([0.03, -0.02, 0.0, 5.0]), jnp.array([0.0, 1.0, 1.0, 0.0])
    alpha = 50.0
    probability = 1 / (1 + np.exp(alpha * np.asarray(values, np.float64)))
    entropy = -np.where(mask > 0, np.log(probability), np.log1p(-probability))
    got = losses.mask_loss(values, mask, jnp.ones(4), alpha)
    np.testing.assert_allclose(got, entropy.mean() / alpha, rtol=1e-5)
    half = losses.mask_loss(values, mask, jnp.array([1.0, 1.0, 0.0, 0.0]), alpha)
    np.testing.assert_allclose(half, entropy[:2].sum() / 4 / alpha, rtol=1e-5)
    distance, tolerance = jnp.array([0.1, 0.1, 0.1]), jnp.array([0.02, 0.02, 1e6])
    volume = losses.volume_loss(jnp.array([0.11, 0.3, 0.9]), distance, tolerance)
    np.testing.assert_allclose(volume, 0.18 / 3, rtol=1e-5)
