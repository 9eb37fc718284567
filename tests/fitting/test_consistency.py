"""Consistency of photographs: zero at the true surface, with true gradients, and silent where views
have nothing to say about each other.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from jaxrecon.fitting import losses
from jaxrecon.fitting.consistency import photo_consistency
from jaxrecon.fitting.losses import Context
from jaxrecon.fitting.problem import ViewData
from jaxrecon.fitting.render import Rendered, Samples
from jaxrecon.types import Cameras

SIZE, RADIUS = 64, 0.5
TURNS = (-0.4, 0.0, 0.35)


def cameras(dtype=np.float64) -> Cameras:
    """Three cameras at distance 6, canonical space, around the y axis."""
    K = np.array([[380.0, 0, SIZE / 2], [0, 380.0, SIZE / 2], [0, 0, 1]])
    R, t = [], []
    for a in TURNS:
        c, s = np.cos(a), np.sin(a)
        R.append(np.diag([1.0, -1.0, -1.0]) @ [[c, 0, s], [0, 1, 0], [-s, 0, c]])
        t.append([0.02, -0.01, 6.0])
    return Cameras(K=np.tile(K, (3, 1, 1)).astype(dtype), R=dtype(R), t=dtype(t))


def texture(x):
    """A smooth colour of every point of space."""
    return 0.5 + 0.25 * np.stack(
        [np.sin(7 * x[..., 0]), np.cos(6 * x[..., 1] + x[..., 0]), np.sin(5 * x[..., 2])], -1
    )


def meet(c: Cameras, i: int, pixels, radius=RADIUS):
    """(points, hit) where rays through pixels of view i meet the ball, NumPy."""
    R, t, K = (np.asarray(getattr(c, n)[i], np.float64) for n in "RtK")
    d = np.concatenate([(pixels - K[:2, 2]) / K[0, 0], np.ones((*pixels.shape[:-1], 1))], -1) @ R
    d /= np.linalg.norm(d, axis=-1, keepdims=True)
    origin = -R.T @ t
    along = -(d @ origin)
    squared = radius**2 - origin @ origin + along**2
    depth = along - np.sqrt(np.maximum(squared, 0))
    return origin + depth[..., None] * d, squared > 0


def scene(radius=RADIUS):
    """Arguments of the loss for a ball of `radius`, seen in pictures of the true one."""
    c = cameras()
    x, y = np.meshgrid(np.arange(SIZE) + 0.5, np.arange(SIZE) + 0.5)
    grid = np.stack([x, y], -1)
    images, masks = [], []
    for i in range(3):
        points, hit = meet(c, i, grid)
        images.append(np.where(hit[..., None], texture(points), 1.0))
        masks.append(hit.astype(float))
    at = grid[4:-4:4, 4:-4:4].reshape(-1, 2)
    rows, columns = np.floor(at).astype(int).T[::-1]
    points, weights, colours = [], [], []
    for i in range(3):
        p, hit = meet(c, i, at, radius)
        points.append(p)
        weights.append((hit & (masks[i][rows, columns] > 0)).astype(float))
        colours.append(images[i][rows, columns])
    return {
        "points": np.array(points), "normals": np.array(points), "weights": np.array(weights),
        "colours": np.array(colours), "images": np.array(images), "usable": np.array(masks),
        "cameras": c, "expression": np.zeros(3, np.int32),
    }  # fmt: skip


@jax.jit
def value(arguments):
    return photo_consistency(**arguments)


def at(**changes):
    with jax.enable_x64(True):
        return float(value(jax.tree.map(jnp.asarray, scene() | changes)))


def test_the_true_surface_is_consistent_and_others_are_not():
    truth = at()
    assert truth < 1.5e-3  # what interpolation between pixels leaves
    for radius in (0.46, 0.54):
        assert at(**scene(radius)) > 4 * truth


def test_exposure_of_a_photograph_does_not_matter():
    arguments = scene()
    images, colours = arguments["images"].copy(), arguments["colours"].copy()
    images[1] += 0.2
    colours[1] += 0.2
    assert abs(at(images=images, colours=colours) - at()) < 1e-9


def test_views_of_other_expressions_masks_and_ignored_pixels_say_nothing():
    wrong = scene(0.46)
    assert at(**wrong | {"expression": np.arange(3, dtype=np.int32)}) == 0
    assert at(**wrong | {"usable": np.zeros_like(wrong["usable"])}) == 0
    assert at(**wrong | {"weights": np.zeros_like(wrong["weights"])}) == 0
    assert at(**wrong | {"normals": -wrong["normals"]}) == 0  # seen from behind
    two = at(**wrong | {"expression": np.array([0, 0, 1], np.int32)})
    assert 0 < two < at(**wrong)


def test_one_view_has_nothing_to_agree_with():
    with jax.enable_x64(True):
        alone = jax.tree.map(lambda x: jnp.asarray(x[:1]), scene(0.46))
        gradient = jax.grad(lambda p: photo_consistency(**alone | {"points": p}))(alone["points"])
    assert not np.any(gradient) and np.isfinite(gradient).all()


def test_gradients_agree_with_finite_differences():
    """To points and cameras, where no point is at the edge of being seen: how much a view counts is
    a constant by definition.
    """
    with jax.enable_x64(True):
        arguments = scene(0.47)
        inside = np.linalg.norm(arguments["points"][..., :2], axis=-1) < 0.25
        ahead = np.broadcast_to([0.0, 0.0, 1.0], arguments["points"].shape)
        arguments |= {"weights": arguments["weights"] * inside, "normals": ahead}
        arguments = jax.tree.map(jnp.asarray, arguments)

        @jax.jit
        def loss(points, R, t):
            moved = dataclasses.replace(arguments["cameras"], R=R, t=t)
            return photo_consistency(**arguments | {"points": points, "cameras": moved})

        here = (arguments["points"], arguments["cameras"].R, arguments["cameras"].t)
        gradients = jax.jit(jax.grad(loss, (0, 1, 2)))(*here)
        rng = np.random.default_rng(0)
        for k, scale in enumerate((1.0, 1e-2, 1.0)):
            along = scale * rng.standard_normal(here[k].shape)
            plus, minus = (
                loss(*here[:k], here[k] + sign * 1e-7 * along, *here[k + 1 :]) for sign in (1, -1)
            )
            exact = float(jnp.sum(gradients[k] * along))
            assert abs(exact) > 1e-4
            np.testing.assert_allclose(exact, float(plus - minus) / 2e-7, rtol=1e-4)


def test_the_loss_of_a_fit_is_this_one():
    a = scene(0.47)
    nothing = dict.fromkeys(f.name for f in dataclasses.fields(ViewData))
    views = ViewData(**nothing | {
        "images": a["images"], "subject": a["usable"], "valid": np.ones_like(a["usable"]),
        "expression": a["expression"], "cameras": a["cameras"],
    })  # fmt: skip
    ones = np.ones_like(a["weights"])
    samples = Samples(None, a["colours"], ones, ones, ones)
    rendered = Rendered(None, a["weights"], None, a["normals"], None, a["points"], None)
    context = Context(views, samples, rendered, None, None, None, None, None, cameras=a["cameras"])
    with jax.enable_x64(True):
        found = jax.jit(losses.consistency)(jax.tree.map(jnp.asarray, context))
    np.testing.assert_allclose(found, at(**a), rtol=1e-9)
    assert losses.consistency(dataclasses.replace(context, cameras=None)) == 0
