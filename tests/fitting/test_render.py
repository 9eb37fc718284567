"""Which pixels a fit draws, and what it renders there, against closed forms."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from jaxrecon.fitting import render
from jaxrecon.fitting.problem import FitConfig
from jaxrecon.geometry import cameras as camera_ops
from jaxrecon.types import Cameras, Similarity
from tests.fitting import balls, linear_space

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
        return render.draw_samples(views, valid, cumulative, key, 4000), cumulative

    samples, cumulative = draw(views, jnp.asarray(valid), key)
    np.testing.assert_allclose(cumulative[:, -1], 1.0, rtol=1e-5)
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
    chin, neck = jnp.array([0.1, -0.2, 0.4]), 0.1
    mask = np.asarray(jax.jit(render.neck_mask)(views, CANONICAL, chin, neck))
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


def _render(views, z_id, z_exp, params):
    cameras = camera_ops.transform_cameras(views.cameras, CANONICAL)
    grid = np.stack(np.meshgrid(np.arange(4, 44, 4), np.arange(4, 44, 4)), -1).reshape(-1, 2) + 0.5
    pixels = jnp.broadcast_to(jnp.asarray(grid, z_id.dtype)[None], (3, *grid.shape))
    samples = render.Samples(pixels, None, None, None, None)
    codes = (z_id, z_exp, jnp.zeros(3, z_id.dtype))
    return render.render_samples(
        balls.FUNCTIONS, CONFIG, params, codes, views.expression, cameras, samples
    )


def test_the_renderer_shows_the_ball():
    views = balls.views(0.55, shifts=(0.0, 0.1), x=0.05)
    z_id, z_exp = jnp.array([0.5, 0.5]), jnp.array([[0.0], [0.1]])
    shown = jax.jit(_render)(views, z_id, z_exp, balls.params())
    index = np.arange(4, 44, 4)
    mask = np.asarray(views.subject)[:, index][:, :, index].reshape(3, -1)
    image = np.asarray(views.images)[:, index][:, :, index].reshape(3, -1, 3)
    np.testing.assert_array_equal(shown.hit, mask)
    inside = mask > 0
    np.testing.assert_allclose(np.asarray(shown.colours)[inside], image[inside], atol=2e-3)
    np.testing.assert_allclose(np.asarray(shown.least)[inside], 0.0, atol=2e-6)
    assert (np.asarray(shown.least)[~inside] > 0).all()
    np.testing.assert_allclose(shown.offsets[:, 0, 1], [0.0, 0.1, 0.0], atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(shown.gradients, axis=-1), 1.0, atol=1e-5)
    assert 1 < shown.evaluations < 60


def test_colour_gradients_follow_the_surface():
    """The derivative of the rendered colours, through the intersection, by finite differences."""
    with jax.enable_x64(True):
        views = jax.tree.map(
            lambda x: jnp.asarray(x, jnp.float64 if x.dtype == jnp.float32 else None),
            balls.views(0.55),
        )
        params = jax.tree.map(lambda x: x.astype(jnp.float64), balls.params())
        rng = np.random.default_rng(0)
        weight = jnp.asarray(rng.standard_normal((3, 100, 3)))

        @functools.partial(jax.jit, static_argnums=1)
        def total(z, fixed_hits):
            shown = _render(views, z, jnp.zeros((1, 1)), params)
            # depth of field: only rays well inside, whose normal turns with the surface
            inside = shown.hit * (jnp.sum(shown.gradients**2, -1) > 0)
            value = jnp.sum(weight * (shown.colours * inside[..., None]))
            return (value, inside) if fixed_hits else value

        z = jnp.array([0.5, 0.3])
        assert total(z, True)[1].sum() > 20
        gradient = jax.grad(lambda z: total(z, False))(z)
        # the colour also follows the normal, whose sliding along the ray fitting leaves out:
        # compare with differences of the colours at fixed normals
        numeric = []
        for i in range(2):
            step = jnp.zeros(2).at[i].set(1e-6)
            numeric.append((total(z + step, False) - total(z - step, False)) / 2e-6)
        assert np.sign(gradient[0]) == np.sign(numeric[0])
        np.testing.assert_allclose(gradient, numeric, rtol=0.5)


def test_cameras_in_canonical_space_show_the_same():
    views = balls.views(0.5)
    moved = camera_ops.transform_cameras(views.cameras, CANONICAL)
    assert isinstance(moved, Cameras)
    x = np.float32([[30.0, -20.0, 40.0]])
    for v in range(3):
        one = jax.tree.map(lambda a, v=v: a[v], moved)
        pixels, _ = camera_ops.project(one, jnp.asarray(x / 150))
        expected = linear_space.project(views.cameras, v, x.astype(float))
        np.testing.assert_allclose(pixels, expected, atol=1e-3)
