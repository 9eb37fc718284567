"""Losses of a fit: closed forms, and gradients against finite differences in float64."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrecon.fitting import losses
from jaxrecon.fitting.losses import DEFAULT, Context
from jaxrecon.fitting.problem import ViewData, default_weights
from jaxrecon.fitting.render import Rendered, Samples
from jaxrecon.types import Cameras

V, P, E = 2, 16, 2
ALPHA = 60.0


def rendered(rng) -> Rendered:
    return Rendered(
        colours=rng.uniform(0, 1, (V, P, 3)),
        hit=(rng.random((V, P)) < 0.6).astype(float),
        least=rng.normal(0, 0.02, (V, P)),
        gradients=rng.standard_normal((V, P, 3)),
        offsets=0.1 * rng.standard_normal((V, P, 3)),
        points=rng.uniform(-0.5, 0.5, (V, P, 3)),
        evaluations=np.float64(9.0),
    )


def context(seed: int = 0) -> Context:
    """One of everything, float64 NumPy."""
    rng = np.random.default_rng(seed)

    def flags():
        return (rng.random((V, P)) < 0.7).astype(float)

    samples = Samples(
        pixels=rng.uniform(0, 8, (V, P, 2)),
        colours=rng.uniform(0, 1, (V, P, 3)),
        subject=flags(),
        valid=flags(),
        still=flags(),
    )
    views = ViewData(
        images=None, subject=None, valid=None, still=None,
        cameras=Cameras(K=None, R=None, t=None), landmarks=None,
        landmark_weights=(rng.random((V, 68)) < 0.8).astype(float), expression=None, unit=None,
    )  # fmt: skip
    widths = {"w_id": (3,), "w_exp": (E, 2), "w_colour": (4,), "r_id": (5,), "r_exp": (E, 3)}
    variables = {k: rng.standard_normal(s) for k, s in widths.items()}
    variables |= {"r_colour": rng.standard_normal(6), "pose": 0.1 * rng.standard_normal(7)}
    variables["cameras"] = 0.1 * rng.standard_normal((V, 7))
    codes = (rng.standard_normal(5), rng.standard_normal((E, 3)), rng.standard_normal(6))
    errors = np.abs(rng.standard_normal((V, 68)))
    return Context(
        views, samples, rendered(rng), rendered(rng), variables, codes, errors, np.float64(ALPHA),
        camera_deviations=rng.standard_normal((V, 7)),
    )  # fmt: skip


@jax.jit
def evaluate(c: Context):
    return {name: loss(c) for name, loss in DEFAULT.items()}


def entropy(least, subject):
    """Cross-entropy of sigmoid(-alpha s), over alpha."""
    probability = 1 / (1 + np.exp(ALPHA * least))
    return -(subject * np.log(probability) + (1 - subject) * np.log(1 - probability)) / ALPHA


def expected(c: Context) -> dict[str, float]:
    s, r, w, v = c.samples, c.rendered, c.switched, c.variables
    norm = lambda x: np.linalg.norm(x, axis=-1)  # noqa: E731

    def rgb(r, weight):
        return (weight * np.abs(r.colours - s.colours).sum(-1)).sum() / (V * P)

    def mask(r, weight):
        return (weight * entropy(r.least, s.subject)).sum() / (V * P)

    covered, beside = r.hit * s.subject * s.valid, s.valid * (1 - r.hit * s.subject)
    switched = w.hit * s.subject * s.valid * s.still
    beside_switched = s.valid * s.still * (1 - w.hit * s.subject)
    z_id, z_exp, z_colour = c.codes
    weights = c.views.landmark_weights
    geo = [np.linalg.norm(np.concatenate([z_id, z])) for z in z_exp]
    return {
        "rgb": rgb(r, covered),
        "mask": mask(r, beside),
        "switch": rgb(w, switched) + 100 * mask(w, beside_switched),
        "deformation": (r.hit * norm(r.offsets)).mean(),
        "eikonal": ((norm(r.gradients) - 1) ** 2).mean(),
        "code": np.mean(geo) + np.linalg.norm(z_colour),
        "landmarks": (weights * c.landmark_errors).sum() / weights.sum(),
        "prior": (v["w_id"] ** 2).sum()
        + (v["w_exp"] ** 2).sum()
        + 0.2 * (v["w_colour"] ** 2).sum(),
        "residual": sum((v[k] ** 2).sum() for k in ("r_id", "r_exp", "r_colour")),
        "pose": v["pose"][6] ** 2,
        "consistency": 0.0,  # without cameras; tests/fitting/test_consistency.py has some
        "cameras": (c.camera_deviations**2).sum(),
    }


def test_losses_equal_their_formulas():
    with jax.enable_x64(True):
        for seed in range(3):
            c = context(seed)
            values, want = evaluate(c), expected(c)
            assert set(values) == set(want) == set(default_weights())
            for name, value in values.items():
                np.testing.assert_allclose(value, want[name], rtol=1e-9, err_msg=name)
                assert value >= 0


def test_the_switch_weighs_its_parts_as_the_fit_does():
    with jax.enable_x64(True):
        c = jax.tree.map(jnp.asarray, context())
        parts = {}
        for name in ("rgb", "mask"):
            only = {"rgb": 0.0, "mask": 0.0} | {name: 3.0}
            parts[name] = losses.switch(dataclasses.replace(c, weights=only)) / 3.0
        both = losses.switch(dataclasses.replace(c, weights={"rgb": 2.0, "mask": 7.0}))
        np.testing.assert_allclose(both, 2 * parts["rgb"] + 7 * parts["mask"], rtol=1e-9)
        np.testing.assert_allclose(expected(c)["switch"], parts["rgb"] + 100 * parts["mask"])


def test_no_switch_is_zero_and_nothing_seen_is_finite():
    empty = jax.tree.map(np.zeros_like, context())
    assert losses.switch(dataclasses.replace(empty, switched=None)) == 0
    empty = dataclasses.replace(empty, alpha=np.float64(ALPHA))
    with jax.enable_x64(True):
        gradients = jax.jit(jax.jacrev(lambda c: list(evaluate(c).values())))(empty)
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(gradients))


MOVES = {
    "rendered.colours": ("rgb",),
    "rendered.least": ("mask",),
    "rendered.gradients": ("eikonal",),
    "rendered.offsets": ("deformation",),
    "switched.colours": ("switch",),
    "switched.least": ("switch",),
    "variables": ("prior", "residual", "pose"),
    "camera_deviations": ("cameras",),
    "codes": ("code",),
    "landmark_errors": ("landmarks",),
}


@pytest.mark.parametrize("path", sorted(MOVES))
def test_gradients_agree_with_finite_differences(path):
    with jax.enable_x64(True):
        c, rng = context(), np.random.default_rng(1)
        where, _, part = path.partition(".")
        inner = getattr(c, where)
        value = getattr(inner, part) if part else inner
        direction = jax.tree.map(lambda x: rng.standard_normal(np.shape(x)), value)

        def at(s):
            moved = jax.tree.map(lambda x, d: x + s * d, value, direction)
            changed = dataclasses.replace(inner, **{part: moved}) if part else moved
            return evaluate(dataclasses.replace(c, **{where: changed}))

        plus, minus, gradient = at(1e-6), at(-1e-6), derivatives()(c)
        for name in DEFAULT:
            g = getattr(gradient[name], where)
            g = getattr(g, part) if part else g
            pairs = zip(jax.tree.leaves(g), jax.tree.leaves(direction), strict=True)
            exact = sum(float(np.sum(a * b)) for a, b in pairs)
            numeric = float(plus[name] - minus[name]) / 2e-6
            np.testing.assert_allclose(exact, numeric, rtol=1e-6, atol=1e-8, err_msg=name)
            assert (abs(exact) > 1e-6) == (name in MOVES[path]), name


_DERIVATIVES = []


def derivatives():
    """The Jacobian of all losses, compiled once."""
    if not _DERIVATIVES:
        _DERIVATIVES.append(jax.jit(jax.jacrev(evaluate)))
    return _DERIVATIVES[0]


def test_mouth_pixels_do_not_count_in_the_switch():
    with jax.enable_x64(True):
        c, rng = context(), np.random.default_rng(5)
        mouth = (1 - c.samples.still)[..., None]
        assert 2 < mouth.sum() < V * P - 2
        other = rendered(rng)
        spoiled = dataclasses.replace(
            c.switched,
            colours=c.switched.colours + mouth * other.colours,
            least=c.switched.least + mouth[..., 0] * other.least,
            hit=np.where(mouth[..., 0] > 0, 1 - c.switched.hit, c.switched.hit),
        )
        before, after = evaluate(c), evaluate(dataclasses.replace(c, switched=spoiled))
        assert before["switch"] == after["switch"] > 0
        gradient = derivatives()(c)["switch"].switched
        assert (np.abs(gradient.colours) * mouth).sum() == 0
        assert (np.abs(gradient.least) * mouth[..., 0]).sum() == 0


def test_mask_loss_pulls_the_surface_to_the_mask():
    """Rays inside the mask that miss want lower values there, rays outside that hit higher ones."""
    with jax.enable_x64(True):
        c = context()
        gradient = derivatives()(c)["mask"].rendered.least
        s, hit = c.samples, c.rendered.hit
        inside = (s.valid * s.subject * (1 - hit)) > 0
        outside = (s.valid * (1 - s.subject)) > 0
        assert inside.any() and outside.any()
        assert (gradient[inside] > 0).all() and (gradient[outside] < 0).all()
        assert (gradient[~inside & ~outside] == 0).all()
        assert jnp.all(jnp.isfinite(gradient))
