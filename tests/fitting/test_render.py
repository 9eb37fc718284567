"""Which pixels a fit draws, and what it renders there, against closed forms."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from jaxrecon.fitting import render
from jaxrecon.fitting.problem import FitConfig
from jaxrecon.geometry import cameras as camera_ops
from jaxrecon.types import Similarity
from tests.fitting import balls

CONFIG = FitConfig(trace=dataclasses.replace(balls.TRACE, tolerance=1e-6))
CANONICAL = Similarity(
    scale=jnp.float32(1 / 150), R=jnp.eye(3, dtype=jnp.float32), t=jnp.zeros(3, jnp.float32)
)


def test_pixels_are_drawn_near_the_subject_where_they_are_valid(key):
    views, margin = balls.views(0.5), 4
    valid = np.ones((3, balls.SIZE, balls.SIZE), np.float32)
    valid[:, 30:] = 0
    images = np.arange(3 * balls.SIZE**2 * 3, dtype=np.float32).reshape(views.images.shape)
    views = dataclasses.replace(views, images=jnp.asarray(images))

    @jax.jit
    def draw(views, valid, key):
        cumulative = render.pixel_density(views, valid, margin)
        return render.draw_samples(views, valid, cumulative, key, 4000)

    samples = draw(views, jnp.asarray(valid), key)
    column, row = np.floor(np.asarray(samples.pixels)).astype(int).transpose(2, 0, 1)
    np.testing.assert_array_equal(np.asarray(samples.pixels) % 1, 0.5)
    assert (samples.valid == 1).all() and row.max() == 29
    for v in range(3):
        np.testing.assert_array_equal(samples.colours[v], images[v, row[v], column[v]])
        mask = np.asarray(views.subject[v])
        np.testing.assert_array_equal(samples.subject[v], mask[row[v], column[v]])
        y, x = np.nonzero(mask)
        distance = np.maximum(np.abs(y[:, None] - row[v]), np.abs(x[:, None] - column[v])).min(0)
        assert 0 < distance.max() <= margin
        # all that may be drawn is drawn about equally often
        box = np.abs(np.subtract.outer(np.arange(balls.SIZE), y)).T
        box = box[:, :, None], np.abs(np.subtract.outer(np.arange(balls.SIZE), x)).T[:, None]
        near = (np.maximum(*box) <= margin).any(0) & (valid[v] > 0)
        counts = np.zeros_like(mask)
        np.add.at(counts, (row[v], column[v]), 1)
        assert (counts[~near] == 0).all() and abs(counts[near].mean() - 4000 / near.sum()) < 1e-3
        assert counts[near].std() < 1.5 * np.sqrt(counts[near].mean())


def test_nothing_to_draw_draws_what_does_not_count(key):
    views = balls.views(0.5)
    nothing = jnp.zeros_like(views.subject)
    cumulative = render.pixel_density(views, nothing, 4)
    samples = render.draw_samples(views, nothing, cumulative, key, 8)
    assert (samples.valid == 0).all() and np.isfinite(samples.pixels).all()


def test_the_neck_plane_cuts_rays_by_where_they_pass_the_axis():
    views = balls.views(0.5)
    chin = jnp.array([0.1, -0.2, 0.4])
    cameras = camera_ops.transform_cameras(views.cameras, CANONICAL)
    mask = np.asarray(render.neck_mask(cameras, balls.SIZE, balls.SIZE, chin, 0.1))
    assert 0.2 < mask.mean() < 0.95
    for v in range(3):
        R, t, K = (np.float64(getattr(views.cameras, n)[v]) for n in "RtK")
        origin = -R.T @ t / 150
        for row in range(0, balls.SIZE, 5):
            for column in range(0, balls.SIZE, 7):
                d = R.T @ np.linalg.inv(K) @ [column + 0.5, row + 0.5, 1]
                s = -(origin[0] * d[0] + origin[2] * d[2]) / (d[0] ** 2 + d[2] ** 2)
                height = origin[1] + s * d[1]
                if abs(height + 0.3) > 1e-3:
                    assert mask[v, row, column] == (height > -0.3)


def _points_colour(tint, points, normals, views, features):
    return jnp.sin(3.0 * points)


POINTS = dataclasses.replace(balls.FUNCTIONS, colour=_points_colour)
EXACT = FitConfig(trace=dataclasses.replace(balls.TRACE, tolerance=1e-12, steps=60))


def _render(views, z_id, z_exp, params, functions=balls.FUNCTIONS, config=CONFIG):
    cameras = camera_ops.transform_cameras(views.cameras, CANONICAL)
    grid = np.stack(np.meshgrid(np.arange(4, 44, 4), np.arange(4, 44, 4)), -1).reshape(-1, 2) + 0.5
    pixels = jnp.broadcast_to(jnp.asarray(grid, z_id.dtype)[None], (3, *grid.shape))
    samples = render.Samples(pixels, None, None, None, None)
    codes = (z_id, z_exp, jnp.zeros(3, z_id.dtype))
    return render.render_samples(
        functions, config, params, codes, views.expression, cameras, samples
    )


def test_the_renderer_shows_the_ball():
    views = balls.views(0.55, shifts=(0.0, 0.1), x=0.05)
    z_id, z_exp = jnp.array([0.5, 0.5]), jnp.array([[0.0], [0.1]])
    shown = jax.jit(_render)(views, z_id, z_exp, balls.params())
    index = np.arange(4, 44, 4)
    mask = np.asarray(views.subject)[:, index][:, :, index].reshape(3, -1)
    image = np.asarray(views.images)[:, index][:, :, index].reshape(3, -1, 3)
    # all but rays that graze the ball
    grazing = np.asarray(shown.hit) != mask
    assert grazing.mean() < 0.01 and (np.abs(np.asarray(shown.least)[grazing]) < 2e-3).all()
    inside = (mask > 0) & ~grazing
    np.testing.assert_allclose(np.asarray(shown.colours)[inside], image[inside], atol=2e-3)
    np.testing.assert_allclose(np.asarray(shown.least)[inside], 0.0, atol=2e-6)
    assert (np.asarray(shown.least)[~inside & ~grazing] > 0).all()
    np.testing.assert_allclose(shown.offsets[:, 0, 1], [0.0, 0.1, 0.0], atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(shown.gradients, axis=-1), 1.0, atol=1e-5)
    assert 1 < shown.evaluations < 60


def test_colours_follow_the_surface():
    """Derivatives of rendered colours to codes, through the intersection: finite differences."""
    with jax.enable_x64(True):
        views = jax.tree.map(
            lambda x: x.astype(jnp.float64) if x.dtype == jnp.float32 else x, balls.views(0.55)
        )
        params = jax.tree.map(lambda x: x.astype(jnp.float64), balls.params())
        weight = np.random.default_rng(0).standard_normal((3, 100, 3))

        @jax.jit
        def value(z):
            z_id, z_exp = z[:2], z[2:].reshape(1, 1)
            shown = _render(views, z_id, z_exp, params, POINTS, EXACT)
            return jnp.sum(weight * shown.colours * shown.hit[..., None]), shown.hit

        z = jnp.array([0.5, 0.3, 0.02])
        gradient = jax.jit(jax.grad(lambda z: value(z)[0]))(z)
        hit = value(z)[1]
        assert hit.sum() > 60
        for i in range(3):
            step = np.zeros(3)
            step[i] = 1e-6
            (plus, hit_plus), (minus, hit_minus) = value(z + step), value(z - step)
            np.testing.assert_array_equal(hit_plus, hit_minus)
            # the bound on grazing rays (intersection.smallest_cosine) touches none of these
            np.testing.assert_allclose(gradient[i], (plus - minus) / 2e-6, rtol=1e-4)
