"""Procrustes and ICP: round trips, optimality, and derivatives where the SVD has none."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.test_util import check_grads

from jaxrecon.geometry.mesh import sample_surface
from jaxrecon.geometry.registration import icp, nearest_rotation, procrustes, procrustes_host
from jaxrecon.types import Similarity

aligned = jax.jit(procrustes, static_argnames="scale")


def random_rotation(rng):
    q, r = np.linalg.qr(rng.standard_normal((3, 3)))
    q = q * np.sign(np.diag(r))
    return q * np.sign(np.linalg.det(q))


def error(S, a, b):
    moved = float(S.scale) * a @ np.asarray(S.R, np.float64).T + np.asarray(S.t, np.float64)
    return np.abs(moved - b).max()


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    scale=st.floats(0.01, 100),
    shift=st.floats(-1000, 1000),
    with_scale=st.booleans(),
)
def test_round_trip_in_float64(seed, scale, shift, with_scale):
    rng = np.random.default_rng(seed)
    scale = scale if with_scale else 1.0
    a, R, t = rng.standard_normal((12, 3)), random_rotation(rng), shift * rng.standard_normal(3)
    b = scale * a @ R.T + t[None]
    s, R_found, t_found = procrustes_host(a, b, scale=with_scale)
    np.testing.assert_allclose(R_found, R, atol=1e-9)
    np.testing.assert_allclose(s, scale, rtol=1e-9)
    np.testing.assert_allclose(t_found, t, atol=1e-9 * max(1, abs(shift), scale))
    S = aligned(a, b, scale=with_scale)
    assert error(S, a, b) < 1e-4 * max(1, abs(shift), scale)
    np.testing.assert_allclose(np.linalg.det(S.R), 1, atol=1e-5)


def test_weights_leave_pairs_out_and_agree_with_repetition(rng):
    a, R = rng.standard_normal((10, 3)), random_rotation(rng)
    b = 2.0 * a @ R.T + 1.0
    b[7:] += 50 * rng.standard_normal((3, 3))
    weights = np.r_[np.ones(7), np.zeros(3)]
    assert error(aligned(a, b, weights), a[:7], b[:7]) < 1e-4
    noisy = b + rng.standard_normal(b.shape)
    doubled = aligned(np.r_[a, a[:5]], np.r_[noisy, noisy[:5]])
    weighted = aligned(a, noisy, np.r_[2 * np.ones(5), np.ones(5)])
    np.testing.assert_allclose(weighted.R, doubled.R, atol=1e-4)
    np.testing.assert_allclose(weighted.scale, doubled.scale, rtol=1e-4)


def test_never_a_reflection(rng):
    a = rng.standard_normal((10, 3))
    S = aligned(a, a * np.array([[-1.0, 1.0, 1.0]]))
    np.testing.assert_allclose(np.linalg.det(S.R), 1, atol=1e-5)
    flat = a * np.array([[1.0, 1.0, 0.0]])  # planar: two answers for O(3), one for SO(3)
    R = random_rotation(rng)
    S = aligned(flat, flat @ R.T)
    np.testing.assert_allclose(S.R, R, atol=1e-4)


def test_the_answer_is_a_minimum(rng):
    a, b = rng.standard_normal((8, 3)), rng.standard_normal((8, 3))
    s, R, t = procrustes_host(a, b)

    def cost(s, R, t):
        return ((s * a @ R.T + t[None] - b) ** 2).sum()

    best = cost(s, R, t)
    for _ in range(50):
        nudge = np.linalg.qr(np.eye(3) + 1e-2 * rng.standard_normal((3, 3)))[0]
        nudge = nudge * np.sign(np.diag(nudge))[None]
        if np.linalg.det(nudge) > 0:
            near = cost(
                s * (1 + 1e-2 * rng.standard_normal()), nudge @ R, t + 1e-2 * rng.standard_normal(3)
            )
            assert near >= best


def test_vmap_equals_loop(rng):
    a, b = rng.standard_normal((4, 9, 3)), rng.standard_normal((4, 9, 3))
    batched = jax.jit(jax.vmap(procrustes))(a, b)
    for i in range(4):
        single = aligned(a[i], b[i])
        np.testing.assert_allclose(batched.R[i], single.R, atol=1e-5)
        np.testing.assert_allclose(batched.t[i], single.t, atol=1e-5)
        np.testing.assert_allclose(batched.scale[i], single.scale, rtol=1e-5)


def test_gradients_in_float64():
    with jax.enable_x64(True):
        rng = np.random.default_rng(0)
        a, b = jnp.asarray(rng.standard_normal((2, 6, 3)))

        def loss(a, b):
            S = procrustes(a, b)
            return jnp.sum(jnp.sin(S.R)) + S.scale + jnp.sum(S.t**2)

        check_grads(jax.jit(loss), (a, b), order=1, modes=("fwd", "rev"), rtol=1e-5)
        M = jnp.asarray(rng.standard_normal((3, 3)))
        check_grads(jax.jit(nearest_rotation), (M,), order=2, modes=("rev",), rtol=1e-4)


@pytest.mark.parametrize("case", ["equal singular values", "coincident", "collinear", "planar"])
def test_gradients_are_finite_where_the_svd_has_none(case):
    corners = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], np.float32)
    a = {
        "equal singular values": corners,
        "coincident": np.ones((8, 3), np.float32),
        "collinear": corners[:, :1] * np.array([[1, 2, 3]], np.float32),
        "planar": corners * np.array([[1, 1, 0]], np.float32),
    }[case]

    def loss(a):
        S = procrustes(a, jnp.asarray(corners))
        return jnp.sum(S.R * jnp.arange(9.0).reshape(3, 3)) + jnp.sum(S.t) + S.scale

    assert np.isfinite(np.asarray(jax.jit(jax.grad(loss))(jnp.asarray(a)))).all()


def ellipsoid():
    import trimesh

    m = trimesh.creation.icosphere(subdivisions=4)
    bump = 1 + 0.1 * m.vertices[:, :1] * m.vertices[:, 1:2]
    return np.asarray(m.vertices * bump) * [[40, 80, 120]], np.asarray(m.faces, np.int64)


@pytest.mark.parametrize("scale", [1.0, 1.06])
def test_icp_recovers_a_pose(rng, scale):
    vertices, faces = ellipsoid()
    angle = 0.08
    R = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    t = np.array([3.0, -4.0, 5.0])
    points = scale * sample_surface(vertices, faces, rng, 1500).points @ R.T + t[None]
    found = icp(points, vertices, faces, iterations=80, scale=scale != 1)
    S = found.similarity
    np.testing.assert_allclose(S.scale, scale, rtol=2e-3)
    np.testing.assert_allclose(S.R, R, atol=5e-3)
    np.testing.assert_allclose(S.t, t, atol=0.3)
    assert found.mean_distance[-1] < 0.05 * found.mean_distance[0]
    good = icp(points, vertices, faces, iterations=80, initial=Similarity(np.float64(scale), R, t))
    assert len(good.mean_distance) <= 2 and good.mean_distance[0] < 1e-6  # already there: stops


def test_icp_ignores_the_points_it_does_not_keep(rng):
    vertices, faces = ellipsoid()
    points = sample_surface(vertices, faces, rng, 1000).points + np.array([[2.0, 0, 0]])
    points[:80] += 60  # fewer than the dropped tenth
    S = icp(points, vertices, faces, iterations=60).similarity
    np.testing.assert_allclose(S.t, [2, 0, 0], atol=0.1)


def test_icp_refuses_nonsense():
    vertices, faces = ellipsoid()
    for options in ({"keep": 0.0}, {"keep": 1.5}, {"iterations": 0}):
        with pytest.raises(ValueError, match="icp of"):
            icp(vertices[:10], vertices, faces, **options)
    with pytest.raises(ValueError, match="icp of"):
        icp(np.empty((0, 3)), vertices, faces)
