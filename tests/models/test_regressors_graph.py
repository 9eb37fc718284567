"""GraphCMR's networks against their formulas in NumPy; derivatives against differences."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrecon.interop.regressor_networks import import_graphcmr
from jaxrecon.models.batch_norm import apply_network
from jaxrecon.models.regressors.graph import (
    GraphCMR,
    GraphCMRConfig,
    GraphCNN,
    GraphConfig,
    ParamConfig,
    ParamRegressor,
    graph_mesh,
    rotations_of,
)
from jaxrecon.models.regressors.sparse_rows import (
    SparseRows,
    multiply,
    normalised_adjacency,
    sparse_rows,
)
from tests.models import graph_reference, slopes, torch_states

N, FULL = 37, 60  # vertices of the coarse and the full mesh
DRAW = np.random.default_rng(5)
EDGES = DRAW.integers(0, N, (150, 2))
EDGES = np.concatenate([EDGES, EDGES[:, ::-1]])
FEATURES = DRAW.normal(size=(2, 512)).astype(np.float32)
TEMPLATE = DRAW.normal(size=(FULL, 3)) * [3.0, 1.0, 0.5] + [5.0, -2.0, 0.0]


def _shapes():
    graph = torch_states.graph_cnn(512, 32, 1, N)
    return graph, torch_states.param_regressor(N, 24)


GRAPH, REGRESSOR = (torch_states.recipe(shapes) for shapes in _shapes())
# At random weights of unit gain matrices are far from degenerate, and vertices of order one.
NETWORKS = import_graphcmr(
    {
        "graph_cnn": GRAPH | torch_states.recipe(torch_states.resnet(18, "resnet.")),
        "smpl_param_regressor": REGRESSOR,
    }
)


def _random_rows(rng, shape, entries):
    """(sparse, dense) matrix with about `entries` in a row."""
    count = shape[0] * entries
    rows, columns = rng.integers(0, shape[0], count), rng.integers(0, shape[1], count)
    values = rng.normal(size=count).astype(np.float32)
    dense = np.zeros(shape)
    np.add.at(dense, (rows, columns), values)
    return sparse_rows(rows, columns, values, shape), dense


def _mesh(rng):
    down, dense_down = _random_rows(rng, (N, FULL), 3)
    up, dense_up = _random_rows(rng, (FULL, N), 3)
    mesh = graph_mesh(TEMPLATE, normalised_adjacency(EDGES, N), down, up)
    return mesh, dense_down, dense_up


@pytest.mark.parametrize("shape", [(7, 5), (5, 7), (3, 1)])
def test_sparse_products_and_their_gradients(shape, rng):
    matrix, dense = _random_rows(rng, shape, 3)
    x = rng.normal(size=(2, shape[1], 4)).astype(np.float32)
    np.testing.assert_allclose(multiply(matrix, x), dense @ x, atol=1e-5)
    np.testing.assert_allclose(multiply(matrix, x[0]), dense @ x[0], atol=1e-5)
    cotangent = rng.normal(size=(2, shape[0], 4)).astype(np.float32)
    _, pull = jax.vjp(lambda x: multiply(matrix, x), jnp.asarray(x))
    np.testing.assert_allclose(pull(jnp.asarray(cotangent))[0], dense.T @ cotangent, atol=1e-5)


def test_empty_rows_and_wrong_indices():
    empty = sparse_rows([], [], [], (3, 2))
    np.testing.assert_array_equal(multiply(empty, np.ones((2, 4), np.float32)), np.zeros((3, 4)))
    for rows, columns in (([3], [0]), ([0], [2]), ([-1], [0])):
        with pytest.raises(ValueError, match="outside"):
            sparse_rows(rows, columns, [1.0], (3, 2))


def test_adjacency_is_a_mean_over_neighbours_and_self():
    matrix = normalised_adjacency(EDGES, N)
    dense = multiply(matrix, np.eye(N, dtype=np.float32))
    np.testing.assert_allclose(dense, graph_reference.adjacency(EDGES, N), atol=1e-7)
    np.testing.assert_allclose(np.sum(dense, axis=1), 1, atol=1e-6)
    lonely = normalised_adjacency(np.zeros((0, 2), int), 2)
    np.testing.assert_array_equal(multiply(lonely, np.eye(2, dtype=np.float32)), np.eye(2))


def test_template_is_normalised_before_it_is_thinned(rng):
    mesh, down, _ = _mesh(rng)
    centre = 0.5 * (TEMPLATE.max(axis=0) + TEMPLATE.min(axis=0))
    scaled = (TEMPLATE - centre) / np.abs(TEMPLATE - centre).max()
    assert np.abs(scaled).max() == 1
    np.testing.assert_allclose(mesh.template, down @ scaled, atol=1e-5)


def test_matrices_of_another_mesh_are_refused(rng):
    adjacency = normalised_adjacency(EDGES, N)
    down, up = (_random_rows(rng, shape, 3)[0] for shape in ((N, FULL), (FULL, N)))
    for a, d, u in (
        (adjacency, up, down),
        (normalised_adjacency(EDGES[:0], N + 1), down, up),
        (adjacency, _random_rows(rng, (N, FULL + 30), 3)[0], up),
        (adjacency, down, _random_rows(rng, (FULL, N + 30), 3)[0]),
    ):
        with pytest.raises(ValueError, match="vertices"):
            graph_mesh(TEMPLATE, a, d, u)


def _double(tree):
    return jax.tree.map(
        lambda x: jnp.asarray(x, jnp.float64 if np.asarray(x).dtype.kind == "f" else None), tree
    )


@functools.partial(jax.jit, static_argnums=(0, 1))
def _graph_and_regressor(graph, regressor, variables, features, mesh):
    vertices, camera = GraphCNN(graph, precision="highest").apply(variables[0], features, mesh)
    rotations, betas = ParamRegressor(regressor, precision="highest").apply(
        variables[1], vertices, mesh.template
    )
    return vertices, camera, rotations, betas


def test_sizes_come_from_the_weights():
    assert NETWORKS["graph"][0] == GraphConfig(512, 32, 1, N)
    assert NETWORKS["regressor"][0] == ParamConfig(N, 24)


@pytest.mark.parametrize("double", [False, True], ids=["float32", "float64"])
def test_networks_match_numpy(double, rng):
    mesh, _, _ = _mesh(rng)
    configs = NETWORKS["graph"][0], NETWORKS["regressor"][0]
    variables = NETWORKS["graph"][1], NETWORKS["regressor"][1]
    A = graph_reference.adjacency(EDGES, N)
    with jax.enable_x64(double):
        inputs = (variables, FEATURES, mesh)
        if double:
            exact = SparseRows(mesh.adjacency.columns, np.float64(mesh.adjacency.values))
            # the weights 1 / degree again, not their float32
            exact.values[exact.values > 0] = 1 / np.round(1 / exact.values[exact.values > 0])
            inputs = _double((variables, FEATURES, type(mesh)(exact, mesh.template, mesh.up)))
        ours = _graph_and_regressor(*configs, *inputs)
    template = np.asarray(mesh.template, np.float64)
    vertices, camera = graph_reference.graph_cnn(
        FEATURES.astype(np.float64), template, GRAPH, A, blocks=1
    )
    expected = vertices, camera, *graph_reference.param_regressor(vertices, template, REGRESSOR)
    tolerance = 1e-11 if double else 2e-5
    for a, b in zip(ours, expected, strict=True):
        assert a.shape == b.shape and a.dtype == (np.float64 if double else np.float32)
        np.testing.assert_allclose(a, b, atol=tolerance * np.abs(b).max())


def test_gradient_of_vertices_camera_and_parameters_is_a_difference(rng):
    """Through graph convolutions, normalisation, batch statistics and rotations, float64."""
    mesh, _, _ = _mesh(rng)
    graph = GraphCNN(NETWORKS["graph"][0])
    regressor = ParamRegressor(NETWORKS["regressor"][0])
    with jax.enable_x64(True):
        weights = [jnp.asarray(rng.normal(size=s)) for s in ((2, N, 3), (2, 3), (2, 24, 3, 3))]
        variables, features, mesh = _double(
            ((NETWORKS["graph"][1], NETWORKS["regressor"][1]), FEATURES, mesh)
        )

        @jax.jit
        def loss(point):
            (a, b), features = point
            vertices, camera = graph.apply({"params": a}, features, mesh)
            seen = {"params": b, "batch_stats": variables[1]["batch_stats"]}
            (rotations, betas), _ = apply_network(
                regressor, seen, vertices, mesh.template, train=True
            )
            outputs = (vertices, camera, rotations)
            terms = (jnp.sum(w * x) for w, x in zip(weights, outputs, strict=True))
            return sum(terms) + jnp.sum(betas**2)

        point = (tuple(v["params"] for v in variables), features)
        direction = slopes.random_direction(rng, point)
        slope = slopes.along(jax.jit(jax.grad(loss))(point), direction)
        difference = slopes.central_difference(loss, point, direction, 1e-8)
    np.testing.assert_allclose(slope, difference, rtol=1e-5)


def test_rotations_are_those_of_the_authors(rng):
    matrices = rng.normal(size=(10, 24, 3, 3)).astype(np.float32)
    reflected = np.linalg.det(matrices) < 0
    assert 20 < reflected.sum() < 220
    R = np.asarray(rotations_of(jnp.asarray(matrices)))
    np.testing.assert_allclose(R, graph_reference.rotations(np.float64(matrices)), atol=2e-4)
    np.testing.assert_allclose(np.linalg.det(R), 1, atol=1e-5)
    # a reflected matrix gives the rotation of its negative, not the nearest rotation
    mirror = np.diag([3.0, 2.0, -1.0]).astype(np.float32)[None, None]
    np.testing.assert_allclose(rotations_of(jnp.asarray(mirror))[0, 0], np.diag([-1, -1, 1]))


def test_gradients_of_rotations(rng):
    """Right in general, and finite where singular values are equal or vanish."""
    loss = jax.jit(lambda m, w: jnp.sum(rotations_of(m) * w))
    with jax.enable_x64(True):
        matrices, weights, direction = (
            jnp.asarray(rng.normal(size=(2, 24, 3, 3))) for _ in range(3)
        )
        # half turns, equal singular values, reflections
        special = [np.eye(3), -np.eye(3), np.diag([1.0, -1, -1]), 2 * np.diag([1.0, 1, -1])]
        matrices = matrices.at[0, :4].set(jnp.asarray(special))
        gradient, h = jax.grad(loss)(matrices, weights), 1e-6
        ahead, behind = (float(loss(matrices + s * h * direction, weights)) for s in (1, -1))
        slope = float(jnp.sum(gradient * direction))
        flat = jnp.zeros((2, 24, 3, 3)).at[0, 0, 0, 0].set(1.0)
        degenerate = jax.grad(loss)(flat, weights)
    np.testing.assert_allclose(slope, (ahead - behind) / (2 * h), rtol=1e-6)
    assert np.isfinite(degenerate).all()


def test_channels_fill_their_groups():
    with pytest.raises(ValueError, match="multiple of 16"):
        GraphConfig(channels=24)


def test_whole_network(rng):
    """Its parts in order, vertices at both resolutions, and a loss that stops at the vertices."""
    mesh, _, up = _mesh(rng)
    config = GraphCMRConfig(*(NETWORKS[part][0] for part in ("trunk", "graph", "regressor")))
    module = GraphCMR(config)
    variables = {
        collection: {p: v[collection] for p, (_, v) in NETWORKS.items() if collection in v}
        for collection in ("params", "batch_stats")
    }
    images = jnp.asarray(rng.uniform(size=(2, 32, 32, 3)), jnp.float32)

    @jax.jit
    def run(variables):
        def loss(bias, detach):
            graph = variables["params"]["graph"] | {"shape_out": kernel | {"bias": bias}}
            changed = variables | {"params": variables["params"] | {"graph": graph}}
            estimate = module.apply(changed, images, mesh, detach=detach)
            return jnp.sum(estimate.rotations[..., 0]) + jnp.sum(estimate.betas), estimate

        kernel = variables["params"]["graph"]["shape_out"]
        gradient = jax.grad(loss, has_aux=True)
        stopped, estimate = gradient(kernel["bias"], True)
        return stopped, gradient(kernel["bias"], False)[0], estimate

    stopped, reached, estimate = run(variables)
    assert not np.any(stopped) and np.all(reached)
    vertices = np.asarray(estimate.vertices, np.float64)
    np.testing.assert_allclose(estimate.full_vertices, up @ vertices, atol=1e-4)
    rotations, betas = graph_reference.param_regressor(
        vertices, np.asarray(mesh.template, np.float64), REGRESSOR
    )
    np.testing.assert_allclose(estimate.rotations, rotations, atol=1e-3)
    np.testing.assert_allclose(estimate.betas, betas, atol=1e-4)
    np.testing.assert_allclose(estimate.camera.shape, (2, 3))
